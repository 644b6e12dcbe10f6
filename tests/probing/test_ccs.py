import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.model_selection import cross_val_score

from probing import CCSProbe, ccs_loss


def contrasts(n=600, d=32, gap=1.0, seed=0):
    """Statements and their negations: a topic that both share, a suffix that tells the sides apart and says nothing,
    and a truth direction at right angles to both."""
    rng = np.random.default_rng(seed)
    v, suffix = np.linalg.qr(rng.normal(size=(d, 2)))[0].T
    true = rng.integers(0, 2, n)
    topic = 2 * rng.normal(size=(n, d))
    topic -= np.outer(topic @ v, v)
    sign = np.stack([2 * true - 1, 1 - 2 * true], axis=1)[..., None]
    sides = topic[:, None] + gap * sign * v + 5 * np.array([1, -1])[:, None] * suffix
    return sides + 0.3 * rng.normal(size=(n, 2, d)), true, v


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


@given(seed=st.integers(0, 2**32 - 1))
def test_the_loss_is_symmetric_in_the_sides_and_zero_only_at_certainty(seed):
    p, q = torch.from_numpy(np.random.default_rng(seed).random((2, 3, 20)))
    torch.testing.assert_close(ccs_loss(p, q), ccs_loss(q, p))
    assert (ccs_loss(p, q) > 0).all()
    certain = (p > 0.5).double()
    torch.testing.assert_close(ccs_loss(certain, 1 - certain), torch.zeros(3).double())


def test_constant_probabilities_cost_a_fifth_at_best():
    p = torch.linspace(0, 1, 1001).double()[:, None]
    losses = ccs_loss(p, p)
    assert losses[500] == pytest.approx(0.25)
    assert losses.min() == pytest.approx(0.2) and p[losses.argmin()] == pytest.approx(0.4)


def test_truth_is_found_without_labels_and_labels_only_turn_it():
    X, true, v = contrasts()
    probe = CCSProbe().fit(X[:400], true[:400])
    assert probe.score(X[400:], true[400:]) > 0.98 and probe.loss_ < 0.15
    assert probe.direction() @ v > 0.95 and probe.direction(pair="read") @ v > 0.95
    assert probe.pca_.score(probe.differences(X[400:]), true[400:]) > 0.98
    blind = CCSProbe().fit(X[:400])
    np.testing.assert_allclose(np.abs(blind.read_), np.abs(probe.read_))
    np.testing.assert_allclose(CCSProbe().fit(X[:400], 1 - true[:400]).read_, -probe.read_)
    assert probe.write_[0] @ v == pytest.approx(2.0, rel=0.05)  # from -gap to +gap


def test_every_start_ends_at_a_stationary_point_of_the_penalised_loss():
    X, _, _ = contrasts(n=200, d=12)
    probe = CCSProbe(restarts=6).fit(X)
    assert probe.losses_.shape == (6,) and (probe.gradient_norm_ < probe.tol).all()
    centred = X - X.mean(0)
    std = centred.std((0, 1))

    def penalised(theta):  # the loss as the paper writes it
        p, q = sigmoid(centred / std @ theta + probe.bias_).T
        return np.mean((p - (1 - q)) ** 2 + np.minimum(p, q) ** 2) + probe.l2 / 2 * theta @ theta

    theta = probe.read_[0] * std
    assert penalised(theta) == pytest.approx(probe.loss_ + probe.l2 / 2 * theta @ theta, abs=1e-12)
    slopes = [(penalised(theta + e) - penalised(theta - e)) / 2e-5 for e in 1e-5 * np.eye(12)]
    assert np.abs(slopes).max() < 2e-6


def test_probabilities_are_those_of_the_paper():
    X, true, _ = contrasts(n=100, d=8)
    probe = CCSProbe().fit(X, true)
    p, q = sigmoid((X - X.mean(0)) @ probe.read_[0] + probe.bias_).T
    np.testing.assert_allclose(probe.predict_proba(X)[:, 1], (p + 1 - q) / 2, atol=1e-12)
    np.testing.assert_array_equal(probe.predict_proba(X)[:, 1] > 0.5, probe.predict(X) == 1)
    np.testing.assert_allclose(probe.decision_function(X), (X[:, 0] - X[:, 1]) @ probe.read_[0] + probe.intercept_,
                               atol=1e-10)


def test_swapping_the_sides_turns_every_prediction_and_nothing_else():
    X, true, _ = contrasts(n=150, d=10)
    probe, swapped = CCSProbe().fit(X, true), CCSProbe().fit(X[:, ::-1], 1 - true)
    assert swapped.loss_ == pytest.approx(probe.loss_, abs=1e-8)
    np.testing.assert_allclose(swapped.predict_proba(X[:, ::-1])[:, 1], 1 - probe.predict_proba(X)[:, 1], atol=1e-6)


def test_what_a_side_has_in_common_is_not_seen():
    X, true, _ = contrasts(n=150, d=10)
    moved = X + 100 * np.random.default_rng(1).normal(size=(2, 10))  # another suffix for either side
    np.testing.assert_allclose(CCSProbe().fit(moved, true).read_, CCSProbe().fit(X, true).read_, atol=1e-8)
    scaled = CCSProbe().fit(X * np.arange(1, 11) + 3, true)
    np.testing.assert_allclose(scaled.read_ * np.arange(1, 11), CCSProbe().fit(X, true).read_, atol=1e-6)


def test_pairs_without_truth_are_read_at_chance():
    X, true, _ = contrasts(n=1200, d=16, gap=0.0)
    probe = CCSProbe().fit(X[:600], true[:600])
    null = [np.mean(probe.predict(X[600:]) == np.random.default_rng(s).permutation(true[600:])) for s in range(200)]
    assert probe.score(X[600:], true[600:]) < np.quantile(null, 0.995)
    X, true, _ = contrasts(n=1200, d=16)
    probe = CCSProbe().fit(X[:600], true[:600])
    assert probe.score(X[600:], true[600:]) > max(null)


def test_a_pair_is_never_parted():
    X, true, _ = contrasts(n=120, d=8)
    assert cross_val_score(clone(CCSProbe(restarts=3)), X, true, cv=4).min() > 0.9
    with pytest.raises(ValueError, match=r"\(pair, 2, d_model\), not \(240, 8\)"):
        CCSProbe().fit(X.reshape(240, 8), np.repeat(true, 2))
    with pytest.raises(ValueError, match="fitted on 8"):
        CCSProbe(restarts=1).fit(X).predict(X[..., :5])
    with pytest.raises(ValueError, match="same pair"):
        CCSProbe().fit(np.ones((5, 2, 3)))
