import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.utils.estimator_checks import parametrize_with_checks

from probing import LATProbe


@parametrize_with_checks([LATProbe(), LATProbe(method="kmeans")])
def test_lat_probe_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)


def pairs(n=400, d=32, signal=10.0, seed=0):
    """Differences with a concept along a direction that has `signal` times the variance of any other, and its side."""
    rng = np.random.default_rng(seed)
    v = rng.normal(size=d)
    v /= np.linalg.norm(v)
    holds = rng.integers(0, 2, n)
    noise = rng.normal(size=(n, d))
    noise -= np.outer(noise @ v, v)
    size = np.sqrt(signal) * (1 + 0.2 * rng.normal(size=n))
    return noise + np.outer((2 * holds - 1) * size, v), holds, v


@pytest.mark.parametrize("method", ["pca", "kmeans"])
def test_a_planted_direction_is_recovered_with_its_sign(method):
    X, holds, v = pairs()
    probe = LATProbe(method).fit(X[:300], holds[:300])
    assert probe.read_[0] @ v > 0.95 and probe.direction() @ v > 0.95
    assert probe.score(X[300:], holds[300:]) == 1.0
    opposite = LATProbe(method).fit(X[:300], 1 - holds[:300])
    np.testing.assert_allclose(opposite.read_, -probe.read_)
    assert probe.write_[0] @ v == pytest.approx(np.sqrt(10), rel=0.05)  # the size of the concept, in activation units


def test_the_components_are_those_of_pca_on_both_orders_of_every_pair():
    X, holds, _ = pairs(n=60, d=12, signal=2.0)
    probe = LATProbe(n_components=5).fit(X)
    oracle = PCA(5).fit(np.concatenate([X, -X]))
    np.testing.assert_allclose(np.abs((probe.components_ * oracle.components_).sum(1)), 1, rtol=1e-10)
    np.testing.assert_allclose(probe.explained_variance_ratio_, oracle.explained_variance_ratio_, rtol=1e-10)


def test_the_published_recipe_agrees_as_far_as_its_random_signs_allow():
    X, _, _ = pairs(n=2000)
    flipped = X * np.random.default_rng(1).choice([-1, 1], len(X))[:, None]
    published = PCA(1).fit(flipped).components_[0]
    assert abs(published @ LATProbe().fit(X).read_[0]) > 0.9999


def test_kmeans_is_lloyds_algorithm_on_both_orders_of_every_pair():
    X, _, _ = pairs(n=80, d=6, signal=1.5)
    start = LATProbe().fit(X).read_
    both = np.concatenate([X, -X])
    oracle = KMeans(2, init=np.concatenate([start, -start]), n_init=1, tol=0).fit(both).cluster_centers_
    axis = oracle[0] - oracle[1]
    probe = LATProbe("kmeans").fit(X)
    assert abs(probe.read_[0] @ axis) / np.linalg.norm(axis) == pytest.approx(1, abs=1e-10)
    np.testing.assert_allclose(np.abs(probe.write_[0]), np.abs(axis) / 2, atol=1e-10)


@given(seed=st.integers(0, 2**32 - 1), method=st.sampled_from(["pca", "kmeans"]))
def test_neither_the_order_within_a_pair_nor_the_basis_matters(seed, method):
    rng = np.random.default_rng(seed)
    X, holds, _ = pairs(n=40, d=5, signal=3.0, seed=seed)
    probe = LATProbe(method).fit(X, holds)
    turn = rng.choice([-1, 1], len(X))
    swapped = LATProbe(method).fit(turn[:, None] * X, np.where(turn > 0, holds, 1 - holds))
    np.testing.assert_allclose(swapped.read_, probe.read_, atol=1e-8)
    Q = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    np.testing.assert_allclose(LATProbe(method).fit(X @ Q, holds).read_, probe.read_ @ Q, atol=1e-8)


def test_without_labels_the_axis_points_to_the_first_of_most_pairs():
    X, holds, v = pairs()
    toward = np.where(holds == 1, 1, -1)[:, None] * X
    assert LATProbe().fit(toward).read_[0] @ v > 0.95
    assert LATProbe().fit(-toward).read_[0] @ v < -0.95


def test_pairs_without_a_concept_are_read_at_chance():
    rng = np.random.default_rng(0)
    X, holds = rng.normal(size=(4000, 16)), rng.integers(0, 2, 4000)
    assert LATProbe().fit(X[::2], holds[::2]).score(X[1::2], holds[1::2]) == pytest.approx(0.5, abs=0.04)


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match="'pca' or 'kmeans', not 'ica'"):
        LATProbe("ica").fit(np.eye(3))
    with pytest.raises(ValueError, match="all 4 differences are zero"):
        LATProbe().fit(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="n_components is 4; X has 3"):
        LATProbe(n_components=4).fit(np.eye(3))
