import numpy as np
import pytest

from probing import LogisticProbe, pointwise_v_information, v_information


def split(groups):
    test = groups % 3 == 0
    return ~test, test


def rows(table, metric):
    return table.query("metric == @metric and subset == 'all'").iloc[0]


def clustered(n_groups=300, per_group=10, seed=0):
    rng = np.random.default_rng(seed)
    return rng, np.repeat(np.arange(n_groups), per_group)


def test_noise_has_no_information():
    """Card section 9.3: I_V(random X) is 0 within 2 standard errors (it can be negative: overfitting)."""
    rng, groups = clustered(n_groups=600)
    Y = rng.integers(3, size=(len(groups), 2))
    table = v_information(rng.normal(size=(len(groups), 4)), Y, groups, *split(groups))
    found = rows(table, "v_information")
    assert found["ci_low"] <= 0 <= found["ci_high"] + 0.003 and abs(found["value"]) < 0.01
    assert rows(table, "v_entropy")["value"] == pytest.approx(np.log2(3), abs=0.01)


def test_what_gives_the_label_away_has_all_its_entropy_and_no_more():
    rng, groups = clustered()
    Y = rng.integers(4, size=(len(groups), 1))
    train, test = split(groups)
    X = 5 * np.eye(4)[Y[:, 0]] + 0.01 * rng.normal(size=(len(groups), 4))
    table = v_information(X, Y, groups, train, test, LogisticProbe(C=100.0))
    entropy, left, found = (rows(table, m)["value"] for m in ("v_entropy", "conditional_v_entropy", "v_information"))
    assert found == pytest.approx(entropy - left) and 1.95 < found <= 2 + 1e-9 and 0 <= left < 0.02


def test_a_gaussian_channel_has_the_mutual_information_that_quadrature_gives():
    """y = +-1 equally often, x = y + noise: the best probe is linear, so I_V is I(X; Y) = 0.4859 bits."""
    x = np.linspace(-9, 9, 20_001)
    expected = np.trapezoid(np.exp(-((x - 1) ** 2) / 2) / np.sqrt(2 * np.pi) * (1 - np.log2(1 + np.exp(-2 * x))), x)
    assert expected == pytest.approx(0.4859, abs=1e-3)
    rng, groups = clustered(n_groups=4000)
    Y = rng.integers(2, size=(len(groups), 1))
    X = (2 * Y - 1) + rng.normal(size=(len(groups), 1))
    found = rows(v_information(X, Y, groups, *split(groups)), "v_information")
    assert found["ci_low"] <= expected <= found["ci_high"]


def surface(seed=0):
    """The label is the token's class, but one time in five another; states are a noisy embedding of the token, plus,
    in the second, a bit that no token tells and that decides a second label."""
    rng, groups = clustered(n_groups=900, seed=seed)
    token, hidden = rng.integers(12, size=len(groups)), rng.integers(2, size=len(groups))
    tokens = np.eye(12, dtype=np.float32)[token]
    y = np.where(rng.random(len(groups)) < 0.2, rng.integers(3, size=len(groups)), token % 3)
    states = tokens @ rng.normal(size=(12, 20)) + 0.3 * rng.normal(size=(len(groups), 20))
    states[:, 0] += 4 * hidden
    return states, tokens, np.stack([y, hidden], 1), groups


def test_beyond_the_surface_there_is_nothing_where_the_token_says_it_all():
    states, tokens, Y, groups = surface()
    train, test = split(groups)
    alone = v_information(states, Y, groups, train, test, targets=["token", "hidden"])
    given = v_information(states, Y, groups, train, test, baseline=tokens, targets=["token", "hidden"])
    assert set(given["metric"]) == {f"{m}_given_baseline" for m in set(alone["metric"])}
    above = given[given["metric"] == "v_information_given_baseline"].set_index("subset")
    news = alone[alone["metric"] == "v_information"].set_index("subset")
    assert news.loc["target=token", "ci_low"] > 0.5
    spread = above.loc["target=token", "ci_high"] - above.loc["target=token", "ci_low"]
    assert abs(above.loc["target=token", "value"]) < spread / 2 < 0.02
    assert above.loc["target=hidden", "ci_low"] > 0.5


def test_pointwise_information_averages_to_the_row_and_is_negative_where_the_state_misleads():
    states, tokens, Y, groups = surface()
    train, test = split(groups)
    pvi = pointwise_v_information(states, Y, train, test)
    table = v_information(states, Y, groups, train, test)
    assert pvi.shape == (test.sum(), 2)
    assert pvi.mean() == pytest.approx(rows(table, "v_information")["value"])
    noisy = Y[test, 0] != tokens[test].argmax(1) % 3
    assert np.median(pvi[noisy, 0]) < 0 < np.median(pvi[~noisy, 0])


def test_rows_seen_in_training_are_refused():
    states, _, Y, groups = surface()
    train, test = split(groups)
    with pytest.raises(ValueError, match="in train and in test"):
        v_information(states, Y, groups, train | test, test)
