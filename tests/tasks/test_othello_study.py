"""What is asked of an Othello model at every checkpoint: players whose legality is known."""

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from tasks.othello import _tokens, random_games
from tasks.othello.study import _SEEDS, legal_moves, study


def weighted(items, name):
    return np.average(items[name], weights=items["moves"])


def test_a_player_who_knows_the_rules_is_always_legal_and_one_who_repeats_the_last_move_never():
    n, size = 12, 6
    squares, legal = random_games(n, size, _SEEDS + 1)
    right = torch.from_numpy(_tokens.legal_tokens(legal[:, 1:], size)).float()
    knows = legal_moves(lambda tokens: 1e3 * right, n, 1, size)
    assert (knows["legal_top1"] == 1).all() and knows["legal_mass"].to_numpy() == pytest.approx(1)
    repeats = legal_moves(lambda tokens: 1e3 * one_hot(tokens, 33).float(), n, 1, size)
    assert (repeats["legal_top1"] == 0).all() and repeats["legal_mass"].to_numpy() == pytest.approx(0)
    assert (knows["moves"] == (squares[:, 1:] >= 0).sum(1)).all() and knows["group"].nunique() == n
    # one who plays any empty square is legal as often as the column says
    empty = torch.ones(n, right.shape[1], 33)
    empty[..., 0] = 0
    played = one_hot(torch.from_numpy(_tokens.to_tokens(squares[:, :-1], size)), 33).cumsum(1)
    spread = legal_moves(lambda tokens: (empty * (played == 0)).log(), n, 1, size)
    assert weighted(spread, "legal_mass") == pytest.approx(weighted(spread, "any_empty_square"), abs=1e-6)


def test_the_board_is_that_of_the_model():
    asked = study()
    assert asked.model == "othello-6x6" and [r.name for r in asked.readings if r.followed] == ["board"]
    assert len(asked.readings[0].load(12, 0).targets("mine_theirs")) == 36
    assert len(study(model="othello").readings[0].load(12, 0).targets("mine_theirs")) == 64
    assert len(study(d_vocab=13).readings[0].load(12, 0).targets("mine_theirs")) == 16
    with pytest.raises(ValueError, match="50257 tokens; Othello moves need 61"):
        study(d_vocab=50257)
