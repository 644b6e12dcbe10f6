from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from probing import LogisticProbe, MLPProbe, Site, best, sweep, validate
from probing._sweep import baseline_rows, select
from tasks import LabelledPrompts, split_by_group


class Acts(dict):
    """Activations in memory, with the attributes that `sweep` reads."""

    random_init = None
    model_identity = SimpleNamespace(name="toy", revision=None, digest="00")
    identity = {"prompts": {"tokens": "11"}}


def toy(n_groups=60, size=10, d=16, seed=0):
    """Two layers: the label `z` is absent at layer 0 and linear at layer 1; a shortcut guesses it at 70 %."""
    rng = np.random.default_rng(seed)
    n = n_groups * size
    z = rng.integers(0, 2, (n, 3))
    guess = np.where(rng.random(z.shape) < 0.7, z, 1 - z)
    group = np.repeat(np.arange(n_groups), size)
    where = pd.DataFrame({"prompt": group, "pos": np.tile(np.arange(size), n_groups), "group": group,
                          "split": split_by_group(group, seed)})
    codes = {f"z/{k}": z[:, k] for k in range(3)} | {f"guess/{k}": guess[:, k] for k in range(3)}
    prompts = LabelledPrompts(
        task="toy", tokens=torch.zeros(n_groups, size, dtype=torch.long), lengths=torch.full((n_groups,), size),
        examples=pd.concat([where, pd.DataFrame(codes)], axis=1), classes={"z": ("no", "yes"), "guess": ("no", "yes")},
        shortcuts={"z": ("guess",)}, subsets={"even": np.tile(np.arange(n)[:, None] % 2 == 0, (1, 3))})
    noise = rng.normal(size=(2, n, d)).astype(np.float32)
    noise[1, :, :3] += 4 * z
    acts = Acts({Site("resid_post", i): torch.from_numpy(x) for i, x in enumerate(noise)})
    acts.random_init = {s: torch.from_numpy(rng.normal(size=(n, d)).astype(np.float32)) for s in acts}
    return acts, prompts


@pytest.fixture(scope="module")
def swept():
    acts, prompts = toy()
    probes = {"logistic": LogisticProbe(), "mlp": MLPProbe(hidden=32, epochs=20, batch_size=64)}
    return sweep(acts, prompts, probes=probes), prompts


def value(table, **where):
    rows = select(table, **{"metric": "accuracy", "split": "test", "subset": "all", **where})
    assert len(rows) == 1
    return rows["value"].item()


def test_every_probe_leaves_with_its_controls_and_interval(swept):
    validate(swept[0].rows)


def test_controls_are_at_chance_and_the_probe_is_not(swept):
    rows, layer = swept[0].rows, {"stream": "resid_post", "layer": 1}
    assert value(rows, probe="logistic", **layer) > 0.95
    assert value(rows, probe="mlp", **layer) > 0.85
    for control in ("shuffled_labels", "random_init"):
        assert value(rows, probe="logistic", control=control, **layer) == pytest.approx(0.5, abs=0.1)
    assert value(rows, probe="logistic", stream="resid_post", layer=0) == pytest.approx(0.5, abs=0.1)
    assert value(rows, control="shortcut:guess") == pytest.approx(0.7, abs=0.1)


def test_the_layer_is_chosen_on_validation(swept):
    site, probe = swept[0].best("z")
    assert site == Site("resid_post", 1)
    assert best(swept[0]) is probe


def test_scores_by_position_and_target_average_to_the_whole(swept):
    rows, prompts = swept
    table = select(rows.rows, metric="accuracy", split="test", probe="logistic", stream="resid_post", layer=1)
    whole = table.loc[table["subset"] == "all", "value"].item()
    for name, n in (("pos=", 10), ("target=", 3)):
        parts = table[table["subset"].str.startswith(name)]
        assert len(parts) == n
        assert np.average(parts["value"], weights=parts["n"].astype(float)) == pytest.approx(whole)


def test_majorities_are_fitted_on_train_alone():
    _, prompts = toy()
    flipped = prompts.examples.copy()
    flipped.loc[prompts.rows("test"), ["z/0", "z/1", "z/2"]] = 1
    flipped.loc[~prompts.rows("test"), ["z/0", "z/1", "z/2"]] = 0
    rows = baseline_rows(LabelledPrompts("toy", prompts.tokens, prompts.lengths, flipped, prompts.classes), "z")
    scores = [r["value"] for r in rows if r["control"] == "majority" and r["split"] == "test" and r["subset"] == "all"
              and r["metric"] == "accuracy"]
    assert scores == [0.0]


def test_an_mlp_reads_what_is_not_linear():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 6)).astype(np.float32)
    xor = ((x[:, 0] > 0) ^ (x[:, 1] > 0)).astype(int)
    train, test = (x[:3000], xor[:3000]), (x[3000:], xor[3000:])
    assert MLPProbe(hidden=64, epochs=40, batch_size=256, lr=0.01).fit(*train).score(*test) > 0.9
    assert LogisticProbe().fit(*train).score(*test) < 0.6


def test_equal_seeds_give_equal_mlps():
    acts, prompts = toy(n_groups=20)
    X, Y = np.asarray(acts[Site("resid_post", 1)]), prompts.labels("z")
    one, two = (MLPProbe(hidden=16, epochs=2).fit(X, Y).logits(X) for _ in range(2))
    np.testing.assert_array_equal(one, two)
