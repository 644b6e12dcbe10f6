"""Low-rank ridge against its definition, and principal components against scikit-learn's."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from probing._components import principal_components, whitener
from probing._low_rank import LowRankProbe, rank_for
from probing._moments import Moments
from probing._scatter import Scatter


def world(n=400, d=20, m=8, rank=3, noise=0.5, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * np.exp(0.5 * rng.normal(size=d)) + 5
    return X, X @ rng.normal(size=(d, rank)) @ rng.normal(size=(rank, m)) + noise * rng.normal(size=(n, m)) + 2


@parametrize_with_checks([LowRankProbe()])
def test_low_rank_probe_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)


@pytest.mark.parametrize("shape", [(400, 20, 8), (50, 8, 12), (10, 20, 4)])
def test_full_rank_is_ridge(shape):
    X, Y = world(*shape)
    probe, oracle = LowRankProbe(alpha=3.0).fit(X, Y), Ridge(3.0).fit(X, Y)
    np.testing.assert_allclose(probe.coef_, oracle.coef_, atol=1e-8)
    np.testing.assert_allclose(probe.predict(X), oracle.predict(X), atol=1e-8)


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_no_other_weights_of_the_rank_have_a_smaller_objective(rank):
    X, Y = world(rank=6, noise=3.0)
    X, Y, alpha = X - X.mean(0), Y - Y.mean(0), 50.0

    def objective(W):
        return ((Y - X @ W.T) ** 2).sum() + alpha * (W**2).sum()

    def alternate(B):
        """Least squares for each factor in turn, from a random start."""
        for _ in range(300):
            G = np.linalg.qr(B)[0]  # (m, r): W = G A
            A = np.linalg.solve(X.T @ X + alpha * np.eye(X.shape[1]), X.T @ Y @ G).T
            B = Y.T @ X @ A.T @ np.linalg.inv(A @ (X.T @ X + alpha * np.eye(X.shape[1])) @ A.T)
        return B @ A

    probe = LowRankProbe(rank, alpha).fit(X, Y)
    assert np.linalg.matrix_rank(probe.coef_) == rank
    best = min(objective(alternate(np.random.default_rng(s).normal(size=(Y.shape[1], rank)))) for s in range(3))
    assert objective(probe.coef_) == pytest.approx(best, rel=1e-9)


def test_scores_of_every_rank_are_those_of_separate_fits_and_find_the_planted_rank():
    (X, Y), alpha = world(800, rank=3), 10.0
    train, test = slice(0, 500), slice(500, 800)
    full = LowRankProbe(alpha=alpha).fit(X[train], Y[train])
    scores = full.rank_scores(Scatter.of(X[test], Y[test]))
    for rank in range(1, 9):
        probe = LowRankProbe(rank, alpha).fit(X[train], Y[train])
        error = ((Y[test] - probe.predict(X[test])) ** 2).sum()
        assert scores[rank - 1] == pytest.approx(1 - error / ((Y[test] - Y[test].mean(0)) ** 2).sum(), abs=1e-9)
    assert scores[-1] == pytest.approx(r2_score(Y[test], full.predict(X[test]), multioutput="variance_weighted"))
    assert rank_for(scores) <= 3 < rank_for(scores, 1.0) + 1
    with pytest.raises(ValueError, match="no better than the mean"):
        rank_for(np.array([-0.1, -0.2]))


def test_moments_give_the_same_probe():
    X, Y = world()
    moments = Moments([f"v/{i}" for i in range(8)], ("train", "test"))
    fold = (np.arange(len(X)) % 4 == 0).astype(int)
    for rows in np.array_split(np.arange(len(X)), 3):
        moments.update(X[rows], Y[rows], fold[rows])
    road, rows = LowRankProbe(3).fit_moments(moments, "v"), LowRankProbe(3).fit(X[fold == 0], Y[fold == 0])
    for name in ("coef_", "intercept_", "read_", "write_"):
        a, b = getattr(road, name), getattr(rows, name)
        if name in ("read_", "write_"):  # eigenvectors: up to a sign
            a, b = np.abs(a), np.abs(b)
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)
    held_out = moments.scatter("test").select(np.arange(8))
    np.testing.assert_allclose(road.rank_scores(held_out), rows.rank_scores(Scatter.of(X[fold == 1], Y[fold == 1])))


def test_a_rank_beyond_the_targets_is_refused():
    with pytest.raises(ValueError, match="between 1 and 8"):
        LowRankProbe(9).fit(*world())


def test_principal_components_are_those_of_scikit_learn():
    X, _ = world()
    came = principal_components(Moments().update(X[:100]).update(X[100:]).scatter(), 4)
    oracle = PCA(4).fit(X)
    np.testing.assert_allclose(np.abs(came.directions), np.abs(oracle.components_), atol=1e-8)
    np.testing.assert_allclose(came.variance, oracle.explained_variance_ * (len(X) - 1) / len(X))
    np.testing.assert_allclose(came.ratio, oracle.explained_variance_ratio_)
    np.testing.assert_allclose(np.abs(came.scores(X)), np.abs(oracle.transform(X)), atol=1e-8)
    with pytest.raises(ValueError, match="between 1 and 20"):
        principal_components(Scatter.of(X, X[:, :0]), 21)


def test_whitened_activations_have_unit_covariance_where_there_is_variance():
    X, _ = world()
    X = np.c_[X, X[:, :2] @ [1.0, 2.0]]  # dependent
    scatter = Scatter.of(X, X[:, :0])
    W = whitener(scatter, shrinkage=0)
    white = np.cov(((X - X.mean(0)) @ W).T, bias=True)
    np.testing.assert_allclose(white @ white, white, atol=1e-8)  # the identity on a subspace
    assert np.trace(white) == pytest.approx(20)
    a, S = scatter.shrinkage, scatter.xx / scatter.n
    shrunk = (1 - a) * S + a * np.trace(S) / len(S) * np.eye(len(S))
    W = whitener(scatter)
    np.testing.assert_allclose(W @ shrunk @ W, np.eye(len(S)), atol=1e-8)
