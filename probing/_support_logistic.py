"""Balanced logistic regressions on chosen columns, all targets and all supports in one solve.

Every cell is a target with a set of columns S, and its own problem

    min_{w,b}  sum_i c_i log(1 + exp(-y_i (w . x_iS + b))) + 1/(2C) ||w||^2,     y_i = +-1,  c_i = n / (2 n_{class i})

which is scikit-learn's `LogisticRegression(class_weight="balanced", C=C)` on `X[:, S]`, bias unpenalised. Newton's
method with a step of its own for each cell: by Cholesky factors of the gathered columns where S is small, by conjugate
gradients over all columns at once where it is large. There one matrix product serves every cell, whatever its
support, and the factored Gram matrix of the cell's columns, at its mean weight, is the preconditioner.
"""

import functools
import warnings
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

_SMALL = 24  # columns up to which gathering them and factoring the Hessian is faster than a product with all of X
_ELEMENTS = 2**24  # of the largest temporary of a chunk of cells: 128 MiB


class SupportFit(NamedTuple):
    """Weights (cell, column), zero off the support; intercepts; Newton decrements relative to the objective."""

    coef: Float[ndarray, "cell column"]
    intercept: Float[ndarray, " cell"]
    gap: Float[ndarray, " cell"]


def fit_on_supports(
    X: Float[ndarray, "example column"],
    Y: Bool[ndarray, "example target"],
    target: Int[ndarray, " cell"],
    support: Bool[ndarray, "cell column"],
    C: float | int = 1.0,
    tol: float = 1e-8,
    max_iter: int = 100,
) -> SupportFit:
    """The optimum of every cell, in float64.

    Args:
        target, support: Of each cell: its column of Y and the columns of X that it may use.
        tol: A cell is done when half its squared Newton decrement, the gap to the optimum up to third order, is
            below `tol` times its objective.
    Raises:
        ValueError: A target has one class only.
    """
    constant = [int(t) for t in np.unique(target) if Y[:, t].all() or not Y[:, t].any()]
    if constant:
        raise ValueError(f"targets {constant[:5]} have 1 class, a classifier needs 2; drop these targets")
    mean = X.mean(0, dtype=np.float64)
    x = torch.from_numpy(X - mean)  # the bias is free, so centring changes no optimum
    gram: list[Tensor] = []  # of all columns; for large supports only, and once
    coef, intercept = np.zeros(support.shape), np.zeros(len(target))
    gap = np.zeros(len(target))
    size = support.sum(1)
    for k in np.unique(size):
        cells, small = np.flatnonzero(size == k), k <= _SMALL
        if not small and not gram:
            gram.append((x.T @ x / len(x)).float())
        room = max(_ELEMENTS // (len(x) * (k + 1) if small else max(k * k, len(x))), 1)
        for chunk in np.array_split(cells, -(-len(cells) // room)):
            columns = torch.from_numpy(np.nonzero(support[chunk])[1].reshape(len(chunk), k))
            labels = torch.from_numpy(np.ascontiguousarray(Y[:, target[chunk]].T))
            solve = functools.partial(_small if small else _large, x, labels, columns, 1 / C, tol, max_iter)
            w, b, gap[chunk] = solve() if small else solve(gram[0])
            np.put_along_axis(block := np.zeros((len(chunk), X.shape[1])), columns.numpy(), w, 1)
            coef[chunk], intercept[chunk] = block, b - block @ mean
    if (slow := gap > tol).any():
        warnings.warn(f"{int(slow.sum())} of {len(gap)} sparse fits stopped after {max_iter} Newton steps with a "
                      f"relative gap up to {gap.max():.1e} (tol {tol:.0e}); raise max_iter or lower C",
                      ConvergenceWarning, stacklevel=2)
    return SupportFit(coef, intercept, gap)


def _small(x, labels, columns, ridge, tol, max_iter):
    """Newton with factored Hessians; the columns of each cell are gathered, and a column of ones for its bias."""
    cells, k = columns.shape
    Z = torch.cat([x.T[columns], x.new_ones(cells, 1, len(x))], 1)
    rough = Z.float()  # directions need three digits; gradients and objectives are exact
    penalty = torch.cat([x.new_full((k,), ridge), x.new_zeros(1)])

    def forward(live):
        return lambda v: (v[:, None] @ Z[live])[:, 0]

    def backward(live):
        return lambda r: (Z[live] @ r[:, :, None])[:, :, 0]

    def direction(g, h, live):
        of = rough[live]
        H = ((of * h.float()[:, None]) @ of.mT).double() + torch.diag(penalty)
        H += 1e-7 * H.diagonal(dim1=1, dim2=2).amax(1)[:, None, None] * torch.eye(k + 1, dtype=x.dtype)
        return torch.cholesky_solve(g[:, :, None], torch.linalg.cholesky(H))[:, :, 0]

    theta, gap = _newton(labels, penalty, (forward, backward), direction, tol, max_iter)
    return theta[:, :-1].numpy(), theta[:, -1].numpy(), gap.numpy()


def _large(x, labels, columns, ridge, tol, max_iter, gram):
    """Newton with conjugate gradients; one product with all of x serves every cell."""
    k, rough = columns.shape[1], x.float()  # directions need three digits; gradients and objectives are exact
    penalty = torch.cat([x.new_full((k,), ridge), x.new_zeros(1)])
    values, vectors = torch.linalg.eigh(gram) if k == x.shape[1] else (gram, gram)  # with all columns in, for all cells

    def forward(live, x=x):
        def scores(v):
            wide = v.new_zeros(len(v), x.shape[1]).scatter_(1, columns[live], v[:, :-1])
            return wide @ x.T + v[:, -1:]
        return scores

    def backward(live, x=x):
        return lambda r: torch.cat([(r @ x).gather(1, columns[live]), r.sum(1, keepdim=True)], 1)

    def direction(g, h, live):
        there, back, h, at = forward(live, rough), backward(live, rough), h.float(), columns[live]
        total = h.sum(1, keepdim=True)
        if k < x.shape[1]:
            L = gram[at[:, :, None], at[:, None]] * total[:, None]
            L.diagonal(dim1=1, dim2=2).add_(ridge)
            L = torch.linalg.cholesky(L)

        def precondition(r):
            if k < x.shape[1]:
                solved = torch.cholesky_solve(r[:, :-1, None], L)[:, :, 0]
            else:
                solved = r[:, :-1] @ vectors / (total * values.clamp(min=0) + ridge) @ vectors.T
            return torch.cat([solved, r[:, -1:] / total], 1)

        r = g.float()
        v, z = torch.zeros_like(r), precondition(r)
        p, rz = z, (r * z).sum(1)
        goal = rz * (rz / len(x)).clamp(min=1e-5, max=1e-2)  # loose far from the optimum, tight near it
        for _ in range(60):
            Hp = back(h * there(p)) + penalty.float() * p
            step = rz / (p * Hp).sum(1).clamp(min=1e-30)
            v, r = v + step[:, None] * p, r - step[:, None] * Hp
            z = precondition(r)
            before, rz = rz, (r * z).sum(1)
            if (rz <= goal).all():
                break
            p = z + (rz / before.clamp(min=1e-30))[:, None] * p
        return v.double()

    theta, gap = _newton(labels, penalty, (forward, backward), direction, tol, max_iter)
    return theta[:, :-1].numpy(), theta[:, -1].numpy(), gap.numpy()


def _newton(labels: Tensor, penalty: Tensor, products, direction, tol: float, max_iter: int) -> tuple[Tensor, Tensor]:
    """(parameters (cell, k + 1), relative gap (cell,)): damped Newton steps, cells leave when they are done."""
    cells, n = labels.shape
    theta = penalty.new_zeros(cells, len(penalty))
    gap = penalty.new_full((cells,), torch.inf)
    y = torch.where(labels, 1.0, -1.0).to(theta)
    share = labels.to(theta).mean(1, keepdim=True)
    c = torch.where(labels, 0.5 / share, 0.5 / (1 - share))
    live = torch.arange(cells)
    s, f = torch.zeros_like(y), (c * np.log(2)).sum(1)
    for _ in range(max_iter):
        p = torch.sigmoid(-y[live] * s)
        r, h = -c[live] * y[live] * p, c[live] * p * (1 - p)
        there, back = products[0](live), products[1](live)
        g = back(r) + penalty * theta[live]
        v = direction(g, h, live)
        decrement = (g * v).sum(1)
        gap[live] = 0.5 * decrement / f
        ds, step = there(v), torch.ones_like(decrement)
        for _ in range(30):  # halve the step of every cell whose objective does not fall
            new = theta[live] - step[:, None] * v
            s_new = s - step[:, None] * ds
            f_new = (c[live] * F.softplus(-y[live] * s_new)).sum(1) + 0.5 * (penalty * new**2).sum(1)
            short = f_new > f - 1e-4 * step * decrement + 1e-13 * f
            if not short.any():
                break
            step[short] *= 0.5
        theta[live] = torch.where(short[:, None], theta[live], new)
        keep = (gap[live] > tol) & ~short
        live, s, f = live[keep], s_new[keep], f_new[keep]
        if not len(live):
            break
    return theta, gap
