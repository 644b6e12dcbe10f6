"""Curves with a known place: the step is found again, and what has none is a line."""

import numpy as np
import pytest
from scipy.optimize import curve_fit
from scipy.stats import spearmanr

from probing.formation import Curve, coincidence, coincidences, order, transition, transitions

STEPS = np.r_[0, np.unique(np.round(2 ** np.arange(4, 13, 0.5)).astype(int))]  # 0, 16, 23, 32, ... 2896


def sigmoid(step, width, low=0.6, high=0.95, steps=STEPS):
    x = Curve("", steps, np.arange(len(steps), dtype=float)).x
    return low + (high - low) / (1 + np.exp(-2 * np.log(9) * (x - np.log10(step)) / width))


def noisy(y, seed, sd=0.01, name="noisy"):
    return Curve(name, STEPS, y + np.random.default_rng(seed).normal(scale=sd, size=len(y)))


@pytest.mark.parametrize("step", [40, 150, 400, 1200])
@pytest.mark.parametrize("width", [0.05, 0.3, 0.8])
def test_a_step_at_a_known_place_is_recovered_within_a_tenth_of_a_decade(step, width):
    for seed in range(3):
        found = transition(noisy(sigmoid(step, width), seed))
        assert abs(np.log10(found["step"] / step)) < 0.1
        assert found["sharp"] and found["bic_gain"] > 0 and found["p_value"] <= 0.01
        assert found["steepest_from"] / 2 < step < found["steepest_to"] * 2
        assert abs(np.log10(found["half_rise"] / step)) < 0.15


def test_without_noise_the_sigmoid_is_found_to_the_grid():
    found = transition(Curve("exact", STEPS, sigmoid(200, 0.5)))
    assert np.log10(found["step"]) == pytest.approx(np.log10(200), abs=0.02)
    assert found["width"] == pytest.approx(0.5, rel=0.2)
    assert (found["start"], found["end"]) == pytest.approx((0.6, 0.95), abs=5e-3)
    assert (found["first"], found["last"]) == pytest.approx((0.6, 0.95), abs=5e-3)
    assert found["step_low"] < 200 < found["step_high"] and np.isnan(found["half_rise_low"])
    assert (found["between_from"], found["between_to"]) == (181, 256)


@pytest.mark.parametrize("width, least", [(0.01, 0.10), (0.6, 0.02)])
def test_a_jump_is_anywhere_between_its_checkpoints_and_the_interval_says_so(width, least):
    """Places drawn evenly between two checkpoints, 0.15 decades apart; a wide rise has a place of its own."""
    hit, wide, places = [], [], 10 ** np.linspace(np.log10(256), np.log10(362), 22)[1:-1]
    for i, place in enumerate(places):
        hits, cells = groups(place, 400, i, width)
        found = transition(Curve.of_groups("c", STEPS, hits, cells, n_boot=200), seed=i)
        hit.append(found["step_low"] <= place <= found["step_high"])
        wide.append(np.log10(found["step_high"] / found["step_low"]))
        assert (found["between_from"], found["between_to"]) == (256, 362) or width > 0.1
    assert sum(hit) >= 17  # of 20, at 95 %
    assert least < np.mean(wide) < 0.2


def test_two_jumps_between_the_same_checkpoints_cannot_be_ordered():
    early, late = (Curve.of_groups("c", STEPS, *groups(step, 400, step, 0.01), n_boot=200) for step in (270, 345))
    both = coincidence(early, late)
    assert both["lag_low"] < 0 < both["lag_high"] and both["lag_p"] > 0.05
    assert both["spacing"] == pytest.approx(np.log10(362 / 256))


def test_a_falling_curve_has_its_transition_too():
    up, down = (transition(Curve("", STEPS, y)) for y in (sigmoid(90, 0.4), 3 - sigmoid(90, 0.4)))
    assert down["step"] == up["step"] and down["start"] > down["end"] and down["sharp"]
    assert down["half_rise"] == pytest.approx(up["half_rise"])


def test_a_rise_that_has_only_begun_has_no_place():
    found = transition(noisy(sigmoid(8000, 0.3), 0))
    assert found["bic_gain"] > 0 and STEPS[-2] < found["step"] and not found["sharp"]


def test_no_optimiser_finds_a_sigmoid_that_is_better_by_more_than_the_grid():
    x = Curve("", STEPS, np.zeros(len(STEPS))).x

    def shape(at, a, b, place, width):
        return a + b / (1 + np.exp(-2 * np.log(9) * (at - place) / width))

    for seed in range(3):
        curve = noisy(sigmoid(250, 0.6), seed, sd=0.02)
        found = transition(curve)
        best, _ = curve_fit(shape, x, curve.values, p0=[0.6, 0.35, np.log10(250), 0.6], maxfev=5000)
        ours = ((curve.values - shape(x, found["start"], found["end"] - found["start"], np.log10(found["step"]),
                                      found["width"])) ** 2).sum()
        assert ours <= 1.04 * ((curve.values - shape(x, *best)) ** 2).sum()
        assert np.log10(found["step"]) == pytest.approx(best[2], abs=0.04)


def test_bic_is_that_of_the_two_fits():
    curve = noisy(sigmoid(250, 0.6), 0)
    found, x, n = transition(curve), curve.x, len(STEPS)
    line = np.polynomial.Polynomial.fit(x, curve.values, 1)(x)
    s = 1 / (1 + np.exp(-2 * np.log(9) * (x - np.log10(found["step"])) / found["width"]))
    fit = found["start"] + (found["end"] - found["start"]) * s
    bic = [n * np.log(((curve.values - y) ** 2).mean()) + k * np.log(n) for y, k in ((line, 3), (fit, 5))]
    assert found["bic_gain"] == pytest.approx(bic[0] - bic[1])


@pytest.mark.parametrize("slope", [0.0, 0.05])
def test_an_untrained_sequence_and_a_slow_rise_are_lines(slope):
    x = Curve("", STEPS, np.zeros(len(STEPS))).x
    found = transitions([noisy(0.6 + slope * x, seed) for seed in range(24)])
    assert (found["bic_gain"] < 0).mean() > 0.6  # a bend fits noise better than two numbers should: hence p
    assert found["sharp"].sum() <= 5  # of 24 at the 5 % level; 4 % and 6 % of 300
    assert found["p_value"].mean() == pytest.approx(0.5, abs=0.1)


def test_a_curve_that_never_moves_has_no_transition():
    found = transition(Curve("flat", STEPS, np.full(len(STEPS), 0.7)))
    assert not found["sharp"] and np.isnan([found["step"], found["half_rise"], found["p_value"]]).all()
    both = coincidence(Curve("flat", STEPS, np.full(len(STEPS), 0.7)), noisy(sigmoid(90, 0.4), 0))
    assert np.isnan(both["spearman"]) and np.isnan(both["spearman_changes_p"])


def groups(step, n, seed, width=0.4):
    """(checkpoint, group) hits of 10 cells each, every group with a difficulty of its own."""
    rng = np.random.default_rng(seed)
    p = np.clip(sigmoid(step, width)[:, None] + rng.normal(scale=0.05, size=n), 0, 1)
    return rng.binomial(10, p).astype(float), np.full((len(STEPS), n), 10.0)


def test_the_interval_over_groups_contains_the_place_and_shrinks_with_more_of_them():
    width, hit = {}, 0
    for n in (40, 640):
        found = [transition(Curve.of_groups("c", STEPS, *groups(300, n, seed), n_boot=100)) for seed in range(6)]
        hit += sum(f["step_low"] * 0.98 <= 300 <= f["step_high"] * 1.02 for f in found)
        width[n] = np.mean([np.log10(f["step_high"] / f["step_low"]) for f in found])
    assert hit >= 10  # of 12, at 95 %
    assert width[40] > 2 * width[640]


def test_a_curve_of_groups_is_the_ratio_of_sums_and_its_draws_share_the_groups():
    hits, cells = groups(300, 50, 0)
    curve = Curve.of_groups("c", STEPS, hits, cells, n_boot=100)
    np.testing.assert_allclose(curve.values, hits.sum(1) / cells.sum(1))
    harder = Curve.of_groups("d", STEPS, hits - 1, cells, n_boot=100)  # a tenth lower in every group
    np.testing.assert_allclose(harder.draws, curve.draws - 0.1)
    several = Curve.of_groups("e", STEPS, np.stack([hits, hits / 2], 2), np.stack([cells, cells], 2), n_boot=100)
    np.testing.assert_allclose(several.draws, 0.75 * curve.draws)  # the mean over targets


def test_a_curve_of_intervals_has_draws_of_their_width():
    y = sigmoid(300, 0.4)
    curve = Curve.of_intervals("c", STEPS, y, y - 0.02, y + 0.01, n_boot=20000)
    low, high = np.percentile(curve.draws, [2.5, 97.5], axis=0)
    np.testing.assert_allclose(low, y - 0.02, atol=1e-3)
    np.testing.assert_allclose(high, y + 0.01, atol=1e-3)
    found = transition(Curve.of_intervals("c", STEPS, y, y - 0.02, y + 0.02))
    assert found["step_low"] < 300 < found["step_high"] and found["half_rise_low"] < 300 < found["half_rise_high"]


def test_a_known_lag_is_recovered_and_its_interval_tells_it_from_none():
    probe, later, same = (Curve.of_groups(name, STEPS, *groups(step, 200, seed), n_boot=300)
                          for name, step, seed in (("probe", 150, 1), ("later", 450, 2), ("same", 150, 3)))
    table = coincidences([probe], [later, same])
    apart, together = table.iloc[0], table.iloc[1]
    assert apart["lag"] == pytest.approx(np.log10(150 / 450), abs=0.1)
    assert apart["lag_high"] < 0 and apart["lag_p"] < 0.02
    assert together["lag_low"] < 0 < together["lag_high"] and together["lag_p"] > 0.05
    assert apart["half_rise_lag"] == pytest.approx(apart["lag"], abs=0.1)
    assert apart["order"] == "leads" and together["order"] == "cannot be told"
    back = coincidence(later, probe)
    assert back["order"] == "follows"
    assert back["lag"] == pytest.approx(-apart["lag"]) and back["lag_low"] == pytest.approx(-apart["lag_high"])


def test_what_is_halfway_needs_no_shape():
    """A curve that peaks and falls back: halfway where it first crosses half of its gain, by every draw."""
    rng, line = np.random.default_rng(0), np.r_[0.2, 0.2, 0.2, 0.25, 0.9, np.full(len(STEPS) - 5, 0.6)]
    gain = line[:, None] + rng.normal(scale=0.02, size=(len(STEPS), 50))
    found = transition(Curve.of_groups("peak", STEPS, gain, np.ones_like(gain), 200))
    assert (found["halfway_from"], found["halfway_to"]) == (STEPS[3], STEPS[4])
    assert found["gain_low"] < 0.4 < found["gain_high"] and found["half_rise_low"] >= STEPS[3]
    stays = transition(Curve.of_groups("stays", STEPS, np.full_like(gain, 0.3), np.ones_like(gain), 50))
    assert np.isnan(stays["halfway_from"])
    assert order(found, stays) == "nothing to lead" and order(stays | {"gain": 0, "gain_low": np.nan}, found) == \
        "does not grow"


def test_a_rise_before_the_first_trained_checkpoint_has_no_place():
    line = np.r_[0.1, np.full(len(STEPS) - 1, 0.9)]
    found = transition(noisy(line, 0))
    assert found["halfway_from"] == 0 and found["halfway_to"] == STEPS[1] and not found["sharp"]


def test_rank_correlations_are_scipys_and_rising_together_is_no_evidence():
    a, b = noisy(sigmoid(150, 0.5), 0, name="a"), noisy(sigmoid(600, 0.5), 1, name="b")
    both, x = coincidence(a, b), a.x
    assert both["spearman"] == pytest.approx(spearmanr(a.values, b.values)[0])
    changes = [np.diff(c.values) / np.diff(x) for c in (a, b)]
    assert both["spearman_changes"] == pytest.approx(spearmanr(*changes)[0])
    assert both["spearman"] > 0.6 and both["spearman_p"] > 0.05  # both rise, and that is all
    twin = coincidence(a, noisy(sigmoid(150, 0.5), 2, name="c"))
    assert twin["spearman_changes"] > 0.3 and twin["spearman_changes_p"] < 0.05


@pytest.mark.parametrize("steps, values, said", [
    ([0, 1, 2, 4], [0.0, 1, 2, 3], "at least 5 checkpoints"),
    ([1, 2, 4, 8, 16], [0.0, 1, 2, 3, 4], "begins at step 0"),
    ([0, 2, 1, 8, 16], [0.0, 1, 2, 3, 4], "ascend"),
    ([0, 1, 2, 4, 8], [0.0, np.nan, 2, 3, 4], r"not a finite number at \[1\]"),
])
def test_what_is_no_curve_is_refused(steps, values, said):
    with pytest.raises(ValueError, match=said):
        Curve("c", np.array(steps), np.array(values))


def test_curves_of_other_checkpoints_have_no_lag():
    with pytest.raises(ValueError, match="different checkpoints"):
        coincidence(noisy(sigmoid(90, 0.4), 0), Curve("d", STEPS[:-1], sigmoid(90, 0.4)[:-1]))
