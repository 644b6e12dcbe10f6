"""What linear classifiers that are solved from class means share: one target or many, rows or running moments."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from sklearn.utils.validation import check_is_fitted, validate_data

from ._classifier import ScoreClassifier
from ._design import class_columns, one_hot
from ._moments import Moments
from ._scatter import Scatter
from ._subspaces import LinearPair

Weights = Float[ndarray, "target class d_model"]


class LinearClassifier(LinearPair, ScoreClassifier):
    """Scores W x + b per class; a subclass says in `_solve(scatter, count, means)` what they are.

    Attributes:
        coef_: (target, class, d_model) weights in raw activation space; only contrasts between classes matter.
        intercept_: (target, class); -inf for a class that a target never takes, which is then never predicted.
        classes_: Label values, shared by all targets.
        read_, write_: Contrasts of `coef_` and of the class means, as in `LinearPair`; (direction, d_model) when
            fitted on one target, (target, direction, d_model) on more.
    """

    def fit(self, X, y):
        """Learn from rows; y is (example,) or (example, target)."""
        X, codes = self._check(X, y)
        self._learn(Scatter.of(X, one_hot(codes, len(self.classes_))), self._one_target)
        return self

    def fit_moments(self, moments: Moments, scheme: str, folds: str | Sequence[str] = "train"):
        """The same from the running moments of `folds`; `scheme` names class labels, or one target of them.

        Raises:
            ValueError: A label is missing in some rows.
        """
        columns = class_columns(moments.columns, scheme)
        self.classes_ = np.arange(columns.shape[1])
        self.n_features_in_ = int(moments.d_model or 0)
        self._learn(moments.scatter(folds).select(columns.ravel()), len(columns) == 1)
        return self

    def _learn(self, scatter: Scatter, one_target: bool) -> None:
        shape = (-1, len(self.classes_))
        count, means = scatter.class_means()
        count, means = count.reshape(shape), means.reshape(*shape, len(scatter.x_mean))
        if (short := np.flatnonzero(count.sum(1) != scatter.n)).size:
            raise ValueError(f"{len(short)} of {len(count)} targets have rows without a label; stream the "
                             "labelled examples alone")
        self._one_target = one_target
        self.coef_, intercept = self._solve(scatter, count, means)
        self.intercept_ = np.where(count > 0, intercept - self.coef_ @ scatter.x_mean, -np.inf)
        self.read_, self.write_ = (contrasts(w, count > 0) for w in (self.coef_, means))
        if one_target:
            self.read_, self.write_ = self.read_[0], self.write_[0]

    def _solve(self, scatter: Scatter, count: Float[ndarray, "target class"],
               means: Weights) -> tuple[Weights, Float[ndarray, "target class"]]:
        """Weights and intercepts for x - mean of all; `means` are those of the classes minus that mean."""
        raise NotImplementedError

    def logits(self, X) -> Float[ndarray, "example target class"]:
        """Class scores of every target."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=(np.float64, np.float32))
        n_targets, n_classes, d_model = self.coef_.shape
        flat = X @ self.coef_.reshape(-1, d_model).T + self.intercept_.reshape(-1)
        return flat.reshape(len(X), n_targets, n_classes)


def contrasts(rows: Weights, present: Bool[ndarray, "target class"]) -> Float[ndarray, "target direction d_model"]:
    """Of two classes the second minus the first, of more each minus the mean of all that occur; absent ones get 0."""
    if rows.shape[1] == 2:
        return np.where(np.min(present, axis=1)[:, None, None], rows[:, 1:] - rows[:, :1], 0)
    share = present / present.sum(1, keepdims=True)
    return np.where(present[..., None], rows - np.einsum("tk,tkd->td", share, rows)[:, None], 0)
