"""Write directions: how the activation moves when one label changes.

`encoding_patterns` holds all other labels fixed (multiple regression), `class_means` lets them vary along (simple
regression). With correlated labels only the former moves one label alone.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from ._design import class_columns, one_hot
from ._lda import LDAProbe
from ._linear_classifier import contrasts
from ._moments import Moments
from ._scatter import Scatter


class EncodingProbe(LDAProbe):
    """Reads as LDA does, and writes with all other labels held fixed.

    The encoding model X ~ Y B + Z C, with Y the one-hot code of all targets and Z that of a nuisance, gives each class
    its partial pattern, which moves one label alone. Reading is another matter: what predicts a label best uses all
    that goes along with it, so scores and `read_` are those of `LDAProbe`. Of one label without nuisance the patterns
    are the class means, and the probe is LDA.

    Args:
        ridge: Penalty on Y^T Y as a share of its mean diagonal.
        shrinkage: As in `LDAProbe`.

    Attributes:
        patterns_: (target, class, d_model), centred by class frequency; `write_` holds their contrasts.
    Source: Naselaris et al. 2011 (encoding models), Haufe et al. 2014 (patterns against filters).
    """

    def __init__(self, ridge=1e-3, shrinkage="auto"):
        self.ridge, self.shrinkage = ridge, shrinkage

    def fit(self, X, y, nuisance=None):
        """Learn from rows; `nuisance` (example,), such as the position, is held fixed."""
        X, codes = self._check(X, y)
        hot = one_hot(codes, len(self.classes_))
        held = [] if nuisance is None else [np.asarray(nuisance)[:, None] == np.unique(nuisance)]
        self._encode(Scatter.of(X, np.concatenate([hot, *held], 1)), hot.shape[1], self._one_target)
        return self

    def fit_moments(self, moments: Moments, scheme: str, folds: str | Sequence[str] = "train",
                    held: Sequence[str] = ()):
        """The same from running moments; `held` names other class labels, and nuisance columns, to be held fixed."""
        columns = class_columns(moments.columns, scheme)
        others = [class_columns(moments.columns, name).ravel() for name in held]
        self.classes_, self.n_features_in_ = np.arange(columns.shape[1]), int(moments.d_model or 0)
        self._encode(moments.scatter(folds).select(np.concatenate([columns.ravel(), *others])), columns.size,
                     len(columns) == 1)
        return self

    def _encode(self, scatter: Scatter, n_columns: int, one_target: bool) -> None:
        n, n_classes = scatter.n, len(self.classes_)
        labels = scatter.select(np.arange(n_columns))
        self.patterns_ = _solve_patterns(scatter.yy / n, scatter.xy.T / n, labels.y_mean.reshape(-1, n_classes),
                                         self.ridge)
        self._learn(labels, one_target)
        write = contrasts(self.patterns_, labels.y_mean.reshape(-1, n_classes) > 0)
        self.write_ = write[0] if one_target else write


def encoding_patterns(
    X: Float[ndarray, "example d_model"],
    Y: Int[ndarray, "example target"],
    n_classes: int,
    nuisance: Int[ndarray, " example"] | None = None,
    ridge: float = 1e-3,
) -> Float[ndarray, "target class d_model"]:
    """Partial pattern of every (target, class): the encoding model X ~ Y B + Z C, solved for B.

    Y is the one-hot code of all targets at once, Z the one-hot code of `nuisance` (the position). Only differences
    between the classes of one target mean something; they are centred so that each target's patterns, weighted by
    class frequency, sum to zero.

    Args:
        ridge: Penalty on Y^T Y as a share of its mean diagonal, in float64.
    Source: Naselaris et al. 2011 (encoding models), Haufe et al. 2014 (patterns against filters).
    """
    n, n_targets = Y.shape
    hot = (Y[:, :, None] == np.arange(n_classes)).reshape(n, -1).astype(np.float32)
    if nuisance is not None:
        hot = np.concatenate([hot, (nuisance[:, None] == np.unique(nuisance)).astype(np.float32)], 1)
    share = hot.mean(0, dtype=np.float64)
    # float32 products of zeros and ones are exact counts below 2^24 rows
    gram = (hot.T @ hot).astype(np.float64) / n
    blocks = range(0, n, 65536)
    cross = sum(hot[i : i + 65536].T.astype(np.float64) @ X[i : i + 65536].astype(np.float64) for i in blocks) / n
    gram -= np.outer(share, share)
    cross -= np.outer(share, X.mean(0, dtype=np.float64))
    return _solve_patterns(gram, cross, share[: n_targets * n_classes].reshape(n_targets, n_classes), ridge)


def _solve_patterns(gram: Float[ndarray, "column column"], cross: Float[ndarray, "column d_model"],
                    share: Float[ndarray, "target class"], ridge: float) -> Float[ndarray, "target class d_model"]:
    """Patterns from the covariances of the label columns, those of the targets first, and of labels with x."""
    gram = gram + ridge * max(gram.diagonal().mean(), 1e-12) * np.eye(len(gram))
    B = np.linalg.solve(gram, cross)[: share.size].reshape(*share.shape, -1)
    return B - (share[..., None] * B).sum(1, keepdims=True)


def class_means(
    X: Float[ndarray, "example d_model"], Y: Int[ndarray, "example target"], n_classes: int
) -> Float[ndarray, "target class d_model"]:
    """Marginal mean activation of every (target, class), in float64; NaN where a class never occurs."""
    hot = (Y[:, :, None] == np.arange(n_classes)).reshape(len(Y), -1)
    sums = hot.T.astype(np.float64) @ X.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return (sums / hot.sum(0)[:, None]).reshape(Y.shape[1], n_classes, -1)
