"""Reading the results table: selecting rows, naming what they hold, printing a number with its interval."""

from collections.abc import Collection

import numpy as np
import pandas as pd

METRICS = {
    "accuracy": "accuracy (share of targets read right)",
    "balanced_accuracy": "balanced accuracy (mean recall of the classes)",
    "f1": "F1 score (0 to 1)",
    "macro_f1": "macro-F1 (mean over classes)",
    "mcc": "Matthews correlation (-1 to 1)",
    "auroc": "area under the ROC curve",
    "log_loss": "log-loss (nats)",
    "ece": "expected calibration error",
    "spearman": "Spearman's rank correlation",
    "mae": "mean absolute error (units of the label)",
    "r2": "R² (share of variance explained)",
    "set_error": "error (wrong + missing tokens per case)",
    "error_ratio": "error after the edit / error without it (ratio)",
    "kl": "KL from the unedited model (nats)",
    "logit_difference": "logit difference (nats)",
    "log_odds": "log-odds of the new answer against the old (nats)",
    "nie": "share of the clean-corrupted gap (0 none, 1 all)",
    "iia": "interchange accuracy (share)",
    "answers_kept": "answers kept (share)",
    "flip_rate": "answers changed (share of cases)",
    "dropped": "pairs left out (count)",
    "aie": "average indirect effect (change of the right answer's probability)",
    "loss": "loss of the token that follows (nats)",
    "perplexity_ratio": "perplexity after the edit / before it (ratio)",
    "entropy": "entropy of the next token (nats)",
    "top1_right": "likeliest token right (share)",
    "top1_valid": "likeliest token valid (share)",
    "mass_before": "probability of the old answers (share)",
    "mass_after": "probability of the new answers (share)",
    "mass_sum": "probability of old and new answers together (share)",
    "principal_angle": "angle (degrees)",
    "tcav": "inputs whose score the concept raises (share)",
    "recovery": "recovery (0 none, 1 all of the gap)",
    "legal_top1": "first choice legal (share of moves)",
    "legal_mass": "probability on legal moves (share)",
    "legal_follow": "moves legal so far (share of cases)",
    "specificity_target": "edited target read as intended (share of cases)",
    "specificity_others": "other targets whose reading changed (share)",
}
LOWER_IS_BETTER = ("error", "kl", "loss", "perplexity", "distance", "ece", "mae")
UNITS = {
    "absolute": "× length 1 in activation units",
    "pattern length": "× length of the encoding pattern",
    "class-mean distance": "× way to the mean of the new class",
    "probe margin": "× way to the probe margin of the new class",
    "natural": "× distance between the class patterns",
    "class_mean": "× distance between the class means",
    "class_means": "× distance between the class means",
    "class_goal": "× way to the reading of the new class's mean",
    "source_goal": "× way to the reading of the other prompt",
    "mirror": "× way to the mirror image, at the midpoint of the class means",
    "sure": "probability with which the probe reads the new class",
    "sd": "standard deviations along the direction",
    "norm": "share of the stream's norm",
}
CONTROLS = {
    "majority": "majority class",
    "majority_by_position": "majority at each position",
    "shuffled_labels": "shuffled labels",
    "random_init": "random-init model",
    "input_only": "the input alone",
    "best_of_layers_null": "best layer on shuffled labels",
    "embedding": "the same probe on the embedding",
    "null": "no edit",
    "clean": "no edit, old answers",
    "corrupted": "corrupted prompts, nothing patched",
    "no_gap": "pairs in which clean does not beat corrupted",
    "ideal_null": "ideal model, no edit",
    "random_direction": "random directions",
    "random_in_components": "random directions among the top components",
    "random_subspace": "random subspaces of equal rank",
    "random_coordinates": "random coordinates, as many",
    "label_restored": "the label given back",
    "orthogonal_complement": "the part of it that is orthogonal",
    "complement": "all but the subspace",
    "full_patch": "the whole activation patched",
    "full_swap": "the whole activation swapped",
    "sign_flip": "sign flipped",
    "other_target": "another target's direction",
    "other_label": "another label's direction",
}


def pick(table: pd.DataFrame, **where) -> pd.DataFrame:
    """Rows whose columns hold the given values: None asks for a missing value, a list for one of several."""
    keep = np.ones(len(table), bool)
    for column, wanted in where.items():
        cell = table[column]
        if wanted is None:
            match = cell.isna()
        elif isinstance(wanted, Collection) and not isinstance(wanted, str):
            match = cell.isin(list(wanted))
        else:
            match = cell == wanted
        keep &= match.fillna(False).to_numpy(bool)
    return table[keep]


def require(rows: pd.DataFrame, table: pd.DataFrame, what: str, *columns: str) -> pd.DataFrame:
    """`rows`, or a KeyError saying what the table holds in the columns that were searched."""
    if len(rows):
        return rows
    held = "; ".join(f"{c}: {', '.join(map(str, table[c].dropna().unique()[:8])) or 'nothing'}" for c in columns)
    raise KeyError(f"the table has no rows of {what}; it has {held or 'no such columns'}")


def lower_is_better(metric: str) -> bool:
    """Whether a small value of the metric is what an edit aims at (errors, divergences, losses)."""
    return any(word in metric for word in LOWER_IS_BETTER)


def metric_name(metric: str) -> str:
    """The metric in words, with its unit; an unknown one keeps its name."""
    return METRICS.get(metric, metric.replace("_", " "))


def control_name(control: str) -> str:
    """A control in words: `shortcut:no_flip` -> `shortcut: no flip`, `other_label:mark` -> `other label: mark`."""
    kind, colon, name = control.partition(":")
    if colon:
        return f"{kind}: {name}".replace("_", " ")
    return CONTROLS.get(control, control.replace("_", " "))


def depth(rows: pd.DataFrame) -> np.ndarray:
    """Where each row reads the stream: l after block l, l - 0.5 in its middle, -1 at the embedding: (row,)."""
    shift = rows["stream"].map({"resid_pre": -1.0, "resid_mid": -0.5}).fillna(0.0)
    return rows["layer"].astype(float).to_numpy() + shift.to_numpy(float)


def site_name(row) -> str:
    """`layer 3`, `layers 2-4`, or `the embedding`."""
    if pd.isna(row["layer"]):
        return "no layer"
    if row["stream"] == "resid_pre" and row["layer"] == 0:
        return "the embedding"
    last = row["layer"] if pd.isna(row.get("layer_end")) else row["layer_end"]
    return f"layer {row['layer']}" if last == row["layer"] else f"layers {row['layer']}–{last}"


def number(value: float) -> str:
    """Three decimals, four significant digits from 1,000 on; a dash for a missing value."""
    if value is None or not np.isfinite(value):
        return "–"
    return f"{value:,.4g}" if abs(value) >= 1000 else f"{value:.3f}"


def with_interval(value: float, low: float, high: float) -> str:
    """`0.973 [0.968, 0.977]`; a number whose interval is missing says so."""
    if low is None or high is None or not np.isfinite([low, high]).all():
        return f"{number(value)} (no interval)"
    return f"{number(value)} [{number(low)}, {number(high)}]"


def cell(row) -> str:
    """Value and interval of a result row."""
    return with_interval(row["value"], row["ci_low"], row["ci_high"])
