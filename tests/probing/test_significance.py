import numpy as np
import pytest
from scipy.stats import false_discovery_control

from probing._significance import adjusted, benjamini_hochberg, holm, paired_difference, permutation_p

P = np.array([0.001, 0.04, 0.03, 0.005, 0.2, 0.6])


def test_benjamini_hochberg_is_scipys():
    np.testing.assert_allclose(benjamini_hochberg(P), false_discovery_control(P))


def test_holm_is_its_definition():
    order = np.argsort(P)
    steps = [max(min(1, (len(P) - j) * P[order[j]]) for j in range(i + 1)) for i in range(len(P))]
    np.testing.assert_allclose(holm(P)[order], steps)


@pytest.mark.parametrize("correction", ["benjamini_hochberg", "holm"])
def test_a_missing_p_value_is_no_test_and_corrections_only_raise(correction):
    with_gap = np.insert(P, 2, np.nan)
    out = adjusted(with_gap, correction)
    np.testing.assert_array_equal(np.delete(out, 2), adjusted(P, correction))
    assert np.isnan(out[2]) and (np.delete(out, 2) >= P).all()
    assert adjusted(np.array([]), correction).size == 0


def test_no_correction_is_named_too_and_an_unknown_one_refused():
    np.testing.assert_array_equal(adjusted(P, "none"), P)
    with pytest.raises(ValueError, match="benjamini_hochberg, holm, none, not 'bonferroni'"):
        adjusted(P, "bonferroni")


def test_holm_keeps_the_chance_of_any_false_find_below_its_level():
    null = np.random.default_rng(0).random((4000, 8))
    assert np.mean([(holm(p) <= 0.05).any() for p in null]) == pytest.approx(0.05, abs=0.012)


def test_a_permutation_p_value_is_never_zero_and_uniform_under_the_null():
    draws = np.random.default_rng(0).normal(size=(4000, 20))
    assert permutation_p(9.0, draws[0]) == pytest.approx(1 / 21)
    p = [permutation_p(row[0], row[1:]) for row in draws]
    np.testing.assert_allclose(np.histogram(p, 4, (0.04, 1.01))[0] / 4000, 0.25, atol=0.03)


def test_a_paired_difference_cancels_what_both_probes_find_hard():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(80), 10)
    hard = rng.normal(size=80)[groups]
    a, b = (hard + shift + 0.3 * rng.normal(size=800) for shift in (0.2, 0.0))
    value, low, high, p = paired_difference(a, b, groups)
    assert value == pytest.approx((a - b).mean())
    assert 0.1 < low < value < high < 0.3 and p < 0.01
    assert paired_difference(b, a, groups)[0] == pytest.approx(-value)
    assert paired_difference(b, b, groups) == (0.0, 0.0, 0.0, 1.0)


def test_the_p_value_of_a_paired_difference_finds_nothing_where_nothing_is():
    found = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(40), 5)
        a, b = (rng.random(200) + rng.normal(size=40)[groups] for _ in range(2))
        found += paired_difference(a, b, groups, n_boot=200, seed=seed)[3] <= 0.05
    assert found / 200 <= 0.10
