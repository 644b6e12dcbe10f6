"""Examples re-placed in their prompts: labels, groups and subsets go with them, and no position is invented."""

import numpy as np
import pandas as pd
import pytest
import torch

from tasks import LabelledPrompts


def statements(**columns):
    """Three prompts of 5, 2 and 4 tokens, one example each, probed at their first token."""
    examples = pd.DataFrame({"prompt": [0, 1, 2], "pos": 0, "group": ["a", "b", "c"], "truth/it": [1, 0, 1],
                             "split": ["train", "validation", "test"], **columns})
    return LabelledPrompts(task="truth", tokens=torch.arange(15).reshape(3, 5), lengths=torch.tensor([5, 2, 4]),
                           examples=examples, subsets={"odd": np.array([[True], [False], [True]])})


def test_last_is_the_last_real_token():
    assert statements().at("last").examples["pos"].tolist() == [4, 1, 3]


def test_each_repeats_labels_groups_and_subsets_for_every_real_token():
    each = statements().at("each")
    assert each.examples["prompt"].tolist() == [0] * 5 + [1] * 2 + [2] * 4
    assert each.examples["pos"].tolist() == [0, 1, 2, 3, 4, 0, 1, 0, 1, 2, 3]
    assert each.examples["group"].tolist() == list("aaaaabbcccc")
    assert each.labels("truth")[:, 0].tolist() == [1] * 5 + [0] * 2 + [1] * 4
    assert each.subsets["odd"][:, 0].tolist() == [True] * 5 + [False] * 2 + [True] * 4


def test_a_name_reads_the_column_of_that_name():
    prompts = statements(**{"pos:entity": [2, 0, 1]})
    assert prompts.at("entity").examples["pos"].tolist() == [2, 0, 1]
    assert prompts.at("entity").at("last").at("entity").examples.equals(prompts.at("entity").examples)
    with pytest.raises(KeyError, match="no position 'city', but last, each, entity; .* column pos:city"):
        prompts.at("city")


def test_a_function_sees_the_real_tokens_and_an_array_gives_one_position_per_example():
    seen = []
    middle = statements().at(lambda tokens: seen.append(tokens.tolist()) or len(tokens) // 2)
    assert middle.examples["pos"].tolist() == [2, 1, 2] and seen == [[0, 1, 2, 3, 4], [5, 6], [10, 11, 12, 13]]
    assert statements().at(np.array([3, 1, 0])).examples["pos"].tolist() == [3, 1, 0]
    with pytest.raises(ValueError, match="2 positions came for 3 examples"):
        statements().at([0, 1])


@pytest.mark.parametrize(("where", "column", "message"), [
    ("entity", [2, 2, 1], r"position 2 \(pos:entity\) of prompt 1 does not exist, its 2 tokens are 0 to 1"),
    ("entity", [2, -1, 1], r"position -1 \(pos:entity\) of prompt 1"),
    ("entity", [2, None, 1], r"position nan \(pos:entity\) of prompt 1"),
    ([4, 1, 4], None, r"position 4 \(given\) of prompt 2 does not exist, its 4 tokens are 0 to 3"),
    (lambda tokens: 3, None, r"position 3 \(given by the function\) of prompt 1"),
])
def test_a_position_that_does_not_exist_is_one_clear_error(where, column, message):
    with pytest.raises(ValueError, match=message):
        statements(**({"pos:entity": column} if column else {})).at(where)


def test_labels_of_positions_stay_where_they_are():
    several = statements().at("each")
    last = several.at("last")
    assert last.examples["pos"].tolist() == [4, 1, 3] and last.subsets["odd"][:, 0].tolist() == [True, False, True]
    with pytest.raises(ValueError, match="prompt 0 has several examples.*probed at each token; keep one"):
        several.at("each")
    with pytest.raises(ValueError, match="prompt 0 has several examples.*one position per example"):
        several.at(lambda tokens: 0)
    without = LabelledPrompts(task="truth", tokens=several.tokens, lengths=several.lengths,
                              examples=several.examples[several.examples["pos"] < 3])
    with pytest.raises(ValueError, match="prompt 0 has several examples and none at its last token, position 4"):
        without.at("last")
