"""The vectorised engine plays Othello: it equals the slow one everywhere, and says what is wrong with a bad game."""

import numpy as np
import pytest
import slow_othello as slow
from hypothesis import given
from hypothesis import strategies as st

from tasks.othello import IllegalMove, legal_moves, random_games, replay, square_name
from tasks.othello._engine import BLACK, flips, squares_of, start_position, unpack

MOVER = {"b": 1, "w": 0}
WIPED_OUT = "e6 f4 e3 f6 g5 d6 e7 f5 c5"  # the shortest win: no white disc is left after nine moves


def numbers(text, size=8):
    names = {square_name(s, size): s for s in range(size * size)}
    return np.array([[names[name] for name in text.split()]])


def assert_equals_the_slow_engine(n, size, seed):
    squares, drawn_from = random_games(n, size, seed)
    fast = replay(squares, size)
    boards = [b.tolist() for b in (fast.black, fast.white, fast.flipped, fast.legal)]
    for game, moves in enumerate(squares.tolist()):
        moves = [s for s in moves if s >= 0]
        states = slow.history(moves, size)
        wanted = [slow.bits(slow.legal(slow.start(size), "b")), *(state[3] for state in states)]
        assert drawn_from[game, : len(moves)].tolist() == wanted[: len(moves)], f"legal moves of game {game}"
        assert states[-1][5] is None, f"game {game} stops before its end"
        for ply, (*bitboards, last, following) in enumerate(states):
            assert [b[game][ply] for b in boards] == bitboards, f"game {game}, ply {ply}"
            assert fast.last_mover[game, ply] == MOVER[last]
            assert fast.to_move[game, ply] == MOVER[following or slow.OTHER[last]]
        assert not any(b[game][ply] for b in boards for ply in range(len(moves), squares.shape[1]))
        assert (fast.to_move[game, len(moves):] == -1).all() and (fast.last_mover[game, len(moves):] == -1).all()


@pytest.mark.parametrize(("size", "n"), [(4, 2000), (6, 700), (8, 300)])
def test_random_games_equal_the_slow_engine_move_for_move(size, n):
    assert_equals_the_slow_engine(n, size, seed=7)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "n"), [(4, 10_000), (6, 30_000), (8, 60_000)])
def test_a_hundred_thousand_random_games_equal_the_slow_engine(size, n):
    for part in range(0, n, 2000):
        assert_equals_the_slow_engine(min(2000, n - part), size, seed=1000 + part)


@given(st.sampled_from([4, 6, 8]), st.randoms(use_true_random=False))
def test_any_board_has_the_slow_engines_moves_and_flips(size, random):
    board = random.choices(".bw", k=size * size)
    own, opponent = (np.array([slow.bits(slow.discs(board, c))], np.uint64) for c in "bw")
    legal = slow.legal(board, "b")
    assert list(squares_of(legal_moves(own, opponent, size)[0])) == legal
    for square in legal:
        move = np.array([1 << square], np.uint64)
        assert sorted(squares_of(flips(own, opponent, move, size)[0])) == sorted(slow.turned_by(board, square, "b"))


@pytest.mark.parametrize("size", [4, 6, 8])
def test_a_transposed_or_turned_game_is_a_game_with_the_boards_moved_along(size):
    squares, _ = random_games(500, size, seed=5)
    grid = np.arange(size * size).reshape(size, size)
    plain = replay(squares, size)
    for moved in (grid.T.ravel(), grid.ravel()[::-1]):  # both keep the opening
        other = replay(np.where(squares >= 0, moved[squares], -1), size)
        np.testing.assert_array_equal(unpack(other.black, size)[..., moved], unpack(plain.black, size))
        np.testing.assert_array_equal(unpack(other.legal, size)[..., moved], unpack(plain.legal, size))
        np.testing.assert_array_equal(other.to_move, plain.to_move)


@pytest.mark.parametrize("size", [4, 6, 8])
def test_every_move_adds_one_disc_and_turns_at_least_one(size):
    squares, _ = random_games(2000, size, seed=6)
    state, played = replay(squares, size), squares >= 0
    assert not (state.black & state.white).any()
    discs = np.bitwise_count(state.black | state.white)
    np.testing.assert_array_equal(discs, np.where(played, np.arange(5, 1 + size * size), 0))
    assert (np.bitwise_count(state.flipped)[played] >= 1).all()
    np.testing.assert_array_equal(state.mine | state.theirs, state.black | state.white)


@pytest.mark.parametrize("size", [4, 6, 8])
def test_random_games_of_a_seed_are_the_same_however_they_are_asked_for(size):
    squares, legal = random_games(2200, size, seed=3)
    for start, n in ((0, 50), (2030, 40), (2048, 2), (2199, 1)):
        part, part_legal = random_games(n, size, seed=3, start=start)
        np.testing.assert_array_equal(part, squares[start : start + n])
        np.testing.assert_array_equal(part_legal, legal[start : start + n])
    assert (random_games(50, size, seed=4)[0] != squares[:50]).any()


def test_moves_are_drawn_uniformly_from_the_legal_ones():
    squares, _ = random_games(40_000, 8, seed=1)
    counts = np.unique(squares[:, 0], return_counts=True)[1]
    assert len(counts) == 4
    assert np.abs(counts - 10_000).max() < 5 * (40_000 * 3 / 16) ** 0.5  # five standard deviations


def test_the_opening_is_that_of_the_papers():
    black, white = start_position(8)
    assert [square_name(s) for s in squares_of(black)] == ["d5", "e4"]
    assert [square_name(s) for s in squares_of(white)] == ["d4", "e5"]
    legal = legal_moves(np.array([black], np.uint64), np.array([white], np.uint64))
    assert [square_name(s) for s in squares_of(legal[0])] == ["c4", "d3", "e6", "f5"]


def test_a_side_without_discs_ends_the_game():
    squares = numbers(WIPED_OUT)
    state = replay(squares)
    assert state.white[0, -1] == 0 and state.legal[0, -1] == 0
    assert state.last_mover[0, -1] == BLACK
    assert (state.legal[0, :-1] != 0).all()
    with pytest.raises(IllegalMove, match="game 0, ply 9: a1 is not a legal move .*none, the game is over"):
        replay(np.hstack([squares, [[0]]]))


def test_a_pass_leaves_the_move_with_the_player_who_just_moved():
    squares, _ = random_games(2000, 8, seed=11)
    state = replay(squares)
    passed = (state.last_mover == state.to_move) & (squares >= 0)
    assert 0.25 < passed.any(1).mean() < 0.45  # the card's 34 %
    game, ply = (int(i[0]) for i in np.nonzero(passed))
    board, mover = slow.position(squares[game, : ply + 1].tolist(), 8)
    assert not slow.legal(board, slow.OTHER[mover]) and slow.legal(board, mover)
    assert state.legal[game, ply] == slow.bits(slow.legal(board, mover))


def test_random_games_have_the_statistics_of_the_card():
    squares, legal = random_games(3000, 8, seed=12)
    played = squares >= 0
    assert (played.sum(1) == 60).mean() == pytest.approx(0.990, abs=0.006)
    assert np.bitwise_count(legal)[played].mean() == pytest.approx(8.54, abs=0.05)
    state = replay(squares)
    parity = np.where(np.arange(60) % 2, BLACK, 1 - BLACK)
    middle = played[:, 1:]
    assert (state.to_move != parity)[:, :-1][middle].mean() == pytest.approx(0.0117, abs=0.003)


@pytest.mark.parametrize(("moves", "message"), [
    ([26, 18, 63], r"game 1, ply 2: h8 is not a legal move for black \(legal: .*\); 1 of 2 games"),
    ([26, 26], "game 1, ply 1: d3 is not a legal move for white"),
    ([26, 27], "game 1, ply 1: d4 is not a legal move for white"),
    ([64], "game 1, ply 0: square 64 .off the 8x8 board. is not a legal move"),
    ([26, -1, 18], "game 1 has a move at ply 2 after an empty ply 1"),
])
def test_an_illegal_move_names_game_ply_and_square(moves, message):
    good = [26, 18, 19]
    games = np.full((2, 3), -1)
    games[0], games[1, : len(moves)] = good, moves
    with pytest.raises(IllegalMove, match=message):
        replay(games)


def test_only_boards_that_fit_sixty_four_bits_are_played():
    for size in (2, 5, 10):
        with pytest.raises(ValueError, match=f"must be one of .4, 6, 8., not {size}"):
            random_games(1, size)
