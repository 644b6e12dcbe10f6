"""A small results table that holds every rule: two labels, two probes, edits with doses and prices, an eraser."""

import pandas as pd

from probing._results import results_frame, validate

WHO = {"task": "toy", "model": "toy-1", "revision": "r", "seed": 0, "model_hash": "a1", "data_hash": "b2"}
SCORE = {0.5: 0.40, 1.0: 0.70, 2.0: 0.90}  # dose -> share of the error removed
PRICE = {0.5: 0.02, 1.0: 0.08, 2.0: 0.20}  # dose -> nats on other prompts


def scored(value: float, half: float = 0.01, **row) -> dict:
    return WHO | {"value": value, "ci_low": value - half, "ci_high": value + half, "n": 400, "n_groups": 40} | row


def probe_rows(label: str, scores: dict[str, list[float]]) -> list[dict]:
    """Scores of each probe by layer, on test and a little less on validation, with every control."""
    rows = []
    for split, less in (("test", 0.0), ("validation", 0.005)):
        same = {"label": label, "metric": "accuracy", "split": split, "subset": "all"}
        free = {"model": None, "model_hash": None, "revision": None}
        rows += [scored(0.5, control="majority", **same) | free, scored(0.7, control="shortcut:rule", **same) | free]
        for probe, by_layer in scores.items():
            rows.append(scored(0.6, control="input_only", probe=probe, **same) | free)
            for layer, value in enumerate(by_layer):
                at = {"stream": "resid_post", "layer": layer, "layer_end": layer, "probe": probe, **same}
                rows += [scored(value - less, **at), scored(0.5 + 0.01 * layer, control="shuffled_labels", **at),
                         scored(0.55, control="random_init", **at)]
    return rows


def edit_rows(label: str, direction: str, share: float = 1.0) -> list[dict]:
    """Steering along a direction at three doses, of which 1 was planned; `share` of SCORE is what it does."""
    same = {"label": label, "intervention": "steer", "split": "report", "probe": direction, "positions": "last"}
    site = {"stream": "resid_post", "layer": 1, "layer_end": 1, "unit": "class_mean"}
    rows = [scored(1.0, 0.0, metric="error_ratio", control="null", subset="all", **same),
            scored(2.0, 0.05, metric="set_error", control="null", subset="all", **same),
            scored(0.0, 0.0, metric="kl", control="null", subset="unrelated", **same)]
    for alpha, done in SCORE.items():
        at = {"alpha": alpha, **same, **site}
        rows += [scored(1 - share * done, 0.05, metric="error_ratio", subset="all", **at),
                 scored(0.98, 0.04, metric="error_ratio", subset="all", control="random_direction", **at | {"n": 20}),
                 scored(2 - 2 * share * done, 0.1, metric="set_error", subset="all", **at),
                 scored(1.96, 0.08, metric="set_error", subset="all", control="random_direction", **at | {"n": 20}),
                 scored(PRICE[alpha], 0.01, metric="kl", subset="unrelated", **at),
                 scored(0.01, 0.005, metric="kl", subset="unrelated", control="random_direction", **at | {"n": 20})]
    planned = {"metric": "set_error_difference", "control": "null", "subset": "all", "alpha": 1.0}
    rows.append(scored(-1.4, 0.1, **planned, **same, **site))
    return rows


def eraser_rows(label: str) -> list[dict]:
    at = {"label": label, "intervention": "leace", "split": "report", "probe": "leace", "metric": "set_error",
          "subset": "all", "stream": "resid_post", "layer": 1, "layer_end": 1, "alpha": 1.0, "unit": "removed"}
    idle = dict.fromkeys(("stream", "layer", "layer_end", "alpha", "unit"))
    return [scored(1.8, 0.1, **at), scored(0.2, 0.02, control="null", **at | idle),
            scored(0.25, 0.04, control="random_direction", **at | {"n": 20}),
            scored(0.22, 0.02, control="random_subspace", **at | {"n": 20})]


def toy_table() -> pd.DataFrame:
    """`used` is read and acts when it is written; `inert` is read as well and does nothing."""
    return validate(results_frame([
        *probe_rows("used", {"logistic": [0.6, 0.95, 0.9], "mass_mean": [0.6, 0.94, 0.9]}),
        *probe_rows("inert", {"logistic": [0.6, 0.95, 0.9], "mass_mean": [0.52, 0.66, 0.6]}),
        *edit_rows("used", "mass_mean.write"), *edit_rows("inert", "mass_mean.write", 0.03),
        *edit_rows("used", "encoding.write"), *eraser_rows("used")]))
