"""Every measure of similarity and of dimension against its formula, written out in loops from the papers.

The formulas share no line with our code: sums over pairs of rows, dense matrices, sorted lists. Spaces are Gaussian,
rectified or heavy-tailed, independent or sharing directions, of single or double precision, wider than long or not.
"""

from math import exp, inf, log, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.spatial import procrustes as scipy_procrustes
from scipy.special import betaln
from sklearn.cross_decomposition import CCA
from sklearn.linear_model import LogisticRegression

from probing.formation import (
    cka,
    cknna,
    cycle_knn,
    debiased_cka,
    gride,
    mutual_knn,
    participation_ratio,
    procrustes,
    relative,
    rsa,
    stitch,
    svcca,
    two_nn,
    two_nn_by_scale,
    unit_correlations,
    universal_neurons,
)
from probing.formation._similarity import CLIP, METRICS

K = 4


@st.composite
def spaces(draw):
    """A and B with paired rows."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    n, p, q = draw(st.integers(14, 20)), draw(st.integers(5, 24)), draw(st.integers(5, 24))
    kind = draw(st.sampled_from(["gaussian", "rectified", "heavy"]))
    A, B = (rng.standard_t(3, (n, d)) if kind == "heavy" else rng.normal(size=(n, d)) for d in (p, q))
    if draw(st.booleans()):
        B = B + A @ rng.normal(size=(p, q))
    if kind == "rectified":
        A, B = (np.maximum(X, 0) + 0.01 * rng.random(X.shape) for X in (A, B))
    dtype = draw(st.sampled_from([np.float64, np.float32]))
    return A.astype(dtype), B.astype(dtype)


def dot(x, y):
    return sum(float(a) * float(b) for a, b in zip(x, y, strict=True))


def centred(x):
    mean = sum(map(float, x)) / len(x)
    return [float(a) - mean for a in x]


def cosine(x, y):
    return dot(x, y) / sqrt(dot(x, x) * dot(y, y))


def pearson(x, y):
    return cosine(centred(x), centred(y))


def columns_centred(X):
    return np.array([centred(column) for column in X.T]).T


def neighbours(X, k=K):
    """For every row the list of the k others with the largest cosine."""
    return [sorted((j for j in range(len(X)) if j != i), key=lambda j: -cosine(X[i], X[j]))[:k] for i in range(len(X))]


def by_mutual_knn(A, B):
    a, b = neighbours(A), neighbours(B)
    return sum(len(set(i) & set(j)) / K for i, j in zip(a, b, strict=True)) / len(A)


def by_cycle_knn(A, B):
    a, b = neighbours(A), neighbours(B)
    return sum(any(i in a[j] for j in b[i]) for i in range(len(A))) / len(A)


def hsic_1(K, L):
    """[tr(K~L~) + 1'K~1 1'L~1 / ((n-1)(n-2)) - 2/(n-2) 1'K~L~1] / (n(n-3)), K~ and L~ with empty diagonals."""
    n = len(K)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    trace = sum(K[i][j] * L[j][i] for i, j in pairs)
    sums = sum(K[i][j] for i, j in pairs) * sum(L[i][j] for i, j in pairs)
    both = sum(K[i][j] * L[j][m] for i, j in pairs for m in range(n) if m != j)
    return (trace + sums / ((n - 1) * (n - 2)) - 2 / (n - 2) * both) / (n * (n - 3))


def by_cknna(A, B):
    """Restricted to pairs that are neighbours in both; of a space with itself, in that one."""
    def kernel(X, *lists):
        n = len(X)
        return [[cosine(X[i], X[j]) if all(j in near[i] for near in lists) else 0.0 for j in range(n)]
                for i in range(n)]
    a, b = neighbours(A), neighbours(B)
    own = hsic_1(kernel(A, a), kernel(A, a)) * hsic_1(kernel(B, b), kernel(B, b))
    return hsic_1(kernel(A, a, b), kernel(B, a, b)) / sqrt(own)


def by_cka(A, B):
    def norm(X, Y):  # ||X'Y||_F^2
        return sum(dot(x, y) ** 2 for x in X.T for y in Y.T)
    A, B = columns_centred(A), columns_centred(B)
    return norm(A, B) / sqrt(norm(A, A) * norm(B, B))


def by_debiased_cka(A, B):
    k, m = ([[dot(x, y) for y in X] for x in X] for X in (A, B))
    return hsic_1(k, m) / sqrt(hsic_1(k, k) * hsic_1(m, m))


def by_svcca(A, B):
    """Principal components from the covariance; squared canonical correlations as eigenvalues of
    Sxx^-1 Sxy Syy^-1 Syx."""
    x, y = (X @ np.linalg.eigh(X.T @ X)[1][:, -K:] for X in (columns_centred(A), columns_centred(B)))
    found = np.linalg.eigvals(np.linalg.inv(x.T @ x) @ (x.T @ y) @ np.linalg.inv(y.T @ y) @ (y.T @ x))
    return np.sqrt(found.real.clip(0)).mean()


def by_procrustes(A, B):
    """The sum of the square roots of the eigenvalues of M'M, M = A'B, is the nuclear norm."""
    A, B = (X / sqrt(sum(dot(x, x) for x in X)) for X in (columns_centred(A), columns_centred(B)))
    M = A.T @ B
    return np.sqrt(np.linalg.eigvalsh(M.T @ M).clip(0)).sum()


def ranks(values):
    """The smallest is 1, equal ones share the mean of their ranks."""
    values = [round(v, 12) for v in values]
    return [sum(w < v for w in values) + (sum(w == v for w in values) + 1) / 2 for v in values]


def distances(X, clip=None):
    d = [1 - pearson(X[i], X[j]) for i in range(len(X)) for j in range(i)]
    if clip is None:
        return d
    low, high = (np.quantile(d, share) for share in clip)
    return [0.0 if v < low else 1.0 if v > high else (v - low) / (high - low) for v in d]


def by_rsa(A, B, clip=None):
    return pearson(ranks(distances(A, clip)), ranks(distances(B, clip)))


FORMULAS = {
    "mutual_knn": (lambda A, B: mutual_knn(A, B, K), by_mutual_knn),
    "cycle_knn": (lambda A, B: cycle_knn(A, B, K), by_cycle_knn),
    "cknna": (lambda A, B: cknna(A, B, K), by_cknna),
    "cka": (cka, by_cka),
    "debiased_cka": (debiased_cka, by_debiased_cka),
    "svcca": (lambda A, B: svcca(A, B, K), by_svcca),
    "procrustes": (procrustes, by_procrustes),
    "rsa": (rsa, by_rsa),
    "topological_rsa": (METRICS["topological_rsa"](K), lambda A, B: by_rsa(A, B, CLIP)),
}


def test_no_metric_is_without_its_formula():
    assert set(METRICS) <= set(FORMULAS)


@pytest.mark.parametrize("name", FORMULAS)
@settings(max_examples=12)
@given(pair=spaces())
def test_a_metric_is_its_formula(name, pair):
    ours, formula = FORMULAS[name]
    assert ours(*pair) == pytest.approx(formula(*pair), rel=1e-4, abs=2e-5)


@pytest.mark.parametrize("name", METRICS)
@settings(max_examples=4)
@given(pair=spaces(), seed=st.integers(0, 99))
def test_another_order_of_the_rows_is_the_formula_of_those_rows(name, pair, seed):
    A, B = pair
    order = np.random.default_rng(seed).permutation(len(A))
    summarise, compare = METRICS[name](K)
    assert compare(summarise(A), summarise(B), order) == pytest.approx(FORMULAS[name][1](A, B[order]), rel=1e-4,
                                                                       abs=2e-5)


def test_svcca_is_the_cca_of_scikit_learn_and_procrustes_that_of_scipy():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(60, 8))
    B = A @ rng.normal(size=(8, 6)) + rng.normal(size=(60, 6))
    x, y = (X @ np.linalg.svd(X, full_matrices=False)[2][:3].T for X in (columns_centred(A), columns_centred(B)))
    u, v = CCA(3, max_iter=10_000, tol=1e-10).fit_transform(x, y)
    assert svcca(A, B, 3) == pytest.approx(np.mean([pearson(u[:, i], v[:, i]) for i in range(3)]), abs=1e-6)
    disparity = scipy_procrustes(A, np.pad(B, ((0, 0), (0, 2))))[2]
    assert 1 - procrustes(A, B) ** 2 == pytest.approx(disparity)


@settings(max_examples=10)
@given(pair=spaces())
def test_unit_correlations_and_relative_states_are_their_formulas(pair):
    A, B = pair
    np.testing.assert_allclose(unit_correlations(A, B), [[pearson(a, b) for b in B.T] for a in A.T], atol=1e-6)
    anchors = np.array([3, 0, 7])
    np.testing.assert_allclose(relative(A, anchors), [[cosine(x, A[j]) for j in anchors] for x in A], atol=1e-6)


@settings(max_examples=6)
@given(pair=spaces(), seed=st.integers(0, 99))
def test_the_excess_of_a_neuron_is_its_formula(pair, seed):
    """rho_i = mean over networks of (max_j rho_ij - max_j rho~_ij), rho~ of neurons mixed by Gaussian rows of length
    1."""
    A, B = pair
    others = [B, np.maximum(B[:, ::-1], 0.2)]
    generator = torch.Generator().manual_seed(seed)
    expected = []
    for other in others:
        mixture = torch.randn(other.shape[1], other.shape[1], generator=generator, dtype=torch.float64).numpy()
        mixed = [sum(w * other[:, j].astype(float) for j, w in enumerate(row)) / sqrt(dot(row, row))
                 for row in mixture]
        expected.append([max(pearson(a, b) for b in other.T if np.ptp(b)) - max(pearson(a, m) for m in mixed)
                         for a in A.T])
    found = universal_neurons([(torch.from_numpy(A), [torch.from_numpy(other.copy()) for other in others])], seed=seed)
    np.testing.assert_allclose(found["excess"], np.mean(expected, axis=0), atol=1e-5)
    assert (found["universal"] == (found["excess"] > 0.5)).all()


def test_a_stitched_probe_is_scored_by_hand():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(120, 4))
    A, B = (z @ rng.normal(size=(4, 9)) for _ in range(2))
    y, train, anchors = (z[:, 0] > 0).astype(int), np.arange(120) < 70, np.arange(10)
    a, b = ([[cosine(x, X[j]) for j in anchors] for x in X] for X in (A, B))
    probe = LogisticRegression(C=100.0, max_iter=2000).fit(a[:70], y[:70])
    hits = [probe.predict([row])[0] == label for row, label in zip(b[70:], y[70:], strict=True)]
    assert stitch(A, B, y, anchors, train).set_index("read").loc["stitched", "value"] == pytest.approx(np.mean(hits))


@st.composite
def clouds(draw):
    """Rows of a curved manifold, no two alike."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    n, d = draw(st.integers(24, 60)), draw(st.integers(1, 5))
    X = np.tanh(rng.normal(size=(n, d)) @ rng.normal(size=(d, 7))) + draw(st.sampled_from([0, 0.05])) * rng.normal(
        size=(n, 7))
    return X + draw(st.sampled_from([0.0, 100.0]))


def sorted_distances(X):
    return [sorted(sqrt(sum((a - b) ** 2 for a, b in zip(x, y, strict=True))) for j, y in enumerate(X) if j != i)
            for i, x in enumerate(X)]


@settings(max_examples=8)
@given(X=clouds())
def test_two_nn_is_its_formula(X):
    """d = (N - 1) / sum log mu; or the line through the origin of -log(1 - F), F = i / (N + 1), on log mu, of the
    lowest nine tenths."""
    mu = sorted(r[1] / r[0] for r in sorted_distances(X))
    n = len(mu)
    assert two_nn(X)[0] == pytest.approx((n - 1) / sum(map(log, mu)), rel=1e-6)
    kept = [(log(m), -log(1 - (i + 1) / (n + 1))) for i, m in enumerate(mu)][: int(0.9 * n)]
    slope = sum(x * y for x, y in kept) / sum(x * x for x, _ in kept)
    assert two_nn(X, "fit")[0] == pytest.approx(slope, rel=1e-6)
    halves = two_nn_by_scale(np.concatenate([X, X * 1.5 + 3]), 1, seed=3)
    order = np.random.default_rng(3).permutation(2 * n)
    both = np.concatenate([X, X * 1.5 + 3])
    parts = [(len(part) - 1) / sum(log(r[1] / r[0]) for r in sorted_distances(both[part]))
             for part in np.array_split(order, 2)]
    assert halves["dimension"][1] == pytest.approx(np.mean(parts), rel=1e-6)


@settings(max_examples=8)
@given(X=clouds())
def test_gride_is_the_largest_likelihood_at_every_scale(X):
    """f(mu | d) = d (mu^d - 1)^(n2 - n1 - 1) / (mu^((n2 - 1) d + 1) B(n2 - n1, n1)), n2 = 2 n1."""
    near = sorted_distances(X)
    table = gride(X, 16)
    assert list(table["n"]) == [1, 2, 4, 8]
    for n1, found in zip(table["n"], table["dimension"], strict=True):
        n2 = 2 * n1
        mu = [r[n2 - 1] / r[n1 - 1] for r in near]

        def minus_log_likelihood(log_d, n1=n1, n2=n2, mu=mu):
            d = exp(log_d)
            if any(m**d <= 1 for m in mu):
                return inf
            return -sum(log_d + (n2 - n1 - 1) * log(m**d - 1) - ((n2 - 1) * d + 1) * log(m) - betaln(n2 - n1, n1)
                        for m in mu)

        best = minimize_scalar(minus_log_likelihood, bounds=(log(0.05), log(60)), method="bounded",
                               options={"xatol": 1e-7})
        assert found == pytest.approx(exp(best.x), rel=1e-4)


@settings(max_examples=8)
@given(X=clouds())
def test_the_participation_ratio_is_its_formula(X):
    values = np.linalg.svd(X - X.mean(0), compute_uv=False) ** 2
    assert participation_ratio(X) == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=1e-6)
