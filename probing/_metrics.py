"""Metrics of predictions as functions of weighted groups, so that each comes with its cluster bootstrap.

A metric here is made once from the examples and then evaluated for any weights (draw, group): counts are summed per
group first, and ranks are taken anew for the weights of each draw. Undefined scores follow scikit-learn: a constant
guess has Matthews correlation 0, a class that is neither true nor guessed does not enter macro-F1. What has no value
at all (0/0) is NaN; `interval` leaves it out and silences numpy.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from ._calibration import BINS, confidence_bins
from ._statistics import group_sums

Metric = Callable[[Float[ndarray, "draw group"]], Float[ndarray, "draw *more"]]
_CELLS = 1 << 22  # weights of examples held at a time


def confusion(
    truth: Int[ndarray, "example target"], guess: Int[ndarray, "example target"], groups: ndarray, n_classes: int
) -> Float[ndarray, "group truth guess"]:
    """Counts of (true class, guessed class) in each group, over all targets."""
    _, group = np.unique(groups, return_inverse=True)
    cell = (group[:, None] * n_classes + truth) * n_classes + guess
    shape = group.max() + 1, n_classes, n_classes
    return np.bincount(cell.reshape(-1), minlength=np.prod(shape)).reshape(shape).astype(np.float64)


def of_confusion(counts: Float[ndarray, "group truth guess"]) -> dict[str, Metric]:
    """Balanced accuracy (mean recall of the classes that occur) and macro-F1; for two classes also the F1 of the
    second and Matthews correlation."""
    def summed(w: ndarray) -> ndarray:
        return np.tensordot(w, counts, 1)

    def balanced(w: ndarray) -> ndarray:
        c = summed(w)
        return _mean_of_defined(np.diagonal(c, axis1=1, axis2=2) / c.sum(2))

    def macro_f1(w: ndarray) -> ndarray:
        return _mean_of_defined(_f1(summed(w)))

    def mcc(w: ndarray) -> ndarray:
        (tn, fp), (fn, tp) = np.moveaxis(summed(w), 0, -1)
        scale = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
        return np.where(scale > 0, (tp * tn - fp * fn) / np.where(scale > 0, scale, 1), 0.0)

    both: dict[str, Metric] = {"balanced_accuracy": balanced, "macro_f1": macro_f1}
    if counts.shape[1] == 2:
        both |= {"f1": lambda w: _f1(summed(w))[:, 1], "mcc": mcc}
    return both


def _f1(counts: Float[ndarray, "draw truth guess"]) -> Float[ndarray, "draw class"]:
    hits = np.diagonal(counts, axis1=1, axis2=2)
    return 2 * hits / (counts.sum(1) + counts.sum(2))


def of_probabilities(
    truth: Int[ndarray, "example target"], p: Float[ndarray, "example target class"], groups: ndarray
) -> dict[str, Metric]:
    """Log-loss in nats, expected calibration error of the likeliest class in 15 equal bins, and for two classes the
    area under the ROC curve, the mean of the targets in which both classes occur.

    Source: Guo et al., arXiv:1706.04599 (the calibration error).
    """
    p = np.asarray(p, dtype=np.float64)
    right = np.take_along_axis(p, truth[..., None], 2)[..., 0]
    loss = group_sums(-np.log(np.maximum(right, np.finfo(np.float64).tiny)), groups).sum(1)
    size = group_sums(np.ones(truth.shape), groups).sum(1)
    place, over = confidence_bins(p, truth)
    gap = np.stack([group_sums(np.where(place == b, over, 0.0), groups).sum(1) for b in range(BINS)], 1)
    metrics: dict[str, Metric] = {"log_loss": lambda w: (w @ loss) / (w @ size),
                                  "ece": lambda w: np.abs(w @ gap).sum(1) / (w @ size)}
    if p.shape[2] == 2:
        metrics["auroc"] = lambda w: auroc(p[:, :, 1], truth == 1, groups, w)
    return metrics


def auroc(score: Float[ndarray, "example target"], positive: ndarray, groups: ndarray, w: ndarray) -> ndarray:
    """Chance that a positive example scores above a negative one, ties by half: the mean over targets, per draw."""
    def one(target: int, weights: ndarray) -> ndarray:
        yes = positive[:, target]
        p, n = weights[:, yes].sum(1), weights[:, ~yes].sum(1)
        below = (weights[:, yes] * weighted_ranks(score[:, target], weights)[:, yes]).sum(1)
        return (below - p * p / 2) / (p * n)

    return _mean_of_defined(np.stack([_by_example(partial(one, t), groups, w) for t in range(score.shape[1])], 1))


def of_numbers(
    truth: Float[ndarray, "example target"], guess: Float[ndarray, "example target"], mean: Float[ndarray, " target"],
    groups: ndarray,
) -> Mapping[str, Metric]:
    """r2 against always guessing `mean` (of the training rows), Spearman's rank correlation (a constant guess has 0)
    and mean absolute error, of every target: (draw, target)."""
    lost, total = (group_sums((truth - g) ** 2, groups) for g in (guess, mean))
    miss, size = group_sums(np.abs(truth - guess), groups), group_sums(np.ones(truth.shape), groups)

    def spearman(w: ndarray) -> ndarray:
        return np.stack([_by_example(partial(_rank_correlation, *pair), groups, w)
                         for pair in zip(truth.T, guess.T, strict=True)], 1)

    return {"r2": lambda w: 1 - (w @ lost) / (w @ total), "spearman": spearman,
            "mae": lambda w: (w @ miss) / (w @ size)}


def weighted_ranks(x: Float[ndarray, " example"], weights: Float[ndarray, "draw example"]) -> ndarray:
    """Rank of every example when each counts as often as its weight says, ties at their middle: (draw, example)."""
    order = np.argsort(x, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(x[order]) > 0])
    mass = np.add.reduceat(weights[:, order], starts, axis=1)
    middle = np.cumsum(mass, axis=1) - mass / 2
    ranks = np.empty_like(weights)
    ranks[:, order] = np.repeat(middle, np.diff(np.r_[starts, len(x)]), axis=1)
    return ranks


def _rank_correlation(a: ndarray, b: ndarray, weights: ndarray) -> ndarray:
    total = weights.sum(1, keepdims=True)
    a, b = (r - (weights * r).sum(1, keepdims=True) / total for r in (weighted_ranks(v, weights) for v in (a, b)))
    scale = np.sqrt((weights * a * a).sum(1) * (weights * b * b).sum(1))
    return np.where(scale > 0, (weights * a * b).sum(1) / np.where(scale > 0, scale, 1), 0.0)


def _mean_of_defined(x: Float[ndarray, "draw part"]) -> Float[ndarray, " draw"]:
    """Mean over the parts that exist in a draw (a class, a target), NaN where none does."""
    return np.nansum(x, axis=1) / np.isfinite(x).sum(1)


def _by_example(statistic: Callable[[ndarray], ndarray], groups: ndarray, w: ndarray) -> ndarray:
    """A statistic of weighted examples for weights of groups, a few draws at a time."""
    _, index = np.unique(groups, return_inverse=True)
    step = max(1, _CELLS // len(index))
    return np.concatenate([statistic(w[i : i + step, index]) for i in range(0, len(w), step)])
