"""Scores of binary decisions, many columns at once: threshold scores at zero and the areas under the curves."""

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray


def binary_scores(
    truth: Bool[ndarray, "example column"], decision: Float[ndarray, "example column"]
) -> dict[str, Float[ndarray, " column"]]:
    """Metric -> score of every column; an example is called positive where its decision is above 0.

    mcc, f1, f0.5, f2, accuracy, balanced_accuracy, precision, recall, roc_auc, pr_auc (trapezoids under the
    precision-recall curve) and average_precision, each as scikit-learn defines it. What a column leaves undefined is
    0 for threshold scores (nothing called positive: no precision), NaN where the truth itself has one class only.
    """
    called = decision > 0
    tp, fp = (called & truth).sum(0), (called & ~truth).sum(0)
    fn, tn = (~called & truth).sum(0), (~called & ~truth).sum(0)
    positive, negative = tp + fn, fp + tn
    both = (positive > 0) & (negative > 0)
    product = (tp + fp).astype(float) * positive * (tn + fn) * negative
    scores = {
        "mcc": _ratio(tp.astype(float) * tn - fp.astype(float) * fn, np.sqrt(product)),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "f0.5": _ratio(1.25 * tp, 1.25 * tp + fp + 0.25 * fn),
        "f2": _ratio(5 * tp, 5 * tp + fp + 4 * fn),
        "accuracy": _ratio(tp + tn, positive + negative),
        "balanced_accuracy": (_ratio(tp, positive) + _ratio(tn, negative)) / 2,
        "precision": _ratio(tp, tp + fp),
        "recall": _ratio(tp, positive),
    }
    areas = np.array([_areas(*column) for column in zip(truth.T, decision.T, strict=True)]).reshape(-1, 3)
    scores |= dict(zip(("roc_auc", "pr_auc", "average_precision"), areas.T, strict=True))
    return {name: np.where(both, score, np.nan) for name, score in scores.items()}


def _ratio(a: ndarray, b: ndarray) -> Float[ndarray, " column"]:
    return np.divide(a, b, out=np.zeros(len(a)), where=b > 0)


def _areas(truth: Bool[ndarray, " example"], decision: Float[ndarray, " example"]) -> tuple[float, float, float]:
    """Area under ROC, under precision-recall by trapezoids, and average precision; equal decisions are one point."""
    order = np.argsort(-decision, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(decision[order])), len(order) - 1)
    tp = np.cumsum(truth[order])[ends]
    fp = ends + 1 - tp
    if not tp[-1] or not fp[-1]:
        return np.nan, np.nan, np.nan
    recall, precision = np.append(0, tp) / tp[-1], np.append(1, tp / (tp + fp))
    gained = np.diff(recall)
    roc = np.trapezoid(recall, np.append(0, fp) / fp[-1])
    return float(roc), float(np.trapezoid(precision, recall)), float(gained @ precision[1:])
