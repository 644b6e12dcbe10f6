"""A smaller set of benchmarks/leakage.py, which runs 1,000 configurations and 200 seeds."""

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.leakage import inside_band, planting, random_configuration, shared
from probing._question import Question
from probing._splits import disjoint_splits
from tasks import LabelledPrompts


def test_no_group_prompt_or_state_is_shared_between_splits():
    found = [shared(*random_configuration(seed)) for seed in range(40)]
    swept = [f for f in found if f is not None]
    assert len(swept) > 15 and not any(swept)


def test_without_the_rule_the_same_configurations_do_share_states():
    """So the test above has something to find."""
    repeats = 0
    for seed in range(40):
        prompts, causal = random_configuration(seed)
        try:
            kept, all_rows = disjoint_splits(prompts, causal), disjoint_splits(prompts, None)
        except ValueError:
            continue
        repeats += any((kept[s] != all_rows[s]).any() for s in ("validation", "test"))
    assert repeats > 10


@pytest.mark.parametrize("columns", [slice(0, 1), slice(3, 16)])
def test_labels_planted_in_test_rows_change_neither_choice_nor_fit(columns):
    for seed in range(3):
        same, rise = planting(seed, columns)
        assert same
        assert columns.start > 0 or rise == 0


def test_shuffled_labels_score_inside_the_band_of_guessing():
    assert sum(inside_band(seed) for seed in range(15)) >= 14


def two_games(second):
    tokens = torch.tensor([[1, 2, 3], second, [7, 8, 9]])
    examples = pd.DataFrame({"prompt": [0, 0, 1, 1, 2, 2], "pos": [0, 2, 0, 2, 0, 2], "group": [0, 0, 1, 1, 2, 2],
                             "split": ["train"] * 2 + ["test"] * 2 + ["validation"] * 2, "z/0": [0, 1] * 3})
    return LabelledPrompts("toy", tokens, torch.tensor([3, 3, 3]), examples, {"z": ("no", "yes")})


def test_a_held_out_row_that_repeats_a_state_is_not_scored():
    prompts = two_games([1, 2, 4])
    assert disjoint_splits(prompts, causal=True)["test"].tolist() == [False] * 3 + [True] + [False] * 2
    assert disjoint_splits(prompts, causal=False)["test"].sum() == 2  # an encoder sees the rest of the prompt
    with pytest.raises(ValueError, match="'test' of 'toy' is empty: all its 2 rows repeat states"):
        disjoint_splits(two_games([1, 2, 3]), causal=True)


def test_a_group_or_a_prompt_in_two_splits_is_refused():
    prompts = two_games([1, 2, 4])
    for column, message in (("group", "a group never straddles splits, but 1 of 2"), ("prompt", "a prompt never")):
        examples = prompts.examples.copy()
        examples.loc[2, column] = examples.loc[0, column]
        if column == "group":
            examples["group"] = examples["group"].replace({1: 0})
        with pytest.raises(ValueError, match=message):
            disjoint_splits(LabelledPrompts("toy", prompts.tokens, prompts.lengths, examples, prompts.classes))


@pytest.mark.parametrize("apart", [0, 1], ids=["at one place", "at two places"])
def test_twins_listed_in_one_order_do_not_get_their_own_labels_back(apart):
    n = 400
    group, kind = np.arange(n) // 2, np.arange(n) % 2  # of every pair the first is a no, the second a yes
    where = np.where(np.arange(n) // 2 % 2, kind, 1 - kind) * apart
    question = Question("z", kind[:, None], 2, group, {"train": np.ones(n, bool)}, ["0"], where)
    for drawn in question.shuffled(5):
        assert 0.35 < (drawn.Y == question.Y).mean() < 0.65 and (drawn.Y.mean(), drawn.Y.std()) == (0.5, 0.5)


def test_shuffled_labels_keep_what_a_place_gives_away():
    group, where = np.repeat(np.arange(50), 6), np.tile(np.arange(6), 50)
    Y = np.column_stack([where, np.random.default_rng(0).integers(0, 9, 300)])
    question = Question("z", Y, 9, group, {"train": np.ones(300, bool)}, ["place", "free"], where)
    drawn = question.shuffled(1)[0].Y
    assert (drawn[:, 0] == where).all() and (drawn[:, 1] == Y[:, 1]).mean() < 0.3
    whole = {tuple(row) for row in Y[:, 1].reshape(50, 6)}
    assert {tuple(row) for row in drawn[:, 1].reshape(50, 6)} == whole  # a group hands on all that it has
