import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from probing import CircularProbe, circular_controls, circular_error, on_circle


@parametrize_with_checks([CircularProbe(), CircularProbe(period=3.5, frequency=2, n_components=None)])
def test_circular_probe_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)


def circle(period=7, copies=20, noise=0.02, d=64, seed=0):
    """Labels on a circle of radius 1 in a random plane of R^d, `copies` of each, far from the origin."""
    rng = np.random.default_rng(seed)
    t = np.tile(np.arange(period), copies)
    plane = np.linalg.qr(rng.normal(size=(d, 2)))[0].T
    return on_circle(t, period) @ plane + noise * rng.normal(size=(len(t), d)) + rng.normal(size=d), t, plane


@pytest.mark.parametrize("period", [7, 12])
def test_labels_on_a_noisy_circle_are_decoded_to_a_tenth_of_a_step(period):
    X, t, plane = circle(period)
    train = np.arange(len(t)) < len(t) // 2
    probe = CircularProbe(period).fit(X[train], t[train])
    assert circular_error(probe.predict(X[~train]), t[~train], period) < 0.1
    assert probe.score(X[~train], t[~train]) > 0.999
    np.testing.assert_allclose(probe.write_, plane, atol=0.02)
    second = CircularProbe(period, frequency=2).fit(X[train], t[train])
    assert abs(second.score(X[~train], t[~train])) < 0.25  # what is left is noise
    assert circular_error(second.predict(X[~train]), t[~train], period / 2) == pytest.approx(period / 8, rel=0.25)


def test_the_controls_are_rows_beside_the_probe():
    X, t, _ = circle()
    rows = circular_controls(X, t, 7).set_index(["control", "metric"])["value"]
    assert rows[None, "circular_error"] < 0.1 and rows[None, "r2_cos"] > 0.99 and rows[None, "r2_sin"] > 0.99
    assert rows["frequency", "r2_cos"] < 0.1 and rows["frequency", "r2_sin"] < 0.1


@pytest.mark.parametrize("period", [3, 7, 12, 31])
def test_a_line_is_no_stranger_to_a_circle(period):
    X, t, _ = circle(period, copies=2000 // period, noise=1e-3, d=4)
    value = circular_controls(X[: 40 * period], t[: 40 * period], period).query("probe == 'linear'")["value"].item()
    assert value == pytest.approx(6 / ((period**2 - 1) * np.sin(np.pi / period) ** 2), abs=0.02)


def test_a_label_never_seen_falls_on_the_circle_but_not_on_the_line():
    X, t, _ = circle(noise=0.01)
    rows = circular_controls(X, t, 7, groups=t).set_index(["control", "metric"])["value"]
    assert rows[None, "circular_error"] < 0.1 and rows[None, "score"] > 0.99
    assert rows["line", "r2"] < 0.5


def test_components_of_49_prompts_flatter_the_fit_but_not_the_held_out_score():
    rng = np.random.default_rng(0)
    X, t = rng.normal(size=(49, 64)), np.repeat(np.arange(7), 7)
    inside = CircularProbe(7, n_components=20).fit(X, t).score(X, t)
    outside = circular_controls(X, t, 7, n_components=20).query("metric == 'score' and control.isna()")["value"].item()
    assert inside > 0.5 and abs(outside) < 0.3


def test_the_fit_is_least_squares_on_principal_components():
    X, t, _ = circle(noise=0.5)
    oracle = make_pipeline(PCA(5), LinearRegression()).fit(X, on_circle(t, 7))
    np.testing.assert_allclose(CircularProbe().fit(X, t).transform(X), oracle.predict(X), atol=1e-10)


def test_an_activation_is_placed_on_the_circle_within_its_plane():
    X, t, _ = circle(noise=0.2)
    probe = CircularProbe().fit(X, t)
    moved = probe.place(X, np.full(len(X), 4))
    np.testing.assert_allclose(probe.predict(moved), 4, atol=1e-8)
    np.testing.assert_allclose(np.hypot(*probe.transform(moved).T), 1)
    basis = probe.read.basis.numpy()
    np.testing.assert_allclose((moved - X) @ basis.T @ basis, moved - X, atol=1e-10)
    mean = probe.mean_
    q, r = np.linalg.qr(probe.read_.T)  # read = R^T Q^T: the published point is Q R^-T c, ours keeps the intercept
    published = mean + q @ np.linalg.solve(r.T, on_circle(2, 7) - probe.intercept_) - q @ q.T @ mean
    np.testing.assert_allclose(probe.place(mean[None], 2)[0], published, atol=1e-8)


@given(seed=st.integers(0, 2**32 - 1), shift=st.integers(0, 6))
def test_turning_the_labels_turns_the_readings_and_turning_the_space_does_not(seed, shift):
    X, t, _ = circle(noise=0.3, d=6, copies=4, seed=seed)
    rng = np.random.default_rng(seed)
    probe = CircularProbe().fit(X, t)
    assert circular_error(CircularProbe().fit(X, t + shift).predict(X), probe.predict(X) + shift, 7) < 1e-6
    Q = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    turned = CircularProbe().fit(X @ Q + 5, t)
    np.testing.assert_allclose(turned.read_, probe.read_ @ Q, atol=1e-8)
    np.testing.assert_allclose(turned.write_, probe.write_ @ Q, atol=1e-8)


def test_labels_a_turn_apart_are_one_label():
    X, t, _ = circle()
    probe = CircularProbe().fit(X, t)
    np.testing.assert_allclose(CircularProbe().fit(X, t + 7 * (t % 3)).read_, probe.read_, atol=1e-12)
    assert circular_error([6.9, 0.1], [0.1, 6.9], 7) == pytest.approx(0.2)
    assert (probe.predict(X) < 7).all() and (probe.predict(X) >= 0).all()
