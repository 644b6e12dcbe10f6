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
    (k, J, dim), cols = V.shape, torch.arange(len(V), device=V.device)
    loss, entropy, curvature = V.new_zeros(k), V.new_zeros(k), V.new_zeros(k, J, J)
    G, labels, total = V.new_zeros(J * k, dim), V.new_zeros(J * k, dim), V.new_zeros(k, dim)
    for rows, z, y, planes, log_sum, p in stack.blocks(V, cols):
        w = stack.row_weights(rows, y, cols)
        w = torch.ones_like(log_sum) if w is None else w
        hits = torch.stack([y == j + 1 for j in range(J)], 1).to(V.dtype)
        scores = torch.stack(planes, 1)
        loss += (w * (log_sum - (scores * hits).sum(1))).sum(0)
        entropy += (w * (log_sum - (scores * p).sum(1))).sum(0)
        weighed = (p * w[:, None]).permute(2, 1, 0)
        curvature += torch.diag_embed(weighed.sum(2)) - weighed @ p.permute(2, 0, 1)
        G.addmm_(((p - hits) * w[:, None]).view(len(z), -1).T, z)
        labels.addmm_((hits * w[:, None]).view(len(z), -1).T, z)
        total.addmm_(w.T, z)
    return loss, entropy, curvature, _by_column(G, k), _by_column(labels, k), total


def _by_column(flat: Tensor, k: int) -> Tensor:
    return flat.view(-1, k, flat.shape[1]).transpose(0, 1)
