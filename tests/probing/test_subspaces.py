"""Subspaces, and the read and write directions of a linear probe."""

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator

from probing._subspaces import LinearPair, Subspace


@pytest.mark.parametrize("rank", [1, 3, 16])
def test_projection_is_idempotent_and_keeps_its_span(rank):
    torch.manual_seed(0)
    rows, x = torch.randn(rank, 16, dtype=torch.float64), torch.randn(5, 16, dtype=torch.float64)
    space = Subspace.spanned_by(rows)
    torch.testing.assert_close(space.project(space.project(x)), space.project(x))
    torch.testing.assert_close(space.project(rows), rows)


def test_a_direction_keeps_its_side_and_dependent_rows_lose_rank():
    row = torch.tensor([[0.0, -2.0, 0.0]])
    torch.testing.assert_close(Subspace.spanned_by(row).basis, torch.tensor([[0.0, -1.0, 0.0]]))
    assert Subspace.spanned_by(torch.cat([row, 3 * row, torch.eye(3)[:1]])).rank == 2
    with pytest.raises(ValueError, match="span nothing"):
        Subspace.spanned_by(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="spanned_by"):
        Subspace(row)


@pytest.mark.parametrize("ranks", [(1, 1), (3, 3), (2, 5), (5, 2)])
def test_principal_angles_do_not_depend_on_the_basis(ranks):
    torch.manual_seed(1)
    a, b = (torch.randn(rank, 40, dtype=torch.float64) for rank in ranks)
    b[0] = a[0] + 1e-6 * b[0]  # a small angle, which an arc cosine would lose
    came = Subspace.spanned_by(a).angles(Subspace.spanned_by(b))
    assert (came.diff() >= 0).all() and came[0] < 1e-3
    mixed = torch.randn(ranks[0], ranks[0], dtype=torch.float64) @ a
    assert Subspace.spanned_by(a).angles(Subspace.spanned_by(mixed)).max() < 1e-6
    torch.testing.assert_close(came, Subspace.spanned_by(b).angles(Subspace.spanned_by(a)), rtol=1e-6, atol=1e-6)


class Two(LinearPair, BaseEstimator):
    def fit(self):
        self.classes_ = np.array([0, 1])
        self.read_, self.write_ = np.array([[0.0, 2.0]]), np.array([[3.0, 4.0]])
        return self


def test_directions_of_two_classes_point_to_the_second():
    probe = Two().fit()
    np.testing.assert_allclose(probe.direction(), [0.6, 0.8])
    np.testing.assert_allclose(probe.direction(0), [-0.6, -0.8])
    np.testing.assert_allclose(probe.direction(1, 0, pair="read"), [0, 1])
    assert probe.read.rank == probe.write.rank == 1
    with pytest.raises(ValueError, match="not 'both'"):
        probe.direction(pair="both")
