"""A planted rise over layers, and concepts without a depth."""

import numpy as np
import pytest

from probing.formation import concept_depth


def curve(score, n_groups=200, cells=20, seed=0):
    size = np.full((len(score), n_groups), float(cells))
    return np.random.default_rng(seed).binomial(cells, np.asarray(score)[:, None], size.shape).astype(float), size


@pytest.mark.parametrize("centre", [3, 6, 9])
def test_a_planted_sigmoid_is_placed_within_a_layer(centre):
    layers = np.arange(13)
    score = 0.5 + 0.4 / (1 + np.exp(-2.0 * (layers - centre)))
    found = concept_depth(*curve(score), baseline=0.5).set_index("place")
    planted = np.argmax(score >= 0.5 + 0.9 * (score.max() - 0.5))
    row = found.loc["l90"]
    assert abs(row["layer"] - planted) <= 1 and row["ci_low"] <= planted <= row["ci_high"]
    assert row["share"] == row["layer"] / 12 and row["missing"] == 0
    assert abs(found.loc["jump", "layer"] - centre) <= 1
    assert found.loc["jump", "layer"] <= found.loc["l90", "layer"] <= found.loc["converging", "layer"] + 1


def test_the_three_places_of_a_staircase_are_exact():
    gain = np.array([0.5, 0.5, 0.6, 0.8, 0.81, 0.81])[:, None] * np.full((1, 4), 1000.0)
    found = concept_depth(gain, np.full((6, 4), 1000.0), baseline=0.5).set_index("place")
    assert found["layer"].to_dict() == {"l90": 3, "jump": 2, "converging": 3}
    assert (found["ci_low"] == found["layer"]).all() and (found["ci_high"] == found["layer"]).all()


def test_what_is_read_at_once_has_no_jump_and_what_is_never_read_no_depth():
    gain, size = np.full((5, 4), 9.0), np.full((5, 4), 10.0)
    found = concept_depth(gain, size, baseline=0.5).set_index("place")
    assert found.loc["l90", "layer"] == 0 and found.loc[["jump", "converging"], "layer"].isna().all()
    assert (found.loc[["jump", "converging"], "missing"] == 1).all()
    with pytest.raises(ValueError, match="above the baseline"):
        concept_depth(gain, size, baseline=0.95)
    with pytest.raises(ValueError, match="at least 3 layers"):
        concept_depth(gain[:2], size[:2], baseline=0.5)
