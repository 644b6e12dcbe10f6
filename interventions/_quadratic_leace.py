"""Quadratic erasure: classes get one mean and one covariance, so that no quadratic classifier tells them apart."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from probing._moments import Moments
from probing._scatter import Scatter

from ._edits import Edit, SizedEdit
from ._erasers import Rows, as_rows, as_tensor
from ._leace import inverse_root


@dataclass(frozen=True)
class QuadraticLEACE:
    """A_k (x - mu_k) + mean for a row of class k, with A_k the optimal transport from the covariance of the class to
    the barycenter of all: among such maps the rows move least in the mean square. It needs the label of every row.

    Attributes:
        class_means: (class, d_model).
        maps: (class, d_model, d_model) A_k, symmetric.
        mean: (d_model,) of all rows; it stays where it is.
        classes: Label values in their order.
    Source: Belrose et al.'s concept-erasure, `QuadraticEraser`, which moves the mean to the unweighted mean of the
        classes; ours keeps it. Barycenter: Alvarez-Esteban et al., arXiv:1511.05355.
    """

    class_means: Float[Tensor, "class d_model"] = field(repr=False)
    maps: Float[Tensor, "class d_model d_model"] = field(repr=False)
    mean: Float[Tensor, " d_model"] = field(repr=False)
    classes: tuple

    @classmethod
    def fit(cls, X, y, *, shrinkage: float | int | str = 0) -> "QuadraticLEACE":
        """From rows and the class of each; `shrinkage` of each class, 0 to 1 or `auto` (Ledoit and Wolf).

        Only 0 gives the fitting rows one covariance: along dimensions of little variance even a slight shrinkage leaves
        classes far apart. Shrink where a class has fewer rows than dimensions.

        Raises:
            ValueError: One class only, or a class with one row.
        """
        X, y = as_rows(X), np.asarray(y)
        if y.shape != (len(X),):
            raise ValueError(f"y wants one class for each of {len(X)} rows, it has shape {y.shape}")
        classes = tuple(np.unique(y).tolist())
        none = np.zeros((len(X), 0))
        return cls._solve([Scatter.of(X[y == k], none[y == k]) for k in classes], classes, shrinkage)

    @classmethod
    def from_moments(cls, moments: Moments, folds: Sequence[str] | None = None, *,
                     shrinkage: float | int | str = 0) -> "QuadraticLEACE":
        """From running moments that keep the classes apart: one fold per class, named `folds` (all of them)."""
        classes = tuple(moments.folds if folds is None else folds)
        return cls._solve([moments.scatter(fold) for fold in classes], classes, shrinkage)

    @classmethod
    def _solve(cls, scatters: Sequence[Scatter], classes: tuple, shrinkage: float | int | str) -> "QuadraticLEACE":
        if len(classes) < 2 or min(s.n for s in scatters) < 2:
            raise ValueError(f"at least 2 classes of at least 2 rows are wanted, there are {[s.n for s in scatters]} "
                             f"rows of {list(classes)[:5]}; leave rare classes out")
        n = np.array([s.n for s in scatters])
        share, means = n / n.sum(), np.stack([s.x_mean for s in scatters])
        covs = np.stack([_shrunk(s, shrinkage) for s in scatters])
        center = barycenter(covs, share)
        maps = np.stack([transport(cov, center) for cov in covs])
        return cls(torch.from_numpy(means), torch.from_numpy(maps), torch.from_numpy(share @ means), classes)

    def transform(self, X: Rows, y) -> Rows:
        """The rows erased, given the class of each."""
        x, codes = as_tensor(X), self._codes(y)
        if len(x) != len(codes):
            raise ValueError(f"y names the classes of {len(codes)} rows, X has {len(x)}; give one to every row")
        moved = self._move(x, codes.to(x.device))
        return moved.numpy() if isinstance(X, ndarray) else moved

    def edit(self, y) -> Edit:
        """The eraser as an edit of cases of these classes."""
        codes = self._codes(y)
        return SizedEdit(lambda x, rows: self._move(x, codes.to(x.device)[rows]), len(codes), len(self.mean))

    def _codes(self, y) -> Int[Tensor, " row"]:
        place = {value: i for i, value in enumerate(self.classes)}
        given = np.asarray(y).tolist()
        if unknown := set(given) - set(place):
            raise ValueError(f"classes {sorted(unknown)[:5]} were not among those of the fit, {list(self.classes)[:8]}")
        return torch.tensor([place[value] for value in given])

    def _move(self, x: Tensor, codes: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        moved = torch.empty_like(x)
        for k in codes.unique().tolist():
            center, A, mean = (t.to(x.device, dtype) for t in (self.class_means[k], self.maps[k], self.mean))
            moved[codes == k] = ((x[codes == k] - center) @ A + mean).to(x.dtype)
        return moved


def _shrunk(scatter: Scatter, shrinkage: float | int | str) -> Float[ndarray, "d d"]:
    a = scatter.shrinkage if shrinkage == "auto" else shrinkage
    if isinstance(a, str) or not 0 <= a <= 1:
        raise ValueError(f"shrinkage is 'auto' or a number from 0 to 1, not {shrinkage!r}")
    d = len(scatter.xx)
    return ((1 - a) * scatter.xx + a * np.trace(scatter.xx) / d * np.eye(d)) / (scatter.n - 1)


def root(cov: Float[ndarray, "*stack d d"]) -> Float[ndarray, "*stack d d"]:
    """The symmetric square root of positive semidefinite matrices."""
    values, V = np.linalg.eigh(cov)
    return V * np.sqrt(np.maximum(values, 0))[..., None, :] @ V.mT


def barycenter(covs: Float[ndarray, "class d d"], share: Float[ndarray, " class"], max_iter: int = 200) -> ndarray:
    """Covariance of the 2-Wasserstein barycenter of Gaussians: the fixed point of S = sum_k share_k T_k S T_k with T_k
    the transport from S to class k."""
    center = np.einsum("k,kij->ij", share, covs)
    for _ in range(max_iter):
        half, back = root(center), inverse_root(center)
        T = back @ np.einsum("k,kij->ij", share, root(half @ covs @ half)) @ back
        moved = T @ center @ T
        done = np.abs(moved - center).max() <= 1e-13 * np.abs(center).max()
        center = (moved + moved.T) / 2
        if done:
            break
    return center


def transport(start: Float[ndarray, "d d"], end: Float[ndarray, "d d"]) -> Float[ndarray, "d d"]:
    """The symmetric A with A start A = end."""
    half, back = root(start), inverse_root(start)
    return back @ root(half @ end @ half) @ back
