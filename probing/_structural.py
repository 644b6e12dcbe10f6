"""The structural probe: distances in a tree or a maze, read as squared distances after a linear map."""

import warnings

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data

from ._subspaces import Subspace


class StructuralProbe(RegressorMixin, BaseEstimator):
    """Find B with |B (h_i - h_j)|^2 = distance of i and j, least squares over pairs.

    A row of X is a pair, h_i - h_j, and y its distance (`node_pairs` makes both), so the scikit-learn contract holds
    as it stands; split by tree, never by pair. A distance is quadratic in the activation, so there is no `read_`: the
    subspace that matters is `subspace`, and B is known up to a rotation of its rows.

    Args:
        rank: Rows of B; d_model unless given.
        l2: Penalty on the squares of B, in root mean squares of X, as a share of the variance of y.
        tol, max_iter: Norm of the gradient at which L-BFGS stops, of the loss as a share of that of B = 0; iterations.
        seed: Of the random start.

    Attributes:
        B_: (rank, d_model) in raw activation space.
        gradient_norm_: At the end, the convergence certificate.
        n_iter_: Iterations.
    Source: Hewitt & Manning 2019, `TwoWordPSDProbe` in john-hewitt/structural-probes, which takes Adam steps on the
        absolute error per sentence; ours is smooth and goes to the optimum.
    """

    def __init__(self, rank=None, l2=0.0, tol=1e-6, max_iter=1000, seed=0):
        self.rank, self.l2, self.tol, self.max_iter, self.seed = rank, l2, tol, max_iter, seed

    def fit(self, X, y):
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2)
        rank = X.shape[1] if self.rank is None else self.rank
        if not 1 <= rank <= X.shape[1]:
            raise ValueError(f"rank is {rank}; X has {X.shape[1]} dimensions, ask for 1 to that")
        rms = np.sqrt((X**2).mean(0))
        scale = np.where(rms > 1e-8 * rms.max(), rms, 1.0)
        unit = max(float(np.abs(y).mean()), 1e-300)
        delta, distance = torch.from_numpy(X / scale), torch.from_numpy(y / unit)
        zero = max(float((distance**2).mean()), 1e-300)  # the loss at B = 0
        generator = torch.Generator().manual_seed(self.seed)
        B = torch.randn(rank, X.shape[1], generator=generator, dtype=torch.float64) / (rank * X.shape[1]) ** 0.5
        B.requires_grad_()

        def step():
            optimizer.zero_grad()
            error = (delta @ B.T).square().sum(1) - distance
            loss = error.square().mean() / zero + self.l2 * B.square().sum()
            loss.backward()
            return loss

        optimizer = torch.optim.LBFGS([B], max_iter=self.max_iter, history_size=20, tolerance_change=0,
                                      tolerance_grad=self.tol / B.numel() ** 0.5, line_search_fn="strong_wolfe")
        with torch.enable_grad():
            optimizer.step(step)
            step()
        assert B.grad is not None
        self.gradient_norm_ = float(B.grad.norm())
        self.n_iter_ = max(1, int(optimizer.state[B].get("n_iter", 1)))
        if self.gradient_norm_ > 10 * self.tol:
            warnings.warn(f"stopped after {self.n_iter_} iterations with a gradient of {self.gradient_norm_:.1e} (tol "
                          f"{self.tol:.0e}); raise max_iter or l2, or lower the rank", ConvergenceWarning, stacklevel=2)
        self.B_ = B.detach().numpy() / scale * unit**0.5
        return self

    def predict(self, X) -> Float[ndarray, " pair"]:
        """Squared length of B times each difference."""
        check_is_fitted(self)
        return ((validate_data(self, X, reset=False, dtype=np.float64) @ self.B_.T) ** 2).sum(1)

    @property
    def subspace(self) -> Subspace:
        """Span of the rows of B: activations may move outside it and no distance changes."""
        check_is_fitted(self)
        return Subspace.spanned_by(torch.from_numpy(self.B_))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True  # a square is never negative, an arbitrary target may be
        return tags


def node_pairs(
    X: Float[ndarray, "node d_model"], distance: Float[ndarray, "node node"]
) -> tuple[Float[ndarray, "pair d_model"], Float[ndarray, " pair"]]:
    """(h_i - h_j, distance) of all pairs i < j of one tree or maze; pairs out of reach (infinite) are left out."""
    i, j = np.triu_indices(len(X), 1)
    reached = np.isfinite(distance[i, j])
    i, j = i[reached], j[reached]
    return X[i] - X[j], distance[i, j]
