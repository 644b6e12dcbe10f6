"""Iterative nullspace projection: a linear classifier is fitted, its directions are removed, and so on."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy import ndarray
from sklearn.base import BaseEstimator
from torch import Tensor

from probing._logistic import LogisticProbe
from probing._subspaces import LinearPair

from ._erasers import Eraser, as_rows


@dataclass(frozen=True, repr=False)
class INLP(Eraser):
    """The orthogonal projection onto the intersection of the null spaces of all classifiers.

    A classifier of K classes takes K - 1 dimensions (a binary one its one direction), restricted to what earlier ones
    left, so that all are orthogonal and P = I - sum_i P_i, applied to the rows as they are, equals the product of the
    single projections. It takes many more dimensions than LEACE for a weaker promise: kept for comparison, and for
    AlterRep, which needs its directions.

    Attributes:
        offsets: (rank,) of the binary classifiers: row j of `read` predicts classes[1] where read_j . x + offset_j > 0.
            NaN for more than two classes.
        classes: Label values; every direction of a binary label points to classes[1].
        history: Per iteration: `rank` before it, the `accuracy` on dev of the classifier fitted then, `majority`, and
            whether it was `removed` (the last one, at the majority, is not).
    Source: Ravfogel et al., arXiv:2004.07667, nullspace_projection src/debias.py. Theirs is linear (mean=False here).
    """

    offsets: Float[Tensor, " rank"] = field(default_factory=lambda: torch.zeros(0))
    classes: tuple = ()
    history: pd.DataFrame = field(default_factory=pd.DataFrame)

    @classmethod
    def fit(cls, X, y, dev: tuple | None = None, *, n_iterations: int = 20, min_accuracy: float | None = None,
            probe: Callable[[], BaseEstimator] = LogisticProbe, affine: bool = True) -> "INLP":
        """From rows and the class of each.

        Args:
            dev: (rows, classes) that say when to stop; the fitting rows unless given, which many dimensions can fit
                long after the label is gone.
            n_iterations: At most.
            min_accuracy: Stop at this accuracy on dev; by default that of its majority class.
            probe: Makes a linear classifier, one of `probing`'s or one with scikit-learn's `coef_`.
            affine: Keep the mean of the rows where it is (mean-projection); else the projection is linear.
        Raises:
            ValueError: Fewer than two classes, or dev that does not fit.
        """
        X, y = as_rows(X).astype(np.float64), np.asarray(y)
        X_dev, y_dev = (X, y) if dev is None else (as_rows(dev[0]).astype(np.float64), np.asarray(dev[1]))
        for rows, labels in ((X, y), (X_dev, y_dev)):
            if labels.shape != (len(rows),):
                raise ValueError(f"y wants one class for each of {len(rows)} rows, it has shape {labels.shape}")
        mean = X.mean(0)
        classes, counts = np.unique(y_dev, return_counts=True)
        majority = counts.max() / len(y_dev)
        basis, offsets, history = np.zeros((0, X.shape[1])), [], []
        while len(history) < n_iterations and len(basis) < X.shape[1]:
            rest, rest_dev = (A - (A - mean) @ basis.T @ basis for A in (X, X_dev))
            fitted = probe().fit(rest, y)
            accuracy = float((fitted.predict(rest_dev) == y_dev).mean())
            go_on = accuracy > (majority if min_accuracy is None else min_accuracy)
            history.append({"rank": len(basis), "accuracy": accuracy, "majority": majority, "removed": go_on})
            if not go_on:
                break
            new, offset = _directions(fitted, basis, mean)
            basis, offsets = np.concatenate([basis, new]), [*offsets, *offset]
        found = torch.from_numpy(basis)
        return cls(found, found, torch.from_numpy(mean if affine else 0 * mean), torch.tensor(offsets).double(),
                   tuple(np.unique(y).tolist()), pd.DataFrame(history))


def _directions(probe, basis: Float[ndarray, "rank d_model"], mean: Float[ndarray, " d_model"]) -> tuple:
    """Orthonormal rows that the classifier reads with, orthogonal to `basis`, and their offsets.

    What it reads along `basis` is a constant there: the rows that it was fitted on do not vary along it.
    """
    rows = np.asarray(probe.read_ if isinstance(probe, LinearPair) else probe.coef_, dtype=np.float64)
    inside = (rows @ basis.T) @ basis
    free = rows - inside
    free -= (free @ basis.T) @ basis  # twice: orthogonal to rounding
    if len(free) > 1:
        s, V = np.linalg.svd(free, full_matrices=False)[1:]
        kept = V[s > 1e-6 * s[0]]
        return kept, [np.nan] * len(kept)
    size = np.linalg.norm(free)
    bias = float(probe.decision_function(mean[None])[0] - free[0] @ mean)  # at the mean; then from 0 along `free`
    return free / size, [bias / size]
