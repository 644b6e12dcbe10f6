"""Shares of variance that are known, sums that are bounded, and a feature that is used without being large."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from probing.formation import variance_explained, without_feature


def planted(n=4000, seed=0):
    """A large feature and a small one on independent directions, with noise: V is 9/11, 1/11 and nothing."""
    rng = np.random.default_rng(seed)
    a, b, unused = rng.integers(0, 2, (3, n))
    H = np.stack([3.0 * (2 * a - 1), 1.0 * (2 * b - 1), rng.normal(size=n)], 1)
    return H @ np.linalg.qr(rng.normal(size=(3, 3)))[0] + 5, dict(large=a, small=b, unused=unused)


def test_planted_shares_are_found_and_sum_to_at_most_one():
    H, features = planted()
    found = variance_explained(H, features).set_index("feature")
    for name, share in (("large", 9 / 11), ("small", 1 / 11)):
        row = found.loc[name]
        assert row["value"] == pytest.approx(share, abs=0.01) and row["ci_low"] <= share <= row["ci_high"]
    assert found["value"].sum() <= 1 and found.loc["unused", "value"] < 10 * found.loc["unused", "chance"]


def test_it_is_the_r2_of_regressing_all_units_on_the_feature():
    H, features = planted(300)
    f = features["large"] + 2 * features["small"]
    dummies = np.eye(4)[f]
    rest = H - LinearRegression().fit(dummies, H).predict(dummies)
    expected = 1 - (rest**2).sum() / ((H - H.mean(0)) ** 2).sum()
    found = variance_explained(H, {"both": f.astype(str)})
    assert found["value"].item() == pytest.approx(expected)


def test_chance_is_the_mean_over_all_orders():
    rng = np.random.default_rng(0)
    H, f = rng.normal(size=(40, 5)), np.arange(40) % 4
    draws = [variance_explained(H, {"f": rng.permutation(f)}, n_boot=2)["value"].item() for _ in range(60)]
    assert np.mean(draws) == pytest.approx(3 / 39, abs=3 * np.std(draws) / 60**0.5)


def test_a_feature_taken_out_explains_nothing_and_the_rest_stays():
    H, features = planted()
    left = without_feature(H, features["large"])
    found = variance_explained(left, features, n_boot=2).set_index("feature")["value"]
    assert found["large"] < 1e-20 and found["small"] == pytest.approx(0.5, abs=0.02)
    np.testing.assert_allclose(left.mean(0), H.mean(0))


def test_what_explains_nothing_by_construction_is_refused():
    H, features = planted(50)
    with pytest.raises(ValueError, match="has 49 values for 50"):
        variance_explained(H, {"f": features["large"][1:]})
    with pytest.raises(ValueError, match="one value"):
        variance_explained(H, {"f": np.ones(50)})
    with pytest.raises(ValueError, match="all states are equal"):
        variance_explained(0 * H, features)


def test_groups_are_resampled_whole_and_all_alike_in_a_group_is_less_certain():
    """Each example ten times: the same share, and the interval of the examples that there are."""
    H, features = planted(100)
    once = variance_explained(H, features, groups=np.arange(100)).set_index("feature")
    pd.testing.assert_frame_equal(once, variance_explained(H, features).set_index("feature"))
    ten = variance_explained(np.repeat(H, 10, 0), {k: np.repeat(v, 10) for k, v in features.items()},
                             groups=np.repeat(np.arange(100), 10)).set_index("feature")
    np.testing.assert_allclose(ten[["value", "ci_low", "ci_high"]], once[["value", "ci_low", "ci_high"]])


def test_an_unused_feature_has_its_chance_in_the_middle_of_its_interval():
    """Plain percentiles would lie above it: resamples repeat examples, and explain twice the chance."""
    rng = np.random.default_rng(0)
    rows = [variance_explained(rng.normal(size=(60, 4)), {"f": np.arange(60) % 8}).iloc[0] for _ in range(20)]
    low, high, chance = (np.mean([row[c] for row in rows]) for c in ("ci_low", "ci_high", "chance"))
    assert low < chance < high and (low + high) / 2 == pytest.approx(chance, abs=0.03)
