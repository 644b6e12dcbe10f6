"""Partners of units in a permuted copy, in a duplicate-ridden one, and in a network that shares nothing."""

from itertools import permutations

import numpy as np
import pytest
import torch

from probing.formation import match_units, unit_correlations, universal_neurons


def draw(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def test_a_permuted_copy_is_matched_exactly():
    A, order = draw(200, 12), np.random.default_rng(1).permutation(12)
    B = (3 * A + 1)[:, order]
    found = match_units(A, B)
    np.testing.assert_array_equal(order[found["matched"].to_numpy(int)], np.arange(12))
    np.testing.assert_allclose(found["matched_correlation"], 1)
    np.testing.assert_allclose(found["gap"], 0, atol=1e-12)


def test_correlations_are_numpys_and_a_constant_unit_has_none():
    A, B = draw(50, 4), draw(50, 3, 1) + draw(50, 4)[:, :1]
    np.testing.assert_allclose(unit_correlations(A, B), np.corrcoef(A.T, B.T)[:4, 4:])
    B[:, 1] = 0.1
    assert (unit_correlations(A, B)[:, 1] == 0).all()


def test_the_matching_is_the_best_of_all_and_leaves_a_duplicate_without_its_partner():
    A, B = draw(80, 5), draw(80, 5, 1)
    size = np.abs(unit_correlations(A, B))
    best = max(sum(size[i, p[i]] for i in range(5)) for p in permutations(range(5)))
    assert match_units(A, B)["matched_correlation"].abs().sum() == pytest.approx(best)
    A[:, 1] = A[:, 0] + 0.01 * draw(80, 1, 2)[:, 0]  # learnt twice in A, once in B
    found = match_units(A, np.c_[A[:, 0], draw(80, 4, 3)])
    assert (found["greedy"][:2] == 0).all() and sorted(found["gap"][:2])[1] > 0.5
    assert match_units(A, B[:, :3])["matched"].isna().sum() == 2


def test_every_neuron_of_a_permuted_copy_is_universal_and_none_of_a_stranger():
    A, stranger = (torch.from_numpy(draw(2000, 120, seed)).relu() for seed in (0, 1))
    copy = A[:, torch.randperm(120, generator=torch.Generator().manual_seed(0))]
    same, other = universal_neurons([(A, [copy])]), universal_neurons([(A, [stranger])])
    assert same["universal"].all() and not other["universal"].any()
    assert other["excess"].abs().max() < 0.1 and (same["n"] == 2000).all()
    both = universal_neurons([(A, [copy, stranger])])
    np.testing.assert_allclose(both["correlation"], (same["correlation"] + other["correlation"]) / 2)


def test_streamed_correlations_are_those_of_all_rows():
    A, B = (torch.from_numpy(draw(300, d, s) + 1e3) for d, s in ((6, 0), (7, 1)))  # far from 0, where sums round
    whole = universal_neurons([(A, [B])])
    parts = universal_neurons(zip(A.split(70), ([b] for b in B.split(70)), strict=True))
    expected = unit_correlations(A.numpy(), B.numpy()).max(1)
    np.testing.assert_allclose(parts["correlation"], expected, atol=1e-9)
    np.testing.assert_allclose(parts["mixed"], whole["mixed"], atol=1e-9)
    mixture = torch.randn(7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mixed = B @ (mixture / mixture.norm(dim=1, keepdim=True)).T
    np.testing.assert_allclose(whole["mixed"], unit_correlations(A.numpy(), mixed.numpy()).max(1), atol=1e-9)


def test_rows_that_are_not_paired_are_refused():
    with pytest.raises(ValueError, match="30 and 31 rows"):
        match_units(draw(30, 3), draw(31, 3))
    with pytest.raises(ValueError, match="same tokens to all"):
        universal_neurons([(torch.ones(4, 2), [torch.ones(5, 2)])])
    with pytest.raises(ValueError, match="no batch"):
        universal_neurons([])
