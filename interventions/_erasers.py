"""Erasers: fitted affine maps that take a label out of activations, as numbers and as edits.

    eraser = LEACE.fit(X, y)                       # or LEACE.from_moments(moments, "end"), or INLP, RLACE, SPLINCE
    eraser.transform(X)                            # the rows, erased
    run.logits({site: eraser.edit()})              # the same inside a model
    eraser.removed                                 # the Subspace along which rows were moved
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Shaped
from numpy import ndarray
from torch import Tensor

from probing._design import class_columns, number_columns, one_hot
from probing._moments import Moments
from probing._scatter import Scatter
from probing._subspaces import Subspace

from ._edits import Edit, SizedEdit

Rows = TypeVar("Rows", Tensor, ndarray)


@dataclass(frozen=True)
class Eraser:
    """x - ((x - mean) read^T) write: the identity but for a few dimensions.

    P(x - mean) + mean with P = I - write^T read. As read write^T is the identity, P is a projection; it is orthogonal
    where read equals write.

    Attributes:
        read: (rank, d_model) what is measured of a row.
        write: (rank, d_model) orthonormal, the directions along which that much is taken away.
        mean: (d_model,) a point that stays where it is; zeros make the map linear.
    """

    read: Float[Tensor, "rank d_model"]
    write: Float[Tensor, "rank d_model"]
    mean: Float[Tensor, " d_model"]

    def __post_init__(self):
        for name in ("read", "write", "mean"):
            object.__setattr__(self, name, torch.as_tensor(getattr(self, name)).double())
        overlap = self.read @ self.write.T
        if not torch.allclose(overlap, torch.eye(self.rank, dtype=torch.float64), atol=1e-6):
            raise ValueError("read @ write.T of an Eraser is the identity, here it is not; build one with Eraser.onto, "
                             "or fit LEACE, SPLINCE, INLP or RLACE")

    @classmethod
    def onto(cls, removed: Subspace,
             mean: Float[Tensor, " d_model"] | Float[ndarray, " d_model"] | None = None) -> "Eraser":
        """The orthogonal eraser of a subspace: its variation about `mean` is taken away, or all of it without one."""
        basis = removed.basis.double()
        mean = torch.zeros(basis.shape[1], dtype=torch.float64) if mean is None else torch.as_tensor(mean)
        return cls(basis, basis, mean)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(rank {self.rank} of {len(self.mean)})"

    @property
    def rank(self) -> int:
        return len(self.write)

    @property
    def removed(self) -> Subspace:
        """The image of I - P: rows move inside it and nowhere else."""
        return Subspace(self.write)

    @property
    def P(self) -> Float[Tensor, "d_model d_model"]:
        return torch.eye(len(self.mean), dtype=torch.float64) - self.write.T @ self.read

    def transform(self, X: Rows) -> Rows:
        """The rows (..., d_model) erased, in their dtype, computed in float32 at least."""
        moved = self.edit()(as_tensor(X), torch.zeros(1, dtype=torch.long))
        return moved.numpy() if isinstance(X, ndarray) else moved

    def edit(self) -> Edit:
        """The eraser as an edit of any case."""
        held: dict[tuple, tuple[Tensor, ...]] = {}

        def erase(x: Tensor, rows: Tensor) -> Tensor:
            dtype = torch.promote_types(x.dtype, torch.float32)
            if (key := (x.device, dtype)) not in held:
                held[key] = tuple(t.to(x.device, dtype) for t in (self.read.T, self.write, self.mean))
            read, write, mean = held[key]
            return (x - ((x - mean) @ read) @ write).to(x.dtype)

        return SizedEdit(erase, 1, len(self.mean), f"erase by {self!r}")


def as_tensor(X: Rows) -> Tensor:
    return torch.from_numpy(np.require(X, requirements="W")) if isinstance(X, ndarray) else X  # torch wants it writable


def scatter_of(X: Shaped[ndarray, "row d_model"] | Shaped[Tensor, "row d_model"], *labels) -> Scatter:
    """Scatter of rows with the columns of all `labels`.

    Raises:
        ValueError: Fewer than two rows, rows that are not finite, labels that do not fit.
    """
    X = as_rows(X)
    columns = [label_columns(Y) for Y in labels]
    if bad := [len(Y) for Y in columns if len(Y) != len(X)]:
        raise ValueError(f"labels are given for {bad[0]} rows, X has {len(X)}; give one label to every row")
    return Scatter.of(X, np.concatenate(columns, axis=1))


def as_rows(X) -> Shaped[ndarray, "row d_model"]:
    X = X.detach().cpu().float().numpy() if isinstance(X, Tensor) and X.dtype != torch.float64 else np.asarray(X)
    if X.ndim != 2 or len(X) < 2:
        raise ValueError(f"X wants at least 2 rows (row, d_model), it has shape {X.shape}")
    if bad := int((~np.isfinite(X).all(1)).sum()):
        raise ValueError(f"{bad} of {len(X)} rows of X are not finite; leave them out, or read the model again")
    return X


def label_columns(Y, classes: Sequence | None = None) -> Float[ndarray, "row column"]:
    """Labels as columns of numbers: a 0/1 column per class of a vector of classes; a matrix as it is.

    Raises:
        ValueError: It cannot be told whether the values are classes or quantities, or one is not finite.
    """
    Y = np.asarray(Y)
    if Y.ndim == 1 and Y.dtype.kind != "f":
        known, codes = np.unique(Y if classes is None else np.r_[np.asarray(classes), Y], return_inverse=True)
        return one_hot(codes[-len(Y) :, None], len(known))
    if Y.ndim == 1:
        raise ValueError(f"a vector of {Y.dtype} may be classes or a quantity; give classes as whole numbers or words, "
                         "a quantity as a matrix of one column, y[:, None]")
    if Y.ndim != 2 or Y.dtype.kind not in "fiub" or (Y.dtype.kind in "iu" and not np.isin(Y, (0, 1)).all()):
        raise ValueError(f"Y of shape {Y.shape} and {Y.dtype} is neither a vector of classes nor a matrix of "
                         "quantities; give the classes of several targets as 0/1 columns, and quantities as floats")
    if not np.isfinite(Y.astype(float)).all():
        raise ValueError("some label is not finite; leave those rows out")
    return Y.astype(np.float64)


def moments_scatter(moments: Moments, labels: Sequence[str], folds: str | Sequence[str] | None) -> tuple[Scatter, ...]:
    """The scatter of some folds with the columns of each scheme, or one target of it.

    Raises:
        KeyError: There is no such label.
        ValueError: Rows without a label.
    """
    whole = moments.scatter(folds)
    return tuple(whole.select(_columns(moments, label, whole)) for label in labels)


def _columns(moments: Moments, label: str, whole: Scatter) -> ndarray:
    try:
        columns = class_columns(moments.columns, label)
    except KeyError:
        return number_columns(moments.columns, label)
    counts = whole.n * whole.y_mean[columns].sum(1)
    if (short := np.abs(counts - whole.n) > 0.5).any():
        raise ValueError(f"{int(short.sum())} of {len(short)} targets of {label!r} have rows without a label; stream "
                         "the labelled examples alone")
    return columns.ravel()
