"""How much each neuron tells about each binary feature, by the rankings of sparse probing, all features at once.

`rank_neurons` gives a score per (feature, neuron); the k best are the support of a k-sparse probe.
"""

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.special import digamma
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

from ._support_logistic import fit_on_supports

Scores = Float[ndarray, "feature neuron"]
_NEIGHBOURS = 3  # of the mutual information estimate, as in scikit-learn


def k_grid(d: int, max_k: int | None = None) -> list[int]:
    """1 to 8, 10, 12, then 16 * 2^j, and d itself; up to `max_k`."""
    ks = [*range(1, 9), 10, 12, *(16 * 2**j for j in range(max(d.bit_length() - 4, 0)))]
    return [k for k in sorted({*(k for k in ks if k <= d), d}) if k <= (max_k or d)]


def neuron_scale(X: Float[ndarray, "example neuron"]) -> Float[ndarray, " neuron"]:
    """What each neuron is divided by before ranking and fitting: 10 max(std, 1e-3); nothing is centred."""
    return 10 * np.maximum(X.std(0, dtype=np.float64), 1e-3)


def rank_neurons(
    X: Float[ndarray, "example neuron"], Y: Bool[ndarray, "example feature"], ranking: str = "mean_dif", seed: int = 0
) -> Scores:
    """Score of every neuron for every feature, higher is better.

    mean_dif: |mean where the feature holds - mean elsewhere|, of neurons divided by `neuron_scale`;
    f_stat: F of a one-way analysis of variance, infinite for a neuron that separates without noise;
    mi: mutual information in nats by nearest neighbours, `mutual_info_classif(X, y, random_state=seed)`;
    lr: |weight| of balanced logistic regression with an L1 penalty, C = 0.1;
    svm: |weight| of a linear support vector machine with hinge loss, C = 1, bias penalised, as LinearSVC;
    adaptive: how long the neuron survives when dense balanced logistic regression is refitted on its largest
    weights over and over, k from d down `k_grid` to 1;
    random: a permutation for every feature.

    Raises:
        ValueError: An unknown ranking, or a feature that always or never holds.
    Source: Gurnee et al., arXiv:2305.01610, `get_heuristic_neuron_ranking` in experiments/probes.py. Theirs stops
        the L1 fit at scikit-learn's iteration limit; ours runs to the optimum.
    """
    if ranking not in RANKINGS:
        raise ValueError(f"ranking must be one of {', '.join(RANKINGS)}, not {ranking!r}")
    if len(bad := np.flatnonzero(Y.all(0) | ~Y.any(0))):
        raise ValueError(f"{len(bad)} features have 1 class only (first: {bad[:5].tolist()}), nothing can be ranked "
                         "for them; drop them")
    return RANKINGS[ranking](X / neuron_scale(X), Y, seed)


def top(scores: Scores, k: int) -> Bool[ndarray, "feature neuron"]:
    """Which neurons are the k best of each feature; ties go to the lower index."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    np.put_along_axis(support := np.zeros(scores.shape, bool), best, True, 1)
    return support


def _mean_dif(X, Y, seed) -> Scores:
    return np.abs(_class_means(X, Y) - _class_means(X, ~Y))


def _class_means(X, Y) -> Scores:
    return (Y.astype(X.dtype).T @ X) / Y.sum(0)[:, None]


def _f_stat(X, Y, seed) -> Scores:
    x = X - X.mean(0)
    share = Y.mean(0)[:, None]
    total = (x**2).mean(0)
    between = share * (1 - share) * (_class_means(x, Y) - _class_means(x, ~Y)) ** 2
    within = np.maximum(total - between, 0)
    constant = total <= 1e-12 * np.abs(X).max(0) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(constant, 0.0, (len(X) - 2) * between / within)


def _mutual_information(X, Y, seed) -> Scores:
    x = X / np.where((std := X.std(0)) > 10 * np.finfo(X.dtype).eps, std, 1)
    noise = np.random.RandomState(seed).standard_normal(X.shape)  # breaks ties: a silent neuron is 0 on many examples
    x = x + 1e-10 * np.maximum(1, np.abs(x).mean(0)) * noise
    psi = digamma(np.arange(1, len(X) + 1))
    order = np.argsort(x, axis=0, kind="stable")
    return np.stack([_ross(x[rows, j], Y[rows], psi) for j, rows in enumerate(order.T)], 1)


def _ross(x: Float[ndarray, " example"], Y: Bool[ndarray, "example feature"], psi) -> Float[ndarray, " feature"]:
    """Ross's estimate for one neuron in ascending order: on a line the k-th neighbour is in a window of k + 1."""
    out = np.zeros(Y.shape[1])
    for f, y in enumerate(Y.T):
        used = [own for own in (x[y], x[~y]) if len(own) > 1]
        points = np.sort(np.concatenate(used)) if len(used) < 2 else x
        total = psi[len(points) - 1]
        for own in used:
            k = min(_NEIGHBOURS, len(own) - 1)
            radius = np.nextafter(_kth_distance(own, k), 0)
            inside = _within(points, own, radius) + _within(-points[::-1], -own[::-1], radius[::-1])[::-1] - 1
            total += (len(own) * (psi[k - 1] - psi[len(own) - 1]) - psi[inside - 1].sum()) / len(points)
        out[f] = max(total, 0)
    return out


def _within(points: Float[ndarray, " point"], own: Float[ndarray, " example"], radius: Float[ndarray, " example"]):
    """How many points are at or above each of `own` (its own place in the line included), at most `radius` away."""
    end = np.searchsorted(points, own + radius, "right")
    end -= points[end - 1] - own > radius  # the sum was rounded up, onto the neighbour itself
    return end - np.searchsorted(points, own, "left")


def _kth_distance(x: Float[ndarray, " example"], k: int) -> Float[ndarray, " example"]:
    """Distance of every point of an ascending line to its k-th nearest other point."""
    padded = np.concatenate([np.full(k, -np.inf), x, np.full(k, np.inf)])
    n = len(x)
    windows = [np.maximum(x - padded[k - j : k - j + n], padded[2 * k - j : 2 * k - j + n] - x) for j in range(k + 1)]
    return np.minimum.reduce(windows)


def _l1_logistic(X, Y, seed, C: float = 0.1, tol: float = 1e-3, max_iter: int = 5000) -> Scores:
    """Accelerated proximal gradient with a step and restarts of its own for every feature.

    A feature is done when no subgradient coordinate is further than `tol` from 0, in units of the penalty.
    """
    x = torch.from_numpy(np.ascontiguousarray(X - X.mean(0)))  # the bias is free
    y = torch.from_numpy(np.where(Y, 1.0, -1.0)).to(x.dtype).T
    share = torch.from_numpy(Y.mean(0)).to(x.dtype)[:, None]
    c = C * torch.where(y > 0, 0.5 / share, 0.5 / (1 - share))
    bias = float(torch.linalg.matrix_norm(x.T @ x, 2) / len(x)) ** 0.5  # the bias has the scale of the stiffest axis
    x = torch.cat([x, x.new_full((len(x), 1), max(bias, 1e-12))], 1)
    out, live = np.zeros((len(y), X.shape[1])), np.arange(len(y))
    w = before = x.new_zeros(len(y), x.shape[1])
    s = s_before = torch.zeros_like(y)
    lipschitz, momentum = c.sum(1, keepdim=True) * bias**2 / 4, x.new_ones(len(y), 1)
    for iteration in range(max_iter):
        ahead = (momentum - 1) / (following := (1 + (1 + 4 * momentum**2).sqrt()) / 2)
        v, sv = w + ahead * (w - before), s + ahead * (s - s_before)
        g = (-c * y * torch.sigmoid(-y * sv)) @ x
        f = (c * F.softplus(-y * sv)).sum(1, keepdim=True)
        while True:
            new = _shrink(v - g / lipschitz, 1 / lipschitz)
            s_new, move = new @ x.T, new - v
            bound = f + (g * move).sum(1, keepdim=True) + lipschitz / 2 * (move**2).sum(1, keepdim=True)
            above = (c * F.softplus(-y * s_new)).sum(1, keepdim=True) > bound + 1e-9 * f
            if not above.any():
                break
            lipschitz = torch.where(above, 2 * lipschitz, lipschitz)
        turned = (move * (new - w)).sum(1, keepdim=True) > 0  # O'Donoghue & Candes: restart when it points back
        momentum = torch.where(turned, following, torch.ones_like(following))
        before, s_before, w, s = w, s, new, s_new
        done = ((lipschitz * move).abs().amax(1) <= tol / 2).numpy() if iteration % 5 == 4 else None
        if done is not None and done.any():
            out[live[done]] = w[done, :-1].abs().numpy()
            live, keep = live[~done], torch.from_numpy(~done)
            w, before, s, s_before = w[keep], before[keep], s[keep], s_before[keep]
            y, c, lipschitz, momentum = y[keep], c[keep], lipschitz[keep], momentum[keep]
            if not len(live):
                return out
    out[live] = w[:, :-1].abs().numpy()
    warnings.warn(f"{len(live)} features of the lr ranking were not done after {max_iter} steps; their scores are "
                  "those of an unfinished fit", ConvergenceWarning, stacklevel=3)
    return out


def _shrink(w, by):
    """Soft threshold; the last column is the bias, which has no penalty."""
    shrunk = w.sign() * (w.abs() - by).clamp(min=0)
    shrunk[:, -1] = w[:, -1]
    return shrunk


def _hinge(X, Y, seed) -> Scores:
    """liblinear, feature by feature: a batched solver (ADMM) took twice its time."""
    svm = LinearSVC(loss="hinge", max_iter=20_000, random_state=seed)
    return np.stack([np.abs(svm.fit(X, y).coef_[0]) for y in Y.T])


def _adaptive(X, Y, seed) -> Scores:
    """Rounds survived, plus the weight's share in the last round it was part of: the top k of any k on the grid are
    the survivors of that round."""
    features, scores = np.arange(Y.shape[1]), np.zeros((Y.shape[1], X.shape[1]))
    support = np.ones(scores.shape, bool)
    ks = k_grid(X.shape[1])
    for rounds, k in enumerate(reversed([0, *ks[:-1]])):
        weight = np.abs(fit_on_supports(X, Y, features, support).coef)
        share = weight / np.maximum(weight.max(1, keepdims=True), 1e-300)
        scores = np.where(support, rounds + 0.5 + share / 4, scores)
        support = support & top(np.where(support, scores, -1), k)
    return scores


def _random(X, Y, seed) -> Scores:
    order = np.tile(np.arange(X.shape[1], dtype=float), (Y.shape[1], 1))
    return np.random.default_rng(seed).permuted(order, axis=1)


RANKINGS = {
    "mean_dif": _mean_dif, "mi": _mutual_information, "f_stat": _f_stat, "lr": _l1_logistic, "svm": _hinge,
    "adaptive": _adaptive, "random": _random,
}
