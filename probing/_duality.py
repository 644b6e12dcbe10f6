"""Certificates: how far a softmax regression is from its optimum at most, without knowing the optimum.

For weights V and any probabilities q whose bias residual sum_i w_i (q_i - y_i) is zero, convex duality gives

    D(q) = sum_i w_i H(q_i) - 1/(2 lam) tr(G' P^-1 G)  <=  objective at the optimum,     G = sum_i w_i (q_i - y_i) x_i'

(lam/2 tr(V P V') is the penalty, H the entropy). With q = softmax of the fit the difference to the objective is
1/(2 lam) ||gradient||^2, so that it closes as the fit converges. No smoothness constant and no estimate enters.
"""

import torch
from torch import Tensor

from ._softmax import ROWS, Stack, coupling


def certify(stack: Stack, V: Tensor, lam: Tensor, tol: float) -> tuple[Tensor, Tensor]:
    """V and the certified relative gap of every column.

    Where the gap is above `tol` for want of a bias at the optimum given the weights, the bias is moved there.

    Args:
        stack: On `Standardised` inputs; its penalty is not used.
        V: (column, K-1, dim) in float64, the bias last.
        lam: (column,) penalty of the summed loss, 1/C.
    Returns:
        gap: (objective - D(q)) / D(q), an upper bound on (objective - optimum) / optimum.
    """
    if not stack.Z.bias:
        loss, entropy, G = _sums(stack, V)
        return V, _gap(stack, V, lam, loss, entropy, G)
    labels, total = _label_sums(stack)
    count = labels[..., -1]
    count_0 = total[:, -1:] - count.sum(1, keepdim=True)
    for left in range(7, -1, -1):
        loss, entropy, G = _sums(stack, V)
        ideal = _gap(stack, V, lam, loss, entropy, G[..., :-1])  # were the residual of the bias 0
        # q is p moved towards a constant r, just far enough that the bias residual of the mixture vanishes exactly
        h = G[..., -1]
        excess = torch.cat([-h.sum(1, keepdim=True) / count_0, h / count], 1)
        shrink = 1 / (1 + excess.amax(1).clamp(min=0))
        mixed = (1 - shrink)[:, None] * count - shrink[:, None] * h
        G = shrink[:, None, None] * G - (1 - shrink)[:, None, None] * labels
        G = (G + mixed[:, :, None] * (total / total[:, -1:])[:, None])[..., :-1]
        gap = _gap(stack, V, lam, loss, shrink * entropy, G)  # H(r) >= 0 is left out
        if not left or ((gap <= tol) | (gap - ideal <= 0.1 * tol)).all():
            break
        newton = torch.linalg.solve(len(stack.Z) * stack.curvature(V), h)
        scaling = excess[:, 1:].log1p() - excess[:, :1].log1p()  # exact where p is far from 1
        V = V.clone()
        V[..., -1] -= torch.where((newton.abs() < 0.5).all(1, keepdim=True), newton, scaling)
    return V, gap


def _gap(stack: Stack, V: Tensor, lam: Tensor, loss: Tensor, entropy: Tensor, G: Tensor) -> Tensor:
    P = coupling(stack.n_classes, V)
    W = V[..., : stack.Z.shape[1] - stack.Z.bias]
    primal = loss + 0.5 * lam * ((P @ W) * W).sum((1, 2))
    dual = entropy - ((torch.linalg.inv(P) @ G) * G).sum((1, 2)) / (2 * lam)
    return torch.where(dual > 0, (primal - dual).clamp(min=0) / dual, torch.inf)


def _sums(stack: Stack, V: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Over all rows: the losses, the entropies and w (p - y) x' of every column."""
    loss, entropy, G = V.new_zeros(len(V)), V.new_zeros(len(V)), torch.zeros_like(V)
    for rows, z, y, scores, log_sum, planes in stack.blocks(V):
        w, surprise = stack.row_weights(rows, y), log_sum.clone()
        for j, (score, p) in enumerate(zip(scores, planes, strict=True)):
            hit = (y == j + 1).to(V.dtype)
            surprise.addcmul_(score, hit, value=-1)
            log_sum.addcmul_(score, p, value=-1)
            residual = p.sub_(hit)
            G[:, j] += (residual if w is None else residual.mul_(w)).T @ z
        loss += (surprise if w is None else surprise.mul_(w)).sum(0)
        entropy += (log_sum if w is None else log_sum.mul_(w)).sum(0)
    return loss, entropy, G


def _label_sums(stack: Stack) -> tuple[Tensor, Tensor]:
    """Over all rows: w y x', (column, K-1, dim), and w x, (column, dim)."""
    k, (n, dim) = stack.codes.shape[1], stack.Z.shape
    first = stack.Z[slice(0, 1)]
    labels, total = first.new_zeros(k, stack.n_classes - 1, dim), first.new_zeros(k, dim)
    for start in range(0, n, ROWS):
        rows = slice(start, start + ROWS)
        z, y = stack.Z[rows], stack.codes[rows]
        w = stack.row_weights(rows, y)
        total += z.sum(0) if w is None else w.T @ z
        for j in range(stack.n_classes - 1):
            hit = (y == j + 1).to(z.dtype)
            labels[:, j] += (hit if w is None else hit.mul_(w)).T @ z
    return labels, total
