"""Many softmax regressions on shared inputs, solved as one stack.

A column is one problem: its labels, penalty and row weights. All columns of a stack have K classes, and class 0 is the
reference: scores are (0, v_1.z, ..., v_{K-1}.z), which leaves out the one direction that changes no prediction. With
P = I - 11'/K, the weights' sum of squares over all K classes, centred as the penalty wants them, is tr(V' P V); for
K = 2 P is 1, half of scikit-learn's penalty on the single weight vector of a binary problem.

The solver is L-BFGS on all columns at once, every column with its own step. Its initial metric decides the speed: the
Hessian of each column on a sample of the rows, drawn in proportion to the curvature that they carry, so that a nearly
separable column is seen through the few rows which still matter to it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ._whitening import Standardised

ROWS = 4096  # per block: the scores of 64 columns stay in the cache
_HISTORY = 20
_SAMPLE = 24  # rows of the sampled Hessian per dimension; with 16 a third more passes, with 8 three times as many
_ROUGH = 12  # the same where the tolerance is above 1e-4: half the cost, and few more passes
_FEWEST = 8
_WORTH = 64  # passes that one sampled Hessian may cost: fewer rows, or beyond that the average curvature as the metric
_AFRESH = (1, 2, 3, 5)  # steps that begin with the average curvature of where they are: from zero weights it falls fast
_FIRST, _EVERY, _FALL = 8, 6, 30  # then the sampled one, renewed after 6 steps in which the gap fell by less than 30
_GATHER = 2**22  # numbers of the sampled rows that are gathered at a time, to stay in the cache
_PATIENCE = 12  # steps without a smaller gap


def coupling(n_classes: int, like: Tensor) -> Tensor:
    """P of the module's docstring, (K-1, K-1)."""
    J = n_classes - 1
    eye = torch.eye(J, dtype=like.dtype, device=like.device)
    return eye if J == 1 else eye - 1 / n_classes


@dataclass(frozen=True)
class Stack:
    """The objective mean_i w_i CE_i + 1/2 sum_j penalty_j v_j' P v_j of every column.

    Attributes:
        Z: (example, dim) inputs, roughly white.
        codes: (example, column) integers in 0..K-1.
        penalty: (column, dim).
        weights, replicate: (example, replicate) row weights, and the set of them that each column
            uses; class_weight (column, K) multiplies them.
    """

    Z: Tensor | Standardised
    codes: Tensor
    n_classes: int
    penalty: Tensor
    weights: Tensor | None = None
    replicate: Tensor | None = None
    class_weight: Tensor | None = None

    def columns(self, which: Tensor) -> "Stack":
        """The problems of some columns; `which` is a mask or indices."""
        return replace(self, codes=self.codes[:, which], penalty=self.penalty[which],
                       replicate=None if self.replicate is None else self.replicate[which],
                       class_weight=None if self.class_weight is None else self.class_weight[which])

    def blocks(self, V: Tensor) -> Iterator[tuple[slice, Tensor, Tensor, list[Tensor], Tensor, list[Tensor]]]:
        """Rows, z, codes, scores, log-sum-exp of the scores, probabilities; the last three (row, column), and scores
        and probabilities one such plane for every class but the reference."""
        weights = V.transpose(0, 1)
        for start in range(0, len(self.Z), ROWS):
            rows = slice(start, start + ROWS)
            z = self.Z[rows]
            scores = [z @ v.T for v in weights]
            top = scores[0].clamp(min=0)
            for plane in scores[1:]:
                torch.maximum(top, plane, out=top)
            p = [(plane - top).exp_() for plane in scores]
            total = (-top).exp_()
            for plane in p:
                total += plane
            inverse = total.reciprocal()
            yield rows, z, self.codes[rows], scores, total.log_().add_(top), [plane.mul_(inverse) for plane in p]

    def row_weights(self, rows: slice, y: Tensor) -> Tensor | None:
        """(row, column), or None for ones."""
        w = None
        if self.weights is not None and self.replicate is not None:
            w = self.weights[rows][:, self.replicate]
        if self.class_weight is not None:
            by_class = self.class_weight.T.gather(0, y.long())
            w = by_class if w is None else w * by_class
        return w

    def evaluate(self, V: Tensor) -> tuple[Tensor, Tensor]:
        """Objective (column,) in float64 and gradient (column, K-1, dim)."""
        loss = torch.zeros(len(V), dtype=torch.float64, device=V.device)
        grad = V.new_zeros(V.shape[1], len(V), V.shape[2])
        for rows, z, y, scores, nll, p in self.blocks(V):
            w = self.row_weights(rows, y)
            for j, (plane, residual) in enumerate(zip(scores, p, strict=True)):
                hit = (y == j + 1).to(V.dtype)
                nll -= plane.mul_(hit)
                residual -= hit
                grad[j].addmm_((residual if w is None else residual.mul_(w)).T, z)
            loss += (nll if w is None else nll.mul_(w)).sum(0, dtype=torch.float64)
        n, pull = len(self.Z), coupling(self.n_classes, V) @ V * self.penalty[:, None]
        return loss / n + 0.5 * _dot(V, pull), grad.transpose(0, 1) / n + pull

    def gap(self, grad: Tensor) -> Tensor:
        """1/2 g' (P penalty)^-1 g of every column: the duality gap, an upper bound on what is left to gain.

        The bias has no penalty; its gradient counts as if it had the smallest one. `certify` does without that.
        """
        g, penalty = grad.double(), self.penalty.double()
        least = penalty.where(penalty > 0, torch.inf).amin(1, keepdim=True)
        inverse = torch.linalg.inv(coupling(self.n_classes, g))
        return 0.5 * ((inverse @ g) * g / penalty.where(penalty > 0, least)[:, None]).sum((1, 2))

    def curvature(self, V: Tensor) -> Tensor:
        """Mean of w (diag(p) - p p') over the rows, (column, K-1, K-1)."""
        total = V.new_zeros(len(V), V.shape[1], V.shape[1])
        for rows, _, y, _, _, planes in self.blocks(V):
            w = self.row_weights(rows, y)
            for i, p in enumerate(planes):
                p = p if w is None else p * w
                total[:, i, i] += p.sum(0)
                for j, other in enumerate(planes[: i + 1]):
                    total[:, i, j] -= (p * other).sum(0)
        return (total.tril() + total.tril(-1).mT) / len(self.Z)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((1, 2), dtype=torch.float64)


class AverageMetric:
    """Newton's metric if every row had the same curvature A: A x I + P x penalty. Exact at zero weights.

    With M' P M = 1 and M' A M = a diagonal, its inverse is M 1/(a + penalty) M'.
    """

    def __init__(self, stack: Stack, V: Tensor):
        A = stack.curvature(V).double()
        A.diagonal(dim1=1, dim2=2).add_(1e-8)
        inverse_root = torch.linalg.inv(torch.linalg.cholesky(coupling(stack.n_classes, A)))
        a, U = torch.linalg.eigh(inverse_root @ A @ inverse_root.T)
        self.basis = (inverse_root.T @ U).to(V.dtype)
        self.scale = (1 / (a.clamp(min=1e-8)[..., None] + stack.penalty.double()[:, None])).to(V.dtype)

    def solve(self, g: Tensor) -> Tensor:
        return self.basis @ (self.scale * (self.basis.mT @ g))

    def keep(self, which: Tensor) -> None:
        self.basis, self.scale = self.basis[which], self.scale[which]


class SampledMetric:
    """Cholesky factors of every column's Hessian on sampled rows."""

    def __init__(self, stack: Stack, V: Tensor, size: int):
        self.size = size
        self.factor = V.new_zeros(len(V), V.shape[1] * V.shape[2], V.shape[1] * V.shape[2])
        self.renew(stack, V, torch.arange(len(V), device=V.device))

    def renew(self, stack: Stack, V: Tensor, which: Tensor) -> None:
        dim = stack.Z.shape[1]
        together = max(1, _GATHER // (self.size * dim))
        for some in which.split(together) if len(which) else ():
            self.factor[some] = torch.linalg.cholesky(sampled_hessian(stack.columns(some), V[some], self.size))

    def solve(self, g: Tensor) -> Tensor:
        return torch.cholesky_solve(g.reshape(len(g), -1, 1), self.factor).view_as(g)

    def keep(self, which: Tensor) -> None:
        self.factor = self.factor[which]


def sampled_hessian(stack: Stack, V: Tensor, size: int) -> Tensor:
    """Hessian (column, (K-1) dim, (K-1) dim) estimated on `size` of the rows, different ones for every column.

    Systematic sampling with probability 0.9 p_i + 0.1/n, p_i proportional to the trace of row i's share; of all rows
    it is the exact Hessian.
    """
    (n, dim), J, k = stack.Z.shape, V.shape[1], len(V)
    p, w, length = V.new_empty(J, k, n), V.new_ones(k, n), V.new_empty(n)
    for rows, z, y, _, _, planes in stack.blocks(V):
        length[rows] = z.square().sum(1)
        for j, plane in enumerate(planes):
            p[j, :, rows] = plane.T
        if (weight := stack.row_weights(rows, y)) is not None:
            w[:, rows] = weight.T
    if size < n:
        share = (p * (1 - p)).sum(0) * w * length
        share = 0.9 * share / share.sum(1, keepdim=True).clamp(min=1e-30) + 0.1 / n
        edges = share.cumsum(1, dtype=torch.float64)
        at = (torch.arange(size, dtype=torch.float64, device=V.device) + 0.5) / size * edges[:, -1:]
        index = torch.searchsorted(edges, at).clamp_(max=n - 1)
        scale = w.gather(1, index) / (n * size * share.gather(1, index))
    else:
        index, scale = torch.arange(n, device=V.device).expand(k, n), w / n
    z = stack.Z[index]
    p = torch.stack([plane.gather(1, index) for plane in p])
    P, H = coupling(stack.n_classes, V), V.new_empty(k, J, dim, J, dim)
    for a in range(J):
        for b in range(a + 1):
            curvature = scale * p[a] * (float(a == b) - p[b])
            H[:, a, :, b] = torch.bmm((z * curvature[..., None]).mT, z)
            H[:, a, :, b].diagonal(dim1=1, dim2=2).add_(P[a, b] * stack.penalty)
            H[:, b, :, a] = H[:, a, :, b]
    H = H.view(k, J * dim, J * dim)
    diagonal = H.diagonal(dim1=1, dim2=2)
    # the bias of a separable column has next to no curvature: a floor keeps the factor positive definite
    diagonal += 1e-6 * diagonal.mean(1, keepdim=True)
    return H


def minimise(stack: Stack, V: Tensor, tol: float, max_passes: int, exact: bool = False) -> tuple[Tensor, int]:
    """The minimiser (column, K-1, dim) of every column, from `V`, and the passes over the data that it took.

    `exact` takes Hessians of all rows from the first step on, which cost more and never stall.

    A column is done, and leaves the stack, when its duality gap is below `tol` times its objective; it also leaves
    when rounding hides any further progress. Neither is a certificate: the caller computes that.
    """
    (n, dim), J = stack.Z.shape, V.shape[1]
    size = min(n, (_ROUGH if tol > 1e-4 else _SAMPLE) * dim, 4 * _WORTH * n // ((J + 1) * dim))
    size = n if exact else size
    sampled = size >= min(n, _FEWEST * dim)
    slack = 1e-7 if V.dtype == torch.float32 else 1e-15  # rounding of one pass, below which no decrease is seen
    V, active = V.clone(), torch.arange(len(V), device=V.device)
    x, (f, g) = V.clone(), stack.evaluate(V)
    metric: AverageMetric | SampledMetric = AverageMetric(stack, V)
    renewed, best = torch.full_like(f, torch.inf), torch.full_like(f, torch.inf)
    S, Y, idle, passes, steps, first = [], [], torch.zeros_like(active), 1, 0, _FIRST
    while True:
        gap = stack.gap(g) / f.clamp(min=1e-300)
        idle = torch.where(gap < 0.7 * best, 0, idle + 1)
        best = torch.minimum(gap, best)
        keep = (gap > tol) & (idle < _PATIENCE)
        if not keep.all():
            V[active[~keep]] = x[~keep]
            active, x, f, g, gap, best, idle, renewed = (
                a[keep] for a in (active, x, f, g, gap, best, idle, renewed))
            S, Y = [s[keep] for s in S], [d[keep] for d in Y]
            stack = stack.columns(keep)
            metric.keep(keep)
        if not len(active) or passes >= max_passes:
            break
        if not steps:
            first = _FIRST if (gap > 0.1).any() and not exact else 0  # a good start needs no approach
        if steps < first and steps in _AFRESH:
            metric, S, Y = AverageMetric(stack, x), [], []
        if steps >= first and (steps - first) % _EVERY == 0:
            slow = (gap > renewed / _FALL).nonzero()[:, 0]
            if sampled and isinstance(metric, SampledMetric):
                metric.renew(stack, x, slow)
            else:
                metric = SampledMetric(stack, x, size) if sampled else AverageMetric(stack, x)
            renewed = gap
            for pair in S + Y:  # curvature from far away would spoil the new metric
                pair[slow] = 0
        q = _direction(g, S, Y, metric)
        slope = -_dot(g, q)
        new, step = x - q, torch.ones_like(f)
        f_new, g_new = stack.evaluate(new)
        passes, steps = passes + 1, steps + 1
        for _ in range(15):  # backtracking, each column its own step; negated, so that an overflow is too long a step
            long = (~(f_new <= f + 1e-4 * step * slope + slack * f.abs())).nonzero()[:, 0]
            if not len(long):
                break
            step[long] *= 0.4
            new[long] = x[long] - step[long].to(x.dtype)[:, None, None] * q[long]
            f_new[long], g_new[long] = stack.columns(long).evaluate(new[long])
        else:
            new[long], f_new[long], g_new[long], idle[long] = x[long], f[long], g[long], _PATIENCE
        S, Y = [*S[1 - _HISTORY :], new - x], [*Y[1 - _HISTORY :], g_new - g]
        x, f, g = new, f_new, g_new
    V[active] = x
    return V, passes


def _direction(g: Tensor, S: list[Tensor], Y: list[Tensor], metric: AverageMetric | SampledMetric) -> Tensor:
    """The two-loop recursion; a pair without positive curvature is passed over."""
    q, seen = g.clone(), []
    for s, d in zip(reversed(S), reversed(Y), strict=True):
        curvature = _dot(s, d)
        inverse = torch.where(curvature > 0, 1 / curvature, 0.0)
        a = (inverse * _dot(s, q)).to(q.dtype)[:, None, None]
        seen.append((a, inverse))
        q -= a * d
    q = metric.solve(q)
    for s, d, (a, inverse) in zip(S, Y, reversed(seen), strict=True):
        q += (a - (inverse * _dot(d, q)).to(q.dtype)[:, None, None]) * s
    return q
