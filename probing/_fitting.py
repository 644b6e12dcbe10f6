"""Fitting one probe on many answers to the same states: real labels, shuffled ones and every penalty in one solve."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from numpy import ndarray
from scipy.special import softmax
from sklearn.base import BaseEstimator, clone, is_regressor
from sklearn.utils.validation import has_fit_parameter

from ._logistic import LogisticProbe
from ._question import Question
from ._ridge import RidgeProbe
from ._score import Guess, gains, value_of

Candidates = Sequence[BaseEstimator]
PER_TARGET = ("coef_", "intercept_", "read_", "write_", "alpha_", "gap_")  # arrays whose first axis is the target


@dataclass(frozen=True)
class Fit:
    """A fitted probe and what it says of the held-out examples; of several candidates, the best on validation."""

    probe: Any
    guess: Guess

    @property
    def penalty(self) -> float | None:
        """C of a classifier, alpha of a regressor, where the probe has one number for it."""
        for name in ("C", "alpha_", "alpha"):
            values = np.unique(getattr(self.probe, name, ()))
            if values.size == 1:
                return float(values[0])
        return None


def candidates(probe: BaseEstimator | Candidates) -> list[BaseEstimator]:
    """The estimators to choose among: one, or those of a sequence, such as a probe at several penalties."""
    found = list(probe) if isinstance(probe, Sequence) else [probe]
    if not found or any(not hasattr(p, "fit") or not hasattr(p, "predict") for p in found):
        raise TypeError(f"a probe is an estimator with fit and predict, or several to choose among, not {probe!r}")
    return found


def suits(probe: BaseEstimator, question: Question) -> bool:
    """Whether the estimator is of the label's kind: classifiers for classes, regressors for numbers."""
    return is_regressor(probe) == (question.n_classes == 0)


def fit_and_choose(choices: Candidates, X: Float[ndarray, "example feature"], arms: Sequence[Question]) -> list[Fit]:
    """One fit for every arm (a label, real or shuffled): of the candidates, fitted on train, the best on validation.

    Args:
        X: States or features of all examples.
        arms: Questions about these examples, with the same splits.
    """
    train, watched, held = arms[0].train, arms[0].splits["validation"], arms[0].held
    fitted = fit_columns(choices, X[train], [arm.Y[train] for arm in arms], arms[0].groups[train],
                         (X[watched], [arm.Y[watched] for arm in arms]),
                         [{name: codes[train] for name, codes in arm.beside.items()} for arm in arms])
    X = X[held]
    return [_choose(probes, X, arm) for probes, arm in zip(fitted, arms, strict=True)]


def fit_columns(
    choices: Candidates,
    X: Float[ndarray, "train feature"],
    answers: Sequence[Shaped[ndarray, "train target"]],
    groups: Shaped[ndarray, " train"],
    watched: tuple[Float[ndarray, "validation feature"], Sequence[Shaped[ndarray, "validation target"]]] | None = None,
    beside: Sequence[Mapping[str, Shaped[ndarray, " train"]]] | None = None,
) -> list[list[Any]]:
    """Each candidate fitted on each of the answers: [answer][candidate].

    A probe that solves every target by itself takes all answers as columns of one solve, and all penalties where it
    allows one for each column. A probe whose `fit` takes groups (to choose its penalty without help from the same
    group) is given them; one that takes `validation` (to stop where it is best there) is given `watched`, rows and
    each answer to them, unless they hold classes that training does not; one that takes another label by its name
    (`polarity`) is given it, out of what stands `beside` each of the answers.
    """
    if not stacks(choices):
        pairs = [(watched[0], _one_or_many(V)) for V in watched[1]] if watched else [None] * len(answers)
        return [[_fit(choice, X, _one_or_many(Y), groups, pair, more) for choice in choices]
                for Y, pair, more in zip(answers, pairs, beside or [{}] * len(answers), strict=True)]
    whole = np.concatenate(answers, axis=1)
    ends = np.cumsum([Y.shape[1] for Y in answers])
    parts = [slice(end - Y.shape[1], end) for Y, end in zip(answers, ends, strict=True)]
    if len(choices) > 1 and _differ_in_penalty(choices):
        n, C = whole.shape[1], [choice.C for choice in choices]
        probe = clone(choices[0]).set_params(C=torch.tensor(np.repeat(C, n), dtype=torch.float64))
        probe.fit(X, np.tile(whole, (1, len(C))))
        return [[_columns(probe, slice(i * n + part.start, i * n + part.stop), C=c) for i, c in enumerate(C)]
                for part in parts]
    fitted = [_fit(choice, X, whole, groups) for choice in choices]
    return [[_columns(probe, part) for probe in fitted] for part in parts]


def stacks(choices: Candidates) -> bool:
    """Whether the probes solve every target by itself, so that many answers cost little more than one."""
    return all(isinstance(choice, LogisticProbe) or (isinstance(choice, RidgeProbe) and choice.alpha_per_target)
               for choice in choices)


def _fit(choice: BaseEstimator, X: ndarray, Y: ndarray, groups: ndarray,
         watched: tuple[ndarray, ndarray] | None = None, beside: Mapping[str, ndarray] | None = None) -> Any:
    more: dict[str, Any] = {"groups": groups} if has_fit_parameter(choice, "groups") else {}
    if watched and has_fit_parameter(choice, "validation"):
        more |= {"validation": watched} if is_regressor(choice) or np.isin(watched[1], Y).all() else {}
    more |= {name: codes for name, codes in (beside or {}).items() if has_fit_parameter(choice, name)}
    return clone(choice).fit(X, Y, **more)


def _one_or_many(Y: Shaped[ndarray, "example target"]) -> ndarray:
    """As scikit-learn asks: one target without its axis."""
    return Y if Y.shape[1] > 1 else Y[:, 0]


def _differ_in_penalty(choices: Candidates) -> bool:
    """Whether all are logistic probes that are alike but for their C."""
    return all(isinstance(c, LogisticProbe) and c.get_params() | {"C": None} == choices[0].get_params() | {"C": None}
               for c in choices)


def _columns(probe: Any, which: slice, **params: Any) -> Any:
    """The probe as if it had been fitted on some of its targets alone, with these parameters."""
    part = copy.copy(probe).set_params(**params)
    for name in PER_TARGET:
        if hasattr(probe, name):
            setattr(part, name, getattr(probe, name)[which])
    if hasattr(probe, "scores_"):
        part.scores_ = probe.scores_[:, which]
    part._one_target = which.stop - which.start == 1
    if part._one_target and part.read_.ndim == 3:
        part.read_, part.write_ = part.read_[0], part.write_[0]
    return part


def _choose(fitted: Sequence[Any], X: Float[ndarray, "held feature"], question: Question) -> Fit:
    fits = [Fit(probe, _guess(probe, X, question)) for probe in fitted]
    if len(fits) == 1:
        return fits[0]
    return max(fits, key=lambda fit: value_of(gains(question, fit.guess, "validation")))


def _guess(probe: Any, X: Float[ndarray, "held feature"], question: Question) -> Guess:
    held, shape = question.held, question.Y.shape
    answer = np.zeros(shape, question.Y.dtype)
    p = np.zeros((*shape, 2)) if question.n_classes == 2 else None
    if p is None or (found := _probabilities(probe, X, shape[1])) is None:
        answer[held] = np.asarray(probe.predict(X)).reshape(-1, shape[1])
        return Guess(answer)
    p[np.ix_(held, np.arange(shape[1]), np.asarray(probe.classes_, int))] = found
    answer[held] = p[held].argmax(-1)
    return Guess(answer, p)


def _probabilities(probe: Any, X: ndarray, n_targets: int) -> Float[ndarray, "held target class"] | None:
    if hasattr(probe, "logits"):  # always (example, target, class), where predict_proba is what scikit-learn asks
        p = softmax(np.asarray(probe.logits(X), dtype=np.float64), axis=-1)
    elif hasattr(probe, "predict_proba"):
        p = np.asarray(probe.predict_proba(X), dtype=np.float64)
    else:
        return None
    return p.reshape(len(X), n_targets, -1) if p.ndim in (2, 3) else None
