"""Ridge regression of many targets with all penalties from one factorisation, cross-validated exactly."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy import ndarray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from ._design import number_columns
from ._moments import Moments
from ._scatter import Scatter
from ._subspaces import LinearPair

ALPHAS = tuple(np.logspace(-1, 5, 13).tolist())
_FLOATS = 1 << 24  # of a stack of left-out groups: 128 MiB

Errors = Float[ndarray, "alpha target"]


class RidgeProbe(LinearPair, RegressorMixin, BaseEstimator):
    """Linear regression with an L2 penalty, its strength chosen by leaving examples or groups out.

    min_W  |Y - X W^T - b|^2 + alpha |W|^2, the intercept b not penalised: scikit-learn's `Ridge`. Left-out errors are
    those of a refit without the example or the group, for every penalty from one factorisation of X.

    Args:
        alphas: Penalties to choose from, or one, at least 0. Below some 1e-13 of the largest eigenvalue of X^T X they
            are lost in rounding.
        fit_intercept: Without it nothing is centred.
        alpha_per_target: Each target gets the penalty of its own smallest error; otherwise all get the one with the
            best mean R2 over targets that are not constant.

    Attributes:
        coef_: (target, d_model) weights in raw activation space; intercept_: (target,).
        alpha_: (target,) the penalty chosen.
        scores_: (alpha, target) R2 of left-out predictions, against the mean of all; NaN for constant targets.
        read_, write_: (target, d_model): `coef_`, and cov(x, y) / var(y), how the activation moves per unit of y.
    Source: Golub, Heath & Wahba 1979 (leave-one-out); Haufe et al. 2014 (patterns).
    """

    def __init__(self, alphas=ALPHAS, fit_intercept=True, alpha_per_target=True):
        self.alphas, self.fit_intercept, self.alpha_per_target = alphas, fit_intercept, alpha_per_target

    def fit(self, X, y, groups: Shaped[ndarray, " example"] | None = None):
        """Choose each penalty by leave-one-group-out, or leave-one-out without `groups`, and fit.

        Raises:
            ValueError: There is a single group, or a penalty is negative.
        """
        X, y = validate_data(self, X, y, multi_output=True, dtype=(np.float64, np.float32), y_numeric=True,
                             ensure_min_samples=2)
        Y = y.reshape(len(y), -1).astype(np.float64)
        codes = np.arange(len(X)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
        if len(codes) != len(X) or codes.max() < 1:
            raise ValueError(f"groups must name at least 2 groups, one per example ({len(X)}); there are "
                             f"{codes.max() + 1} in {len(codes)} names")
        rows = Rows(X, Y, self.fit_intercept)
        variance = ((Y - Y.mean(0)) ** 2).sum(0)
        self._choose(rows.left_out_errors(codes, self._penalties()), variance)
        self._learn(rows.coef(self.alpha_), rows.x_mean, rows.y_mean, rows.X.T @ (Y - Y.mean(0)), variance)
        self._one_target = y.ndim == 1
        return self

    def fit_moments(self, moments: Moments, labels: str | Int[ndarray, " target"],
                    folds: str | Sequence[str] = "train") -> "RidgeProbe":
        """The same from running moments: penalties are chosen by leaving out one of `folds` at a time, a subtraction.

        Equals `fit` with these folds as groups.

        Args:
            labels: A numeric scheme, or indices of label columns.
        """
        columns = number_columns(moments.columns, labels) if isinstance(labels, str) else labels
        inside = [moments.folds[i] for i in moments.which(folds) if int(moments.n[i])]
        if len(inside) < 2:
            raise ValueError(f"choosing a penalty leaves folds out, but {folds!r} is {inside}; stream with folds=5")
        total = moments.scatter(folds).select(columns)
        errors = np.zeros((len(self._penalties()), len(columns)))
        for fold in inside:
            left_out, rest = moments.scatter(fold), moments.scatter(folds, without=fold)
            errors += fold_errors(self._seen(rest.select(columns)), self._seen(left_out.select(columns)),
                                  self._penalties())
        variance = total.yy.diagonal()
        self._choose(errors, variance)
        seen = self._seen(total)
        self._learn(ridge_coef(seen, self.alpha_), seen.x_mean, seen.y_mean, total.xy, variance)
        self.n_features_in_, self._one_target = len(total.xx), False
        return self

    def predict(self, X):
        """(example, target), or (example,) when fitted on one target."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=(np.float64, np.float32))
        predicted = X @ self.coef_.T + self.intercept_
        return predicted[:, 0] if self._one_target else predicted

    def _penalties(self) -> Float[ndarray, " alpha"]:
        alphas = np.atleast_1d(np.asarray(self.alphas, dtype=np.float64))
        if not len(alphas) or (alphas < 0).any():
            raise ValueError(f"alphas must be one or more penalties of at least 0, not {self.alphas}")
        return alphas

    def _seen(self, scatter: Scatter) -> Scatter:
        return scatter if self.fit_intercept else scatter.about_origin()

    def _choose(self, errors: Errors, variance: Float[ndarray, " target"]) -> None:
        with np.errstate(divide="ignore", invalid="ignore"):
            self.scores_ = np.where(variance > 0, 1 - errors / variance, np.nan)
        best = errors.argmin(0)
        if not self.alpha_per_target:
            best[:] = np.where(variance > 0, errors / np.where(variance > 0, variance, 1), 0).sum(1).argmin()
        self.alpha_ = self._penalties()[best]

    def _learn(self, coef, x_mean, y_mean, xy, variance) -> None:
        self.coef_, self.intercept_ = coef, y_mean - coef @ x_mean
        self.read_, self.write_ = coef, (xy / np.where(variance > 0, variance, 1)).T

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def ridge_coef(scatter: Scatter, alpha: Float[ndarray, " target"]) -> Float[ndarray, "target d_model"]:
    """Weights of every target at its own penalty; of least norm where the penalty is 0 and nothing decides."""
    values, V = np.linalg.eigh(scatter.xx)
    return (V @ (_inverse(values[:, None], alpha) * (V.T @ scatter.xy))).T


def fold_errors(rest: Scatter, fold: Scatter, alphas: Float[ndarray, " alpha"]) -> Errors:
    """Sum of squared errors on `fold` of ridge fitted on `rest`, of every penalty and target."""
    values, V = np.linalg.eigh(rest.xx)
    cross, gram, inside = V.T @ rest.xy, V.T @ fold.xx @ V, V.T @ fold.xy
    dx, dy = V.T @ (fold.x_mean - rest.x_mean), fold.y_mean - rest.y_mean
    errors = np.empty((len(alphas), len(dy)))
    for i, alpha in enumerate(alphas):
        W = _inverse(values, alpha)[:, None] * cross
        errors[i] = fold.yy.diagonal() + (W * (gram @ W - 2 * inside)).sum(0) + fold.n * (dy - dx @ W) ** 2
    return np.maximum(errors, 0)


class Rows:
    """Ridge on rows of data: X - mean = Q V^T with orthogonal columns in Q, so that every penalty is a diagonal."""

    def __init__(self, X: Float[ndarray, "example d_model"], Y: Float[ndarray, "example target"], intercept: bool):
        X = X.astype(np.float64)
        self.x_mean, self.y_mean = (a.mean(0) if intercept else np.zeros(a.shape[1]) for a in (X, Y))
        self.X, self.Y, self.bias = X - self.x_mean, Y - self.y_mean, intercept / len(X)
        if len(X) >= X.shape[1]:
            self.values, self.V = np.linalg.eigh(self.X.T @ self.X)
            self.Q = self.X @ self.V
        else:
            values, U = np.linalg.eigh(self.X @ self.X.T)
            keep = values > values.max(initial=0) * len(X) * np.finfo(float).eps
            self.values, U = values[keep], U[:, keep]
            self.Q, self.V = U * np.sqrt(self.values), self.X.T @ U / np.sqrt(self.values)
        self.cross = self.Q.T @ self.Y

    def coef(self, alpha: Float[ndarray, " target"]) -> Float[ndarray, "target d_model"]:
        return (self.V @ (_inverse(self.values[:, None], alpha) * self.cross)).T

    def left_out_errors(self, groups: Int[ndarray, " example"], alphas: Float[ndarray, " alpha"]) -> Errors:
        """Sum over groups of the squared errors of a fit without the group.

        e_g = (I - H_gg)^-1 (y_g - yhat_g), where H = X (X^T X + alpha)^-1 X^T + 1/n is the hat matrix, the last term
        being the intercept. Groups larger than d_model are cheaper to subtract from the Gram matrix.
        """
        order, sizes = np.argsort(groups, kind="stable"), np.bincount(groups)
        starts = np.cumsum(sizes) - sizes
        errors = np.zeros((len(alphas), self.Y.shape[1]))
        large = max(len(self.values), 16)
        for size in np.unique(sizes[sizes > 0]):
            members = order[starts[sizes == size][:, None] + np.arange(size)]  # (group, member)
            if size > large:
                errors += sum(self._subtract(rows, alphas) for rows in members)
                continue
            step = max(1, _FLOATS // (size * (size + len(self.values) + self.Y.shape[1])))
            for start in range(0, len(members), step):
                errors += self.errors_without(members[start : start + step], alphas)
        return errors

    def errors_without(self, members: Int[ndarray, "group member"], alphas: Float[ndarray, " alpha"]) -> Errors:
        """Summed over groups of equal size, each given by its rows, through its block of the hat matrix."""
        (n_groups, size), flat = members.shape, members.ravel()
        Q, Y, grouped = self.Q[flat], self.Y[flat], self.Q[members]
        errors = np.empty((len(alphas), Y.shape[1]))
        for i, alpha in enumerate(alphas):
            f = _inverse(self.values, alpha)
            gap = Y - Q @ (f[:, None] * self.cross)
            if size == 1:
                out = gap / (1 - Q**2 @ f - self.bias)[:, None]
            else:
                left = np.eye(size) - (grouped * f) @ grouped.mT - self.bias
                out = np.linalg.solve(left, gap.reshape(n_groups, size, -1))
            errors[i] = (out.reshape(gap.shape) ** 2).sum(0)
        return errors

    def _subtract(self, rows: Int[ndarray, " member"], alphas: Float[ndarray, " alpha"]) -> Errors:
        n, (n_targets, rank) = len(self.Q), (self.Y.shape[1], self.Q.shape[1])
        Q, Y = self.Q[rows], self.Y[rows]
        x_mean, y_mean = (a.mean(0) if self.bias else np.zeros(a.shape[1]) for a in (Q, Y))
        Q, Y = Q - x_mean, Y - y_mean
        part = Scatter(len(rows), x_mean, y_mean, Q.T @ Q, Q.T @ Y, np.diag((Y**2).sum(0)), np.nan)
        whole = Scatter(n, np.zeros(rank), np.zeros(n_targets), np.diag(self.values), self.cross, 0 * part.yy, np.nan)
        return fold_errors(whole.without(part), part, alphas)


def _inverse(values: Float[ndarray, "*shape"], alpha) -> Float[ndarray, "*wide"]:
    """1 / (values + alpha), and 0 where that sum is rounding."""
    total = np.maximum(values, 0) + alpha
    with np.errstate(divide="ignore"):
        return np.where(total > 1e-15 * len(values) * np.max(values, initial=0), 1 / total, 0.0)
