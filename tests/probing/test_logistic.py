import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from probing import LogisticProbe


def world(n=1500, d=12, n_targets=5, n_classes=3, seed=0):
    """Badly conditioned inputs far from the origin, several labels of a linear-softmax world."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) @ (rng.normal(size=(d, d)) * np.exp(rng.normal(size=d))) + 5 * rng.normal(size=d)
    Z = StandardScaler().fit_transform(X)
    scores = (Z @ rng.normal(size=(d, n_targets * n_classes))).reshape(n, n_targets, n_classes)
    return X, (scores + rng.gumbel(size=scores.shape)).argmax(-1)


def objective(X, y, W, b, C):
    """scikit-learn's: C * sum of losses + half the squared weights, in units of the standardised inputs."""
    scores = X @ W.T + b
    scores -= scores.max(1, keepdims=True)
    loss = np.log(np.exp(scores).sum(1)) - scores[np.arange(len(y)), y]
    return C * loss.sum() + 0.5 * ((W * X.std(0)) ** 2).sum()


@pytest.mark.parametrize("C", [0.01, 1.0])
def test_every_target_reaches_the_optimum_of_scikit_learn(C):
    X, Y = world()
    probe = LogisticProbe(C=C, tol=1e-5).fit(X, Y)
    scaler = StandardScaler().fit(X)
    for t in range(Y.shape[1]):
        oracle = LogisticRegression(C=C, tol=1e-10, max_iter=10_000).fit(scaler.transform(X), Y[:, t])
        W = oracle.coef_ / scaler.scale_
        best = objective(X, Y[:, t], W, oracle.intercept_ - W @ scaler.mean_, C)
        assert objective(X, Y[:, t], probe.coef_[t], probe.intercept_[t], C) == pytest.approx(best, rel=1e-6)
        agree = (probe.predict(X)[:, t] == oracle.predict(scaler.transform(X))).mean()
        assert agree > 0.999


def test_targets_fitted_together_are_those_fitted_alone():
    X, Y = world(n_targets=3)
    together = LogisticProbe(tol=1e-6).fit(X, Y)
    for t in range(3):
        alone = LogisticProbe(tol=1e-6).fit(X, Y[:, t])
        np.testing.assert_allclose(together.predict_proba(X)[:, t], alone.predict_proba(X), atol=2e-4)


def test_weights_live_in_raw_space_and_only_contrasts_matter():
    X, Y = world()
    probe = LogisticProbe().fit(X, Y)
    np.testing.assert_allclose(probe.logits(X), np.einsum("nd,tkd->ntk", X, probe.coef_) + probe.intercept_, atol=1e-8)
    shifted = LogisticProbe.from_weights(probe.coef_ + np.arange(12.0), probe.intercept_, probe.classes_)
    np.testing.assert_allclose(shifted.predict_proba(X), probe.predict_proba(X), atol=1e-10)


def test_without_a_bias_a_zero_activation_says_nothing():
    X, Y = world()
    probe = LogisticProbe(bias=False).fit(X, Y)
    assert (probe.intercept_ == 0).all()
    np.testing.assert_allclose(probe.predict_proba(np.zeros((1, 12))), 1 / 3)


def test_midpoint_of_two_gaussians():
    rng = np.random.default_rng(0)
    y = np.arange(20_000) % 2
    x = rng.normal(size=20_000) + np.where(y, 5.0, 1.0)
    probe = LogisticProbe(C=1e6).fit(x[:, None], y)
    w, b = np.diff(probe.coef_[0, :, 0]), np.diff(probe.intercept_[0])
    assert -b / w == pytest.approx(3.0, rel=0.05)
    assert probe.score(x[:, None], y) == pytest.approx(0.977, abs=0.005)  # Phi(2)


def test_directions_without_variance_get_no_weight():
    X, Y = world()
    X = np.c_[X, np.full(len(X), 7.0), X[:, 0] + X[:, 1]]  # a constant, and a sum of others
    probe = LogisticProbe().fit(X, Y)
    np.testing.assert_allclose(probe.coef_[..., 12], 0, atol=1e-9)
    assert np.isfinite(probe.coef_).all()


def test_an_unfinished_fit_says_so():
    X, Y = world()
    with pytest.warns(ConvergenceWarning, match="raise max_iter"):
        LogisticProbe(tol=1e-7, max_iter=5).fit(X, Y)


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="1 class"):
        LogisticProbe().fit(np.eye(4), np.zeros(4, int))
