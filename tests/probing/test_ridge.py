"""Ridge: every left-out error against the refit it stands for, and two roads to one solution."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import LeaveOneGroupOut, LeaveOneOut
from sklearn.utils.estimator_checks import parametrize_with_checks

from probing._moments import Moments
from probing._ridge import RidgeProbe, Rows

ALPHAS = (0.01, 1.0, 30.0, 1e4)


def world(n=90, d=12, m=3, seed=0, groups=9):
    """Badly conditioned inputs off the origin; targets with noise of different sizes; uneven groups."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * np.exp(rng.normal(size=d)) + 3 * rng.normal(size=d)
    Y = X @ rng.normal(size=(d, m)) + rng.normal(size=(n, m)) * 4.0 ** np.arange(m) + 7
    return X, Y, rng.integers(0, groups, n)


def refits(X, Y, splits, intercept):
    """(alpha, example, target) errors of scikit-learn's Ridge on what was left out."""
    errors = np.empty((len(ALPHAS), *Y.shape))
    for train, test in splits:
        for i, alpha in enumerate(ALPHAS):
            model = Ridge(alpha=alpha, fit_intercept=intercept, solver="svd").fit(X[train], Y[train])
            errors[i, test] = Y[test] - model.predict(X[test])
    return errors


@parametrize_with_checks([RidgeProbe()])
def test_ridge_probe_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("d", [12, 60])
@pytest.mark.parametrize("road", ["one", "groups", "folds"])
def test_left_out_errors_are_those_of_refits(intercept, d, road):
    X, Y, g = world(n=50, d=d)
    if road == "folds":  # larger than d_model when d is 12: subtracted; of 25 when d is 60: the hat matrix
        g = np.arange(len(X)) % 2
    codes = np.arange(len(X)) if road == "one" else g
    splits = LeaveOneOut().split(X) if road == "one" else LeaveOneGroupOut().split(X, groups=g)
    came = Rows(X, Y, intercept).left_out_errors(np.unique(codes, return_inverse=True)[1], np.array(ALPHAS))
    np.testing.assert_allclose(came, (refits(X, Y, splits, intercept) ** 2).sum(1), rtol=1e-8)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("shape", [(90, 12), (30, 60)])
def test_weights_and_the_choice_are_those_of_scikit_learn(intercept, shape):
    X, Y, _ = world(*shape)
    probe = RidgeProbe(ALPHAS, fit_intercept=intercept).fit(X, Y)
    oracle = RidgeCV(ALPHAS, fit_intercept=intercept, alpha_per_target=True).fit(X, Y)
    np.testing.assert_array_equal(probe.alpha_, oracle.alpha_)
    for t, alpha in enumerate(probe.alpha_):
        refit = Ridge(alpha, fit_intercept=intercept, solver="svd").fit(X, Y[:, t])
        np.testing.assert_allclose(probe.coef_[t], refit.coef_, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(probe.predict(X)[:, t], refit.predict(X), rtol=1e-8, atol=1e-8)


def test_one_penalty_for_all_targets_has_the_best_mean_r2():
    X, Y, g = world()
    probe = RidgeProbe(ALPHAS, alpha_per_target=False).fit(X, Y, g)
    errors = refits(X, Y, LeaveOneGroupOut().split(X, groups=g), True)
    r2 = 1 - (errors**2).sum(1) / ((Y - Y.mean(0)) ** 2).sum(0)
    np.testing.assert_allclose(probe.scores_, r2, rtol=1e-8)
    assert (probe.alpha_ == ALPHAS[r2.mean(1).argmax()]).all()


@pytest.mark.parametrize("intercept", [True, False])
def test_moments_give_the_same_probe_without_the_rows(intercept):
    X, Y, g = world(n=300, groups=5)
    X += 1e3
    moments = Moments(("v/a", "v/b", "v/c"), [f"train/{i}" for i in range(5)] + ["test"])
    moments.update(np.r_[X, X[:20] + 1], np.r_[Y, Y[:20]], np.r_[g, np.full(20, 5)])
    road = RidgeProbe(ALPHAS, fit_intercept=intercept).fit_moments(moments, "v")
    rows = RidgeProbe(ALPHAS, fit_intercept=intercept).fit(X, Y, g)
    np.testing.assert_array_equal(road.alpha_, rows.alpha_)
    for name in ("coef_", "intercept_", "scores_", "write_", "read_"):
        np.testing.assert_allclose(getattr(road, name), getattr(rows, name), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(road.predict(X), rows.predict(X), rtol=1e-8, atol=1e-7)


def test_an_infinite_penalty_predicts_the_mean_and_none_is_least_squares():
    X, Y, _ = world()
    np.testing.assert_allclose(RidgeProbe(1e15).fit(X, Y).predict(X), np.tile(Y.mean(0), (len(Y), 1)), rtol=1e-6)
    ones = np.c_[np.ones(len(X)), X]
    fitted = ones @ np.linalg.lstsq(ones, Y, rcond=None)[0]
    np.testing.assert_allclose(RidgeProbe(0).fit(X, Y).predict(X), fitted, rtol=1e-8)


def test_write_is_the_slope_of_the_activation_on_the_target():
    rng = np.random.default_rng(0)
    y = rng.normal(size=2000)
    pattern, noise = np.array([1.0, 2.0, 0.0]), rng.normal(size=(2000, 3)) @ rng.normal(size=(3, 3))
    probe = RidgeProbe((1e-6,)).fit(np.outer(y, pattern) + noise, y)
    slope = np.polyfit(y, np.outer(y, pattern) + noise, 1)[0]
    np.testing.assert_allclose(probe.write_[0], slope, atol=1e-9)
    assert probe.direction() @ slope > 0 and probe.direction(pair="read") @ pattern > 0


def test_a_single_group_or_fold_is_refused():
    X, Y, _ = world()
    with pytest.raises(ValueError, match="at least 2 groups"):
        RidgeProbe().fit(X, Y, np.zeros(len(X)))
    with pytest.raises(ValueError, match="folds=5"):
        RidgeProbe().fit_moments(Moments(("a",), ("train",)).update(X, Y[:, :1]), "a")
