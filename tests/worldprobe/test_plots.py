import re

import numpy as np
import pytest

from tasks.othello._engine import legal_moves, random_games, replay, unpack
from worldprobe import _boards, _plots
from worldprobe._ink import Plot, inline_svg, to_svg
from worldprobe._rows import pick

DRAWN = {
    "layers": lambda t: _plots.accuracy_by_layer(t, "mine_theirs"),
    "schemes": lambda t: _plots.absolute_vs_relative(t, ("black_white", "mine_theirs")),
    "plies": lambda t: _plots.accuracy_by_position(t, "mine_theirs"),
    "squares": lambda t: _boards.accuracy_by_square(t, "mine_theirs"),
    "doses": lambda t: _plots.dose_response(t, "flip"),
    "windows": lambda t: _plots.window_heatmap(t, "erase"),
    "specificity": lambda t: _plots.specificity_by_layer(t, "flip"),
    "steps": lambda t: _plots.steps_after(t, "flip"),
}
UNIT = {"layers": "share of targets", "squares": "share of targets", "doses": "tokens per case",
        "windows": "tokens per case"}


@pytest.fixture(scope="module", params=DRAWN)
def drawn(request, table) -> tuple[str, Plot]:
    return request.param, DRAWN[request.param](table)


def labels(figure: Plot) -> list[str]:
    return [text for ax in figure.axes for text in (ax.get_xlabel(), ax.get_ylabel())]


def texts(svg: str) -> list[str]:
    return re.findall(r">([^<>]+)</text>", svg)


def test_every_axis_is_labelled_with_its_unit(drawn):
    name, figure = drawn
    for ax in figure.axes:
        if ax.get_label() != "<colorbar>":
            assert ax.get_xlabel() and ax.get_ylabel()
    assert UNIT.get(name, "") in " ".join(labels(figure))


def test_a_figure_is_the_same_file_every_time_and_needs_nothing_from_outside(drawn, table):
    name, figure = drawn
    svg = to_svg(figure)
    assert svg == to_svg(DRAWN[name](table))
    assert not re.search(r'(href|src)="(?!#|data:)', svg)
    assert texts(svg), "text stays text"


def test_a_figure_carries_the_rows_it_shows(drawn, table):
    _, figure = drawn
    assert 0 < len(figure.frame) < len(table) / 3
    assert list(figure.frame.columns) == list(table.columns)


def test_accuracy_by_layer_starts_at_the_embedding_and_names_every_control(table):
    figure = _plots.accuracy_by_layer(table, "mine_theirs")
    said = texts(to_svg(figure))
    assert "emb" in said
    for name in ("logistic", "shuffled labels", "random-init model", "majority class", "shortcut: no flip"):
        assert name in said
    line = next(line for line in figure.axes[0].lines if len(line.get_xdata()) == 7)
    assert list(line.get_xdata()) == [-1, 0, 1, 2, 3, 4, 5]


def test_the_heat_map_shows_every_window_and_frames_the_chosen_one(table):
    figure = _plots.window_heatmap(table, "flip")
    numbers = [t for t in figure.axes[0].texts if re.fullmatch(r"\d\.\d\d", t.get_text())]
    assert len(numbers) == 21
    (frame,) = figure.axes[0].patches
    assert frame.get_xy() == (2.5, 0.5)  # layers 1 to 3


def test_dose_response_draws_the_band_and_every_control(table):
    said = texts(to_svg(_plots.dose_response(table, "flip")))
    for name in ("edit: encoding", "random directions, 5–95 %", "no edit", "no edit, old answers",
                 "ideal model, no edit", "sign flipped", "another target's direction", "another label's direction"):
        assert name in said
    assert len(_plots.dose_response(table, "flip").axes) == 2
    assert len(_plots.dose_response(table[table["metric"] != "kl"], "flip").axes) == 1


def test_names_at_the_ends_of_lines_never_overlap(table):
    ax = _plots.dose_response(table, "flip").axes[0]
    heights = sorted(t.get_position()[1] for t in ax.texts)
    assert np.diff(heights).min() > 0.06


def test_rows_that_are_not_there_are_named(make_table):
    bare = make_table(effects=False)
    with pytest.raises(KeyError, match="edits 'flip'"):
        _plots.dose_response(bare, "flip")
    with pytest.raises(KeyError, match="mine_theirs, black_white"):
        _plots.accuracy_by_layer(bare, "colour")


def test_a_dollar_sign_in_a_name_is_only_a_dollar_sign(table):
    odd = table.assign(probe=table["probe"].replace("ridge", r"cost $x_{"))
    assert r"cost $x_{" in texts(to_svg(_plots.accuracy_by_layer(odd, "mine_theirs")))


def test_theme_colours_become_variables_and_ids_unique(table):
    plain = to_svg(_plots.accuracy_by_layer(table, "mine_theirs"))
    page = inline_svg(plain, "f1")
    assert "var(--s0, #0072b2)" in page and "<style" not in page
    assert all(name.startswith("f1-") for name in re.findall(r'\sid="([^"]+)"', page))
    ids = set(re.findall(r'\sid="([^"]+)"', page))
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', page)) <= ids


@pytest.fixture(scope="module")
def position() -> _boards.Position:
    """A real position of a random game, read perfectly but for one square, by a model that plays legal moves evenly."""
    squares, _ = random_games(2, 8, seed=3)
    state = replay(squares)
    mine, theirs, legal = (unpack(b[1:2, 22])[0] for b in (state.mine, state.theirs, state.legal))
    truth = _boards.as_colours(np.where(mine, 2, np.where(theirs, 0, 1)), int(state.to_move[1, 22]))
    reading = 0.05 + 0.85 * np.eye(3)[truth]
    reading[0] = np.roll(reading[0], 1)
    return _boards.Position(truth, reading, legal, legal / legal.sum(), last=int(squares[1, 22]))


def test_a_board_says_how_much_of_it_is_right(position):
    said = " ".join(texts(_boards.position_picture(position, "Game 1, ply 22")))
    assert "63 of 64 squares right" in said
    n = int(position.legal.sum())
    assert f"{n} legal moves" in said and f"{n} of its top {n} are legal" in said
    assert to_svg(_boards.position_picture(position))


def test_an_edit_is_shown_before_and_after(position):
    square = int(np.flatnonzero(position.truth == 2)[0])
    truth = position.truth.copy()
    truth[square] = 0
    after = _boards.Position(truth, position.reading, position.legal, position.moves)
    svg = _boards.edit_picture(position, after, square)
    assert "from black to white" in svg and svg.count("True board") == 1 and svg.count("Board after the change") == 1


def test_colours_follow_the_player_to_move():
    assert list(_boards.as_colours(np.array([0, 1, 2]), 1)) == [0, 1, 2]
    assert list(_boards.as_colours(np.array([0, 1, 2]), 0)) == [2, 1, 0]
    assert list(_boards.reading_as_colours(np.array([[0.7, 0.2, 0.1]]), 0)[0]) == [0.1, 0.2, 0.7]


def test_saliency_colours_what_the_move_needs(position):
    move = int(np.flatnonzero(position.legal)[0])
    needs = np.zeros(64)
    needs[27], needs[28] = 0.5, -0.25
    svg = _boards.saliency_picture(needs, position.truth, move)
    assert "+50" in texts(svg) and "-25" in texts(svg)


def test_a_position_of_another_board_is_refused(position):
    with pytest.raises(ValueError, match="one entry per square"):
        _boards.Position(position.truth[:60], position.reading, position.legal, position.moves)


def test_the_drawn_squares_are_those_of_the_engine(position):
    bits = (sum(1 << int(s) for s in np.flatnonzero(position.truth == code)) for code in (2, 0))
    black, white = (np.array([b], np.uint64) for b in bits)
    legal = [unpack(legal_moves(*sides))[0] for sides in ((black, white), (white, black))]
    assert any((position.legal == found).all() for found in legal)


def test_by_square_puts_the_shortcut_beside_the_probe(table):
    figure = _boards.accuracy_by_square(table, "mine_theirs")
    assert [ax.get_title() for ax in figure.axes[:2]] == ["logistic probe, layer 5", "shortcut: no flip"]
    rows = pick(table, label="mine_theirs", subset="square=c4", control=None)
    assert figure.axes[0].texts[8 * 2 + 3].get_text() == f"{rows['value'].iloc[0]:.2f}"


def test_a_single_reported_dose_without_a_scan_is_drawn(make_table):
    table = make_table()
    rows = table[(table["intervention"] == "flip") & (table["split"] == "report")]
    one = rows[rows["alpha"].isna() | (rows["alpha"] == rows["alpha"].max())].assign(intervention="ablate")
    figure = _plots.dose_response(one, "ablate")
    assert figure.axes[0].get_ylabel()
