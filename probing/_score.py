"""Predictions as rows of the results table: every metric of a label on validation and test, with its interval."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float, Shaped
from numpy import ndarray

from ._metrics import Metric, confusion, of_confusion, of_numbers, of_probabilities
from ._question import Question
from ._statistics import group_sums, interval, ratio_interval

RANKED_TARGETS = 8  # ranks are sorted for every target: boards of many squares go without the area under the curve


@dataclass(frozen=True)
class Guess:
    """What a probe, or a control, says of every held-out example (other rows hold anything).

    Attributes:
        answer: (example, target) codes or numbers.
        p: (example, target, class) probabilities, where there are any.
    """

    answer: Shaped[ndarray, "example target"]
    p: Float[ndarray, "example target class"] | None = None


def score(question: Question, guess: Guess, seed: int = 0) -> list[dict]:
    """Rows for the guesses of all examples.

    Classes: accuracy over all targets, on the task's subsets, and on test by position and by target (`ply=12`,
    `square=c4`); balanced accuracy, macro-F1 and, for two classes, F1 of the second, Matthews correlation and, from
    probabilities, log-loss, calibration error and area under the ROC curve. Numbers: r2 against the mean of the
    training rows, Spearman's correlation and mean absolute error, the mean of the targets, and on test each.
    """
    rows = []
    for split in ("validation", "test"):
        keep = question.splits[split]
        scored = _classes if question.n_classes else _numbers
        common = dict(label=question.label, split=split, n_groups=len(np.unique(question.groups[keep])), seed=seed)
        rows += [common | row for row in scored(question, guess, keep, split == "test", seed)
                 if np.isfinite(row["value"])]
    return rows


def gains(question: Question, guess: Guess, split: str) -> tuple[ndarray, ndarray]:
    """(gain, size), each (group, target), whose ratio of sums is the question's metric: hits of cells, or squared error
    saved of squared deviation. The mean over targets of the ratios is what `value_of` returns."""
    keep = question.splits[split]
    truth, answer, groups = question.Y[keep], guess.answer[keep], question.groups[keep]
    if question.n_classes:
        hits = (truth == answer).sum(1, keepdims=True)
        return group_sums(hits, groups), group_sums(np.full(hits.shape, truth.shape[1]), groups)
    total = (truth - question.Y[question.train].mean(0)) ** 2
    return group_sums(total - (truth - answer) ** 2, groups), group_sums(total, groups)


def value_of(sums: tuple[ndarray, ndarray]) -> float:
    """The metric of all groups, from `gains`."""
    return float((sums[0].sum(0) / sums[1].sum(0)).mean())


def _classes(question: Question, guess: Guess, keep: ndarray, parts: bool, seed: int) -> list[dict]:
    truth, answer, g = question.Y[keep], guess.answer[keep], question.groups[keep]
    right = truth == answer
    names, num, den = ["all"], [right.sum(1)], [np.full(len(right), right.shape[1])]
    for name, mask in question.subsets.items():
        names.append(name)
        num.append((right & mask[keep]).sum(1))
        den.append(mask[keep].sum(1))
    num, den = [np.stack(num, 1)], [np.stack(den, 1)]
    if parts:
        where, n_targets = question.where[keep], right.shape[1]
        places = np.unique(where)
        at = where[:, None] == places
        num += [at * right.sum(1, keepdims=True), right]
        den += [at * n_targets, np.ones_like(right, int)]
        names += [f"{question.by[0]}={p}" for p in places] + [f"{question.by[1]}={t}" for t in question.targets]
    hits, cells = (group_sums(np.concatenate(a, 1), g) for a in (num, den))
    counted = zip(names, cells.sum(0), *ratio_interval(hits, cells, seed=seed), strict=True)
    rows = [dict(metric="accuracy", subset=name, n=int(n), value=v, ci_low=lo, ci_high=hi)
            for name, n, v, lo, hi in counted]
    metrics: dict[str, Metric] = of_confusion(confusion(truth, answer, g, question.n_classes))
    if guess.p is not None:
        metrics |= of_probabilities(truth, guess.p[keep], g)
    if right.shape[1] > RANKED_TARGETS:
        metrics.pop("auroc", None)
    return rows + [_row(name, "all", metric, g, truth.size, seed) for name, metric in metrics.items()]


def _numbers(question: Question, guess: Guess, keep: ndarray, parts: bool, seed: int) -> list[dict]:
    truth, answer, g = question.Y[keep], guess.answer[keep], question.groups[keep]
    metrics = of_numbers(truth, answer, question.Y[question.train].mean(0), g)
    rows = []
    for name, metric in metrics.items():
        rows.append(_row(name, "all", partial(_mean_of_targets, metric), g, truth.size, seed))
        if parts:
            each = interval(metric, len(np.unique(g)), seed=seed)
            rows += [dict(metric=name, subset=f"{question.by[1]}={t}", value=v, ci_low=lo, ci_high=hi, n=len(truth))
                     for t, v, lo, hi in zip(question.targets, *each, strict=True)]
    return rows


def _mean_of_targets(metric: Metric, w: ndarray) -> ndarray:
    return metric(w).mean(1)


def _row(name: str, subset: str, metric: Metric, groups: ndarray, n: int, seed: int) -> dict:
    value, low, high = interval(metric, len(np.unique(groups)), seed=seed)
    return dict(metric=name, subset=subset, value=float(value), ci_low=float(low), ci_high=float(high), n=n)
