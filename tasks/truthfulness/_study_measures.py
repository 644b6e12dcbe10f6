"""What the study of truthfulness measures beside readings and changes: where patches take effect, and the control."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from .._training import load_gpt2
from ._cases import cases, pairs
from ._labels import world
from ._world import PLACES

N = 300  # pairs, and cases of the control
CONTROL = "truthfulness-independent"


def patching_rows(model, seed: int, readout: str = "next") -> pd.DataFrame:
    """`patched` of every token of the first statement after every block (subset `token=NAME`): the share of the effect
    of the twin on the probability of the right answers, a ratio of means, its interval from the spread of cases."""
    asked = pairs("false_to_true", N, seed + 1, readout=readout)
    right, names = torch.from_numpy(asked.right_corrupted), [f"blocks.{i}.hook_resid_post"
                                                             for i in range(model.cfg.n_layers)]
    with torch.inference_mode():
        logits, cache = model.run_with_cache(asked.corrupted, names_filter=lambda name: name in names)
        told, was = _mass(logits, right), _mass(model(asked.clean), right)
        rows = []
        for layer, name in enumerate(names):
            source = cache[name]
            for token, pos in PLACES.items():
                with model.hooks(fwd_hooks=[(name, _taking(source, pos))]):
                    moved = _mass(model(asked.clean), right)
                gain, whole = moved - was, (told - was).mean()
                half = 1.96 * gain.std() / np.sqrt(N) / abs(whole)
                share = float(gain.mean() / whole)
                rows.append({"metric": "patched", "value": share, "ci_low": share - half, "ci_high": share + half,
                             "n": N, "stream": "resid_post", "layer": layer, "subset": f"token={token}"})
    return pd.DataFrame(rows)


def independent_rows(model, seed: int) -> pd.DataFrame:
    """`pushed` in the control model: what a class-mean difference of truth at the object adds to the probability of
    the right object, after each block but the last; `model` is not asked.

    Raises:
        LookupError: There is no control model.
    """
    from .. import reference_models

    if CONTROL not in reference_models():
        raise LookupError(f"there is no reference model {CONTROL}")
    net, at = load_gpt2(reference_models()[CONTROL]), PLACES["object"]
    asked, known = cases("false_to_true", N, seed + 1), world(2000, seed)
    right, true = torch.from_numpy(asked.right_after), torch.from_numpy(known.labels("truth")[:, 0] == 1)
    rows, seen = [], list[Tensor]()

    def see(layer: int, x: Tensor) -> Tensor:
        seen.append(x[:, at].clone())
        return x

    with torch.inference_mode():
        net(known.tokens, see)
        was = _mass(net(asked.tokens), right)
        for layer, x in enumerate(seen[:-1]):
            gain = _mass(net(asked.tokens, _adding(layer, at, x[true].mean(0) - x[~true].mean(0))), right) - was
            half = 1.96 * gain.std() / np.sqrt(N)
            rows.append({"metric": "pushed", "value": float(gain.mean()), "ci_low": float(gain.mean() - half),
                         "ci_high": float(gain.mean() + half), "n": N, "stream": "resid_post", "layer": layer})
    return pd.DataFrame(rows)


def _mass(logits: Float[Tensor, "case pos d_vocab"], right: Tensor) -> Float[ndarray, " case"]:
    """Probability of the right answers at the last token."""
    p = logits[:, -1].float().softmax(-1)
    return (p * right.to(p.device)).sum(-1).cpu().double().numpy()


def _taking(source: Float[Tensor, "case pos d_model"], pos: int) -> Callable:
    def edit(resid, hook=None):
        resid = resid.clone()
        resid[:, pos] = source[:, pos]
        return resid

    return edit


def _adding(where: int, pos: int, v: Float[Tensor, " d_model"]) -> Callable[[int, Tensor], Tensor]:
    def edit(layer: int, x: Tensor) -> Tensor:
        if layer == where:
            x = x.clone()
            x[:, pos] += v
        return x

    return edit


