"""Activations made by hand for the tests of sweeps: what is in them is known."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from probing import Site
from tasks import LabelledPrompts, split_by_group


class Acts(dict):
    """Activations in memory, with the attributes that `sweep` reads."""

    random_init = None
    model_identity = SimpleNamespace(name="toy", revision=None, digest="00")
    identity = {"prompts": {"tokens": "11"}}


def toy(n_groups=60, size=10, d=16, seed=0, numbers=False):
    """Two layers: the label `z` is absent at layer 0 and linear at layer 1; a shortcut guesses it at 70 %. With
    `numbers` there is a numeric label `place` too, linear at layer 1."""
    rng = np.random.default_rng(seed)
    n = n_groups * size
    z = rng.integers(0, 2, (n, 3))
    guess = np.where(rng.random(z.shape) < 0.7, z, 1 - z)
    group = np.repeat(np.arange(n_groups), size)
    where = pd.DataFrame({"prompt": group, "pos": np.tile(np.arange(size), n_groups), "group": group,
                          "split": split_by_group(group, seed)})
    codes = {f"z/{k}": z[:, k] for k in range(3)} | {f"guess/{k}": guess[:, k] for k in range(3)}
    noise = rng.normal(size=(2, n, d)).astype(np.float32)
    noise[1, :, :3] += 4 * z
    if numbers:
        place = rng.normal(size=(n, 2)) * [100.0, 1.0] + [50.0, 0.0]
        codes |= {"place/long": place[:, 0], "place/lat": place[:, 1]}
        noise[1, :, 3:5] += 2 * (place / [100.0, 1.0])
    prompts = LabelledPrompts(
        task="toy", tokens=torch.zeros(n_groups, size, dtype=torch.long), lengths=torch.full((n_groups,), size),
        examples=pd.concat([where, pd.DataFrame(codes)], axis=1), classes={"z": ("no", "yes"), "guess": ("no", "yes")},
        shortcuts={"z": ("guess",)}, subsets={"even": np.tile(np.arange(n)[:, None] % 2 == 0, (1, 3))})
    acts = Acts({Site("resid_post", i): torch.from_numpy(x) for i, x in enumerate(noise)})
    acts.random_init = {s: torch.from_numpy(rng.normal(size=(n, d)).astype(np.float32)) for s in acts}
    return acts, prompts
