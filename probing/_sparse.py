"""k-sparse probes: how few neurons carry a binary feature, and whether one of them is enough.

    probe = KSparseProbe(k=4, ranking="f_stat").fit(X, y)            # X: neurons, mlp_post
    table = sparse_sweep(X, Y, X_test, Y_test, rankings=("mean_dif", "adaptive"))
    table = monosemantic(X, Y, X_test, Y_test)                       # one neuron at a time

Exact supports by cutting planes need an integer-programming solver and are not offered; the `adaptive` ranking, which
prunes a dense probe step by step, comes closest.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from ._binary_scores import binary_scores
from ._rankings import k_grid, neuron_scale, rank_neurons, top
from ._subspaces import LinearPair
from ._support_logistic import fit_on_supports

Neurons = Float[ndarray, "example neuron"]
Features = Bool[ndarray, "example feature"]
TestNeurons = Float[ndarray, "test neuron"]
TestFeatures = Bool[ndarray, "test feature"]


class KSparseProbe(LinearPair, ClassifierMixin, BaseEstimator):
    """Balanced logistic regression on the k best-ranked neurons, for one binary label or many.

    Neurons are divided by 10 max(std, 1e-3), ranked, and the k best refitted to the optimum of

        C sum_i c_i log(1 + exp(-y_i (w . x_i + b))) + 1/2 ||w||^2,     c_i = n / (2 n_{class of i})

    Args:
        k: Neurons per label.
        ranking: mean_dif, f_stat, mi, lr, svm, adaptive or random; see `rank_neurons`.
        C: Inverse strength of the L2 penalty.
        seed: Of the random ranking and of the tie-breaking noise of mi.

    Attributes:
        support_: (k,) or (target, k), the neurons, best first.
        coef_, intercept_: (1, d_model) or (target, 1, d_model), and (1,) or (target, 1): weights in raw activation
            units, zero off the support. `read_` is `coef_`; `write_` is the difference of class means, zero off the
            support, so that an edit along it moves these k neurons only.
        gap_: (target,) relative objective gap, the convergence certificate.
    Source: Gurnee et al., arXiv:2305.01610.
    """

    def __init__(self, k=1, ranking="mean_dif", C=1.0, seed=0):
        self.k, self.ranking, self.C, self.seed = k, ranking, C, seed

    def fit(self, X, y):
        X, y = validate_data(self, X, y, multi_output=True, dtype=np.float64)
        check_classification_targets(y)
        if not 1 <= self.k <= X.shape[1]:
            raise ValueError(f"k must be between 1 and the number of neurons, but k is {self.k} and X has "
                             f"{X.shape[1]} feature(s); lower k")
        self.classes_ = np.unique(y)
        if len(self.classes_) != 2:
            raise ValueError("Only binary classification is supported. y has "
                             f"{len(self.classes_)} class(es); for more, wrap the probe in OneVsRestClassifier.")
        Y = (y == self.classes_[1]).reshape(len(y), -1)
        scores = rank_neurons(X, Y, self.ranking, self.seed)
        support, scale = top(scores, self.k), neuron_scale(X)
        fit = fit_on_supports(X / scale, Y, np.arange(Y.shape[1]), support, self.C)
        moved = np.stack([X[own].mean(0) - X[~own].mean(0) for own in Y.T])
        best = np.argsort(-scores, axis=1, kind="stable")[:, : self.k]
        shape = () if y.ndim == 1 else (Y.shape[1],)
        self.support_ = best.reshape(*shape, self.k)
        self.coef_ = self.read_ = (fit.coef / scale).reshape(*shape, 1, -1)
        self.write_ = np.where(support, moved, 0).reshape(*shape, 1, -1)
        self.intercept_, self.gap_ = fit.intercept.reshape(*shape, 1), fit.gap
        return self

    def decision_function(self, X):
        """(example,) scores of classes_[1], or (example, target)."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        return (X @ self.coef_[..., 0, :].T) + self.intercept_[..., 0]

    def predict(self, X):
        side = self.decision_function(X) > 0  # first, so that an unfitted probe says so
        return self.classes_[side.astype(int)]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.target_tags.multi_output = True
        return tags


def sparse_sweep(
    X: Neurons, Y: Features, X_test: TestNeurons, Y_test: TestFeatures, rankings: Sequence[str] = ("mean_dif",),
    ks: Sequence[int] | None = None, names: Sequence[str] | None = None, C: float | int = 1.0, seed: int = 0,
) -> pd.DataFrame:
    """Test scores of k-sparse probes for every feature, ranking and k: one row, one number.

    Args:
        ks: Neurons per probe; `k_grid(number of neurons)` unless given.
        names: Of the features; their column numbers unless given.
    Returns:
        Columns feature, ranking, k, neuron (the only one where k is 1, else missing), metric, value, n, seed.
    """
    ks = list(k_grid(X.shape[1]) if ks is None else ks)
    if not ks or not 1 <= min(ks) <= max(ks) <= X.shape[1]:
        raise ValueError(f"ks must lie between 1 and the {X.shape[1]} neurons of X, they are {ks}")
    scale, features = neuron_scale(X), np.arange(Y.shape[1])
    tables = []
    for ranking in rankings:
        scores = rank_neurons(X, Y, ranking, seed)
        support = np.concatenate([top(scores, k) for k in ks])
        cells = pd.DataFrame({"feature": np.tile(features, len(ks)), "ranking": ranking,
                              "k": np.repeat(ks, len(features))})
        first = pd.Series(scores.argmax(1)[cells["feature"]], dtype="Int64")
        cells["neuron"] = first.where(cells["k"] == 1)
        tables.append(_scored(cells, support, X / scale, Y, X_test / scale, Y_test, C))
    return _named(pd.concat(tables, ignore_index=True), names).assign(seed=seed)


def monosemantic(
    X: Neurons, Y: Features, X_test: TestNeurons, Y_test: TestFeatures, ranking: str = "f_stat", n_best: int = 30,
    names: Sequence[str] | None = None, C: float | int = 1.0, seed: int = 0,
) -> pd.DataFrame:
    """The screen for dedicated neurons: test scores of the `n_best` best-ranked neurons of every feature, one by one.

    A neuron whose f1 alone is near that of a dense probe carries the feature by itself. Rows as of `sparse_sweep`.
    Source: Gurnee et al., `enumerate_monosemantic` in experiments/inner_loops.py (top 30 by f_stat).
    """
    n_best, scale = min(n_best, X.shape[1]), neuron_scale(X)
    best = np.argsort(-rank_neurons(X, Y, ranking, seed), axis=1, kind="stable")[:, :n_best]
    support = best.reshape(-1, 1) == np.arange(X.shape[1])
    cells = pd.DataFrame({"feature": np.repeat(np.arange(Y.shape[1]), n_best), "ranking": ranking, "k": 1,
                          "neuron": pd.Series(best.reshape(-1), dtype="Int64")})
    rows = _scored(cells, support, X / scale, Y, X_test / scale, Y_test, C)
    return _named(rows, names).assign(seed=seed)


def _scored(cells: pd.DataFrame, support: Bool[ndarray, "cell neuron"], X, Y, X_test, Y_test, C) -> pd.DataFrame:
    """One row per cell and metric, of probes refitted on their support."""
    feature: Int[ndarray, " cell"] = cells["feature"].to_numpy()
    fit = fit_on_supports(X, Y, feature, support, C)
    blocks = []
    for block in np.array_split(np.arange(len(cells)), -(-len(cells) // 256)):
        decision = X_test @ fit.coef[block].T + fit.intercept[block]
        blocks.append(pd.DataFrame(binary_scores(Y_test[:, feature[block]], decision)))
    wide = pd.concat([cells, pd.concat(blocks, ignore_index=True)], axis=1)
    rows = wide.melt(list(cells), var_name="metric", ignore_index=False).sort_index(kind="stable")
    return rows.reset_index(drop=True).assign(n=len(X_test))


def _named(table: pd.DataFrame, names: Sequence[str] | None) -> pd.DataFrame:
    return table if names is None else table.assign(feature=np.asarray(names)[table["feature"]])
