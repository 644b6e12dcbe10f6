"""Pairs for patching: a clean prompt and a twin of the same length with other right answers."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from tasks import decoy, othello
from tasks._pairs import PromptPairs, nearest_pairs, token_pairs


def test_token_pairs_are_padded_and_keep_the_answers():
    pairs = token_pairs([[5, 6], [7, 8, 9]], [[5, 4], [7, 1, 9]], right=[2, 3], wrong=[3, 2], d_vocab=12)
    assert pairs.clean.tolist() == [[5, 6, 0], [7, 8, 9]] and pairs.corrupted.tolist() == [[5, 4, 0], [7, 1, 9]]
    assert pairs.lengths.tolist() == [2, 3] and pairs.cases["group"].tolist() == [0, 1]
    assert pairs.right_clean.argmax(1).tolist() == [2, 3] and pairs.right_corrupted.argmax(1).tolist() == [3, 2]
    assert (pairs.right_clean.sum(1) == 1).all()
    part = pairs.select(np.array([False, True]))
    assert len(part) == 1 and part.clean.tolist() == [[7, 8, 9]] and part.digest != pairs.digest
    assert replace(pairs).digest == pairs.digest


def test_decoy_pairs_differ_in_the_question_alone_and_swap_the_answers():
    pairs, cases = decoy.pairs(n=100), decoy.cases("end", n=100)
    differs = pairs.clean != pairs.corrupted
    assert (differs.sum(1) == 1).all()
    assert differs.int().argmax(1).tolist() == pairs.cases["pos:question"].tolist() == (pairs.lengths - 2).tolist()
    assert np.array_equal(pairs.right_clean, cases.right_before)
    assert np.array_equal(pairs.right_corrupted, cases.right_after)
    assert torch.equal(pairs.clean, cases.tokens) and (pairs.cases["split"] == cases.cases["split"]).all()
    word = np.array(decoy.WORDS)
    for clean, twin in zip(word[pairs.clean[differs]], word[pairs.corrupted[differs]], strict=True):
        assert clean[:-1] != twin[:-1] and clean[-1] != twin[-1]


@pytest.mark.parametrize("make", [lambda: decoy.cases("end", n=120), lambda: othello.cases("natural", n=60, size=6)])
def test_the_nearest_twin_has_the_same_length_other_answers_and_no_nearer_rival(make):
    cases = make()
    pairs = nearest_pairs(cases)
    assert 0 < len(pairs) <= len(cases)
    prompt = {tuple(row): i for i, row in enumerate(cases.tokens.tolist())}
    for clean, twin, ours, theirs, split in zip(pairs.clean.tolist(), pairs.corrupted.tolist(), pairs.right_clean,
                                                pairs.right_corrupted, pairs.cases["split"], strict=True):
        i, j = prompt[tuple(clean)], prompt[tuple(twin)]
        assert cases.lengths[i] == cases.lengths[j] and cases.cases["split"][j] == split
        assert (ours != theirs).any() and np.array_equal(cases.right_before[j], theirs)
        rivals = [k for k in range(len(cases)) if cases.lengths[k] == cases.lengths[i]
                  and cases.cases["split"][k] == split and (cases.right_before[k] != ours).any()]
        assert (cases.tokens[j] != cases.tokens[i]).sum() == min(
            int((cases.tokens[k] != cases.tokens[i]).sum()) for k in rivals)


def test_pairs_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match=r"different lengths in 1 of 2 cases \(first: case 1, 2 and 3 tokens\)"):
        token_pairs([[1], [2, 3]], [[1], [2, 3, 4]], [1, 1], [2, 2], d_vocab=9)
    with pytest.raises(ValueError, match=r"there are 2 clean prompts, but \{'wrong': 1\}"):
        token_pairs([[1], [2]], [[1], [2]], [1, 1], [2], d_vocab=9)
    with pytest.raises(ValueError, match="cases lacks"):
        PromptPairs("toy", "x", *torch.ones(2, 1, 3, dtype=torch.long), torch.tensor([3]), pd.DataFrame({"group": [0]}),
                    *np.zeros((2, 1, 9), bool))
    lone = decoy.cases("end", n=40)
    same = replace(lone, right_before=np.broadcast_to(lone.right_before[:1], lone.right_before.shape).copy())
    with pytest.raises(ValueError, match="none of the 40 cases has another of equal length"):
        nearest_pairs(same)
