"""Principal components and whitening of activations, from running moments."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from ._scatter import Scatter


@dataclass(frozen=True)
class Components:
    """Principal components of a site.

    Attributes:
        mean: (d_model,).
        directions: (component, d_model) orthonormal rows, by falling variance; each one's largest entry is positive.
        variance: (component,) along each, divided by the number of rows, in squared activation units.
        ratio: (component,) share of the whole variance.
    """

    mean: Float[ndarray, " d_model"]
    directions: Float[ndarray, "component d_model"]
    variance: Float[ndarray, " component"]
    ratio: Float[ndarray, " component"]

    def scores(self, X: Float[ndarray, "example d_model"]) -> Float[ndarray, "example component"]:
        """Coordinates of activations along the components."""
        return (X - self.mean) @ self.directions.T


def principal_components(scatter: Scatter, k: int | None = None) -> Components:
    """The `k` directions of largest variance, all unless given: `principal_components(moments.scatter("train"), 10)`.

    Raises:
        ValueError: k is not between 1 and d_model.
    """
    d = len(scatter.xx)
    if k is not None and not 1 <= k <= d:
        raise ValueError(f"k must be between 1 and {d} (d_model), not {k}")
    values, V = np.linalg.eigh(scatter.xx / scatter.n)
    values, V = np.maximum(values[::-1], 0), V[:, ::-1].T
    V = V * np.sign(V[np.arange(d), np.abs(V).argmax(1)])[:, None]
    return Components(scatter.x_mean, V[:k], values[:k], values[:k] / max(values.sum(), np.finfo(float).tiny))


def whitener(scatter: Scatter, shrinkage: float | int | None = None,
             tol: float = 1e-12) -> Float[ndarray, "d_model d_model"]:
    """Symmetric W with cov(W x) = I, the inverse square root of the covariance; W (x - mean) is white.

    Args:
        shrinkage: The covariance is shrunk to (1-a) S + a tr(S)/d I first; None for Ledoit and Wolf's a.
        tol: Directions with less than this share of the largest variance are mapped to 0.
    """
    a = scatter.shrinkage if shrinkage is None else shrinkage
    values, V = np.linalg.eigh(scatter.xx / scatter.n)
    values = (1 - a) * np.maximum(values, 0) + a * values.mean()
    keep = values > tol * values.max()
    return V[:, keep] / np.sqrt(values[keep]) @ V[:, keep].T
