"""Othello on even boards up to 8x8, all games at once: one board is one 64-bit integer.

Square `s = size * row + col`; bit `s` of a bitboard is that square, so on 8x8 A1 is bit 0 and H8 bit 63.
Black moves first. A mover without a legal move passes silently (there is no pass token); the game ends
when neither side can move. Rules and conventions: Li et al., arXiv:2210.13382, section 2.3.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Bool, Int, Shaped
from numpy import ndarray

SIZES = (4, 6, 8)
BLACK, WHITE = 1, 0  # a mover; `replay` returns them
_CHUNK = 2048  # games per vectorised batch: the working set stays in the L2 cache

Bitboards = Shaped[ndarray, "*shape"]  # numpy.uint64


class IllegalMove(ValueError):
    """A move list breaks the rules; the message names game, ply (from 0) and square."""


@dataclass(frozen=True)
class Replay:
    """The state after every move of every game (bitboards are uint64; after the end of a game, zero).

    Attributes:
        black, white: Discs on the board after the move.
        flipped: Discs that this move turned over; the placed disc itself is not one of them.
        legal: Legal squares of the player to move next, 0 once the game is over.
        last_mover: 1 where black made this move, 0 where white did, -1 past the end.
        to_move: Who moves next, passes resolved; when the game is over, the opponent of the last mover;
            -1 past the end.
    """

    size: int
    black: Shaped[ndarray, "game ply"]
    white: Shaped[ndarray, "game ply"]
    flipped: Shaped[ndarray, "game ply"]
    legal: Shaped[ndarray, "game ply"]
    last_mover: Int[ndarray, "game ply"]
    to_move: Int[ndarray, "game ply"]

    @property
    def mine(self) -> Shaped[ndarray, "game ply"]:
        """Discs of the player to move."""
        return np.where(self.to_move == BLACK, self.black, self.white)

    @property
    def theirs(self) -> Shaped[ndarray, "game ply"]:
        """Discs of the opponent of the player to move (without a pass, the player who just moved)."""
        return np.where(self.to_move == BLACK, self.white, self.black)


@cache
def _geometry(size: int):
    """Left and right shifts as columns (for broadcasting), with the masks that stop a wrap around the edge."""
    if size not in SIZES:
        raise ValueError(f"the board size must be one of {SIZES}, not {size!r}")
    rows, cols = np.divmod(np.arange(size * size, dtype=np.uint64), np.uint64(size))
    bit = np.uint64(1) << np.arange(size * size, dtype=np.uint64)
    full = np.bitwise_or.reduce(bit)
    no_first = np.bitwise_or.reduce(bit[cols > 0])
    no_last = np.bitwise_or.reduce(bit[cols < size - 1])
    shift = np.array([[1], [size], [size + 1], [size - 1]], dtype=np.uint64)
    up = np.array([[no_first], [full], [no_first], [no_last]], dtype=np.uint64)  # after a left shift
    down = np.array([[no_last], [full], [no_last], [no_first]], dtype=np.uint64)  # after a right shift
    return shift, up, down, full


@cache
def start_position(size: int) -> tuple[int, int]:
    """(black, white) bitboards of the opening: on 8x8 E4, D5 are black and D4, E5 white."""
    _geometry(size)
    h = size // 2
    white = (1 << (size * (h - 1) + h - 1)) | (1 << (size * h + h))
    black = (1 << (size * (h - 1) + h)) | (1 << (size * h + h - 1))
    return black, white


def legal_moves(own: Bitboards, opponent: Bitboards, size: int = 8) -> Bitboards:
    """Squares where the owner of `own` may move, as bitboards: each flanks at least one opponent disc."""
    shift, up, down, full = _geometry(size)
    own, opponent = np.broadcast_arrays(np.asarray(own, np.uint64), np.asarray(opponent, np.uint64))
    shape = own.shape
    own, opponent = own.reshape(1, -1), opponent.reshape(1, -1)
    found = np.zeros_like(own[0])
    for step, edge in ((np.left_shift, up), (np.right_shift, down)):
        inner = opponent & edge  # a run of opponent discs, never across the edge
        run = step(own, shift)
        run &= inner
        more = np.empty_like(run)
        for _ in range(size - 3):
            step(run, shift, out=more)
            more &= inner
            run |= more
        step(run, shift, out=more)
        more &= edge
        found |= np.bitwise_or.reduce(more, axis=0)
    return (found & ~(own[0] | opponent[0]) & full).reshape(shape)


def flips(own: Bitboards, opponent: Bitboards, move: Bitboards, size: int = 8) -> Bitboards:
    """Opponent discs turned over when the owner of `own` plays the one-bit bitboard `move` (0 for none)."""
    shift, up, down, _ = _geometry(size)
    own, opponent, move = np.broadcast_arrays(*(np.asarray(b, np.uint64) for b in (own, opponent, move)))
    shape = move.shape
    own, opponent, move = own.reshape(1, -1), opponent.reshape(1, -1), move.reshape(1, -1)
    turned = np.zeros_like(move[0])
    for step, edge in ((np.left_shift, up), (np.right_shift, down)):
        inner = opponent & edge
        run = step(move, shift)
        run &= inner
        more = np.empty_like(run)
        for _ in range(size - 3):
            step(run, shift, out=more)
            more &= inner
            run |= more
        step(run, shift, out=more)
        more &= edge
        more &= own  # the anchor at the far end
        run *= more != 0
        turned |= np.bitwise_or.reduce(run, axis=0)
    return turned.reshape(shape)


def _pick(bits: Bitboards, rng: np.random.Generator) -> tuple[Bitboards, ndarray]:
    """One set bit of each bitboard, uniformly at random, as (one-bit bitboard, square); (0, -1) where empty."""
    count = np.bitwise_count(bits)
    left = (rng.random(bits.shape, dtype=np.float32) * count).astype(np.uint8)  # rank of the chosen bit
    np.minimum(left, np.maximum(count, 1) - 1, out=left)
    rest, square = bits.copy(), np.zeros(bits.shape, np.uint64)
    for width in (32, 16, 8, 4, 2, 1):
        low = np.bitwise_count(rest & np.uint64((1 << width) - 1))
        go = left >= low
        jump = go.astype(np.uint64) * np.uint64(width)
        left -= low * go
        rest >>= jump
        square += jump
    some = count > 0
    return some.astype(np.uint64) << square, np.where(some, square.astype(np.int8), np.int8(-1))


def _play(n: int, size: int, rng: np.random.Generator) -> tuple[ndarray, ndarray]:
    black, white = start_position(size)
    own, opponent = np.full(n, black, np.uint64), np.full(n, white, np.uint64)
    n_moves = size * size - 4
    squares, legal_sets = np.full((n_moves, n), -1, np.int8), np.zeros((n_moves, n), np.uint64)
    for ply in range(n_moves):
        legal = legal_moves(own, opponent, size)
        stuck = np.flatnonzero(legal == 0)
        if len(stuck):  # a pass, or the end of the game (both are cheap: few games, late)
            own[stuck], opponent[stuck] = opponent[stuck], own[stuck]
            legal[stuck] = legal_moves(own[stuck], opponent[stuck], size)
        move, squares[ply] = _pick(legal, rng)
        legal_sets[ply] = legal
        turned = flips(own, opponent, move, size)
        own, opponent = opponent & ~turned, own | turned | move
    return squares.T, legal_sets.T


def random_games(
    n: int, size: int = 8, seed: int = 0, start: int = 0
) -> tuple[Int[ndarray, "game ply"], Shaped[ndarray, "game ply"]]:
    """`n` games of uniformly random legal moves, and the legal set each move was drawn from.

    Game `start + i` of a seed is always the same game, whatever `n`: a longer call extends a shorter one.

    Returns:
        squares: (n, size^2 - 4) int8, the square of each move, -1 after the end of the game.
        legal: (n, size^2 - 4) uint64, the bitboard of legal squares before each move.
    """
    _geometry(size)  # a size that is none is told before it seeds anything
    squares, legal = zip(*(_play(_CHUNK, size, np.random.default_rng([seed, size, c]))
                           for c in range(start // _CHUNK, max(-(-(start + n) // _CHUNK), start // _CHUNK + 1))),
                         strict=True)
    skip = start % _CHUNK
    return np.concatenate(squares)[skip : skip + n], np.concatenate(legal)[skip : skip + n]


def replay(squares: Int[ndarray, "game ply"], size: int = 8) -> Replay:
    """Play move lists and return the state after every move.

    Args:
        squares: Square of each move, negative past the end of a game (a game may stop anywhere).
    Raises:
        IllegalMove: A move is off the board, on an occupied square, flips nothing, or comes after a
            negative entry.
    """
    squares = np.asarray(squares)
    n, n_plies = squares.shape
    black, white = start_position(size)
    own, opponent = np.full(n, black, np.uint64), np.full(n, white, np.uint64)
    mover, legal = np.full(n, BLACK, np.int8), legal_moves(own, opponent, size)
    played = squares >= 0
    boards = np.zeros((4, n_plies, n), np.uint64)
    movers = np.full((2, n_plies, n), -1, np.int8)
    for ply in range(n_plies):
        on = played[:, ply]
        square = squares[:, ply]
        move = np.where(on & (square < size * size), np.uint64(1) << np.where(on, square, 0).astype(np.uint64), 0)
        wrong = on & ((move & legal) == 0)
        if ply and (gap := on & ~played[:, ply - 1]).any():
            game = int(np.flatnonzero(gap)[0])
            raise IllegalMove(f"game {game} has a move at ply {ply} after an empty ply {ply - 1}; "
                              "pad games only at their end, with -1")
        if wrong.any():
            game = int(np.flatnonzero(wrong)[0])
            options = " ".join(square_name(s, size) for s in squares_of(legal[game])) or "none, the game is over"
            raise IllegalMove(
                f"game {game}, ply {ply}: {square_name(int(square[game]), size)} is not a legal move for "
                f"{'black' if mover[game] == BLACK else 'white'} (legal: {options}); "
                f"{int(wrong.sum())} of {n} games break the rules here")
        turned = flips(own, opponent, move, size)
        own, opponent = own | turned | move, opponent & ~turned  # still the mover's view
        own, opponent = opponent, own
        last, nxt = mover, 1 - mover
        legal = legal_moves(own, opponent, size)
        if len(stuck := np.flatnonzero(on & (legal == 0))):
            other = legal_moves(opponent[stuck], own[stuck], size)
            swap = stuck[other != 0]  # a pass; otherwise the game is over
            own[swap], opponent[swap] = opponent[swap], own[swap]
            nxt = nxt.copy()
            nxt[swap] = 1 - nxt[swap]
            legal[stuck] = other
        is_black = nxt == BLACK
        boards[0, ply] = np.where(is_black, own, opponent)
        boards[1, ply] = np.where(is_black, opponent, own)
        boards[2, ply], boards[3, ply] = turned, legal
        movers[0, ply], movers[1, ply] = last, nxt
        mover = nxt
    boards *= played.T
    movers[:, ~played.T] = -1
    return Replay(size, *(np.ascontiguousarray(b.T) for b in boards), *(np.ascontiguousarray(m.T) for m in movers))


def unpack(bits: Bitboards, size: int = 8) -> Bool[ndarray, "*shape square"]:
    """Bitboards as booleans, one per square: (...) uint64 -> (..., size^2) bool."""
    bits = np.ascontiguousarray(bits, dtype="<u8")
    flat = np.unpackbits(bits.reshape(-1, 1).view(np.uint8), axis=-1, bitorder="little")
    return flat[:, : size * size].astype(bool).reshape(*bits.shape, size * size)


def squares_of(bits) -> Iterator[int]:
    """The squares set in one bitboard, ascending."""
    bits = int(bits)
    while bits:
        yield (bits & -bits).bit_length() - 1
        bits &= bits - 1


def square_name(square: int, size: int = 8) -> str:
    """`c4`: the row's letter and the column's number, as in Li et al. (19 on 8x8; A1 is 0, H8 is 63)."""
    if not 0 <= square < size * size:
        return f"square {square} (off the {size}x{size} board)"
    return f"{'abcdefgh'[square // size]}{square % size + 1}"
