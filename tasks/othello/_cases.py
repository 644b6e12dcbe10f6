"""Intervention cases: a game, one disc to change inside the model, and the legal moves before and after.

The player to move stays the same. Moves are strictly legal ones; where the player to move has none on the edited
board, it passes and the opponent's moves are right, as in play (this happens in one published case, erased).
"""

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from .._data import fetch
from .._prompts import Counterfactuals
from ._engine import flips, legal_moves, replay, square_name, unpack
from ._generate import SHORTEST, generate
from ._labels import opening, task_name
from ._tokens import legal_tokens, to_tokens, token_squares

KINDS, EDITS = ("published", "natural", "unnatural"), ("flip", "erase")
PUBLISHED = "othello/intervention_benchmark.json"
THEIRS, EMPTY, MINE = 0, 1, 2  # codes of the scheme mine_theirs


def cases(
    kind: str = "natural", edit: str = "flip", n: int | None = None, size: int = 8, seed: int = 0
) -> Counterfactuals:
    """Games of 5-30 moves with one disc to change, in the mine/theirs frame of the player to move.

    Args:
        kind: `published`, the 1,001 cases of Li et al. (8x8; downloaded once, or from $WORLDPROBE_DATA).
            `natural`, ours: another legal game (column `witness`) of the same length, with the same player to move,
            ends on the board with the disc flipped. `unnatural`, ours: no legal game does, found by trying all.
        edit: `flip` the disc to the other colour, or `erase` it. Whether a case is natural is a fact about the
            flipped board; a board with a disc erased has the wrong number of discs for its player to move.
        n: Number of cases; all 1,001 published ones, or 1,000 of ours. Fewer published ones are drawn with `seed`.
        seed: Of the games and discs, and of the halves `choose` and `report`.
    Returns:
        Counterfactuals whose `cases` also has `history` (the moves as text) and `witness` (natural cases only).
        Cases whose first 5 moves agree form one `group`, and a group lies in one half. In our own cases either edit
        changes the legal moves and leaves the player to move at least one; so it does in the published file, but
        for the one case named above. Discs on the four centre squares are left alone, as in the published file.
    Source: Li et al., arXiv:2210.13382, section 4.2; Nanda et al., arXiv:2309.00941, section 4 (erase).
    """
    if kind not in KINDS or edit not in EDITS:
        raise ValueError(f"kind is one of {KINDS} and edit one of {EDITS}, not {kind!r} and {edit!r}")
    if kind == "published":
        if size != 8:
            raise ValueError(f"the published cases are on the 8x8 board, not {size}x{size}; use kind='natural'")
        found = _published(n, seed)
    else:
        found = generate(kind, 1000 if n is None else n, size, seed)
    return _counterfactuals(found, f"{edit}, {kind}", edit, size, seed)


def _counterfactuals(found: pd.DataFrame, kind: str, edit: str, size: int, seed: int) -> Counterfactuals:
    histories, square = found["history"].tolist(), found["square"].to_numpy()
    lengths = np.array([len(h) for h in histories])
    squares = np.full((len(histories), lengths.max()), -1)
    for row, history in enumerate(histories):
        squares[row, : len(history)] = history
    mine, theirs, edited_mine, edited_theirs = _edited(squares, lengths, square, edit, size)
    text = [[square_name(s, size) for s in history] for history in histories]
    group = np.array([opening(names, SHORTEST) for names in text], dtype=object)
    was = np.where(_has(mine, square), MINE, THEIRS)
    table = pd.DataFrame({
        "prompt": np.arange(len(histories)),
        "target": [square_name(s, size) for s in square.tolist()],
        "was": was,
        "becomes": EMPTY if edit == "erase" else MINE + THEIRS - was,
        "group": group,
        "split": _halves(group, seed),
        "history": [" ".join(names) for names in text],
        "witness": [w and " ".join(square_name(s, size) for s in w) for w in found["witness"]],
    })
    return Counterfactuals(
        task=task_name(size),
        kind=kind,
        scheme="mine_theirs",
        tokens=torch.from_numpy(to_tokens(squares, size)),
        lengths=torch.from_numpy(lengths),
        cases=table,
        right_before=legal_tokens(_next_moves(mine, theirs, size), size),
        right_after=legal_tokens(_next_moves(edited_mine, edited_theirs, size), size),
    )


def _edited(squares: ndarray, lengths: ndarray, square: ndarray, edit: str, size: int) -> tuple[ndarray, ...]:
    """Bitboards of the player to move and of the other one, before and after the edit: four of (case,)."""
    state, row = replay(squares, size), np.arange(len(squares))
    mine, theirs = state.mine[row, lengths - 1], state.theirs[row, lengths - 1]
    disc = np.uint64(1) << square.astype(np.uint64)
    if edit == "erase":
        return mine, theirs, mine & ~disc, theirs & ~disc
    return mine, theirs, mine ^ disc, theirs ^ disc


def _has(bits: ndarray, square: ndarray) -> ndarray:
    return (bits >> square.astype(np.uint64) & np.uint64(1)).astype(bool)


def _next_moves(mine: ndarray, theirs: ndarray, size: int) -> ndarray:
    """Legal moves of the player to move, or of the opponent where there are none."""
    own = legal_moves(mine, theirs, size)
    return np.where(own == 0, legal_moves(theirs, mine, size), own)


def _halves(group: ndarray, seed: int) -> ndarray:
    """`choose` or `report` for every case: groups are dealt in random order, each to the half with fewer cases."""
    names, index, count = np.unique(group, return_inverse=True, return_counts=True)
    half, dealt = np.empty(len(names), dtype=object), {"choose": 0, "report": 0}
    for g in np.random.default_rng(seed).permutation(len(names)):
        half[g] = min(dealt, key=dealt.__getitem__)
        dealt[half[g]] += count[g]
    return half[index]


def _published(n: int | None, seed: int) -> pd.DataFrame:
    records = read_benchmark(fetch(PUBLISHED))
    if n is not None and n > len(records):
        raise ValueError(f"there are {len(records)} published cases, {n} were asked for; leave n out for all of them")
    if n is not None:
        chosen = np.random.default_rng(seed).permutation(len(records))[:n]
        records = [records[i] for i in np.sort(chosen)]
    found = pd.DataFrame({"history": [r["history"] for r in records], "square": [r["pos_int"] for r in records]})
    return found.assign(witness=None)


class _PlainUnpickler(pickle.Unpickler):
    """Lists, dicts, strings and numbers; refuses to look up any name, so that nothing can be called."""

    def find_class(self, module: str, name: str):
        raise pickle.UnpicklingError(f"refused: the file asks for {module}.{name}; only plain lists, dicts, strings "
                                     "and numbers are read")

    def persistent_load(self, pid):
        raise pickle.UnpicklingError(f"refused: the file refers to outside data ({pid!r})")


def read_benchmark(file: Path) -> list[dict]:
    """The published cases, from the original pickle or its JSON conversion: `history`, `pos_int`, `ori_color`.

    Raises:
        pickle.UnpicklingError: A pickle holds more than plain data; nothing of it has run.
        ValueError: A record has other fields than these three.
    """
    if file.suffix == ".json":
        records = json.loads(file.read_text())
    else:
        with file.open("rb") as stream:
            records = _PlainUnpickler(stream).load()
    for row, record in enumerate(records):
        if set(record) != {"history", "pos_int", "ori_color"}:
            raise ValueError(f"case {row} of {file} has the fields {sorted(record)}, "
                             "wanted history, pos_int and ori_color")
    return records


def ideal_null(cases: Counterfactuals) -> Float[ndarray, " case"]:
    """Expected set error of a perfect player that ignores the edit and is indifferent among legal moves.

    It picks N = |right_after| moves at random from right_before; picks beyond |right_before| are wrong. The set
    error of picks P is |P - right_after| + |right_after - P|. Published flips: 2.808 on average, erased: 2.740.
    """
    before, after = cases.right_before.sum(1), cases.right_after.sum(1)
    shared = (cases.right_before & cases.right_after).sum(1)
    return 2 * (after - np.minimum(before, after) * shared / before)


def board_codes(cases: Counterfactuals) -> tuple[Int[ndarray, "case square"], Int[ndarray, "case square"]]:
    """Boards before and after the edit, as codes of `mine_theirs`: 0 theirs, 1 empty, 2 mine (player to move)."""
    size = board_size(cases)
    before, after = np.split(np.stack(_boards(cases)), 2)
    codes = [1 + unpack(mine, size).astype(np.int8) - unpack(theirs, size) for mine, theirs in (before, after)]
    return codes[0], codes[1]


def to_move(cases: Counterfactuals) -> Int[ndarray, " case"]:
    """Colour of the player to move in every case, 1 black and 0 white: who passes is no one's move."""
    size, rows = board_size(cases), cases.cases["prompt"].to_numpy()
    squares = token_squares(size)[cases.tokens.numpy()[rows]]
    return replay(squares, size).to_move[np.arange(len(rows)), cases.lengths.numpy()[rows] - 1]


def follow(cases: Counterfactuals, tokens: Int[Tensor, "case k"]) -> Bool[Tensor, "case k"]:
    """Whether each generated move is legal when play goes on from the edited board, passes included.

    The first illegal move ends the game: it and all later ones are False, and so is a move after the game is over.

    Args:
        tokens: What a model wrote after the edit, in the order of the cases.
    """
    if len(tokens) != len(cases):
        raise ValueError(f"{len(tokens)} rows of tokens for {len(cases)} cases; give one row per case, in their order")
    size = board_size(cases)
    _, _, own, opponent = _boards(cases)
    squares = token_squares(size)[tokens.numpy(force=True)]
    alive, legal_so_far = np.ones(len(squares), bool), np.zeros(squares.shape, bool)
    for step in range(squares.shape[1]):
        stuck = legal_moves(own, opponent, size) == 0  # a pass; after the game it changes nothing
        own, opponent = np.where(stuck, opponent, own), np.where(stuck, own, opponent)
        square = squares[:, step]
        move = np.where(square >= 0, np.uint64(1) << np.maximum(square, 0).astype(np.uint64), np.uint64(0))
        alive &= (move & legal_moves(own, opponent, size)) != 0
        move[~alive] = 0
        turned = flips(own, opponent, move, size)
        own, opponent = opponent & ~turned, own | turned | move
        legal_so_far[:, step] = alive
    return torch.from_numpy(legal_so_far)


def board_size(cases: Counterfactuals) -> int:
    """Side of the board: the vocabulary is padding and all squares but the four in the centre."""
    return math.isqrt(cases.right_before.shape[1] + 3)


def _boards(cases: Counterfactuals) -> tuple[ndarray, ...]:
    """`_edited` of cases as they are, whichever rows were kept."""
    size = board_size(cases)
    number = {square_name(s, size): s for s in range(size * size)}
    row = cases.cases["prompt"].to_numpy()
    squares = token_squares(size)[cases.tokens.numpy()[row]]
    square = np.array([number[name] for name in cases.cases["target"]])
    edit = "erase" if (cases.cases["becomes"] == EMPTY).all() else "flip"
    return _edited(squares, cases.lengths.numpy()[row], square, edit, size)
