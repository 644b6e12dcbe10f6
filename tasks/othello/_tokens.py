"""Squares to tokens: 0 is padding, the playable squares follow in ascending order (60 on 8x8).

On 8x8 token -> square is 1..27 -> t-1, 28..33 -> t+1, 34..60 -> t+3, as in Li et al. There is no BOS token and
no pass token; a model sees moves 1..T-1 and predicts moves 2..T, so the opening move is never predicted.
"""

from functools import cache

import numpy as np
from jaxtyping import Bool, Int, Shaped
from numpy import ndarray

from ._engine import square_name, start_position, unpack


@cache
def token_squares(size: int = 8) -> ndarray:
    """Square of each token, -1 for padding: (d_vocab,)."""
    black, white = start_position(size)
    return np.array([-1, *(s for s in range(size * size) if not (black | white) >> s & 1)])


@cache
def square_tokens(size: int = 8) -> ndarray:
    """Token of each square, 0 for the four centre squares and, at index -1, for "no move": (size^2 + 1,)."""
    table = np.zeros(size * size + 1, np.int64)
    table[token_squares(size)[1:]] = np.arange(1, size * size - 3)
    return table


def to_tokens(squares: Int[ndarray, "game ply"], size: int = 8) -> Int[ndarray, "game ply"]:
    """Move lists (squares, -1 past the end) as token ids (0 past the end)."""
    return square_tokens(size)[np.asarray(squares)]


def legal_tokens(legal: Shaped[ndarray, "*shape"], size: int = 8) -> Bool[ndarray, "*shape d_vocab"]:
    """Legal squares, as bitboards, over the vocabulary; padding is never legal."""
    legal = unpack(legal, size)[..., token_squares(size)]
    legal[..., 0] = False
    return legal


def words(size: int = 8) -> list[str]:
    """The vocabulary as text: `<pad> a1 a2 ...` without the four centre squares."""
    return ["<pad>", *(square_name(int(s), size) for s in token_squares(size)[1:])]
