"""Labels of Othello games equal those of the slow engine, in every frame, and nothing leaks between splits."""

import numpy as np
import pytest
import slow_othello as slow

import tasks
from tasks.othello import IllegalMove, baselines, load, prompts_from_games, random_games, square_name

CODE = {"w": -1, ".": 0, "b": 1}


def codes(board):
    return [CODE[disc] for disc in board]


def slow_labels(moves, size):
    """Scheme -> codes after every move but the last, disc by disc."""
    board, mover = slow.start(size), "b"
    placed, turned_once = codes(board), set()
    rows = []
    for ply, square in enumerate(moves[:-1]):
        turned = slow.put(board, square, mover)
        placed[square] = CODE[mover]
        turned_once |= set(turned)
        mover = slow.next_player(board, mover)
        sign, parity = CODE[mover], 1 if ply % 2 else -1
        now = codes(board)
        rows.append({
            "mine_theirs": [1 + sign * c for c in now], "black_white": [1 + c for c in now],
            "parity": [1 + parity * c for c in now], "flipped": [int(s in turned) for s in range(size * size)],
            "no_flip": [1 + sign * c for c in placed], "no_flip_bw": [1 + c for c in placed],
            "no_flip_parity": [1 + parity * c for c in placed],
            "occupied": [c != 0 for c in now], "flipped_once": [s in turned_once for s in range(size * size)],
        })
    return rows


@pytest.mark.parametrize("size", [4, 6, 8])
def test_every_scheme_and_subset_equals_the_slow_engine(size):
    squares, _ = random_games(60, size, seed=21)
    prompts = prompts_from_games(squares, size)
    wanted = [row for game in squares.tolist() for row in slow_labels([s for s in game if s >= 0], size)]
    assert prompts.schemes == list(prompts.classes)
    for scheme in prompts.schemes:
        np.testing.assert_array_equal(prompts.labels(scheme), [row[scheme] for row in wanted], err_msg=scheme)
    for subset, mask in prompts.subsets.items():
        np.testing.assert_array_equal(mask, [row[subset] for row in wanted], err_msg=subset)


def test_prompts_read_as_the_moves_that_were_played():
    prompts = load(n=30, seed=5, size=6)
    game = prompts.examples.query("prompt == 3")
    words = [prompts.vocabulary[t] for t in prompts.tokens[3].tolist()]
    assert words[:6] == game["group"].iloc[0].split()
    assert words[prompts.lengths[3]:] == ["<pad>"] * (len(words) - prompts.lengths[3])
    assert game["pos"].tolist() == list(range(prompts.lengths[3]))
    assert len(prompts.vocabulary) == 33 and prompts.tokens.shape[1] == 31
    assert prompts.targets("mine_theirs")[:7] == ["a1", "a2", "a3", "a4", "a5", "a6", "b1"]
    assert prompts.task == "othello-6x6"


def test_labels_are_small_integers_in_one_block():
    prompts = load(n=50)
    assert prompts.tokens.shape == (50, 59)
    assert set(prompts.examples.filter(like="/").dtypes) == {np.dtype("int8")}
    assert prompts.labels("mine_theirs").dtype == np.int8


def test_a_larger_n_extends_the_games_and_seeds_give_others():
    few, many, other = load(n=20, seed=1, size=6), load(n=60, seed=1, size=6), load(n=20, seed=2, size=6)
    assert many.tokens[:20].equal(few.tokens)
    assert not other.tokens.equal(few.tokens)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_seed_repeats_the_games_a_reference_model_was_trained_or_scored_on(seed):
    from tasks.othello.train import HELD_OUT_SEED, TRAIN_SEED

    probed = {tuple(game) for game in load(n=500, seed=seed, size=6).tokens.tolist()}
    for trained in (TRAIN_SEED, HELD_OUT_SEED):
        squares, _ = random_games(2000, 6, trained)
        assert not probed & {tuple(game) for game in prompts_from_games(squares, 6).tokens.tolist()}


@pytest.mark.parametrize("size", [4, 6, 8])
def test_splits_share_no_prefix_of_six_plies_or_more(size):
    prompts = load(n=400, seed=9, size=size)
    split = prompts.examples.groupby("prompt")["split"].first()
    prefixes = {}
    for game, tokens in enumerate(prompts.tokens.tolist()):
        for plies in range(6, int(prompts.lengths[game]) + 1):
            prefixes.setdefault(tuple(tokens[:plies]), set()).add(split[game])
    assert all(len(splits) == 1 for splits in prefixes.values())


def test_a_label_depends_on_the_moves_up_to_its_position_only():
    squares, _ = random_games(80, 6, seed=8)
    whole, cut = prompts_from_games(squares, 6), prompts_from_games(squares[:, :14], 6)
    first = (whole.examples["pos"] < 13).to_numpy()
    for scheme in whole.schemes:
        np.testing.assert_array_equal(whole.labels(scheme)[first], cut.labels(scheme))
    assert whole.examples["split"][first].tolist() == cut.examples["split"].tolist()


def test_games_of_ones_own_may_be_numbers_or_names_of_any_length():
    squares, _ = random_games(30, 8, seed=2)
    games = [list(game[: 9 + i]) for i, game in enumerate(squares.tolist())]
    names = [[square_name(s) for s in game] for game in games]
    by_number, by_name = prompts_from_games(games), prompts_from_games(names)
    assert by_number.tokens.equal(by_name.tokens)
    assert by_number.examples.equals(by_name.examples)
    assert by_number.lengths.tolist() == [8 + i for i in range(30)]


@pytest.mark.parametrize(("game", "error", "message"), [
    (["c4", "c3", "h8"], IllegalMove, "game 1, ply 2: h8 is not a legal move for black"),
    (["c4", "z9"], IllegalMove, "game 1, ply 1: 'z9' is not a square of the 8x8 board; squares are a1 to h8"),
    (["c4", -4], IllegalMove, "game 1, ply 1: -4 is not a square"),
    ([19, 99], IllegalMove, "game 1, ply 1: square 99 .off the 8x8 board. is not a legal move"),
    (["c4"], ValueError, "game 1 has 1 move.s.; a game needs at least 2"),
])
def test_a_bad_game_gives_one_clear_error(game, error, message):
    with pytest.raises(error, match=message):
        prompts_from_games([["c4", "c3", "d3"], game])


def test_baselines_are_the_cards():
    table = baselines(load(n=2000, seed=1)).set_index("baseline")
    for name, wanted, tolerance in (("always_empty", 0.469, 0.003), ("majority", 0.618, 0.005),
                                    ("occupancy", 0.753, 0.005), ("no_flip", 0.803, 0.005)):
        assert table.loc[name, "value"] == pytest.approx(wanted, abs=tolerance)
    assert table["n"].nunique() == 1 and (table["n_groups"] > 250).all()


def test_absolute_and_relative_frames_agree_on_what_is_empty_and_disagree_after_a_pass():
    prompts = tasks.load("othello", n=300, seed=4)
    relative, parity = prompts.labels("mine_theirs"), prompts.labels("parity")
    np.testing.assert_array_equal(relative == 1, prompts.labels("black_white") == 1)
    wrong = (relative != parity).any(1)
    assert 0.002 < wrong.mean() < 0.03  # the card's 1.17 %
    np.testing.assert_array_equal(relative[wrong], 2 - parity[wrong])
