"""A results table with the true columns and made-up numbers, for everything that only reads such tables."""

import numpy as np
import pandas as pd
import pytest

COLUMNS = ["task", "model", "revision", "stream", "layer", "layer_end", "label", "probe", "control", "intervention",
           "alpha", "unit", "metric", "split", "subset", "value", "ci_low", "ci_high", "n", "n_groups", "seed",
           "model_hash", "data_hash"]
SQUARES = [f"{r}{c}" for r in "abcdefgh" for c in range(1, 9)]
SHARED = dict(task="othello", model="made-up", revision="0", seed=0, model_hash="0" * 64, data_hash="1" * 64)


def finish(rows: list[dict]) -> pd.DataFrame:
    """Rows as a results table: the columns in their order, missing where a row says nothing."""
    table = pd.DataFrame([SHARED | row for row in rows]).reindex(columns=COLUMNS)
    return table.astype({"layer": "Int64", "layer_end": "Int64", "n": "Int64", "n_groups": "Int64", "seed": "Int64",
                         "alpha": float, "value": float, "ci_low": float, "ci_high": float})


def scored(value: float, half: float, **row) -> dict:
    return dict(value=value, ci_low=value - half, ci_high=value + half, n=59_000, n_groups=1000) | row


def probe_rows(n_layers: int = 6, half: float = 0.004) -> list[dict]:
    """Probes of two label schemes at every layer with every control: mine/theirs rises to 0.97, above the shortcut."""
    sites = [("resid_pre", 0), *(("resid_post", layer) for layer in range(n_layers))]
    depth = np.linspace(0, 1, n_layers + 1)
    curves = {
        ("mine_theirs", "logistic"): 0.70 + 0.27 * depth**0.5, ("mine_theirs", "ridge"): 0.69 + 0.26 * depth**0.5,
        ("mine_theirs", "mlp"): 0.70 + 0.275 * depth**0.4, ("black_white", "logistic"): 0.62 + 0.13 * depth**0.2,
        ("black_white", "mlp"): 0.63 + 0.33 * depth**0.6,
    }
    rows = []
    for (label, probe), curve in curves.items():
        for (stream, layer), value in zip(sites, curve, strict=True):
            at = dict(stream=stream, layer=layer, layer_end=layer, label=label, probe=probe, metric="accuracy",
                      split="test")
            rows.append(scored(value, half, subset="all", **at))
            rows.append(scored(value - 0.001, half, **at | dict(subset="all", split="validation")))
            rows.append(scored(value - 0.03, half, subset="occupied", **at))
            rows.append(scored(value - 0.09, half, subset="flipped_once", **at))
            if probe == "logistic":
                rows.append(scored(0.47 + 0.02 * layer / 6, half, control="shuffled_labels", subset="all", **at))
                rows.append(scored(0.71 + 0.01 * layer / 6, half, control="random_init", subset="all", **at))
    for label, shortcut in (("mine_theirs", "no_flip"), ("black_white", "no_flip_bw")):
        at = dict(label=label, metric="accuracy", split="test")
        for control, value in (("majority", 0.469), ("majority_by_position", 0.618), (f"shortcut:{shortcut}", 0.803)):
            for subset, less in (("all", 0), ("occupied", 0.1), ("flipped_once", 0.3)):
                rows.append(scored(value - less, 0.002, control=control, subset=subset, **at))
    for ply in range(59):
        at = dict(label="mine_theirs", metric="accuracy", split="test", subset=f"ply={ply}", n=64_000)
        best = dict(stream="resid_post", layer=n_layers - 1, layer_end=n_layers - 1, probe="logistic")
        rows.append(scored(0.995 - 0.0007 * ply, 0.004, **at | best))
        rows.append(scored(0.99 - 0.006 * ply, 0.006, control="shortcut:no_flip", **at))
        rows.append(scored(0.9 - 0.009 * ply, 0.006, control="majority_by_position", **at))
    for i, square in enumerate(SQUARES):
        middle = 1 - np.hypot(i // 8 - 3.5, i % 8 - 3.5) / 5
        at = dict(label="mine_theirs", metric="accuracy", split="test", subset=f"square={square}")
        best = dict(stream="resid_post", layer=n_layers - 1, layer_end=n_layers - 1, probe="logistic")
        rows.append(scored(0.985 - 0.03 * middle, 0.004, **at | best))
        rows.append(scored(0.95 - 0.25 * middle, 0.004, control="shortcut:no_flip", **at))
    return rows


def ability_rows() -> list[dict]:
    """What the model can do, and its randomly initialised twin."""
    at = dict(metric="legal_top1", split="test", subset="all")
    return [scored(0.993, 0.001, **at), scored(0.12, 0.01, control="random_init", **at)]


def effect_rows(works: bool = True, n_layers: int = 6) -> list[dict]:
    """Flip and erase over windows and doses with every control; when the edit does not work it does what noise does."""
    rows = []
    for verb, null in (("flip", 2.72), ("erase", 2.74)):
        for split in ("choose", "report"):
            base = dict(intervention=verb, metric="set_error", split=split, subset="all", n=500, n_groups=480,
                        label="mine_theirs")
            rows += [scored(null, 0.1, control="null", **base), scored(0.31, 0.05, control="clean", **base),
                     scored(null + 0.09, 0.02, control="ideal_null", **base)]
            for alpha in (0.5, 1.0, 1.5, 2.0, 3.0) if split == "choose" else (1.5,):
                chosen = dict(stream="resid_post", layer=1, layer_end=3, alpha=alpha, unit="natural")
                gain = 2.2 * np.exp(-((alpha - 1.5) ** 2)) if works else 0.05
                for probe, share in (("encoding", 1.0), ("logistic", 0.7)):
                    rows.append(scored(null - share * gain, 0.09, probe=probe, **base | chosen))
                    rows.append(scored(0.4 * alpha * share, 0.06, probe=probe, **base | chosen | dict(metric="kl")))
                for control, value in (("sign_flip", null + 0.8 * alpha), ("other_target", null + 0.2 * alpha),
                                       ("other_label", null - 0.05 * alpha)):
                    rows.append(scored(value, 0.1, probe="encoding", control=control, **base | chosen))
                rows.append(scored(null + 0.05 * alpha, 0.08 * alpha, probe="encoding", control="random_direction",
                                   **base | chosen | dict(n=20)))
                rows.append(scored(0.3 * alpha, 0.05 * alpha, probe="encoding", control="random_direction",
                                   **base | chosen | dict(n=20, metric="kl")))
            rows.append(scored(0.0, 0.0, control="null", **base | dict(metric="kl")))
        base = dict(intervention=verb, metric="set_error", split="choose", subset="all", n=500, n_groups=480,
                    label="mine_theirs", probe="encoding", unit="natural", stream="resid_post", alpha=1.0)
        for first in range(n_layers):
            for last in range(first, n_layers):
                if (first, last) != (1, 3):
                    rows.append(scored(null - (0.3 * (last - first + 1) - 0.1 * abs(first - 2) if works else 0.02), 0.1,
                                       **base | dict(layer=first, layer_end=last)))
        for read in range(3, n_layers):
            at = dict(base, split="report", layer=read, layer_end=read, alpha=1.5)
            rows.append(scored(0.93 - 0.01 * read, 0.02, **at | dict(metric="specificity_target")))
            rows.append(scored(0.03, 0.01, **at | dict(metric="specificity_target", control="null", alpha=None)))
            rows.append(scored(0.015 + 0.002 * read, 0.003, **at | dict(metric="specificity_others")))
        for step in range(1, 5):
            at = dict(base, split="report", layer=1, layer_end=3, alpha=1.5, metric=f"legal_top1_step{step}")
            rows += [scored(0.95 - 0.02 * step, 0.02, **at), scored(0.7, 0.03, **at | dict(control="null", alpha=None))]
    return rows


def ablation_rows(works: bool = True) -> list[dict]:
    """Removing the feature: the clean error rises far beyond random directions, or not."""
    at = dict(intervention="ablate", metric="set_error", split="report", subset="all", n=500, n_groups=480)
    edit = dict(stream="resid_post", layer=1, layer_end=3, alpha=1.0, unit="natural", probe="encoding")
    return [scored(0.31, 0.05, control="clean", **at), scored(2.4 if works else 0.33, 0.1, **at | edit),
            scored(0.35, 0.06, control="random_direction", **at | edit | dict(n=20))]


@pytest.fixture(scope="session")
def make_table():
    """make_table(works=True, effects=True, ablation=None, half=0.004) -> a results table."""

    def make(works: bool = True, effects: bool = True, ablation: bool | None = None, half: float = 0.004):
        rows = ability_rows() + probe_rows(half=half)
        rows += effect_rows(works) if effects else []
        return finish(rows + ([] if ablation is None else ablation_rows(ablation)))

    return make


@pytest.fixture(scope="session")
def table(make_table) -> pd.DataFrame:
    return make_table()
