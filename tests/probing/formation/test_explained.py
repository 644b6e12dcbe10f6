"""Shares of variance that are known, sums that are bounded, and a feature that is used without being large."""

import numpy as np
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
