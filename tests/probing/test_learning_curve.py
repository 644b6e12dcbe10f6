import numpy as np
import pytest

from probing import LogisticProbe, Site, validate
from probing._learning_curve import learning_curve
from probing._results import KEY
from tests.probing.toy import toy

LAYER = Site("resid_post", 1)


@pytest.fixture(scope="module")
def curve():
    acts, prompts = toy()
    return learning_curve(acts, prompts, LAYER, "z", LogisticProbe(), name="logistic")


def points(table, control=None, metric="accuracy"):
    here = table[(table["control"].isna() if control is None else table["control"] == control)
                 & (table["metric"] == metric)]
    return here.set_index(here["subset"].str.removeprefix("train_groups=").astype(int))["value"].sort_index()


def test_sizes_are_halvings_down_to_four_groups(curve):
    assert points(curve).index.tolist() == [5, 10, 21, 42]


def test_every_size_has_its_own_controls_and_the_same_test_rows(curve):
    validate(curve)
    assert set(curve["split"]) == {"test"} and curve["n_groups"].nunique() == 1
    assert not curve.duplicated(KEY).any()


def test_more_groups_help_the_probe_and_not_its_controls(curve):
    score = points(curve)
    assert score.iloc[-1] > 0.95 and score.iloc[-1] > score.iloc[0]
    assert (points(curve, "shuffled_labels") < 0.65).all()


def test_a_smaller_set_is_part_of_a_larger_one_and_seeds_change_it():
    from probing._learning_curve import _nested

    groups, train = np.repeat(np.arange(20), 3), np.repeat(np.arange(20) < 16, 3)
    sets = _nested(groups, train, None, seed=0)
    assert [len(np.unique(groups[m])) for m in sets.values()] == list(sets) == [4, 8, 16]
    assert not (sets[4] & ~sets[8]).any() and not (sets[16] & ~train).any()
    assert (_nested(groups, train, [4], seed=1)[4] != sets[4]).any()


def test_sizes_that_cannot_be_are_told():
    acts, prompts = toy(n_groups=20)
    with pytest.raises(ValueError, match=r"1 to 14, not \[50\]"):
        learning_curve(acts, prompts, LAYER, "z", LogisticProbe(), sizes=[4, 50])
    prompts.examples[["z/0", "z/1", "z/2"]] = np.tile(prompts.examples[["group"]] > 1, 3).astype(int)
    with pytest.raises(ValueError, match="'z' is constant in 1 training groups"):
        learning_curve(acts, prompts, LAYER, "z", LogisticProbe(), sizes=[1])
