"""Mass-mean probes: the difference of class means, alone or through the covariance within classes."""

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from ._linear_classifier import LinearClassifier
from ._scatter import Scatter


class MassMeanProbe(LinearClassifier):
    """Classify by the nearest class mean, in Euclidean distance or in that of the covariance within classes.

    Of two classes: theta = mu_1 - mu_0, decision(x) = theta^T M (x - (mu_0 + mu_1) / 2), with M the identity or the
    pseudo-inverse of Sigma_w = (1/n) sum (x - mu_y)(x - mu_y)^T.

    Args:
        covariance: Use Sigma_w; the IID variant of the paper.
        atol: Eigenvalues of Sigma_w below it count as zero, in squared activation units. For few examples in many
            dimensions prefer `LDAProbe`, which shrinks the covariance.
    Source: Marks & Tegmark, arXiv:2310.06824. Their released `MMProbe` has no bias and two classes; the midpoint and
        the nearest of several means are ours.
    """

    def __init__(self, covariance=False, atol=1e-3):
        self.covariance, self.atol = covariance, atol

    def _solve(self, scatter, count, means):
        coef = means
        if self.covariance:
            coef = np.stack([m @ self._inverse(scatter, n, m) for n, m in zip(count, means, strict=True)])
        return coef, -(coef * means).sum(-1) / 2

    def _inverse(self, scatter: Scatter, count: Float[ndarray, " class"],
                 means: Float[ndarray, "class d_model"]) -> Float[ndarray, "d_model d_model"]:
        within = (scatter.xx - (means.T * count) @ means) / scatter.n
        values, V = np.linalg.eigh(within)
        keep = values > self.atol
        return V[:, keep] / values[keep] @ V[:, keep].T
