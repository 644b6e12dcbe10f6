"""Linear discriminant analysis of many targets from one eigendecomposition."""

import numpy as np

from ._classifier import SoftmaxScores
from ._linear_classifier import LinearClassifier


class LDAProbe(SoftmaxScores, LinearClassifier):
    """Classes as Gaussians with one covariance: log p(k) + x^T S^-1 mu_k - mu_k^T S^-1 mu_k / 2.

    S = (1-a) S_w + a tr(S_w)/d I shrinks the pooled covariance within classes. At a given intensity this is
    scikit-learn's `LinearDiscriminantAnalysis(solver="lsqr", shrinkage=a)`. All targets share the eigenvectors of the
    covariance of x: the covariance within the classes of one target differs from it by a matrix of rank K - 1.

    Args:
        shrinkage: a from 0 to 1, or `auto` for Ledoit and Wolf's, estimated from the covariance of all rows around
            one mean. That needs no label, so one intensity serves all targets, all shuffled controls, and moments.
            scikit-learn's `auto` instead estimates one per class, on standardised columns. With 0 there must be more
            rows than dimensions.

    Attributes:
        shrinkage_: The intensity used.
    Source: Ledoit & Wolf 2004; Woodbury's identity.
    """

    def __init__(self, shrinkage="auto"):
        self.shrinkage = shrinkage

    def _solve(self, scatter, count, means):
        a = self.shrinkage_ = scatter.shrinkage if self.shrinkage == "auto" else self.shrinkage
        if isinstance(a, str) or not 0 <= a <= 1:
            raise ValueError(f"shrinkage is 'auto' or a number from 0 to 1, not {self.shrinkage!r}")
        share = count / scatter.n
        values, V = np.linalg.eigh(scatter.xx / scatter.n)
        floor = a * (values.sum() - (share * (means**2).sum(-1)).sum(1)) / len(values)  # a tr(S_w) / d
        spread = (1 - a) * np.maximum(values, 0) + np.maximum(floor, 0)[:, None]  # (target, d_model)
        inverse = np.where(spread > 1e-14 * values.max(initial=0) * len(values), 1 / np.maximum(spread, 1e-300), 0)
        M = means @ V
        MD = M * inverse[:, None]
        A = MD @ M.mT
        coef = np.linalg.solve(np.eye(M.shape[1]) - (1 - a) * A * share[:, None], MD) @ V.T
        prior = np.log(np.where(share > 0, share, 1))
        return coef, prior - (coef * means).sum(-1) / 2
