"""Doses: one length in several units, the grid, and the numbers of a curve."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from interventions import DOSES, Reference, dose_grid, steer, unit_vectors
from interventions._dose_curve import alpha50, crossing, monotonicity, saturation, slope, value_at
from interventions._doses import UNITS, sizes
from probing._sites import Site

SITE = Site("resid_post", 0)


@pytest.fixture
def world(random):
    """Two classes of correlated activations, and a probe direction that is not their difference."""
    y = torch.arange(400) % 2
    X = random(400, 24, dtype=torch.float64) @ random(24, 24, dtype=torch.float64) + y[:, None] * random(24)
    dmu = X[y == 1].mean(0) - X[y == 0].mean(0)
    return X, y, Reference(X, dmu[None]), random(24, dtype=torch.float64)


def test_dose_one_moves_the_mean_of_one_class_onto_the_other_along_the_direction_and_nowhere_else(world):
    X, y, reference, direction = world
    for r in (direction, -3 * direction):  # neither its length nor its sign matters
        v = unit_vectors(r, "class_mean", reference)
        moved = steer(v)(X[y == 0], torch.zeros(200, dtype=torch.long))
        unit = direction / direction.norm()
        assert float((moved @ unit).mean()) == pytest.approx(float((X[y == 1] @ unit).mean()), rel=1e-5)
        off = (moved - X[y == 0]) - ((moved - X[y == 0]) @ unit)[:, None] * unit
        assert float(off.abs().max()) < 1e-5


def test_every_unit_is_its_definition(world):
    X, _, reference, direction = world
    unit = direction / direction.norm()
    along = X @ unit
    wanted = {"class_mean": float(reference.difference[0] @ unit), "sd": float(along.std(correction=0)),
              "max_act": float(along.max()), "norm": float(X.norm(dim=1).mean()), "absolute": 1.0}
    assert set(wanted) == set(UNITS)
    for name, length in wanted.items():
        v = unit_vectors(direction, name, reference)
        torch.testing.assert_close(v[0].double(), length * unit, rtol=1e-5, atol=1e-6)


def test_every_case_has_its_own_class_means(world, random):
    X, _, _, direction = world
    dmu = random(7, 24, dtype=torch.float64)
    v = unit_vectors(direction, "class_mean", Reference(X, dmu))
    unit = direction / direction.norm()
    torch.testing.assert_close(v.double(), (dmu @ unit)[:, None] * unit, rtol=1e-5, atol=1e-6)


def test_a_change_is_told_in_all_units(world):
    X, _, reference, direction = world
    v = unit_vectors(direction, "class_mean", reference).double()
    norms = torch.tensor([[2.0], [0.0], [4.0]])  # the second row is not edited
    found = sizes({SITE: -1.5 * v.expand(3, -1)}, {SITE: norms}, {SITE: reference})
    length, sd = float(v.norm()), float((X @ (v[0] / v.norm())).std(correction=0))
    assert found["applied_norm"] == pytest.approx(1.5 * length, rel=1e-5)
    assert found["norm_share"] == pytest.approx(1.5 * length * (1 / 2 + 1 / 4) / 2, rel=1e-5)
    assert found["class_distances"] == pytest.approx(1.5, rel=1e-5) and found["sds"] == pytest.approx(1.5 * length / sd)
    alone = sizes({SITE: v}, {SITE: norms[:1]})
    assert alone["class_distances"] is None and alone["sds"] is None


def test_bad_doses_are_told(world):
    X, _, reference, direction = world
    with pytest.raises(ValueError, match="one of class_mean, sd, .* not 'metres'"):
        unit_vectors(direction, "metres", reference)
    with pytest.raises(ValueError, match="needs the class means"):
        unit_vectors(direction, "class_mean", Reference(X))
    with pytest.raises(ValueError, match="1 of 1 directions are zero"):
        unit_vectors(0 * direction, "sd", reference)


def test_the_grid_reaches_a_nat_on_both_sides_and_holds_the_dose_of_a_tenth():
    grid = dose_grid(lambda a: a**2 / 100 if a > 0 else a**2 / 1000)
    assert set(DOSES) < set(grid) and max(grid) == 16 and min(grid) == -32
    tenth = [a for a in grid if a > 0 and a not in (0.5, 1, 2, 4, 8, 16)]
    assert tenth == [pytest.approx(10**0.5, rel=0.03)] and -tenth[0] in grid
    assert max(dose_grid(lambda a: 0.0)) == 64 and len(dose_grid(lambda a: 0.0)) == len(DOSES) + 8
    assert min(dose_grid(lambda a: a**2, [0.0, 1.0])) == 0


ALPHAS = np.array([-2.0, -1.0, 0.0, 1.0, 2.0, 4.0])


def test_a_curve_in_numbers():
    curve = np.array([-2.0, -1.0, 0.0, 1.0, 3.0, 2.0]) + 5
    assert slope(ALPHAS, curve) == 1 and saturation(ALPHAS, curve) == 3
    assert alpha50(ALPHAS, curve) == pytest.approx(1.25) and alpha50(ALPHAS, -curve) == pytest.approx(1.25)
    assert saturation(ALPHAS, -curve) == -3
    assert monotonicity(ALPHAS, curve) == pytest.approx(spearmanr(ALPHAS, curve).statistic)
    assert monotonicity(ALPHAS, np.ones(6)) == 0 and np.isnan(alpha50(ALPHAS, np.ones(6)))
    assert value_at(ALPHAS, curve, np.array(3.0)) == pytest.approx(7.5)
    kl = np.array([0.4, 0.1, 0.0, 0.05, 0.15, 0.15])
    assert crossing(ALPHAS[2:], kl[2:], 0.1) == pytest.approx(1.5)
    assert np.isnan(crossing(ALPHAS[2:], kl[2:], 0.2))


def test_many_curves_at_once_are_each_their_own(random):
    curves = np.cumsum(random(30, 6).numpy(), axis=1).astype(float)
    for number in (slope, saturation, alpha50, monotonicity):
        np.testing.assert_allclose(number(ALPHAS, curves), [number(ALPHAS, c) for c in curves])
    doses = np.linspace(-2, 4, 30)
    np.testing.assert_allclose(value_at(ALPHAS, curves, doses),
                               [np.interp(d, ALPHAS, c) for d, c in zip(doses, curves, strict=True)])
