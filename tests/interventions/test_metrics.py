"""Metrics against the slowest possible definition."""

import math

import pytest
import torch

from interventions import kl, logit_difference, probability_mass, set_error, top1_right


@pytest.fixture
def logits(random):
    return random(20, 9) * 3


@pytest.fixture
def right(random):
    mask = random(20, 9) > 0.3
    mask[:, 0] = False
    return mask


@pytest.mark.parametrize("ignore", [(0,), (), (0, 4)])
def test_set_error_counts_false_positives_and_false_negatives(logits, right, ignore):
    right[:, 4] &= 4 not in ignore
    errors = set_error(logits, right, ignore).tolist()
    for row, answers, error in zip(logits.tolist(), right.tolist(), errors, strict=True):
        wanted = {i for i, yes in enumerate(answers) if yes}
        ranked = sorted((i for i in range(9) if i not in ignore), key=lambda i: -row[i])
        picks = set(ranked[: len(wanted)])
        assert error == len(picks - wanted) + len(wanted - picks)


def test_padding_is_never_picked_and_scale_does_not_matter(logits, right):
    high = logits.clone()
    high[:, 0] = 1e4
    assert torch.equal(set_error(high, right), set_error(logits, right))
    assert torch.equal(set_error(5 * logits - 2, right), set_error(logits, right))
    assert set_error(right.float(), right).eq(0).all()
    assert torch.equal(logits[:, 1:], high[:, 1:])  # its input is left alone


def test_set_error_refuses_what_it_cannot_score(logits, right):
    with pytest.raises(ValueError, match="1 cases are not a number"):
        set_error(logits.index_fill(0, torch.tensor([3]), math.nan), right)
    with pytest.raises(ValueError, match="9 tokens are right, but only 8 can be picked"):
        set_error(logits, torch.ones(20, 9, dtype=torch.bool))


def test_top1_probability_and_logit_difference(logits, right):
    p = logits.softmax(-1)
    for i in range(20):
        assert top1_right(logits, right)[i] == right[i, logits[i].argmax()]
        torch.testing.assert_close(probability_mass(logits, right)[i], p[i][right[i]].sum())
    a, b = torch.randint(0, 9, (2, 20), generator=torch.Generator().manual_seed(0))
    expected = torch.stack([logits[i, a[i]] - logits[i, b[i]] for i in range(20)])
    torch.testing.assert_close(logit_difference(logits, a, b), expected)


def test_kl_is_zero_for_equal_logits_and_the_sum_otherwise(logits, random):
    other = random(20, 9)
    assert torch.equal(kl(logits, logits), torch.zeros(20))
    p, q = logits.softmax(-1), other.softmax(-1)
    torch.testing.assert_close(kl(logits, other), (p * (p / q).log()).sum(-1))
    assert (kl(logits, other) > 0).all()
