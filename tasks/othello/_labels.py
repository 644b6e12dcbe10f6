"""Board-state labels of Othello games: what each square holds after every move, in several frames.

Mine is the colour of the player to move, theirs the other one. The papers take the player to move from the parity
of the ply, which is wrong after a pass (1.2 % of positions of random games); `mine_theirs` asks the engine, `parity`
is the papers' variant.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from numpy import ndarray

from .._prompts import LabelledPrompts, split_by_group
from ._engine import BLACK, IllegalMove, Replay, random_games, replay, square_name, start_position, unpack
from ._tokens import to_tokens, words

CLASSES = {
    "mine_theirs": ("theirs", "empty", "mine"),
    "black_white": ("white", "empty", "black"),
    "parity": ("theirs", "empty", "mine"),
    "flipped": ("no", "yes"),
    "no_flip": ("theirs", "empty", "mine"),
    "no_flip_bw": ("white", "empty", "black"),
    "no_flip_parity": ("theirs", "empty", "mine"),
}
SHORTCUTS = {"mine_theirs": ("no_flip",), "black_white": ("no_flip_bw",), "parity": ("no_flip_parity",)}
OPENING = 6  # plies; games that share them share a group, hence a split
_SEEDS = 1 << 32  # the trainer's seeds are small numbers, so that no seed of `load` repeats its games


def load(n: int = 2000, seed: int = 0, size: int = 8) -> LabelledPrompts:
    """`n` games of uniformly random legal moves, with the board after every move that has a next one.

    Schemes (column `scheme/square`): `mine_theirs`, `black_white`, `parity` (mine/theirs with the player to move
    taken from the parity of the ply, as in the papers' code), `flipped` (this move turned the disc over), and the
    shortcut predictions `no_flip`, `no_flip_bw`, `no_flip_parity`: a disc keeps the colour it was placed with.
    Subsets: `occupied` squares, and `flipped_once`, squares whose disc was turned over at least once so far.

    Games with the same first 6 plies form one group, so two splits never share a prefix of 6 plies or more.
    Shorter prefixes are shared by chance (there are only 4 first moves, and 244 ways to play 4).

    Args:
        seed: Of the games and of the split. The games of a seed extend those of a smaller `n`, and are never
            those that a reference model was trained on.
    Source: Li et al., arXiv:2210.13382, section 2; Nanda et al., arXiv:2309.00941, section 3.
    """
    squares, _ = random_games(n, size, _SEEDS + seed)
    return prompts_from_games(squares, size, seed)


def prompts_from_games(
    games: Int[ndarray, "game ply"] | Sequence[Sequence[int | str]], size: int = 8, seed: int = 0
) -> LabelledPrompts:
    """Your own games, labelled as in `load`.

    Args:
        games: Squares of the moves as numbers (row * size + column) or names (`c4`: row letter, column number; the
            opening is symmetric, so records in the usual column-letter notation are legal games too). Games may
            stop anywhere; an array is padded with -1. The last move of a game is predicted, never an input.
    Raises:
        IllegalMove: A game breaks the rules; names game, ply (from 0) and square.
        ValueError: A game has fewer than two moves, or there are too few openings for three splits.
    """
    squares = games if isinstance(games, ndarray) else _as_squares(games, size)
    n_moves = (squares >= 0).sum(1)
    if (n_moves < 2).any():
        game = int(np.flatnonzero(n_moves < 2)[0])
        raise ValueError(f"game {game} has {n_moves[game]} move(s); a game needs at least 2, the last one is only "
                         f"predicted. Drop the {int((n_moves < 2).sum())} such game(s)")
    squares = squares[:, : n_moves.max()]
    state = replay(squares, size)
    prompt, pos = np.nonzero(squares[:, 1:] >= 0)
    columns, codes = _codes(state, squares, prompt, pos)
    group = np.array([opening(g) for g in _names(squares[:, :OPENING], size)], dtype=object)
    split = split_by_group(group, seed)
    where = {"prompt": prompt, "pos": pos, "ply": pos + 1, "group": group[prompt], "split": split[prompt]}
    once = np.bitwise_or.accumulate(state.flipped, axis=1)
    return LabelledPrompts(
        task=task_name(size),
        tokens=torch.from_numpy(to_tokens(squares[:, :-1], size)),
        lengths=torch.from_numpy(n_moves - 1),
        examples=pd.concat([pd.DataFrame(where), pd.DataFrame(codes, columns=columns)], axis=1),
        classes=CLASSES,
        shortcuts=SHORTCUTS,
        subsets={"occupied": unpack((state.black | state.white)[prompt, pos], size),
                 "flipped_once": unpack(once[prompt, pos], size)},
        vocabulary=tuple(words(size)),
        by=("ply", "square"),
    )


def _codes(state: Replay, squares: ndarray, prompt: ndarray, pos: ndarray) -> tuple[list[str], ndarray]:
    """Column names, and one int8 block of codes: (example, scheme * square)."""
    size = state.size
    placed_black, placed_white = _placed(state, squares)
    colour = _signed(state.black, state.white, prompt, pos, size)
    placed = _signed(placed_black, placed_white, prompt, pos, size)
    mover = np.where(state.to_move[prompt, pos] == BLACK, 1, -1).astype(np.int8)[:, None]
    by_parity = np.where(pos % 2, 1, -1).astype(np.int8)[:, None]  # black makes moves 0, 2, ...
    parts = {
        "mine_theirs": 1 + mover * colour,
        "black_white": 1 + colour,
        "parity": 1 + by_parity * colour,
        "flipped": unpack(state.flipped[prompt, pos], size).astype(np.int8),
        "no_flip": 1 + mover * placed,
        "no_flip_bw": 1 + placed,
        "no_flip_parity": 1 + by_parity * placed,
    }
    columns = [f"{scheme}/{square_name(s, size)}" for scheme in parts for s in range(size * size)]
    return columns, np.concatenate(list(parts.values()), axis=1)


def _placed(state: Replay, squares: ndarray) -> tuple[ndarray, ndarray]:
    """Bitboards of the squares where black (white) placed a disc so far, the opening included."""
    move = np.where(squares >= 0, np.uint64(1) << np.maximum(squares, 0).astype(np.uint64), np.uint64(0))
    by_black = state.last_mover == BLACK
    sides = []
    for side, first in zip((by_black, ~by_black), start_position(state.size), strict=True):
        sides.append(np.bitwise_or.accumulate(np.where(side, move, 0), axis=1) | np.uint64(first))
    return sides[0], sides[1]


def _signed(black: ndarray, white: ndarray, prompt: ndarray, pos: ndarray, size: int) -> ndarray:
    """+1 black, -1 white, 0 empty: (example, square) int8."""
    return unpack(black[prompt, pos], size).astype(np.int8) - unpack(white[prompt, pos], size)


def baseline_predictions(prompts: LabelledPrompts, scheme: str = "mine_theirs") -> dict[str, ndarray]:
    """What can be said without a model, as codes on the test rows: name -> (test example, square).

    `always_empty`; `majority`, the most frequent code per ply and square; `occupancy`, empty squares known and the
    more frequent colour per ply and square elsewhere; `no_flip`, discs keep the colour they were placed with.
    Majorities are counted on the train and validation rows.
    """
    labels, test, pos = prompts.labels(scheme), prompts.rows("test"), prompts.examples["pos"].to_numpy()
    counts = np.zeros((3, pos.max() + 1, labels.shape[1]), np.int64)
    for ply in range(counts.shape[1]):
        here = labels[~test & (pos == ply)]
        counts[:, ply] = [(here == code).sum(0) for code in range(3)]
    majority, colour = counts.argmax(0)[pos[test]], 2 * (counts[2] > counts[0])[pos[test]]
    return {
        "always_empty": np.ones_like(labels[test]),
        "majority": majority.astype(np.int8),
        "occupancy": np.where(labels[test] == 1, 1, colour).astype(np.int8),
        "no_flip": prompts.labels(prompts.shortcuts[scheme][0])[test],
    }


def baselines(prompts: LabelledPrompts, scheme: str = "mine_theirs") -> pd.DataFrame:
    """Accuracy of `baseline_predictions` over squares and positions of the test games.

    Columns: `baseline`, `value` (a share), `n` (squares scored) and `n_groups`. In random 8x8 games: 46.9 %,
    61.8 % (the papers' probabilistic baseline, which makes it a check of the engine), 75.3 %, 80.3 %.
    """
    test = prompts.rows("test")
    labels = prompts.labels(scheme)[test]
    rows = [{"baseline": name, "value": float((guess == labels).mean()), "n": labels.size}
            for name, guess in baseline_predictions(prompts, scheme).items()]
    return pd.DataFrame(rows).assign(n_groups=prompts.examples["group"][test].nunique())


def task_name(size: int) -> str:
    """`othello` on the usual board, `othello-6x6` on another."""
    return "othello" if size == 8 else f"othello-{size}x{size}"


def opening(names: list[str], plies: int = OPENING) -> str:
    """The first plies of a game as text: `f5 d6 c3 d3 c4 f4`."""
    return " ".join(names[:plies])


def _names(squares: ndarray, size: int) -> list[list[str]]:
    table = [square_name(s, size) for s in range(size * size)]
    return [[table[s] for s in game if s >= 0] for game in squares.tolist()]


def _as_squares(games: Sequence[Sequence[int | str]], size: int) -> Int[ndarray, "game ply"]:
    """Ragged games of square numbers or names as one array padded with -1."""
    number = {square_name(s, size): s for s in range(size * size)}
    squares = np.full((len(games), max(map(len, games), default=0)), -1)
    for game, moves in enumerate(games):
        for ply, move in enumerate(moves):
            square = number.get(move.lower(), -1) if isinstance(move, str) else int(move)
            if square < 0:
                raise IllegalMove(f"game {game}, ply {ply}: {move!r} is not a square of the {size}x{size} board; "
                                  f"squares are a1 to {square_name(size * size - 1, size)}, or 0 to {size * size - 1}")
            squares[game, ply] = square
    return squares
