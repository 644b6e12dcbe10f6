"""Subspaces of the residual stream, and the pair of directions that every linear probe has."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from scipy.linalg import subspace_angles
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from ._sites import Site


@dataclass(frozen=True)
class Subspace:
    """A subspace of the residual stream, as orthonormal rows (rank, d_model).

    Attributes:
        site, label, name: Where it was found, for which label and as what (`logistic.write`); None unless it comes from
            a probe of a sweep (see `Sweep.best`).
    """

    basis: Float[Tensor, "rank d_model"]
    site: Site | None = None
    label: str | None = None
    name: str | None = None

    def __post_init__(self):
        gram = self.basis @ self.basis.T
        if not torch.allclose(gram, torch.eye(len(gram), dtype=gram.dtype, device=gram.device), atol=1e-4):
            raise ValueError("the rows of a Subspace are orthonormal, these are not; use Subspace.spanned_by(rows)")

    @classmethod
    def spanned_by(cls, rows: Float[Tensor, "row d_model"], tol: float = 1e-6) -> "Subspace":
        """The span of `rows`; one row gives the subspace of a direction, with its sign.

        Independent rows give a basis whose i-th vector is on the side of the i-th row; rows that depend on each other
        (singular values below `tol` of the largest) give the leading singular vectors of their span.

        Raises:
            ValueError: All rows are zero.
        """
        s = torch.linalg.svdvals(rows.double())
        if not len(s) or not s[0] > 0:
            raise ValueError("all rows are zero and span nothing; check the directions (a constant label has none)")
        if len(s) == len(rows) and s[-1] > tol * s[0]:
            q, r = torch.linalg.qr(rows.double().T)
            return cls((q * r.diagonal().sign()).T.contiguous().to(rows.dtype))  # QR may flip a column
        v = torch.linalg.svd(rows.double(), full_matrices=False)[2]
        return cls(v[s > tol * s[0]].to(rows.dtype))

    def __repr__(self) -> str:
        found = [part for part in (self.name, f"of {self.label}" if self.label else None,
                                   f"at {self.site}" if self.site else None) if part]
        return f"Subspace(rank {self.rank} of {self.basis.shape[1]}{': ' if found else ''}{' '.join(found)})"

    @property
    def rank(self) -> int:
        return len(self.basis)

    def project(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The component of `x` inside the subspace."""
        return x @ self.basis.T @ self.basis

    def angles(self, other: "Subspace") -> Float[Tensor, " angle"]:
        """Principal angles to another subspace, in degrees, smallest first; min(rank) of them."""
        radians = subspace_angles(self.basis.double().T.numpy(), other.basis.double().T.numpy())
        return torch.from_numpy(np.rad2deg(radians[::-1].copy()))


class Origin(NamedTuple):
    """What a fitted probe cannot tell from its weights: where it reads, which label, and what it is called."""

    site: Site
    label: str
    name: str


class LinearPair:
    """Mixin of linear probes: what reads a label and what moves it, in raw activation space.

    `read_` (..., direction, d_model): scores are X @ read_.T + const. `write_` has the same shape: how the activation
    moves when the label does. For two classes both have one row, which points from classes_[0] to classes_[1]; for
    more, a row per class, class minus the mean of all classes; for numbers, a row per target, and `write_` is in
    activation units per unit of the target. With covariance Sigma the best read is Sigma^-1 write: classify along
    `read_`, steer and erase along `write_`.
    """

    read_: Float[ndarray, "*target direction d_model"]
    write_: Float[ndarray, "*target direction d_model"]

    @property
    def read(self) -> Subspace:
        """Span of all read directions."""
        return _span(self, "read_")

    @property
    def write(self) -> Subspace:
        """Span of all write directions."""
        return _span(self, "write_")

    def direction(self, to: int | None = None, ref: int | None = None, *, target: int = 0,
                  pair: str = "write") -> Float[ndarray, " d_model"]:
        """Unit vector of a contrast: from class `ref` (the mean of all classes unless given) to class `to` (the last
        unless given), both counted in `classes_`; of numbers, along target `to`. `pair` is `write` or `read`."""
        check_is_fitted(self)
        if pair not in ("read", "write"):
            raise ValueError(f"pair must be 'read' or 'write', not {pair!r}")
        rows = getattr(self, f"{pair}_")
        rows = rows[target] if rows.ndim == 3 else rows
        if len(rows) == 1 and hasattr(self, "classes_"):  # two classes: one row, class 1 minus class 0
            rows = np.stack([-rows[0], rows[0]]) / 2
        v = rows[-1 if to is None else to] - (0 if ref is None else rows[ref])
        if not (norm := np.linalg.norm(v)) > 0:
            raise ValueError(f"the {pair} direction of class {to} against {ref} is zero; is the label constant?")
        return v / norm


def _span(probe: LinearPair, name: str) -> Subspace:
    check_is_fitted(probe)
    rows = np.asarray(getattr(probe, name), dtype=np.float64)
    if not rows.any():
        where = f" at {probe.origin_.site}" if hasattr(probe, "origin_") else ""
        raise ValueError(f"the {name.rstrip('_')} direction of {type(probe).__name__}{where} is zero: the classes have "
                         "one mean there, as at the embedding of a token that is the same in every prompt; probe "
                         "other sites, sweep(..., sites=[...]), or another token")
    space = Subspace.spanned_by(torch.from_numpy(rows.reshape(-1, rows.shape[-1])))
    origin = getattr(probe, "origin_", None)
    return space if origin is None else replace(space, site=origin.site, label=origin.label,
                                                name=f"{origin.name}.{name.rstrip('_')}")
