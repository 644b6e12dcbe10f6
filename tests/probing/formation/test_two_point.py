"""The closed form against the stiff equations, what is conserved, and rates found again in noisy curves."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from probing.formation import _two_point as dynamics
from probing.formation import conserved, end_distance, fit_two_point, rich_limit, two_point, two_point_loss

DX2, DY2 = 1.0, 0.5
CASES = [  # h, y, k = eta_y / (eta_h dx2) and the card's h at the end
    (0.01, 0.005, 2.0, 0.394198), (1.0, 0.1, 1.0, 1.288153), (0.3, 0.05, 2.0, 0.619935), (10.0, 0.1, 1.0, 10.039802)]


@pytest.mark.parametrize("h, y, k, end", CASES)
def test_training_ends_where_the_closed_form_says(h, y, k, end):
    rates = dict(dx2=DX2, dy2=DY2, eta_h=0.5, eta_y=0.5 * k)
    assert end_distance(h, y, **rates) == pytest.approx(end, abs=1e-6)
    state = two_point(np.linspace(0, 200, 400), (h, y, y - 0.01), **rates)
    assert state[-1] == pytest.approx([end, DY2, 0], abs=1e-6)
    c = conserved(state[:, 0], state[:, 1], DX2, 0.5, 0.5 * k)
    assert np.ptp(c) < 1e-6 * max(1, abs(c[0]))


def test_the_dynamics_are_the_published_equations():
    def published(_, state, dx2=2.0, dy2=0.3, eta_h=0.7, eta_y=0.4):
        h, y, w = state
        return (-eta_h * dx2 * w, -w * (eta_y * h + eta_h * dx2 * y / h),
                -0.5 * eta_y * (3 * w - y + dy2) * h - 0.5 * eta_h * dx2 * (y + w) * w / h)

    times, start = np.linspace(0, 30, 31), (0.05, 0.01, -0.02)
    oracle = solve_ivp(published, (0, 30), start, "Radau", t_eval=times, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(two_point(times + 5, start, 2.0, 0.3, 0.7, 0.4), oracle.y.T, atol=1e-6)


def test_small_weights_are_rich_and_large_ones_lazy():
    rates = dict(dx2=1.0, dy2=0.5, eta_h=1.0, eta_y=2.0)
    assert rich_limit(**rates) == pytest.approx(0.5)
    assert end_distance(1e-6, 1e-12, **rates) == pytest.approx(0.5, abs=1e-4)
    assert end_distance(0.01, 0.005, **rates) == pytest.approx(0.394, abs=1e-3)  # y / h stays 0.5: not in the limit
    assert end_distance(100.0, 0.0, **rates) == pytest.approx(100, rel=1e-3)


def test_the_loss_is_that_of_the_two_points():
    rng = np.random.default_rng(0)
    target, output = rng.normal(size=(2, 2, 3))
    dy, e = target[1] - target[0], output - target
    difference = output[1] - output[0]
    state = np.array([[1.0, difference @ difference, difference @ difference - dy @ difference]])
    found = two_point_loss(state, float(dy @ dy), np.array([(e.mean(0) ** 2).sum()]))
    assert found[0] == pytest.approx(0.5 * (e**2).sum(1).mean())


@pytest.mark.parametrize("eta_h, eta_y, start", [(0.02, 0.05, (0.05, 0.004, -0.01)), (0.3, 0.1, (2.0, 0.2, 0.1))])
def test_planted_rates_are_found_in_noisy_curves(eta_h, eta_y, start):
    times = np.arange(0.0, 400 if eta_h < 0.1 else 60, 2)
    true = two_point(times, start, DX2, DY2, eta_h, eta_y)
    noise = np.random.default_rng(0).normal(size=true.shape)
    noise[0] = 0
    found = fit_two_point(times, true + 0.02 * true.std(0) * noise, DX2, DY2)
    assert found.eta_h == pytest.approx(eta_h, rel=0.05) and found.eta_y == pytest.approx(eta_y, rel=0.05)
    assert 1e-4 < found.error < 1e-3  # 0.02 squared


def test_what_cannot_be_followed_is_refused():
    times = np.arange(6.0)
    still = np.ones((6, 3))
    with pytest.raises(ValueError, match="h never moves"):
        fit_two_point(times, still, 1.0, 1.0)
    with pytest.raises(ValueError, match="never told apart"):
        fit_two_point(times, 0 * still, 1.0, 1.0)
    with pytest.raises(ValueError, match="at least 5"):
        fit_two_point(times[:4], still[:4], 1.0, 1.0)
    with pytest.raises(ValueError, match="ascend"):
        two_point(times[::-1], (1.0, 1.0, 0.0), 1.0, 1.0, 1.0, 1.0)


def test_dynamics_that_a_solver_follows_without_end_are_an_error(monkeypatch):
    monkeypatch.setattr(dynamics, "_MOST", 50)  # a start of 1e-10 with curves of 1e-6 took LSODA for ever
    with pytest.raises(ValueError, match=r"from \(h, y, w\) = \(0.01, 0.005, -0.01\) cannot be followed: 50 steps"):
        two_point(np.linspace(0, 200, 20), (0.01, 0.005, -0.01), DX2, DY2, 0.5, 1.0)
