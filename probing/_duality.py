"""Certificates: how far a softmax regression is from its optimum at most, without knowing the optimum.

For weights V and any probabilities q whose bias residual sum_i w_i (q_i - y_i) is zero, convex duality gives

    D(q) = sum_i w_i H(q_i) - 1/(2 lam) tr(G' P^-1 G)  <=  objective at the optimum,     G = sum_i w_i (q_i - y_i) x_i'

(lam/2 tr(V P V') is the penalty, H the entropy). With q = softmax of the fit the difference to the objective is
1/(2 lam) ||gradient||^2, so that it closes as the fit converges. No smoothness constant and no estimate enters.
"""

import torch
from torch import Tensor

from ._softmax import Stack, coupling


def certify(stack: Stack, V: Tensor, lam: Tensor, tol: float) -> tuple[Tensor, Tensor]:
    """V with its bias at the optimum given the weights, and the certified relative gap of every column.

    Args:
        stack: On `Standardised` inputs; its penalty is not used.
        V: (column, K-1, dim) in float64, the bias last.
        lam: (column,) penalty of the summed loss, 1/C.
    Returns:
        gap: (objective - D(q)) / D(q), an upper bound on (objective - optimum) / optimum.
    """
    for _ in range(8):
        loss, entropy, curvature, G, labels, total = _sums(stack, V)
        shrink = torch.ones_like(loss)
        if not stack.Z.bias:
            break
        # q is p moved towards a constant r, just far enough that the bias residual of the mixture vanishes exactly
        h, count = G[..., -1], labels[..., -1]
        h_0, count_0 = -h.sum(1, keepdim=True), total[:, -1:] - count.sum(1, keepdim=True)
        excess = torch.cat([h_0 / count_0, h / count], 1)
        shrink = 1 / (1 + excess.amax(1).clamp(min=0))
        if (excess.abs() <= 1e-3 * tol).all():
            break
        newton = torch.linalg.solve(curvature, h)
        scaling = excess[:, 1:].log1p() - excess[:, :1].log1p()  # exact where p is far from 1
        V = V.clone()
        V[..., -1] -= torch.where((newton.abs() < 0.5).all(1, keepdim=True), newton, scaling)
    P = coupling(stack.n_classes, V)
    W = V[..., : stack.Z.shape[1] - stack.Z.bias]
    primal = loss + 0.5 * lam * ((P @ W) * W).sum((1, 2))
    if stack.Z.bias:
        mixed = (1 - shrink)[:, None] * count - shrink[:, None] * h
        G = shrink[:, None, None] * G - (1 - shrink)[:, None, None] * labels
        G = (G + mixed[:, :, None] * (total / total[:, -1:])[:, None])[..., :-1]
    dual = shrink * entropy - ((torch.linalg.inv(P) @ G) * G).sum((1, 2)) / (2 * lam)  # H(r) >= 0 is left out
    return V, torch.where(dual > 0, (primal - dual).clamp(min=0) / dual, torch.inf)


def _sums(stack: Stack, V: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Over all rows: losses, entropies, curvature of the bias, and w (p - y) x', w y x', w x of every column."""
    k, J, dim = V.shape
    loss, entropy, curvature = V.new_zeros(k), V.new_zeros(k), V.new_zeros(k, J, J)
    G, labels, total = V.new_zeros(k, J, dim), V.new_zeros(k, J, dim), V.new_zeros(k, dim)
    for rows, z, y, scores, log_sum, planes in stack.blocks(V):
        w = stack.row_weights(rows, y)
        w = torch.ones_like(log_sum) if w is None else w
        entropy += (w * log_sum).sum(0)
        loss += (w * log_sum).sum(0)
        for j, (score, p) in enumerate(zip(scores, planes, strict=True)):
            hit = (y == j + 1).to(V.dtype)
            loss -= (w * score * hit).sum(0)
            entropy -= (w * score * p).sum(0)
            G[:, j] += (w * (p - hit)).T @ z
            labels[:, j] += (w * hit).T @ z
            curvature[:, j, j] += (w * p).sum(0)
            for i, other in enumerate(planes):
                curvature[:, i, j] -= (w * p * other).sum(0)
        total += w.T @ z
    return loss, entropy, curvature, G, labels, total
