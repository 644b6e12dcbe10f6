"""Intervention cases of our own: a game, and a disc whose flip gives a board that legal play does or does not reach.

A flip leaves the occupied squares as they are, so a game that ends on the flipped board plays the same squares in
another order. All legal orders are played, equal positions merged. `natural` cases come with such a game, found by
reordering the last 8 moves of their own. For `unnatural` ones every order of the whole game was tried, and none ends
on the flipped board with the same player to move. That is exact; its cost doubles with every move, so unnatural games
have at most 14 moves, and natural ones 30: compare the two at equal length.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Int, Shaped
from numpy import ndarray

from ._engine import BLACK, flips, legal_moves, random_games, replay, start_position

SHORTEST = 5  # moves; as in the published cases, whose longest game has 30
LONGEST = {"natural": 30, "unnatural": 14}
_REORDERED = {"natural": 8, "unnatural": 14}  # last moves
_SEEDS = 2 << 32  # other games than those of the trainer and of `load`
_BLOCK = {"natural": 512, "unnatural": 128}  # games tried at a time
_PATIENCE = 40  # blocks in a row that bring nothing new


@cache
def generate(kind: str, n: int, size: int = 8, seed: int = 0) -> pd.DataFrame:
    """`n` different cases: `history` and `witness` (lists of squares; no witness if unnatural), and `square`.

    At most one disc per random game; a larger `n` extends a smaller one.
    """
    longest = min((size * size - 4) // 2, LONGEST[kind])
    found: dict[tuple, dict] = {}
    games = _BLOCK[kind]
    block = dry = 0
    while len(found) < n and dry < _PATIENCE:
        rng = np.random.default_rng([_SEEDS + seed, size, block, 1])  # 1: another stream than the games'
        squares, _ = random_games(games, size, _SEEDS + seed, block * games)
        squares, before = squares[:, :longest].astype(int), len(found)
        squares[np.arange(longest) >= rng.integers(SHORTEST, longest + 1, games)[:, None]] = -1
        for length in np.unique(lengths := (squares >= 0).sum(1)):
            for case in _find(kind, squares[lengths == length, :length], rng, size):
                found.setdefault((*case["history"], case["square"]), case)
        block, dry = block + 1, 0 if len(found) > before else dry + 1
    if len(found) < n:
        raise ValueError(f"found only {len(found)} {kind} cases on the {size}x{size} board, {n} were asked for; "
                         "ask for fewer, or use a larger board")
    return pd.DataFrame(list(found.values())[:n])


def _find(kind: str, squares: Int[ndarray, "game ply"], rng: np.random.Generator, size: int) -> list[dict]:
    """At most one case for each of some games of equal length."""
    state = replay(squares, size)
    mine, theirs, to_move = state.mine[:, -1], state.theirs[:, -1], state.to_move[:, -1]
    ends = endings(squares, _REORDERED[kind], size)
    disc = ends.black ^ state.black[ends.game, -1]
    near = np.flatnonzero((np.bitwise_count(disc) == 1) & (ends.to_move == to_move[ends.game]))
    witness = {(int(ends.game[e]), int(disc[e])): e for e in near}
    cases = []
    discs = np.uint64(1) << squares.astype(np.uint64)
    telling = _telling(mine[:, None], theirs[:, None], discs, size)
    for game, order in enumerate(rng.permuted(np.tile(np.arange(squares.shape[1]), (len(squares), 1)), axis=1)):
        for move in order[telling[game, order]]:
            end = witness.get((game, int(discs[game, move])))
            if (end is not None) == (kind == "natural"):
                cases.append({"history": squares[game].tolist(), "square": int(squares[game, move]),
                              "witness": None if end is None else ends.moves[end].tolist()})
                break
    return cases


def _telling(mine: ndarray, theirs: ndarray, disc: ndarray, size: int) -> ndarray:
    """Flipping and erasing the disc both change the legal moves, and there always is one."""
    before = legal_moves(mine, theirs, size)
    flipped = legal_moves(mine ^ disc, theirs ^ disc, size)
    erased = legal_moves(mine & ~disc, theirs & ~disc, size)
    return (before != 0) & (flipped != 0) & (erased != 0) & (before != flipped) & (before != erased)


class Endings(NamedTuple):
    """Positions that end a reordered game: whose, its moves, the black discs, and who moves next (1 black)."""

    game: Int[ndarray, " ending"]
    moves: Int[ndarray, "ending ply"]
    black: Shaped[ndarray, " ending"]
    to_move: Int[ndarray, " ending"]


def endings(squares: Int[ndarray, "game ply"], last: int, size: int = 8) -> Endings:
    """Every different position that some legal order of the last moves of each game ends in, with one such order.

    Args:
        squares: Legal games of equal length.
        last: Moves to reorder; the length of the games, or more, for all of them.
    """
    fixed = max(squares.shape[1] - last, 0)
    game, moves = np.arange(len(squares)), squares
    own, opponent, black_moves = _after(squares[:, :fixed], size)
    for ply in range(fixed, squares.shape[1]):
        move = np.uint64(1) << moves[:, ply:].astype(np.uint64)
        parent, chosen = np.nonzero(move & legal_moves(own, opponent, size)[:, None])
        move, own, opponent = move[parent, chosen], own[parent], opponent[parent]
        turned = flips(own, opponent, move, size)
        game, black_moves, moves = game[parent], ~black_moves[parent], moves[parent]
        row, chosen = np.arange(len(parent)), chosen + ply
        moves[row, chosen], moves[row, ply] = moves[row, ply], moves[row, chosen]  # played first, the rest is left
        own, opponent, black_moves = _passed(opponent & ~turned, own | turned | move, black_moves, size)
        new = _first_of_equals(own, opponent, black_moves, game)
        game, moves, own, opponent, black_moves = game[new], moves[new], own[new], opponent[new], black_moves[new]
    return Endings(game, moves, np.where(black_moves, own, opponent), black_moves.astype(np.int8))


def _after(squares: ndarray, size: int) -> tuple[ndarray, ndarray, ndarray]:
    """Discs of the player to move, of the other one, and whether black is to move."""
    if squares.shape[1]:
        state = replay(squares, size)
        return state.mine[:, -1], state.theirs[:, -1], state.to_move[:, -1] == BLACK
    black, white = (np.full(len(squares), b, np.uint64) for b in start_position(size))
    return black, white, np.ones(len(squares), bool)


def _passed(own: ndarray, opponent: ndarray, black_moves: ndarray, size: int) -> tuple[ndarray, ndarray, ndarray]:
    """The same positions; where the player to move has to pass, seen by the other one."""
    stuck = (legal_moves(own, opponent, size) == 0) & (legal_moves(opponent, own, size) != 0)
    return np.where(stuck, opponent, own), np.where(stuck, own, opponent), black_moves ^ stuck


def _first_of_equals(*keys: ndarray) -> ndarray:
    """Indices that keep one row of each set of equal ones."""
    order = np.lexsort(keys)
    new = np.ones(len(order), bool)
    new[1:] = np.any([key[order][1:] != key[order][:-1] for key in keys], axis=0)
    return order[new]
