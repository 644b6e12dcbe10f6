"""Intervention cases: the answers are right, natural boards are reachable, unnatural ones are not."""

import itertools
import json
import os
import pickle

import numpy as np
import pytest
import slow_othello as slow
import torch

from tasks.othello import board_codes, cases, follow, ideal_null, random_games, square_name, to_move
from tasks.othello._cases import _halves, read_benchmark
from tasks.othello._generate import endings, generate
from tasks.othello._tokens import words

NUMBER = {size: {square_name(s, size): s for s in range(size * size)} for size in (4, 6, 8)}
SMALL = [(kind, edit, size) for kind in ("natural", "unnatural") for edit in ("flip", "erase") for size in (6, 8)]
needs_published = pytest.mark.skipif("WORLDPROBE_DATA" not in os.environ, reason="needs the mirror of the data sets")


def numbers(text, size):
    return [NUMBER[size][name] for name in text.split()]


def edited_board(row, edit, size):
    """The slow engine's board after the history with the disc changed, and who moves."""
    board, mover = slow.position(numbers(row.history, size), size)
    square = NUMBER[size][row.target]
    assert board[square] == (mover if row.was == 2 else slow.OTHER[mover])
    board[square] = slow.OTHER[board[square]] if edit == "flip" else "."
    return board, mover


def right_tokens(squares, size):
    return [words(size).index(square_name(s, size)) for s in squares]


@pytest.mark.parametrize(("kind", "edit", "size"), SMALL)
def test_answers_before_and_after_are_the_slow_engines(kind, edit, size):
    found = cases(kind, edit, n=40, size=size)
    assert found.kind == f"{edit}, {kind}" and found.scheme == "mine_theirs" and len(found) == 40
    for row in found.cases.itertuples():
        history = numbers(row.history, size)
        assert found.tokens[row.prompt, : len(history)].tolist() == right_tokens(history, size)
        assert not found.tokens[row.prompt, len(history):].any() and found.lengths[row.prompt] == len(history)
        board, mover = slow.position(history, size)
        edited, _ = edited_board(row, edit, size)
        before, after = slow.legal(board, mover), slow.legal(edited, mover)
        assert before and after and before != after
        assert np.flatnonzero(found.right_before[row.Index]).tolist() == right_tokens(before, size)
        assert np.flatnonzero(found.right_after[row.Index]).tolist() == right_tokens(after, size)
        assert row.becomes == (1 if edit == "erase" else 2 - row.was)


@pytest.mark.parametrize("size", [6, 8])
def test_a_natural_case_comes_with_a_game_that_ends_on_the_flipped_board(size):
    found = cases("natural", n=150, size=size).cases
    for row in found.itertuples():
        history, witness = numbers(row.history, size), numbers(row.witness, size)
        assert sorted(history) == sorted(witness)
        slow.history(witness, size)  # raises where a move is illegal
        board, mover = slow.position(witness, size)
        assert (board, mover) == edited_board(row, "flip", size)


@pytest.mark.parametrize("size", [6, 8])
def test_no_order_of_the_moves_ends_on_an_unnatural_board(size):
    found = cases("unnatural", n=150, size=size).cases
    assert found["witness"].isna().all()
    short = found[found["history"].str.split().str.len() <= 8]
    assert len(short) > 30
    for row in short.itertuples():
        board, mover = edited_board(row, "flip", size)
        ends = slow.all_endings(numbers(row.history, size), size)
        assert (slow.bits(slow.discs(board, "b")), slow.bits(slow.discs(board, "w")), mover) not in ends


@pytest.mark.parametrize(("size", "length", "n"), [(4, 7, 20), (4, 9, 10), (6, 8, 10), (8, 8, 10)])
def test_all_orders_of_a_game_are_found_passes_included(size, length, n):
    squares, _ = random_games(n, size, seed=31)
    squares = squares[(squares[:, :length] >= 0).all(1), :length].astype(int)
    ends = endings(squares, length, size)
    found = {game: set() for game in range(len(squares))}
    for game, moves, black, mover in zip(ends.game, ends.moves, ends.black.tolist(), ends.to_move, strict=True):
        states = slow.history(moves.tolist(), size)  # the order itself is legal and ends there
        assert states[-1][0] == black
        found[game].add((black, states[-1][1], states[-1][5]))
        assert states[-1][5] in (None, "wb"[mover])
    for game, moves in enumerate(squares.tolist()):
        assert found[game] == slow.all_endings(moves, size)
    assert len(ends.game) == len(set(zip(ends.game.tolist(), ends.black.tolist(), ends.to_move.tolist(), strict=True)))


@pytest.mark.parametrize("kind", ["natural", "unnatural"])
def test_a_larger_n_extends_the_cases_and_flips_and_erasures_are_the_same_cases(kind):
    few, many = generate(kind, 30, 8, seed=3), generate(kind, 90, 8, seed=3)
    assert few.equals(many[:30])
    assert not few.equals(generate(kind, 30, 8, seed=4))
    flips, erased = (cases(kind, edit, n=60, seed=3).cases for edit in ("flip", "erase"))
    same = ["prompt", "target", "was", "group", "split", "history"]
    assert flips[same].equals(erased[same])
    assert not flips.duplicated(["history", "target"]).any()
    centre = {"d4", "d5", "e4", "e5"}
    assert not centre & set(flips["target"])


def test_halves_are_equal_and_no_group_lies_in_both():
    found = cases("natural", n=200).cases
    assert abs(found["split"].value_counts().diff().iloc[-1]) <= 2
    assert (found.groupby("group")["split"].nunique() == 1).all()
    assert (found["group"] == found["history"].str.split().str[:5].str.join(" ")).all()
    lumps = np.repeat(np.arange(4), [50, 30, 15, 5]).astype(str)
    assert sorted(np.unique(_halves(lumps, seed=0), return_counts=True)[1].tolist()) == [50, 50]


def test_the_ideal_null_is_the_mean_over_all_picks():
    found = cases("natural", n=25, size=6)
    for row, expected in enumerate(ideal_null(found)):
        before, after = (set(np.flatnonzero(right[row])) for right in (found.right_before, found.right_after))
        surplus = [f"wrong {i}" for i in range(max(len(after) - len(before), 0))]
        picks = [{*pick, *surplus} for pick in itertools.combinations(before, min(len(before), len(after)))]
        assert expected == pytest.approx(np.mean([len(p - after) + len(after - p) for p in picks]))


def test_board_codes_differ_in_the_edited_square_alone():
    for edit in ("flip", "erase"):
        found = cases("unnatural", edit, n=50, size=6)
        before, after = board_codes(found)
        row, square = np.nonzero(before != after)
        assert row.tolist() == list(range(50))
        assert [square_name(s, 6) for s in square.tolist()] == found.cases["target"].tolist()
        np.testing.assert_array_equal(before[row, square], found.cases["was"])
        np.testing.assert_array_equal(after[row, square], found.cases["becomes"])


@pytest.mark.parametrize(("kind", "edit", "size"), [*SMALL, ("natural", "flip", 4)])
def test_follow_agrees_with_the_slow_engine_on_play_from_the_edited_board(kind, edit, size):
    n, k = (5, 8) if size == 4 else (40, 12)
    found = cases(kind, edit, n=n, size=size)
    rng = np.random.default_rng(0)
    tokens, wanted = np.zeros((n, k), int), np.zeros((n, k), bool)
    for row in found.cases.itertuples():
        board, mover = edited_board(row, edit, size)
        alive = True
        for step in range(k):
            options = slow.legal(board, mover) if mover else []
            token = int(rng.integers(0, size * size - 3))
            if options and rng.random() < 0.9:
                token = right_tokens([options[rng.integers(len(options))]], size)[0]
            square = NUMBER[size][words(size)[token]] if token else -1
            alive = alive and square in options
            tokens[row.Index, step], wanted[row.Index, step] = token, alive
            if square in options:
                slow.put(board, square, mover)
                mover = slow.next_player(board, mover)
    assert wanted.any() and not wanted.all()
    assert follow(found, torch.from_numpy(tokens)).tolist() == wanted.tolist()


def test_follow_wants_one_row_per_case():
    with pytest.raises(ValueError, match="3 rows of tokens for 5 cases"):
        follow(cases("unnatural", n=5, size=6), torch.zeros(3, 2, dtype=torch.long))


@pytest.mark.parametrize(("arguments", "message"), [
    (dict(kind="printed"), "kind is one of .*published.* not 'printed'"),
    (dict(edit="swap"), "edit one of .*flip.*erase.* 'swap'"),
    (dict(kind="published", size=6), "published cases are on the 8x8 board, not 6x6"),
    (dict(kind="natural", size=4, n=50_000), "found only [0-9]+ natural cases on the 4x4 board, 50000 were asked"),
])
def test_cases_that_cannot_be_had_say_why(arguments, message):
    with pytest.raises(ValueError, match=message):
        cases(**arguments)


@needs_published
@pytest.mark.parametrize(("edit", "null", "difference"), [("flip", 2.808, 2.118), ("erase", 2.740, 2.170)])
def test_the_published_cases_have_the_published_figures(edit, null, difference):
    found = cases("published", edit)
    assert len(found) == 1001
    assert round(ideal_null(found).mean(), 3) == null
    assert round((found.right_before ^ found.right_after).sum(1).mean(), 3) == difference
    assert (found.cases["was"] == 2).sum() == 346  # the disc belongs to the player to move
    assert found.cases["target"].nunique() == 49
    assert found.right_after.any(1).all() and (found.right_before != found.right_after).any(1).all()
    assert found.lengths.min() == 5 and found.lengths.max() == 30
    assert found.cases["split"].value_counts().tolist() == [501, 500]


@needs_published
def test_where_an_erased_disc_leaves_no_move_the_opponents_moves_are_right():
    found = cases("published", "erase")
    passes = []
    for row in found.cases.itertuples():
        board, mover = edited_board(row, "erase", 8)
        if not slow.legal(board, mover):
            passes.append(row.Index)
            wanted = right_tokens(slow.legal(board, slow.OTHER[mover]), 8)
            assert np.flatnonzero(found.right_after[row.Index]).tolist() == wanted
            reply = torch.zeros(1001, 1, dtype=torch.long)
            reply[row.Index] = wanted[0]
            assert follow(found, reply)[row.Index].tolist() == [True]
    assert len(passes) == 1


@needs_published
def test_fewer_published_cases_are_a_seeded_choice_of_them():
    every, few = cases("published").cases, cases("published", n=100, seed=1).cases
    key = ["history", "target"]
    assert set(map(tuple, few[key].to_numpy())) <= set(map(tuple, every[key].to_numpy()))
    assert few[key].equals(cases("published", n=100, seed=1).cases[key])
    assert not few[key].equals(cases("published", n=100, seed=2).cases[key])
    with pytest.raises(ValueError, match="there are 1001 published cases, 1002 were asked for"):
        cases("published", n=1002)


RECORDS = [{"history": [26, 20, 45], "pos_int": 20, "ori_color": 0.0},
           {"history": [19, 34, 45, 37, 44], "pos_int": 34, "ori_color": 2.0}]


class _Calls:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_the_original_pickle_and_its_conversion_read_the_same(tmp_path, protocol):
    original, converted = tmp_path / "cases.pkl", tmp_path / "cases.json"
    original.write_bytes(pickle.dumps(RECORDS, protocol))
    converted.write_text(json.dumps(RECORDS))
    assert read_benchmark(original) == read_benchmark(converted) == RECORDS


def test_a_pickle_that_calls_something_is_refused_before_it_runs(tmp_path):
    evil, made = tmp_path / "evil.pkl", tmp_path / "made"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        evil.write_bytes(pickle.dumps([*RECORDS, _Calls(made)], protocol))
        with pytest.raises(pickle.UnpicklingError, match="refused: the file asks for posix.mkdir"):
            read_benchmark(evil)
    evil.write_bytes(b"Pelsewhere\n.")
    with pytest.raises(pickle.UnpicklingError, match="refused: the file refers to outside data .'elsewhere'"):
        read_benchmark(evil)
    assert not made.exists()


def test_a_record_with_other_fields_is_refused(tmp_path):
    file = tmp_path / "cases.json"
    file.write_text(json.dumps([*RECORDS, {"history": [26], "square": 3}]))
    with pytest.raises(ValueError, match="case 2 of .*cases.json has the fields .'history', 'square'."):
        read_benchmark(file)


@pytest.mark.parametrize("size", [6, 8])
def test_to_move_is_who_moves_next_in_the_slow_engine(size):
    made = cases("natural", "flip", 40, size)
    movers = [slow.position(numbers(row.history, size), size)[1] for row in made.cases.itertuples()]
    assert ["wb"[mover] for mover in to_move(made)] == movers
