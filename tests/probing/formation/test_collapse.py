"""A simplex is collapsed, noise is not."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid

from probing.formation import class_distance_variance, neural_collapse


def simplex(K=5, d=20, n=40, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    corners = (np.eye(K) - 1 / K) @ np.linalg.qr(rng.normal(size=(d, K)))[0].T
    y = np.repeat(np.arange(K), n)
    return corners, 3 + corners[y] + noise * rng.normal(size=(K * n, d)), y


def test_a_simplex_with_tiny_noise_is_collapsed():
    corners, H, y = simplex(noise=1e-6)
    found = neural_collapse(H, y, 4 * corners, -4 * corners @ H.mean(0))
    assert found["nc1"] < 1e-6 and found["nc3"] < 1e-6 and found["nc4"] == 0
    assert found["nc2_norms"] < 1e-5 and found["nc2_angles"] < 1e-5


def test_cosines_of_the_simplex_are_exact_and_its_centre_does_not_matter():
    corners, H, y = simplex(7, noise=1e-12)
    M = corners / np.linalg.norm(corners, axis=1, keepdims=True)
    np.testing.assert_allclose((M @ M.T)[~np.eye(7, dtype=bool)], -1 / 6)
    assert neural_collapse(H + 50, y)["nc2_angles"] < 1e-9


def test_random_features_are_not_collapsed():
    rng = np.random.default_rng(0)
    H, y = rng.normal(size=(400, 20)), np.arange(400) % 5
    found = neural_collapse(H, y, rng.normal(size=(5, 20)))
    assert found["nc1"] > 1 and found["nc3"] > 0.5 and found["nc4"] > 0.5
    assert "nc3" not in neural_collapse(H, y)


def test_each_number_is_its_definition():
    _, H, y = simplex(4, noise=0.3)
    model = LogisticRegression(max_iter=1000).fit(H, y)
    found = neural_collapse(H, y, model.coef_, model.intercept_)
    assert found["nc4"] == pytest.approx((model.predict(H) != NearestCentroid().fit(H, y).predict(H)).mean())
    means = np.stack([H[y == c].mean(0) for c in range(4)])
    S_B = np.cov(means.T, bias=True)
    S_W = sum(np.cov(H[y == c].T, bias=True) for c in range(4)) / 4
    assert found["nc1"] == pytest.approx(np.trace(S_W @ np.linalg.pinv(S_B, rcond=1e-10)) / 4)
    table = class_distance_variance(H, y).set_index(["a", "b"])
    assert len(table) == 6
    spread = [((H[y == c] - means[c]) ** 2).sum(1).mean() for c in range(4)]
    expected = (spread[2] + spread[0]) / (2 * ((means[2] - means[0]) ** 2).sum())
    assert table.loc[(2, 0), "value"] == pytest.approx(expected)


def test_what_cannot_collapse_is_refused():
    _, H, y = simplex()
    with pytest.raises(ValueError, match="2 classes with 2 examples"):
        neural_collapse(H, np.zeros(len(H), int))
    with pytest.raises(ValueError, match="the classifier has 3 classes, the labels 5"):
        neural_collapse(H, y, np.ones((3, 20)))
    with pytest.raises(ValueError, match="no directions"):
        neural_collapse(np.ones((8, 3)), np.arange(8) % 2)
