import pytest
import torch

from interventions import move_to
from interventions._goals import move_all_to


@pytest.mark.parametrize("pair", [False, True])
def test_all_readings_become_their_goals(random, pair):
    read, write = random(6, 3, 16, dtype=torch.float64), random(6, 3, 16, dtype=torch.float64)
    goals, x, rows = random(6, 3, dtype=torch.float64), random(6, 16, dtype=torch.float64), torch.arange(6)
    moved = move_all_to(read, goals, write if pair else None)(x, rows)
    torch.testing.assert_close(torch.einsum("bd,bkd->bk", moved, read), goals)
    half = move_all_to(read, goals, write if pair else None, 0.5)(x, rows)
    torch.testing.assert_close(half, (x + moved) / 2)


def test_without_a_write_it_is_the_shortest_way(random):
    read, goals, x = random(4, 2, 9, dtype=torch.float64), random(4, 2, dtype=torch.float64), random(4, 9).double()
    change = move_all_to(read, goals)(x, torch.arange(4)) - x
    gap = goals - torch.einsum("bd,bkd->bk", x, read)
    torch.testing.assert_close(change, torch.einsum("bdk,bk->bd", torch.linalg.pinv(read), gap))


def test_one_goal_is_move_to(random):
    read, write, goals, x = random(5, 1, 8), random(5, 1, 8), random(5, 1), random(5, 8)
    rows = torch.arange(5)
    torch.testing.assert_close(move_all_to(read, goals, write, 0.7)(x, rows),
                               move_to(read[:, 0], goals[:, 0], write[:, 0], 0.7)(x, rows), rtol=1e-4, atol=1e-5)


def test_a_case_with_fewer_goals_has_rows_of_zeros(random):
    read, goals, x = random(2, 2, 8), random(2, 2), random(2, 8)
    read[1, 1] = 0
    one = move_to(read[1:, 0], goals[1:, 0])(x[1:], torch.tensor([0]))
    torch.testing.assert_close(move_all_to(read, goals)(x, torch.arange(2))[1:], one, rtol=1e-4, atol=1e-5)


def test_a_reading_that_no_move_changes_is_refused(random):
    read, write = torch.eye(4)[None, :2], torch.eye(4)[None, 2:]
    with pytest.raises(ValueError, match="orthogonal"):
        move_all_to(read, torch.zeros(1, 2), write)
