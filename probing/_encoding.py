"""Write directions: how the activation moves when one label changes.

`encoding_patterns` holds all other labels fixed (multiple regression), `class_means` lets them vary along (simple
regression). With correlated labels only the former moves one label alone.
"""

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray


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
    one_hot = (Y[:, :, None] == np.arange(n_classes)).reshape(n, -1).astype(np.float32)
    if nuisance is not None:
        levels = np.unique(nuisance)
        one_hot = np.concatenate([one_hot, (nuisance[:, None] == levels).astype(np.float32)], 1)
    share = one_hot.mean(0, dtype=np.float64)
    # float32 products of zeros and ones are exact counts below 2^24 rows
    gram = (one_hot.T @ one_hot).astype(np.float64) / n
    blocks = range(0, n, 65536)
    cross = sum(one_hot[i : i + 65536].T.astype(np.float64) @ X[i : i + 65536].astype(np.float64) for i in blocks) / n
    gram -= np.outer(share, share)
    cross -= np.outer(share, X.mean(0, dtype=np.float64))
    gram[np.diag_indices_from(gram)] += ridge * max(gram.diagonal().mean(), 1e-12)
    B = np.linalg.solve(gram, cross)[: n_targets * n_classes].reshape(n_targets, n_classes, -1)
    weight = share[: n_targets * n_classes].reshape(n_targets, n_classes, 1)
    return B - (weight * B).sum(1, keepdims=True)


def class_means(
    X: Float[ndarray, "example d_model"], Y: Int[ndarray, "example target"], n_classes: int
) -> Float[ndarray, "target class d_model"]:
    """Marginal mean activation of every (target, class), in float64; NaN where a class never occurs."""
    one_hot = (Y[:, :, None] == np.arange(n_classes)).reshape(len(Y), -1)
    sums = one_hot.T.astype(np.float64) @ X.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return (sums / one_hot.sum(0)[:, None]).reshape(Y.shape[1], n_classes, -1)
