"""Erasing one label while keeping all that is linearly known of another."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from probing._moments import Moments
from probing._scatter import Scatter

from ._erasers import Eraser, moments_scatter, scatter_of
from ._leace import NOISE, Whitened

MEETING = 1e-6  # sine of the angle below which what is erased and what is kept are one direction


@dataclass(frozen=True, repr=False)
class SPLINCE(Eraser):
    """LEACE under the constraint that the covariance of rows and a task label stays exactly as it was.

    In white coordinates, where LEACE projects orthogonally, it projects along the columns U of W Sigma_xz onto a space
    that holds those of W Sigma_xy: P = I - W^+ U (T^T U)^-1 T^T W with T = U less its component in the span of
    W Sigma_xy. Where label and task label are uncorrelated given the rows it is LEACE; the more they are entangled the
    further it moves rows, and where the one is a function of the other it does not exist.

    Source: Holstege et al., arXiv:2506.10703, as P = W^+ V (U^T V)^-1 U^T W with U a basis of the complement of W
        Sigma_xz and V one of the span of W Sigma_xy and the complement of both; the two forms are equal.
    """

    @classmethod
    def fit(cls, X, Y, keep, **options) -> "SPLINCE":
        """From rows, the label Y to erase and the label `keep`, each a vector of classes or a matrix of quantities.

        Args: As in `from_moments`.
        """
        erased, kept = scatter_of(X, Y), scatter_of(X, keep)
        return cls.from_scatter(erased, kept, **options)

    @classmethod
    def from_moments(cls, moments: Moments, label: str, keep: str, folds: str | Sequence[str] | None = "train",
                     **options) -> "SPLINCE":
        """From running moments.

        Args:
            label, keep: Schemes or targets: what is erased, and whose covariance stays.
            shrinkage, affine: As in `LEACE.from_moments`; the two equalities hold whatever the shrinkage.
        Raises:
            ValueError: A label is constant, or some of what the label moves is what the kept label moves.
        """
        return cls.from_scatter(*moments_scatter(moments, [label, keep], folds), **options)

    @classmethod
    def from_scatter(cls, erased: Scatter, kept: Scatter, *, shrinkage: float | int | str = "auto",
                     affine: bool = True, tol: float = NOISE) -> "SPLINCE":
        """From the scatter of the same rows with the columns to be erased, and with those to be kept.

        Args: As in `from_moments`.
        """
        z, y = (Whitened.of(scatter, shrinkage, tol) for scatter in (erased, kept))
        T = z.U - y.U @ (y.U.T @ z.U)
        sines = np.linalg.svd(T, compute_uv=False)
        if len(sines) and sines[-1] < MEETING:
            raise ValueError(f"{int((sines < MEETING).sum())} of {len(sines)} dimensions of the label to be erased are "
                             "also those of the label to be kept, so that keeping one keeps the other; use LEACE, or "
                             "keep another label")
        write = z.directions(erased.xy)
        mean = erased.x_mean if affine else np.zeros_like(erased.x_mean)
        return cls(*map(torch.from_numpy, (z.reading(T.T, write), write, mean)))
