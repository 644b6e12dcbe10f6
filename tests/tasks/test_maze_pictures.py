"""Pictures of mazes: well-formed, every wall once, in the place and of the kind that the numbers say."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from tasks import maze
from tasks.maze._marks import BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, SIDE
from tasks.maze._tokens import CELL, PATH_END

SVG = "{http://www.w3.org/2000/svg}"
SHAPES = [5, (2, 7), (1, 4), 8]


def drawn(svg):
    """The elements of a picture whose viewBox starts at 0 0 and holds every line of text."""
    root = ElementTree.fromstring(svg)
    left, top, width, height = map(float, root.get("viewBox").split())
    assert (left, top) == (0, 0) and width > 0 and height > 0
    return root


def marks(root, kind, colour=None):
    return [e for e in root.iter() if e.get("class") == kind and (colour is None or colour in e.get("style"))]


def words(root):
    return ["".join(e.itertext()) for e in root.iter(f"{SVG}text")]


@pytest.mark.parametrize("size", SHAPES)
def test_a_maze_is_drawn_with_its_walls(size):
    mazes = maze.random_mazes(3, size, "percolation", p=0.6, seed=1)
    for row in range(3):
        root = drawn(maze.map_picture(mazes, row, path=mazes.paths[row]))
        is_open = maze.open_edges(mazes.connections)[row]
        walls = marks(root, "wall", INK)
        assert len(walls) == (~is_open).sum() and len(marks(root, "border")) == 1
        pairs = maze.edges(mazes.shape)[~is_open]
        for (a, b), wall in zip(pairs.tolist(), walls, strict=True):
            x, y, way, length = re.fullmatch(r"M(\S+) (\S+)([hv])(\S+)", wall.get("d")).groups()
            assert way == ("h" if b - a == mazes.shape[1] and mazes.shape[0] > 1 else "v") and float(length) == SIDE
            middle = (float(x) + SIDE / 2 * (way == "h"), float(y) + SIDE / 2 * (way == "v"))
            cells = np.array([[cell % mazes.shape[1] + 0.5, cell // mazes.shape[1] + 0.5] for cell in (a, b)]) * SIDE
            np.testing.assert_allclose(middle, cells.mean(0))
        assert len(marks(root, "path", BLUE)) == len(marks(root, "path", GREEN)) == 1


def test_two_readings_stand_side_by_side_and_edges_that_are_not_read_do_not_count():
    mazes = maze.random_mazes(1, 4, seed=2)
    is_open = maze.open_edges(mazes.connections)[0]
    some = np.where(np.arange(24) < 10, is_open, np.nan)
    one, other = (drawn(maze.map_picture(mazes, 0, read)) for read in (is_open.astype(float), some))
    both = drawn(maze.map_picture(mazes, 0, {"All": is_open.astype(float), "Some": some}))
    assert {"24 of 24 edges read rightly", "10 of 10 edges read rightly", "All", "Some"} <= set(words(both))
    for colour in (INK, MUTED, ORANGE):
        assert len(marks(both, "wall", colour)) == len(marks(one, "wall", colour)) + len(marks(other, "wall", colour))


@pytest.mark.parametrize("size", SHAPES)
def test_errors_of_a_reading_are_orange_and_right_walls_as_strong_as_they_are_sure(size):
    mazes = maze.random_mazes(1, size, seed=2)
    is_open = maze.open_edges(mazes.connections)[0]
    read = np.where(is_open, 1.0, 0.25)
    root = drawn(maze.map_picture(mazes, 0, read))
    assert len(marks(root, "wall", MUTED)) == len(marks(root, "wall", INK)) == (~is_open).sum()
    assert {e.get("opacity") for e in marks(root, "wall", INK)} <= {"0.75"} and not marks(root, "wall", ORANGE)
    assert f"{len(read)} of {len(read)} edges read rightly" in words(root)
    read[0] = 1 - read[0]
    root = drawn(maze.map_picture(mazes, 0, read))
    assert len(marks(root, "wall", ORANGE)) == 1
    assert f"{len(read) - 1} of {len(read)} edges read rightly" in words(root)


@pytest.mark.parametrize(("kind", "size"), [("add", 5), ("remove", 5), ("add", (2, 7)), ("remove", (4, 3))])
def test_an_edit_is_drawn_where_it_is_made(kind, size):
    cases = maze.cases(kind, n=4, size=size)
    mazes = maze.parse(maze.to_text(cases.tokens, size), size)
    for row, case in enumerate(cases.cases.itertuples()):
        before, after = (right[row] / right[row].sum() for right in (cases.right_before, cases.right_after))
        after = 0.8 * after
        after[PATH_END] = 0.2
        root = drawn(maze.edit_picture(mazes, row, case.target, case.node, {"Before": before, "After": after}))
        assert len(marks(root, "border")) == 2 and len(marks(root, "wall", PURPLE)) == 2
        n_walls = (~maze.open_edges(mazes.connections)[row]).sum() - (kind == "add")
        assert len(marks(root, "wall", INK)) == 2 * n_walls
        assert len(marks(root, "arrow", BLUE)) == 1 and len(marks(root, "shade", BLUE)) == 1
        assert len(marks(root, "arrow", GREEN)) == cases.right_after[row].sum() == len(marks(root, "shade", GREEN))
        assert "20 % for <PATH_END>" in words(root) and "100" in words(root)
    with pytest.raises(ValueError, match=r"has no edge '\(0,0\)-\(9,9\)'; edges are named as '\(0,0\)-\(1,0\)'"):
        maze.edit_picture(mazes, 0, "(0,0)-(9,9)", 0, {"Before": before})
    with pytest.raises(ValueError, match=r"the path of maze 0 has a next step from 0 to \d+, not from 99"):
        maze.edit_picture(mazes, 0, case.target, 99, {"Before": before})


def test_steps_through_walls_are_orange():
    mazes = maze.solve(np.zeros((1, 2, 2, 3), bool) | maze.connect(np.array([[1, 0, 0, 1, 1, 1, 1]], bool), (2, 3)),
                       np.array([[3, 2]]))
    p = np.zeros(len(maze.words((2, 3))))
    p[[CELL + 1, CELL + 4]] = 0.5  # from (0,0): (1,1) is no neighbour, (0,1) is
    node = mazes.paths[0].tolist().index(0)
    root = drawn(maze.edit_picture(mazes, 0, "(0,0)-(0,1)", node, {"Here": p}))
    assert len(marks(root, "shade", ORANGE)) == 1 and not marks(root, "arrow", ORANGE)


@pytest.mark.parametrize("size", SHAPES)
def test_every_edge_has_its_number(size):
    n = len(maze.edge_names(maze.shape_of(size)))
    values = np.linspace(0.5, 1, n)
    values[-1] = np.nan
    root = drawn(maze.edge_picture({"Probe": values, "Degrees": np.full(n, 0.7)}, size, what="accuracy"))
    assert len(marks(root, "chip")) == 2 * n - 1
    assert {"mean 70.0 %", "accuracy", "Probe", "Degrees"} <= set(words(root))
    assert f"{100 * values[0]:.0f}" in words(root)
    same = drawn(maze.edge_picture({"Degrees": np.full(n, 0.7)}, size))
    assert len(marks(same, "chip")) == n


def test_attention_is_green_one_passage_away():
    mazes = maze.random_mazes(1, 4, "wilson", seed=5, min_nodes=5)
    here = int(mazes.paths[0, 2])
    joined = [int(mazes.paths[0, 1]), int(mazes.paths[0, 3])]
    far = next(c for c in range(16) if c not in [here, *joined] and abs(c - here) not in (1, 4))
    mass = np.zeros(16)
    mass[joined], mass[far], mass[here] = 0.3, 0.2, 0.1
    root = drawn(maze.attention_picture(mazes, 0, {"Step 2": (2, mass)}, title="Head"))
    assert [len(marks(root, "shade", c)) for c in (GREEN, ORANGE, MUTED)] == [2, 1, 1]
    assert sorted(word for word in words(root) if word in ("30", "20", "10")) == ["10", "20", "30", "30"]
    text = " ".join(words(root))
    assert "80 % on other cells" in text and "75 % of it" in text


def test_titles_are_text_and_nothing_else():
    mazes = maze.random_mazes(1, 3, seed=1)
    nasty = '<script>alert("x")</script> & $\\alpha$'
    values, mass = np.full(12, 0.5), np.full(9, 1 / 9)
    for svg in (maze.map_picture(mazes, 0, title=nasty), maze.edge_picture({nasty: values}, 3, nasty, nasty),
                maze.attention_picture(mazes, 0, {nasty: (0, mass)}, nasty)):
        root = drawn(svg)
        assert not list(root.iter(f"{SVG}script")) and nasty in words(root)


def test_a_drawing_shows_what_is_read_wrongly_and_what_was_walked():
    mazes = maze.solve([np.array([[[1, 0], [0, 0]], [[1, 0], [1, 0]]], bool)], np.array([[1, 3]]))
    assert maze.edge_names((2, 2)) == ["(0,0)-(1,0)", "(0,1)-(1,1)", "(0,0)-(0,1)", "(1,0)-(1,1)"]
    read = np.array([0.9, 0.7, 0.2, 0.9])
    assert maze.draw(mazes, 0, read).splitlines() == ["#####", "#.+O#", "#.#?#", "#..X#", "#####"]
    assert maze.draw(mazes, 0, path=[1, 3]).splitlines() == ["#####", "#..O#", "#.#*#", "#..X#", "#####"]
    assert maze.draw(mazes, 0, np.array([True, False, True, True]), [1, 0, 0]).splitlines() == [
        "#####", "#**O#", "#.###", "#..X#", "#####"]
