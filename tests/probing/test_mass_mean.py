"""Mass-mean, LDA, and the identities between them, least squares and LEACE."""

import numpy as np
import pytest
import torch
from concept_erasure import LeaceFitter
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.utils.estimator_checks import parametrize_with_checks

from probing._lda import LDAProbe
from probing._mass_mean import MassMeanProbe
from probing._moments import Moments

PROBES = [MassMeanProbe(), MassMeanProbe(covariance=True), LDAProbe(), LDAProbe(0.1)]


def world(n=600, d=8, n_classes=2, n_targets=1, seed=0):
    """Correlated dimensions far from the origin, uneven classes, each target moving the activation its own way."""
    rng = np.random.default_rng(seed)
    y = np.stack([rng.choice(n_classes, n, p=np.arange(1, n_classes + 1) / sum(range(n_classes + 1)))
                  for _ in range(n_targets)], 1)
    X = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 10 * rng.normal(size=d)
    for t in range(n_targets):
        X += rng.normal(size=(n_classes, d))[y[:, t]]
    return X, y[:, 0] if n_targets == 1 else y


def cosine(a, b):
    return float(a.ravel() @ b.ravel() / np.linalg.norm(a) / np.linalg.norm(b))


@parametrize_with_checks(PROBES[:3])
def test_class_mean_probes_are_scikit_learn_estimators(estimator, check):
    check(estimator)


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("shrinkage", [0.0, 0.05, 0.7, 1.0])
def test_lda_is_that_of_scikit_learn_at_the_same_shrinkage(n_classes, shrinkage):
    X, y = world(n_classes=n_classes)
    probe = LDAProbe(shrinkage).fit(X, y)
    oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(X, y)
    np.testing.assert_allclose(probe.predict_proba(X), oracle.predict_proba(X), rtol=1e-8, atol=1e-12)
    if n_classes == 2:
        np.testing.assert_allclose(probe.decision_function(X), oracle.decision_function(X), rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(probe.read_, oracle.coef_, rtol=1e-8)


def test_shrinkage_is_one_for_all_targets_and_needs_no_label():
    X, Y = world(n=30, d=20, n_targets=3, n_classes=3)
    together = LDAProbe().fit(X, Y)
    assert 0 < together.shrinkage_ < 1
    for t in range(3):
        alone = LDAProbe().fit(X, Y[:, t])
        assert alone.shrinkage_ == pytest.approx(together.shrinkage_)
        np.testing.assert_allclose(together.coef_[t], alone.coef_[0], rtol=1e-7, atol=1e-10)
        oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=alone.shrinkage_).fit(X, Y[:, t])
        np.testing.assert_allclose(together.predict_proba(X)[:, t], oracle.predict_proba(X), atol=1e-8)


@pytest.mark.parametrize("probe", PROBES, ids=str)
@pytest.mark.parametrize("n_classes, n_targets", [(2, 1), (3, 1), (3, 4)])
def test_moments_give_the_same_probe(probe, n_classes, n_targets):
    X, y = world(n_classes=n_classes, n_targets=n_targets)
    hot = (y.reshape(len(y), -1, 1) == np.arange(n_classes)).reshape(len(y), -1)
    names = [f"board/{t}={k}" for t in range(n_targets) for k in range(n_classes)]
    moments = Moments(["other", *names], ["train", "test"])
    for rows in np.array_split(np.arange(len(X)), 5):
        moments.update(X[rows], np.c_[X[rows, 0], hot[rows]], np.zeros(len(rows), int))
    moments.update(X[:9] * 2, np.c_[X[:9, 0], hot[:9]], np.ones(9, int))
    rows, road = probe.__class__(**probe.get_params()).fit(X, y), probe.fit_moments(moments, "board")
    for name in ("coef_", "intercept_", "read_", "write_"):
        np.testing.assert_allclose(getattr(road, name), getattr(rows, name), rtol=1e-7, atol=1e-9)
    np.testing.assert_array_equal(road.predict(X), rows.predict(X))


@pytest.mark.parametrize("probe", PROBES, ids=str)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_scores_are_raw_space_weights_and_directions_point_to_the_later_class(probe, n_classes):
    X, y = world(n_classes=n_classes)
    probe.fit(X, y)
    np.testing.assert_allclose(probe.logits(X)[:, 0], X @ probe.coef_[0].T + probe.intercept_[0], atol=1e-8)
    assert probe.read_.shape == probe.write_.shape == ((1 if n_classes == 2 else 3), X.shape[1])
    between = X[y == n_classes - 1].mean(0) - X[y == 0].mean(0)
    np.testing.assert_allclose(probe.direction(n_classes - 1, 0), between / np.linalg.norm(between))


def test_theta_does_not_depend_on_the_sizes_of_the_classes():
    X, y = world()
    few = np.r_[np.flatnonzero(y == 0), np.flatnonzero(y == 1)[:20]]
    again = np.r_[few, few[:-20], few[:-20]]  # class 0 three times as often: the same means
    theta, same = (MassMeanProbe().fit(X[rows], y[rows]).write_ for rows in (few, again))
    np.testing.assert_allclose(theta, same)


def test_mass_mean_with_covariance_is_lda():
    X, y = world()
    oracle = LinearDiscriminantAnalysis(solver="lsqr").fit(X, y)
    assert cosine(MassMeanProbe(covariance=True).fit(X, y).read_, oracle.coef_) > 0.9999


def test_mass_mean_accuracy_is_phi_of_half_the_distance():
    y = np.arange(20_000) // 2 % 2
    X = np.random.default_rng(0).normal(size=(20_000, 8)) + np.outer(y, 2 * np.eye(8)[0])
    assert MassMeanProbe().fit(X[::2], y[::2]).score(X[1::2], y[1::2]) == pytest.approx(0.8413, abs=0.01)  # Phi(1)


def test_least_squares_total_and_within_covariance_give_one_direction_which_is_not_the_means():
    """Sherman-Morrison: Sigma_t = Sigma_w + p0 p1 dmu dmu^T, so Sigma_t^-1 dmu is parallel to Sigma_w^-1 dmu."""
    X, y = world()
    dmu = X[y == 1].mean(0) - X[y == 0].mean(0)
    lda = LDAProbe(0).fit(X, y).read_
    least_squares = np.linalg.lstsq(X - X.mean(0), y - y.mean(), rcond=None)[0]
    within = sum(np.cov(X[y == k].T, bias=True) * (y == k).mean() for k in (0, 1))
    total = within + y.mean() * (1 - y.mean()) * np.outer(dmu, dmu)
    np.testing.assert_allclose(total, np.cov(X.T, bias=True), atol=1e-10)
    for w in (least_squares, np.linalg.solve(within, dmu), np.linalg.solve(total, dmu)):
        assert cosine(lda, w) > 1 - 1e-10
    assert cosine(lda, dmu) < 0.9


def test_lda_on_whitened_activations_is_mass_mean():
    X, y = world()
    within = sum(np.cov(X[y == k].T, bias=True) * (y == k).mean() for k in (0, 1))
    values, V = np.linalg.eigh(within)
    white = X @ (V / np.sqrt(values)) @ V.T
    lda, mass_mean = LDAProbe(0).fit(white, y), MassMeanProbe().fit(white, y)
    np.testing.assert_allclose(lda.read_, mass_mean.read_, rtol=1e-8, atol=1e-10)


def test_the_pair_of_read_and_write_is_the_eraser_of_leace():
    X, y = world()
    probe = LDAProbe(0).fit(X, y)
    w, dmu = probe.read_[0], probe.write_[0]
    P = np.eye(len(w)) - np.outer(dmu, w) / (w @ dmu)
    exact = dict(shrinkage=False, constrain_cov_trace=False, svd_tol=1e-9)
    leace = LeaceFitter.fit(torch.from_numpy(X), torch.from_numpy(y), **exact).eraser.P.numpy()
    np.testing.assert_allclose(P, leace, atol=1e-10)


def test_a_class_that_a_target_never_takes_is_never_predicted():
    X, Y = world(n_classes=3, n_targets=2)
    Y[:, 0] %= 2
    for probe in PROBES:
        probe.fit(X, Y)
        assert np.isneginf(probe.intercept_[0, 2]) and set(np.unique(probe.predict(X)[:, 0])) <= {0, 1}
        assert not probe.read_[0, 2].any() and np.isfinite(probe.coef_).all()
    assert (LDAProbe().fit(X, Y).predict_proba(X)[:, 0, 2] == 0).all()


def test_one_class_a_wrong_shrinkage_and_missing_labels_are_refused():
    X, y = world()
    with pytest.raises(ValueError, match="1 class"):
        MassMeanProbe().fit(X, 0 * y)
    with pytest.raises(ValueError, match="'auto' or a number"):
        LDAProbe("oas").fit(X, y)
    moments = Moments(("a=0", "a=1"), ("train",)).update(X, np.c_[y == 0, y == 1] * (np.arange(len(y)) > 5)[:, None])
    with pytest.raises(ValueError, match="without a label"):
        LDAProbe().fit_moments(moments, "a")
