"""Truth that holds for affirmative and negated statements: least squares by brute force, planted directions."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from probing import LogisticProbe, MassMeanProbe, TTPDProbe


@parametrize_with_checks([TTPDProbe()])
def test_ttpd_probe_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)


def statements(n=1200, d=24, seed=0, general=1.0, turned=1.0, topics=3):
    """Activations of the model that the probe assumes, their truth, polarity and topic; t_G, t_P and the direction of
    polarity at right angles."""
    rng = np.random.default_rng(seed)
    t_G, t_P, d_p, *means = np.linalg.qr(np.random.default_rng(7).normal(size=(d, 3 + topics)))[0].T
    true, affirmative, topic = rng.integers(0, 2, n), rng.integers(0, 2, n), rng.integers(0, topics, n)
    tau, p = 2 * true - 1, 2 * affirmative - 1
    X = 3 * np.array(means)[topic] + np.outer(p, d_p) + 0.3 * rng.normal(size=(n, d))
    X += general * np.outer(tau, t_G) + turned * np.outer(tau * p, t_P)
    return X, true, affirmative, topic, (t_G, t_P, d_p)


def test_the_directions_are_the_least_squares_solution_with_a_mean_for_every_set():
    X, true, affirmative, topic, _ = statements(n=300, d=8)
    keep = np.random.default_rng(1).random(300) < np.where(true & affirmative, 0.4, 0.9)  # no set is balanced
    X, true, affirmative, topic = X[keep], true[keep], affirmative[keep], topic[keep]
    tau, p = 2 * true - 1, 2 * affirmative - 1
    sets = np.eye(6)[2 * topic + affirmative]
    oracle = np.linalg.lstsq(np.column_stack([tau, tau * p, sets]), X, rcond=None)[0]
    probe = TTPDProbe().fit(X, true, polarity=affirmative, topic=topic)
    np.testing.assert_allclose([probe.t_G_, probe.t_P_], oracle[:2], atol=1e-10)


def test_in_balanced_sets_they_are_those_of_the_released_code():
    X, _, _, _, _ = statements(n=400, d=10)
    true, affirmative = np.arange(400) % 2, np.arange(400) // 2 % 2
    tau, p = 2.0 * true - 1, 2.0 * affirmative - 1
    centred = X - np.where(affirmative[:, None], X[affirmative == 1].mean(0), X[affirmative == 0].mean(0))
    A = np.column_stack([tau, tau * p])
    t_G, t_P = np.linalg.inv(A.T @ A) @ A.T @ centred
    probe = TTPDProbe().fit(X, true, polarity=affirmative)
    np.testing.assert_allclose([probe.t_G_, probe.t_P_], [t_G, t_P], atol=1e-10)


def test_what_is_read_in_the_plane_is_what_scikit_learn_would_read():
    X, true, affirmative, topic, _ = statements(general=0.3)
    probe = TTPDProbe(C=0.5).fit(X, true, polarity=affirmative, topic=topic)

    def logistic(F, y):
        fitted = make_pipeline(StandardScaler(), LogisticRegression(C=0.5, tol=1e-10, max_iter=2000)).fit(F, y)
        return fitted, fitted[1].coef_[0] / fitted[0].scale_

    np.testing.assert_allclose(probe.d_p_, logistic(X, affirmative)[1], rtol=1e-2, atol=1e-3)
    plane = probe.plane(X)
    np.testing.assert_allclose(plane, X @ np.stack([probe.t_G_, probe.d_p_]).T)
    fitted, weights = logistic(plane, true)
    np.testing.assert_allclose(probe.weights_, weights, rtol=1e-2)
    np.testing.assert_allclose(probe.predict_proba(X), fitted.predict_proba(plane), atol=1e-3)
    np.testing.assert_allclose(probe.decision_function(X), plane @ probe.weights_ + probe.intercept_, atol=1e-8)
    np.testing.assert_allclose(probe.predict_proba(X)[:, 1], expit(probe.decision_function(X)))


def test_planted_directions_are_recovered_and_the_first_components_are_theirs():
    X, true, affirmative, topic, (t_G, t_P, d_p) = statements(general=1.5)
    probe = TTPDProbe().fit(X, true, polarity=affirmative, topic=topic)
    for found, planted, size in ((probe.t_G_, t_G, 1.5), (probe.t_P_, t_P, 1.0)):
        assert found @ planted == pytest.approx(size, rel=0.05)
        assert np.linalg.norm(found) == pytest.approx(size, rel=0.05)
    assert probe.d_p_ @ d_p / np.linalg.norm(probe.d_p_) > 0.9
    sets = 2 * topic + affirmative
    centred = X - np.array([X[sets == k].mean(0) for k in range(6)])[sets]
    first, second = np.linalg.svd(centred, full_matrices=False)[2][:2]
    assert abs(first @ probe.t_G_) / np.linalg.norm(probe.t_G_) > 0.98  # the paper: 0.98, and 0.98 for the second
    assert abs(second @ probe.t_P_) / np.linalg.norm(probe.t_P_) > 0.98
    np.testing.assert_allclose(probe.write_[0], 2 * probe.t_G_)


def test_truth_of_negated_statements_is_lost_by_a_probe_of_affirmative_ones_and_kept_here():
    X, true, affirmative, _, _ = statements(seed=1, turned=1.5)
    Z, told, kind, _, _ = statements(seed=2, turned=1.5)
    half, negated = affirmative == 1, kind == 0
    one_sided = MassMeanProbe().fit(X[half], true[half])
    assert one_sided.score(Z[kind == 1], told[kind == 1]) > 0.98
    assert roc_auc_score(told[negated], one_sided.decision_function(Z[negated])) < 0.3  # below chance
    probe = TTPDProbe().fit(X, true, polarity=affirmative)
    for part in (negated, ~negated):
        assert probe.score(Z[part], told[part]) > 0.95
    assert LogisticProbe().fit(X[half], true[half]).score(Z[negated], told[negated]) < 0.6


def test_without_polarity_it_is_the_difference_of_means():
    X, true, _, _, _ = statements(n=300, turned=0)
    probe, plain = TTPDProbe().fit(X, true), MassMeanProbe().fit(X, true)
    np.testing.assert_allclose(probe.write_, plain.write_, atol=1e-10)
    assert not probe.t_P_.any() and not probe.d_p_.any() and probe.weights_[1] == 0
    assert (probe.predict(X) == plain.predict(X)).mean() > 0.95


def test_the_coding_of_polarity_does_not_matter_and_that_of_truth_turns_the_signs():
    X, true, affirmative, _, _ = statements(n=200)
    probe = TTPDProbe().fit(X, true, polarity=affirmative)
    for coded in (2 * affirmative - 1, affirmative.astype(bool), np.array(["1 no", "2 yes"])[affirmative]):
        np.testing.assert_array_equal(TTPDProbe().fit(X, true, polarity=coded).read_, probe.read_)
    turned = TTPDProbe().fit(X, 1 - true, polarity=affirmative)
    np.testing.assert_allclose(turned.t_G_, -probe.t_G_, atol=1e-12)
    np.testing.assert_allclose(turned.read_, -probe.read_, atol=1e-3)


def test_what_cannot_be_told_apart_is_refused():
    X, true, affirmative, _, _ = statements(n=80, d=6)
    with pytest.raises(ValueError, match=r"polarity has the value\(s\) \[1\], wanted two"):
        TTPDProbe().fit(X, true, polarity=np.ones(80, int))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        TTPDProbe().fit(X, true, polarity=affirmative[:40])
    with pytest.raises(ValueError, match="true and false statements of either polarity"):
        TTPDProbe().fit(X, true, polarity=true)
    with pytest.raises(ValueError, match="no set of statements holds both classes"):
        TTPDProbe().fit(X, true, topic=true)
    with pytest.raises(ValueError, match="Only binary"):
        TTPDProbe().fit(X, np.arange(80) % 3, polarity=affirmative)
