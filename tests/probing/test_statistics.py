import numpy as np
import pytest

from probing import bootstrap_mean, bootstrap_ratio
from probing._statistics import group_sums, ratio_interval, resample


def clustered(rng, n_groups=60, size=20, between=1.0):
    """Rows whose group shares a common shift, as positions of one game do."""
    groups = np.repeat(np.arange(n_groups), size)
    return rng.normal(size=n_groups)[groups] * between + rng.normal(size=len(groups)), groups


def test_group_sums_are_sums_in_sorted_order_of_groups():
    sums = group_sums(np.array([[1, 10], [2, 20], [3, 30]]), np.array(["b", "a", "b"]))
    np.testing.assert_array_equal(sums, [[2, 20], [4, 40]])


def test_equal_seeds_resample_the_same_groups_so_that_pairs_stay_paired():
    np.testing.assert_array_equal(resample(30, 50, seed=3), resample(30, 50, seed=3))
    assert (resample(30, 50, seed=3).sum(1) == 30).all()


def test_bootstrap_equals_a_loop_over_resampled_rows():
    values, groups = clustered(np.random.default_rng(0), n_groups=12, size=5)
    draws = []
    for counts in resample(12, 400, seed=1).astype(int):
        rows = np.concatenate([np.flatnonzero(groups == g) for g in np.repeat(np.arange(12), counts)])
        draws.append(values[rows].mean())
    value, low, high = bootstrap_mean(values, groups, n_boot=400, seed=1)
    assert value == pytest.approx(values.mean())
    np.testing.assert_allclose([low, high], np.percentile(draws, [2.5, 97.5]))


def test_cluster_intervals_cover_and_row_intervals_are_too_narrow():
    covered = {"clusters": 0, "rows": 0}
    for seed in range(150):
        values, groups = clustered(np.random.default_rng(seed))
        for name, units in (("clusters", groups), ("rows", np.arange(len(values)))):
            _, low, high = bootstrap_mean(values, units, n_boot=100, seed=seed)
            covered[name] += low <= 0 <= high
    assert 0.90 <= covered["clusters"] / 150 <= 0.98
    assert covered["rows"] / 150 < 0.7


def test_ratio_of_means_is_not_the_mean_of_ratios():
    num, den, groups = np.array([1.0, 3.0]), np.array([1.0, 1000.0]), np.array([0, 1])
    assert bootstrap_ratio(num, den, groups)[0] == pytest.approx(4 / 1001)


def test_an_empty_denominator_gives_nan_and_intervals_always_contain_their_value():
    value, low, high = ratio_interval(np.zeros((4, 2)), np.c_[np.zeros(4), np.arange(4.0)])
    assert np.isnan([value[0], low[0], high[0]]).all()
    assert low[1] <= value[1] <= high[1]


def test_resamples_without_a_denominator_are_left_out():
    value, low, high = bootstrap_ratio(np.array([1.0, -1.0, 2.0]), np.array([0.0, 0.0, 1.0]), np.arange(3))
    assert value == 2 and np.isfinite([low, high]).all() and low <= 2 <= high
