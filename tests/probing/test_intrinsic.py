"""The Gaussian intrinsic probe: scipy's densities, subsets without refits, greedy selection equal to the slow way."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.utils.estimator_checks import parametrize_with_checks

from probing import GaussianProbe


def world(n=400, d=8, n_classes=3, informative=(5, 2), seed=0):
    """Correlated dimensions off the origin; the informative ones move with the class, the first most."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    X = rng.normal(size=(n, d)) @ (np.eye(d) + 0.2 * rng.normal(size=(d, d))) + 3 * rng.normal(size=d)
    for rank, dim in enumerate(informative):
        X[:, dim] += (3 - rank) * rng.permuted(np.arange(n_classes))[y]
    return X, y


@parametrize_with_checks([GaussianProbe()])
def test_gaussian_probe_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)


def test_any_subset_is_a_gaussian_refitted_on_it():
    X, y = world()
    probe = GaussianProbe(prior=False).fit(X, y)
    for C in ([4], [5, 2], [7, 0, 3, 1], list(range(8))):
        refit = GaussianProbe(prior=False).fit(X[:, C], y)
        np.testing.assert_allclose(probe.joint_log_prob(X, C), refit.joint_log_prob(X[:, C]), atol=1e-10)
        for k in range(3):
            own = X[y == k][:, C]
            oracle = multivariate_normal(own.mean(0), np.cov(own.T, bias=True)).logpdf(X[:, C])
            came = probe.joint_log_prob(X, C)[:, k] - np.log((y == k).mean())
            np.testing.assert_allclose(came, oracle, atol=1e-8)


def test_without_the_prior_it_is_quadratic_discriminant_analysis():
    X, y = world(n=900)
    qda = QuadraticDiscriminantAnalysis().fit(X, y)
    np.testing.assert_allclose(GaussianProbe(prior=False).fit(X, y).predict_proba(X), qda.predict_proba(X), atol=0.02)


def test_the_posterior_mode_is_the_formula():
    X, y = world()
    probe, own = GaussianProbe().fit(X, y), X[y == 1]
    n, d = own.shape
    cov = np.cov(own.T, bias=True)
    np.testing.assert_allclose(probe.covariances_[1], (np.diag(np.diag(cov)) + n * cov) / (2 * d + 4 + n), rtol=1e-12)
    np.testing.assert_allclose(probe.means_[1], own.mean(0))
    mode = multivariate_normal(own.mean(0)[[2, 6]], probe.covariances_[1][np.ix_([2, 6], [2, 6])])
    np.testing.assert_allclose(probe.joint_log_prob(X, [2, 6])[:, 1], mode.logpdf(X[:, [2, 6]]) + np.log(n / len(X)))


def test_with_the_prior_more_dimensions_than_examples_are_fine():
    X, y = world(n=40, d=60)
    assert GaussianProbe().fit(X, y).score(X, y) > 0.9
    with pytest.raises(ValueError, match="set prior=True"):
        GaussianProbe(prior=False).fit(X, y)


def slow_selection(probe, X, y, n_dims):
    """Every candidate of every step as a Gaussian of its own."""
    codes, chosen = np.searchsorted(probe.classes_, y), []
    for _ in range(n_dims):
        scores = {}
        for dim in set(range(X.shape[1])) - set(chosen):
            C = [*chosen, dim]
            joint = np.stack([multivariate_normal(m[C], S[np.ix_(C, C)]).logpdf(X[:, C]) + np.log(p) for m, S, p in
                              zip(probe.means_, probe.covariances_, probe.class_prior_, strict=True)], 1)
            log_p = joint - np.logaddexp.reduce(joint, axis=1)[:, None]
            scores[dim] = log_p[np.arange(len(y)), codes].mean()
        chosen.append(max(scores, key=lambda dim: scores[dim]))
        yield chosen[-1], scores[chosen[-1]]


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 4), st.booleans())
def test_greedy_selection_is_the_slow_one(seed, n_classes, prior):
    X, y = world(n=160, d=6, n_classes=n_classes, seed=seed)
    probe = GaussianProbe(prior=prior).fit(X[:100], y[:100])
    table = probe.select(X[100:], y[100:], 6)
    dims, scores = zip(*slow_selection(probe, X[100:], y[100:], 6), strict=True)
    assert tuple(table["dim"]) == dims
    np.testing.assert_allclose(table["log_likelihood"], scores, rtol=1e-8, atol=1e-10)


def test_the_path_is_what_refitting_each_subset_gives():
    X, y = world()
    probe = GaussianProbe().fit(X[:200], y[:200])
    table = probe.path(X[200:], y[200:], [3, 5, 0, 2])
    for step, row in table.iterrows():
        C = [3, 5, 0, 2][: step + 1]
        assert row["mutual_information"] == pytest.approx(probe.mutual_information(X[200:], y[200:], C), abs=1e-9)
        assert row["accuracy"] == pytest.approx((probe.predict(X[200:], C) == y[200:]).mean())


def test_greedy_selection_finds_the_planted_dimensions_first():
    X, y = world(n=1500, d=40, informative=(17, 4))
    table = GaussianProbe().fit(X[:1000], y[:1000]).select(X[1000:], y[1000:], 5)
    assert set(table["dim"][:2]) == {17, 4}
    assert table["mutual_information"][1] > 0.9 * table["mutual_information"].max()


def test_information_is_in_bits_and_noise_has_none():
    rng = np.random.default_rng(0)
    y = np.arange(4000) % 4
    X = np.c_[rng.normal(size=(4000, 3)), 50.0 * (y // 2) + rng.normal(size=4000)]  # the last tells one bit of two
    probe = GaussianProbe().fit(X[:2000], y[:2000])
    assert probe.mutual_information(X[2000:], y[2000:], [3]) == pytest.approx(1, abs=0.01)
    assert probe.mutual_information(X[2000:], y[2000:], [0, 1, 2]) == pytest.approx(0, abs=0.02)
    assert probe.path(X[2000:], y[2000:], [3])["normalized"].item() == pytest.approx(0.5, abs=0.005)
    shuffled = rng.permutation(y)
    probe = GaussianProbe().fit(X[:2000], shuffled[:2000])
    assert probe.score(X[2000:], shuffled[2000:]) == pytest.approx(0.25, abs=0.03)


def test_gaussians_of_known_distance_carry_known_information():
    rng = np.random.default_rng(0)
    y = np.arange(40_000) % 2
    x = rng.normal(size=40_000) + 2.0 * y  # H(V) - H(V | x), integrated on a grid
    half = rng.permutation(40_000)
    probe = GaussianProbe().fit(x[half[:20_000], None], y[half[:20_000]])
    grid = np.linspace(-10, 12, 40_001)
    p = np.exp(-0.5 * (grid[:, None] - [0, 2]) ** 2) / np.sqrt(2 * np.pi) / 2
    share = p / p.sum(1, keepdims=True)
    wanted = 1 + (p * np.log2(share)).sum() * (grid[1] - grid[0])
    assert probe.mutual_information(x[half[20_000:], None], y[half[20_000:]]) == pytest.approx(wanted, abs=0.01)


def test_scaling_and_mixing_dimensions_changes_no_information():
    X, y = world()
    A = np.random.default_rng(0).normal(size=(8, 8))
    one, other = GaussianProbe(prior=False).fit(X, y), GaussianProbe(prior=False).fit(X @ A + 7, y)
    assert one.mutual_information(X, y) == pytest.approx(other.mutual_information(X @ A + 7, y), abs=1e-8)


def test_what_cannot_be_scored_is_refused():
    X, y = world()
    probe = GaussianProbe().fit(X, y)
    with pytest.raises(ValueError, match="not fitted on: \\[7\\]"):
        probe.mutual_information(X, np.where(y == 1, 7, y))
    with pytest.raises(ValueError, match="twice"):
        probe.path(X, y, [1, 1])
    with pytest.raises(ValueError, match="between 1 and 8"):
        probe.select(X, y, 9)
