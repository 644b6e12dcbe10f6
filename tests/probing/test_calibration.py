import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.calibration import _sigmoid_calibration

from probing import calibration, expected_calibration_error, fit_platt, fit_temperature


def calibrated(n=20_000, n_classes=3, seed=0):
    """Logits, and labels drawn from their softmax."""
    rng = np.random.default_rng(seed)
    z = 2 * rng.normal(size=(n, n_classes))
    return z, (z + rng.gumbel(size=z.shape)).argmax(1)


@pytest.mark.parametrize("n_classes", [2, 3, 8])
@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
def test_temperature_undoes_a_temperature(true, n_classes):
    z, y = calibrated(n_classes=n_classes)
    assert fit_temperature(true * z, y) == pytest.approx(true, rel=0.1)


def test_temperature_is_the_minimum_of_the_log_loss():
    z, y = calibrated(n=500)
    loss = minimize_scalar(lambda t: -log_softmax(z / t, axis=1)[np.arange(500), y].mean(), bounds=(0.1, 10),
                           method="bounded", options={"xatol": 1e-9})
    assert fit_temperature(z, y) == pytest.approx(loss.x, rel=1e-5)


def test_temperature_has_bounds():
    z, y = calibrated(n=200)
    assert fit_temperature(z, z.argmax(1)) == pytest.approx(1e-3)
    assert fit_temperature(z, z.argmin(1)) == pytest.approx(1e3)


def test_a_class_without_probability_changes_no_temperature():
    z, y = calibrated(n=500)
    never = np.c_[z, np.full(500, -np.inf)]
    assert fit_temperature(never, y) == pytest.approx(fit_temperature(z, y), rel=1e-9)
    with pytest.raises(ValueError, match="probability 0"):
        fit_temperature(never, np.full(500, 3))


@pytest.mark.parametrize("shift, scale", [(0.0, 1.0), (300.0, 0.01)])
def test_platt_is_scikit_learns(shift, scale):
    z, y = calibrated(n=2000, n_classes=2)
    scores = shift + scale * (z[:, 1] - z[:, 0])
    a, b = fit_platt(scores, y)
    minus_a, minus_b = _sigmoid_calibration((scores - shift) / scale, y)
    assert a * scale == pytest.approx(-minus_a, rel=1e-3)
    assert b + a * shift == pytest.approx(-minus_b, abs=1e-3)


def test_platt_of_separable_scores_is_finite():
    a, b = fit_platt(np.r_[-np.ones(50), np.ones(50)], np.r_[np.zeros(50, int), np.ones(50, int)])
    assert 1 / (1 + np.exp(-a - b)) == pytest.approx(51 / 52, rel=1e-6)


def test_ece_by_hand():
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.3, 0.7]])
    y = np.array([0, 1, 1, 0])  # at 0.9 half are right; the one at 0.6 is; the one at 0.7 is not
    assert expected_calibration_error(p, y) == pytest.approx((2 * 0.4 + 0.4 + 0.7) / 4)
    assert expected_calibration_error(np.eye(2)[[0, 1]], np.array([0, 1])) == 0


def test_ece_of_calibrated_probabilities_is_small():
    z, y = calibrated(n=50_000)
    assert expected_calibration_error(softmax(z, axis=1), y) < 0.01
    assert expected_calibration_error(softmax(3 * z, axis=1), y) > 0.05


@pytest.mark.parametrize("n_classes, kinds", [(2, ["none", "temperature", "platt"]), (3, ["none", "temperature"])])
def test_the_table_shows_both_metrics_before_and_after(n_classes, kinds):
    z, y = calibrated(n_classes=n_classes)
    table = calibration((3 * z[::2], y[::2]), (3 * z[1::2], y[1::2]))
    assert table["calibration"].unique().tolist() == kinds
    values = table.pivot(index="calibration", columns="metric", values="value")
    for kind in kinds[1:]:
        assert (values.loc[kind] < values.loc["none"]).all()
    with pytest.raises(ValueError, match="of one probe"):
        calibration((z, y), (z[:, 1:], y))
