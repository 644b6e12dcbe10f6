"""How many directions carry many targets: ridge regression through a bottleneck."""

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from ._design import number_columns
from ._moments import Moments
from ._scatter import Scatter
from ._subspaces import LinearPair


class LowRankProbe(LinearPair, RegressorMixin, BaseEstimator):
    """Ridge regression of many targets with weights of low rank: Y ~ X A B + b, A (d_model, rank).

    The exact minimiser of |Y - X W^T - b|^2 + alpha |W|^2 over W of that rank: the ridge solution, projected on the
    leading eigenvectors of W (X^T X + alpha) W^T. Full rank is plain ridge.

    Args:
        rank: Directions that are read; all of them (the number of targets, at most d_model) unless given.
        alpha: Penalty, as in scikit-learn's `Ridge`.

    Attributes:
        coef_: (target, d_model) weights; intercept_: (target,).
        targets_: (rank, target) orthonormal combinations of targets, the best explained first.
        read_, write_: (rank, d_model): what reads each of these combinations, and how the activation moves per unit.
    Source: Izenman 1975 (reduced-rank regression); Mukherjee & Zhu 2011 (with ridge).
    """

    def __init__(self, rank=None, alpha=1.0):
        self.rank, self.alpha = rank, alpha

    def fit(self, X, y):
        X, y = validate_data(self, X, y, multi_output=True, dtype=(np.float64, np.float32), y_numeric=True,
                             ensure_min_samples=2)
        self._learn(Scatter.of(X, y.reshape(len(y), -1)))
        self._one_target = y.ndim == 1
        return self

    def fit_moments(self, moments: Moments, labels: str | Int[ndarray, " target"],
                    folds: str = "train") -> "LowRankProbe":
        """The same from running moments; `labels` is a numeric scheme, or indices of label columns."""
        columns = number_columns(moments.columns, labels) if isinstance(labels, str) else labels
        self._learn(moments.scatter(folds).select(columns))
        self.n_features_in_, self._one_target = int(moments.d_model or 0), False
        return self

    def predict(self, X):
        """(example, target), or (example,) when fitted on one target."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=(np.float64, np.float32))
        predicted = X @ self.coef_.T + self.intercept_
        return predicted[:, 0] if self._one_target else predicted

    def rank_scores(self, held_out: Scatter) -> Float[ndarray, " rank"]:
        """R2 over all targets together on held-out rows, of every rank from 1 to that of the probe.

        `held_out` is `moments.scatter("validation")` or `Scatter.of(X, Y)`, with the columns of the fit. R2 counts
        from the held-out mean.
        """
        check_is_fitted(self)
        s, (B, R) = held_out, (self.targets_, self.read_)
        dx, dy = s.x_mean - self._x_mean, s.y_mean - self._y_mean
        inside, cross = R @ (s.xx + s.n * np.outer(dx, dx)) @ R.T, R @ (s.xy + s.n * np.outer(dx, dy)) @ B.T
        # targets_ are orthonormal: the squared error is a sum over them, and one more rank adds one term
        gain = 2 * cross.diagonal() - inside.diagonal()
        return 1 - (np.trace(s.yy) + s.n * dy @ dy - np.cumsum(gain)) / np.trace(s.yy)

    def _learn(self, scatter: Scatter) -> None:
        d, m = scatter.xy.shape
        rank = min(d, m) if self.rank is None else self.rank
        if not 1 <= rank <= min(d, m):
            raise ValueError(f"rank must be between 1 and {min(d, m)} (targets, d_model), not {self.rank}")
        penalised = scatter.xx + self.alpha * np.eye(d)
        W = (np.linalg.solve(penalised, scatter.xy) if self.alpha > 0
             else np.linalg.lstsq(scatter.xx, scatter.xy, rcond=None)[0]).T
        explained, vectors = np.linalg.eigh(W @ scatter.xy)
        self.targets_ = vectors[:, ::-1][:, :rank].T
        self.read_ = self.targets_ @ W
        self.coef_ = self.targets_.T @ self.read_
        self._x_mean, self._y_mean = scatter.x_mean, scatter.y_mean
        self.intercept_ = scatter.y_mean - self.coef_ @ scatter.x_mean
        variance = np.einsum("rm,mk,rk->r", self.targets_, scatter.yy, self.targets_)
        self.write_ = self.targets_ @ scatter.xy.T / np.where(variance > 0, variance, 1)[:, None]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def rank_for(scores: Float[ndarray, " rank"], share: float = 0.95) -> int:
    """Smallest rank whose score is at least `share` of the last, the full one.

    Raises:
        ValueError: The full score is not positive, so that there is nothing to have a share of.
    """
    if not scores[-1] > 0:
        raise ValueError(f"the full rank scores {scores[-1]:.3g}, no better than the mean; raise alpha, or report that "
                         "the targets are not linearly decodable")
    return int(np.argmax(scores >= share * scores[-1])) + 1
