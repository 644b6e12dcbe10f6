"""The regression probe with a hidden layer: linear worlds as ridge reads them, bent ones as ridge cannot."""

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from probing import MLPRegressorProbe, RidgeProbe
from probing._fitting import fit_columns


@parametrize_with_checks([MLPRegressorProbe(hidden=16, epochs=20)])
def test_it_keeps_the_scikit_learn_contract(estimator, check):
    check(estimator)


def world(bend=0.0, n=600):
    rng = np.random.default_rng(0)
    y = rng.normal(size=(n, 2))
    X = y @ rng.normal(size=(2, 10)) + 0.05 * rng.normal(size=(n, 10))
    return X, y + bend * np.stack([y[:, 0] * y[:, 1], y[:, 0] ** 2], 1)


def r2(probe, X, y):
    return 1 - ((probe.predict(X) - y) ** 2).sum() / ((y - y.mean(0)) ** 2).sum()


@pytest.mark.parametrize("bend", [0.0, 1.0])
def test_it_reads_what_ridge_reads_and_what_is_bent_as_well(bend):
    X, y = world(bend)
    mlp = MLPRegressorProbe().fit(X[:400], y[:400], validation=(X[400:500], y[400:500]))
    ridge = RidgeProbe().fit(X[:400], y[:400])
    mine, linear = (r2(probe, X[500:], y[500:]) for probe in (mlp, ridge))
    assert mine > 0.9 and (linear > 0.95) == (bend == 0)
    assert mine > linear - 0.02


def test_units_and_offsets_of_the_targets_do_not_matter():
    X, y = world()
    moved = y * [1e3, 1e-3] + [1e4, 5]
    plain, scaled = (MLPRegressorProbe(epochs=10).fit(X, each).predict(X) for each in (y, moved))
    np.testing.assert_allclose((scaled - [1e4, 5]) / [1e3, 1e-3], plain, atol=1e-3)


def test_it_stops_where_it_is_best_on_validation_and_one_target_keeps_its_shape():
    X, y = world(n=60)
    noise = np.random.default_rng(1).normal(size=60)
    probe = MLPRegressorProbe(epochs=50).fit(X, noise, validation=(X[::-1].copy(), noise))
    assert probe.n_epochs_ < 50 and probe.predict(X).shape == (60,)


def test_a_sweep_lets_it_stop_on_validation_although_no_number_occurs_twice():
    X, _ = world(n=60)
    noise = np.random.default_rng(1).normal(size=(60, 1))
    (probe,), = fit_columns([MLPRegressorProbe(epochs=50)], X[:40], [noise[:40]], np.arange(40), (X[40:], [noise[40:]]))
    assert probe.n_epochs_ < 50
