"""Least-squares concept erasure: no linear predictor of the label is left, and rows move as little as can be."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from probing._moments import Moments
from probing._scatter import Scatter
from probing._subspaces import Subspace

from ._edits import Edit, steer
from ._erasers import Eraser, Rows, as_tensor, label_columns, moments_scatter, scatter_of

NOISE = 1e-8  # a canonical correlation that rounding alone can make


@dataclass(frozen=True, repr=False)
class LEACE(Eraser):
    """P = I - W^+ U U^T W with W = Sigma_xx^(-1/2) and U a basis of the columns of W Sigma_xz.

    After it the class means are equal on the rows it was fitted on, so that no linear predictor of the label beats the
    constant one under any convex loss. Of all affine maps with that property it changes the rows least, in the mean
    square and in every quadratic norm. The rank is at most the number of classes minus one. For two classes with
    difference of means m and w = Sigma_xx^-1 m it is I - m w^T / (w.m). On rows it was not fitted on all this holds
    approximately: score it there, beside the fitting rows. The total variance never grows, at any shrinkage.

    Attributes:
        correlations: (rank,) canonical correlations of activations and label, all of which are erased.
        shrinkage: Intensity by which the covariance was shrunk.
    Source: Belrose et al., arXiv:2306.03819. Their package cuts directions at an absolute 0.01 of the whitened
        cross-covariance, which leaves weak labels in place; here only what rounding makes is left, whatever the units
        of the label. Their constraint on the trace of the covariance has nothing to do, see the line on variance.
    """

    correlations: Float[Tensor, " rank"] = field(default_factory=lambda: torch.zeros(0))
    shrinkage: float = 0.0

    @classmethod
    def fit(cls, X, Y, **options) -> "LEACE":
        """From rows (row, d_model) and their labels: a vector of classes, or a matrix of 0/1 columns and quantities.

        Args: As in `from_moments`.
        """
        return cls.from_scatter(scatter_of(X, Y), **options)

    @classmethod
    def from_moments(cls, moments: Moments, label: str, folds: str | Sequence[str] | None = "train",
                     **options) -> "LEACE":
        """From running moments, however many rows they saw.

        Args:
            label: A scheme, all its targets together, or one target (`mine_theirs/c4`).
            method: `orth` takes the same directions away by an orthogonal projection, which needs no covariance, erases
                as well and moves the rows more.
            shrinkage: Of the covariance towards a multiple of the identity, 0 to 1, or `auto`, Ledoit and Wolf's,
                which vanishes as rows grow. Any intensity erases; only 0 moves the fitting rows least.
            affine: Keep the mean of the rows where it is; else the map is linear.
            tol: Smallest canonical correlation that is erased.
        Raises:
            ValueError: The label is constant; rows without one; options out of range.
        """
        return cls.from_scatter(*moments_scatter(moments, [label], folds), **options)

    @classmethod
    def from_scatter(
        cls,
        scatter: Scatter,
        *,
        method: str = "leace",
        shrinkage: float | int | str = "auto",
        affine: bool = True,
        tol: float = NOISE,
    ) -> "LEACE":
        """From means and scatter, which many labels of the same rows share: see `Scatter.select`.

        Args: As in `from_moments`.
        """
        if method not in ("leace", "orth"):
            raise ValueError(f"method is 'leace' or 'orth', not {method!r}")
        white = Whitened.of(scatter, shrinkage, tol)
        write = white.directions(scatter.xy)
        read = write if method == "orth" else white.reading(white.U.T, write)
        mean = scatter.x_mean if affine else np.zeros_like(scatter.x_mean)
        read, write, mean, correlations = map(torch.from_numpy, (read, write, mean, white.correlations))
        return cls(read, write, mean, correlations, white.shrinkage)


@dataclass(frozen=True)
class Whitened:
    """Activations and label in coordinates where both covariances are the identity.

    Attributes:
        W: (d_model, d_model) Sigma_xx^(-1/2), symmetric; 0 along directions without variance.
        U: (d_model, rank) left singular vectors of W Sigma_xz W_z, orthonormal.
        label: (column, rank) W_z times the right singular vectors: Sigma_xz @ label spans what the label moves.
    """

    W: Float[ndarray, "d_model d_model"]
    U: Float[ndarray, "d_model rank"]
    label: Float[ndarray, "column rank"]
    correlations: Float[ndarray, " rank"]
    shrinkage: float

    @classmethod
    def of(cls, scatter: Scatter, shrinkage: float | int | str = 0, tol: float = NOISE) -> "Whitened":
        a = scatter.shrinkage if shrinkage == "auto" else shrinkage
        if isinstance(a, str) or not 0 <= a <= 1:
            raise ValueError(f"shrinkage is 'auto' or a number from 0 to 1, not {shrinkage!r}")
        d = len(scatter.xx)
        W = inverse_root((1 - a) * scatter.xx + a * np.trace(scatter.xx) / d * np.eye(d))
        Wz = inverse_root_of_labels(scatter)
        U, s, Vt = np.linalg.svd(W @ scatter.xy @ Wz, full_matrices=False)
        kept = s > tol
        return cls(W, U[:, kept], Wz @ Vt[kept].T, s[kept], float(a))

    def directions(self, xy: Float[ndarray, "d_model column"]) -> Float[ndarray, "rank d_model"]:
        """Orthonormal rows that span the columns of Sigma_xz: from them alone, not through W, so that what is taken
        away is exactly what the label moves however badly Sigma_xx is conditioned."""
        return np.ascontiguousarray(np.linalg.qr(xy @ self.label)[0].T)

    def reading(self, T: Float[ndarray, "rank d_model"], write: Float[ndarray, "rank d_model"]) -> ndarray:
        """The read rows of the eraser that moves along `write` by what `T` measures in white coordinates."""
        T = T @ self.W
        return np.linalg.solve(T @ write.T, T)


def inverse_root(cov: Float[ndarray, "d d"]) -> Float[ndarray, "d d"]:
    """The symmetric pseudo-inverse square root; eigenvalues that rounding can make are zero."""
    values, V = np.linalg.eigh(cov)
    keep = values > values[-1] * len(values) * np.finfo(np.float64).eps
    return V[:, keep] / np.sqrt(values[keep]) @ V[:, keep].T


def inverse_root_of_labels(scatter: Scatter) -> Float[ndarray, "column column"]:
    """W_z with W_z W_z^T = Sigma_zz^+, from standardised columns: labels may have any units."""
    size = np.sqrt(scatter.yy.diagonal())
    varies = size > 1e-12 * np.sqrt(scatter.n) * np.abs(scatter.y_mean)
    if not varies.any():
        raise ValueError(f"the label is the same in all {scatter.n} rows, there is nothing to erase; check its column "
                         "and the rows")
    scale = np.where(varies, 1 / np.where(varies, size, 1), 0)
    values, V = np.linalg.eigh(scale[:, None] * scatter.yy * scale)
    keep = values > 1e-10 * values[-1]
    return scale[:, None] * (V[:, keep] / np.sqrt(values[keep])) @ V[:, keep].T


@dataclass(frozen=True)
class OracleLEACE:
    """x - coef (z - mean of z): the part of a row that its own label predicts, taken away. It moves rows less than
    any eraser that does not see the label, and it can only be used where the label is known.

    Attributes:
        coef: (d_model, column) least-squares coefficients of the activations on the label.
        label_mean: (column,)
        mean: (d_model,) of the fitting rows; it stays where it is.
        classes: Label values in the order of the columns; None for quantities.
    Source: Belrose, "Least-Squares Concept Erasure with Oracle Concept Labels", blog.eleuther.ai/oracle-leace.
    """

    coef: Float[Tensor, "d_model column"] = field(repr=False)
    label_mean: Float[Tensor, " column"] = field(repr=False)
    mean: Float[Tensor, " d_model"] = field(repr=False)
    classes: tuple | None = None

    @classmethod
    def fit(cls, X, Y) -> "OracleLEACE":
        """From rows and labels, as in `LEACE.fit`."""
        Y = np.asarray(Y)
        return cls._solve(scatter_of(X, Y), tuple(np.unique(Y).tolist()) if Y.ndim == 1 else None)

    @classmethod
    def from_moments(cls, moments: Moments, label: str, folds: str | Sequence[str] | None = "train") -> "OracleLEACE":
        """From running moments; the classes of one target are the whole numbers from 0."""
        (scatter,) = moments_scatter(moments, [label], folds)
        one_target = abs(scatter.y_mean.sum() - 1) < 1e-9 and all("=" in name for name in scatter.columns)
        return cls._solve(scatter, tuple(range(len(scatter.y_mean))) if one_target else None)

    @classmethod
    def _solve(cls, scatter: Scatter, classes: tuple | None) -> "OracleLEACE":
        Wz = inverse_root_of_labels(scatter)
        coef, label_mean, mean = map(torch.from_numpy, (scatter.xy @ Wz @ Wz.T, scatter.y_mean, scatter.x_mean))
        return cls(coef, label_mean, mean, classes)

    @property
    def removed(self) -> Subspace:
        """The span of what the label moves; the same as LEACE's."""
        return Subspace.spanned_by(self.coef.T.contiguous(), tol=NOISE)

    @property
    def rank(self) -> int:
        return self.removed.rank

    def shift(self, Y) -> Float[Tensor, "row d_model"]:
        """What is taken away from rows with these labels."""
        columns = torch.from_numpy(label_columns(Y, self.classes))
        if columns.shape[1] != len(self.label_mean):
            known = f"the classes {list(self.classes)}" if self.classes else f"{len(self.label_mean)} columns"
            raise ValueError(f"labels have {columns.shape[1]} columns, or a class that the fit did not see; wanted "
                             f"{known}")
        return (columns - self.label_mean) @ self.coef.T

    def transform(self, X: Rows, Y) -> Rows:
        """The rows erased, given the label of each."""
        x = as_tensor(X)
        moved = (x - self.shift(Y).to(x.device)).to(x.dtype)
        return moved.numpy() if isinstance(X, ndarray) else moved

    def edit(self, Y) -> Edit:
        """The eraser as an edit of cases with these labels."""
        return steer(self.shift(Y), -1)
