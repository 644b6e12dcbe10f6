import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from probing import CAVProbe, coherence


@parametrize_with_checks([CAVProbe(repeats=3, placebos=1)])
def test_cav_probe_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)


def world(n_concept=60, n_pool=1500, d=48, gap=2.0, seed=0):
    """A pool of random examples, and examples of a concept that is `gap` standard deviations away."""
    rng = np.random.default_rng(seed)
    v = rng.normal(size=d)
    v /= np.linalg.norm(v)
    y = np.r_[np.ones(n_concept, int), np.zeros(n_pool, int)]
    return rng.normal(size=(len(y), d)) + np.outer(y, gap * v) + 3, y, v


def test_cavs_of_a_concept_agree_more_than_the_placebo_and_random_ones_not_at_all():
    X, y, v = world(gap=4.0)
    probe = CAVProbe(repeats=20).fit(X, y)
    np.testing.assert_allclose(np.linalg.norm(probe.cavs_, axis=1), 1)
    real, placebo, random = (coherence(c) for c in (probe.cavs_, probe.placebo_cavs_, probe.random_cavs_))
    assert real > placebo.max() + 0.2 and abs(random) < 0.1
    assert (probe.cavs_ @ v > 0.5).all() and probe.direction(pair="read") @ v > 0.8
    assert probe.score(X, y) > 0.95


def test_a_set_without_a_concept_agrees_like_the_placebos():
    real, placebo = [], []
    for seed in range(12):
        X, y, _ = world(n_pool=800, d=24, gap=0.0, seed=seed)
        probe = CAVProbe(repeats=8, placebos=2, tol=1e-3, seed=seed).fit(X, y)
        real.append(coherence(probe.cavs_))
        placebo.append(coherence(probe.placebo_cavs_).mean())
    assert np.mean(real) == pytest.approx(np.mean(placebo), abs=0.05)
    assert np.mean(real) > 0.3  # shared examples alone do that: random against random is the wrong yardstick


def test_every_cav_is_the_normal_of_a_scikit_learn_classifier():
    X, y, _ = world(n_concept=40, n_pool=300, d=10)
    probe = CAVProbe(repeats=4, placebos=1, C=0.5, tol=1e-10).fit(X, y)
    assert (probe.gap_ <= probe.tol).all()
    side, used = probe._columns(y == 1)
    scaler = StandardScaler().fit(X)
    ours = np.concatenate([probe.cavs_, probe.random_cavs_, *probe.placebo_cavs_])
    for j in range(12):
        rows = used[:, j]
        oracle = LogisticRegression(C=0.5, tol=1e-10, max_iter=10_000).fit(scaler.transform(X[rows]), side[rows, j])
        normal = oracle.coef_[0] / scaler.scale_
        assert ours[j] @ normal / np.linalg.norm(normal) > 1 - 1e-5


def test_sets_are_as_asked_and_disjoint_where_the_pool_allows():
    _, y, _ = world(n_concept=30, n_pool=400)
    probe = CAVProbe(repeats=6, placebos=2)
    probe.classes_ = np.array([0, 1])
    side, used = (part.reshape(len(y), 4, 6) for part in probe._columns(y == 1))
    negative = used & ~side
    assert (negative.sum(0) == 30).all() and (side.sum(0) == 30).all()
    assert (negative[:, 0].sum(1) <= 1).all() and (used[:, 1].sum(1) <= 1).all()
    assert (used[y == 1, 0]).all() and not used[y == 1, 1:].any()
    assert (side[:, 2:] == side[:, 2:, :1]).all()  # a placebo is one set, in every repeat
    assert (side[:, 2] != side[:, 3]).any()


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 12))
def test_coherence_is_the_mean_cosine_of_all_pairs(seed, n):
    rows = np.random.default_rng(seed).normal(size=(n, 5))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert coherence(rows) == pytest.approx((rows @ rows.T)[np.triu_indices(n, 1)].mean(), abs=1e-12)
    assert coherence(np.repeat(rows[:1], n, axis=0)) == pytest.approx(1)


def test_what_is_wrong_is_said():
    X, y, _ = world(n_concept=5, n_pool=20, d=3)
    with pytest.raises(ValueError, match="size is 11; two sets must fit into the pool of 20"):
        CAVProbe(size=11).fit(X, y)
    with pytest.raises(ValueError, match="3 examples of class"):
        CAVProbe().fit(X[:8], y[:8])
    with pytest.raises(ValueError, match="repeats of 2"):
        coherence(np.ones((1, 3)))
