"""Lattice mazes: each generator makes what its name promises, paths are shortest, and a seed always gives the same."""

import itertools
from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

import benchmarks.mazes
import tasks
from tasks import maze

TREES = ("dfs", "prim", "wilson", "kruskal")


def graph(connections):
    """cell -> its neighbours, of one maze (2, row, col), read off the definition of the two planes."""
    _, rows, cols = connections.shape
    joined = {cell: set() for cell in range(rows * cols)}
    for plane, row, col in zip(*np.nonzero(connections), strict=True):
        a, b = row * cols + col, (row + 1 - plane) * cols + col + plane
        joined[a].add(b)
        joined[b].add(a)
    return joined


def steps_from(joined, source):
    seen, queue = {source: 0}, deque([source])
    while queue:
        cell = queue.popleft()
        for other in joined[cell] - set(seen):
            seen[other] = seen[cell] + 1
            queue.append(other)
    return seen


def assert_shortest(mazes):
    """Every path begins and ends where it says, goes through passages only, and none is shorter."""
    for connections, path in zip(mazes.connections, mazes.paths.tolist(), strict=True):
        joined, path = graph(connections), [cell for cell in path if cell >= 0]
        assert all(b in joined[a] for a, b in itertools.pairwise(path))
        assert len(path) - 1 == steps_from(joined, path[0])[path[-1]] > 0


@pytest.mark.parametrize("size", [2, 5, (3, 7), (1, 6)])
@pytest.mark.parametrize("generator", maze.GENERATORS)
def test_paths_are_shortest_paths_between_different_cells(generator, size):
    assert_shortest(maze.random_mazes(60, size, generator, seed=3))


@pytest.mark.parametrize("size", [3, 5, (2, 9), 8])
@pytest.mark.parametrize("generator", TREES)
def test_trees_span_all_cells_with_one_passage_fewer(generator, size):
    mazes = maze.random_mazes(300, size, generator, seed=4)
    n_cells = mazes.shape[0] * mazes.shape[1]
    assert (maze.open_edges(mazes.connections).sum(1) == n_cells - 1).all()
    assert (maze.distances(mazes.connections, mazes.origins) >= 0).all()
    assert maze.is_tree(mazes).all()


@pytest.mark.slow
@pytest.mark.parametrize("generator", TREES)
def test_twenty_five_thousand_trees_of_each_kind_span_and_are_solved(generator):
    mazes = maze.random_mazes(25_000, 6, generator, seed=5)
    assert (maze.open_edges(mazes.connections).sum(1) == 35).all()
    assert (maze.distances(mazes.connections, mazes.origins) >= 0).all()
    assert_shortest(mazes[::50])


def spanning_trees(size):
    """All of them, as bit masks over the edges."""
    pairs, n_cells = maze.edges((size, size)).tolist(), size * size
    found = []
    for kept in itertools.combinations(range(len(pairs)), n_cells - 1):
        joined = {cell: set() for cell in range(n_cells)}
        for edge in kept:
            a, b = pairs[edge]
            joined[a].add(b)
            joined[b].add(a)
        if len(steps_from(joined, 0)) == n_cells:
            found.append(sum(1 << edge for edge in kept))
    return found


def test_wilson_makes_every_spanning_tree_of_3x3_equally_often_and_depth_first_search_does_not():
    trees = spanning_trees(3)
    assert len(trees) == 192  # the matrix-tree theorem
    p = {}
    for generator in ("wilson", "dfs"):
        mazes = maze.random_mazes(19_200, 3, generator, seed=6)
        masks = maze.open_edges(mazes.connections) @ (1 << np.arange(12))
        assert set(masks.tolist()) <= set(trees)
        p[generator] = chisquare([(masks == tree).sum() for tree in trees]).pvalue
    assert p["wilson"] > 1e-3 and p["dfs"] < 1e-12


def test_percolation_opens_each_edge_with_probability_p():
    is_open = maze.open_edges(maze.random_mazes(4000, 6, "percolation", p=0.7, seed=1).connections)
    assert is_open.mean() == pytest.approx(0.7, abs=5 * (0.21 / is_open.size) ** 0.5 + 0.005)  # a few mazes are dropped
    both = maze.random_mazes(4000, 6, "dfs_percolation", p=0.1, seed=1)
    share = 35 / 60  # of the tree
    assert maze.open_edges(both.connections).mean() == pytest.approx(share + 0.1 * (1 - share), abs=0.005)
    assert (maze.distances(both.connections, both.origins) >= 0).all() and not maze.is_tree(both).all()


def test_constrained_searches_stop_where_they_are_told():
    some = maze.random_mazes(200, 6, "dfs", accessible_cells=10)
    assert (maze.open_edges(some.connections).sum(1) == 9).all()
    half = maze.random_mazes(200, 6, "dfs", accessible_cells=0.5)
    assert (maze.open_edges(half.connections).sum(1) == 17).all()
    shallow = maze.random_mazes(400, 6, "dfs", max_tree_depth=8)
    assert shallow.n_nodes.max() == 9  # no path has more than 8 steps, and some have
    for options in ({"accessible_cells": 0}, {"max_tree_depth": 1.5}):
        with pytest.raises(ValueError, match="is a number from 1, or a share of"):
            maze.random_mazes(5, 6, "dfs", **options)


def test_corridors_have_no_forks_and_18_6_passages_at_6x6():
    corridors = maze.random_mazes(4000, 6, "dfs", do_forks=False)
    assert maze.degrees(corridors.connections).max() == 2
    # maze-dataset: 18.6, with a start that is never in the last row or column
    assert maze.open_edges(corridors.connections).sum(1).mean() == pytest.approx(18.6, abs=1.0)


@pytest.mark.parametrize(("size", "n_nodes", "decisions"), [
    (4, 6.0, 1.4), (5, 8.5, 1.8), (6, 10.8, 2.1), (7, 14.2, 2.6)])
def test_depth_first_mazes_have_the_known_lengths_and_decisions(size, n_nodes, decisions):
    mazes = maze.random_mazes(4000, size)
    share_open = (size * size - 1) / (2 * size * (size - 1))
    assert maze.open_edges(mazes.connections).mean() == pytest.approx(share_open, abs=1e-12)
    assert mazes.n_nodes.mean() == pytest.approx(n_nodes, rel=0.05)  # reference values of 800 mazes
    assert (mazes.ways_forward > 1).sum(1).mean() == pytest.approx(decisions, abs=0.1)


@pytest.mark.parametrize("generator", maze.GENERATORS)
def test_maze_i_of_a_seed_is_the_same_whatever_n(generator):
    few, many = maze.random_mazes(50, 5, generator, seed=7), maze.random_mazes(3000, 5, generator, seed=7)
    np.testing.assert_array_equal(few.connections, many.connections[:50])
    np.testing.assert_array_equal(few.paths, many[:50].paths)
    assert (maze.random_mazes(50, 5, generator, seed=8).connections != few.connections).any()


def test_half_of_all_mazes_are_reserved_and_none_is_in_both_halves():
    ours, theirs = (maze.random_mazes(3000, 4, reserved=side) for side in (True, False))
    assert maze.is_reserved(ours.connections).all() and not maze.is_reserved(theirs.connections).any()
    assert not set(maze.identities(ours.connections)) & set(maze.identities(theirs.connections))
    assert maze.is_reserved(maze.random_mazes(4000, 6).connections).mean() == pytest.approx(0.5, abs=0.04)
    assert maze.is_reserved(maze.parse(maze.to_text(tasks.load("maze", n=50).tokens)).connections).all()


def test_some_mazes_are_mazes():
    mazes = maze.random_mazes(30, 4)
    for some, rows in ((mazes[3], [3]), (mazes[5:9], [5, 6, 7, 8]), (mazes[mazes.n_nodes > 5], mazes.n_nodes > 5)):
        np.testing.assert_array_equal(some.connections, mazes.connections[rows])
        np.testing.assert_array_equal(some.targets, mazes.targets[rows])
        assert some.paths.shape[1] == some.n_nodes.max()
    assert sum(len(one) for one in mazes) == 30


def test_ends_are_drawn_uniformly_and_long_paths_can_be_asked_for():
    mazes = maze.random_mazes(20_000, 4, "wilson", seed=2)
    assert chisquare(np.bincount(mazes.origins, minlength=16)).pvalue > 1e-3
    assert chisquare(np.bincount(mazes.targets, minlength=16)).pvalue > 1e-3
    assert maze.random_mazes(500, 6, min_nodes=6).n_nodes.min() == 6


@given(st.integers(1, 5), st.integers(2, 6), st.data())
def test_any_maze_has_the_distances_and_degrees_of_its_graph(rows, cols, data):
    n_edges = len(maze.edges((rows, cols)))
    bits = data.draw(st.lists(st.booleans(), min_size=n_edges, max_size=n_edges))
    is_open = np.array([bits])
    connections = maze.connect(is_open, (rows, cols))
    np.testing.assert_array_equal(maze.open_edges(connections), is_open)
    joined, source = graph(connections[0]), data.draw(st.integers(0, rows * cols - 1))
    seen = steps_from(joined, source)
    assert maze.distances(connections, np.array([source]))[0].tolist() == [seen.get(c, -1) for c in range(rows * cols)]
    assert maze.degrees(connections)[0].tolist() == [len(joined[cell]) for cell in range(rows * cols)]


def test_edges_are_named_by_their_cells_in_the_order_of_the_planes():
    assert maze.edge_names((2, 2)) == ["(0,0)-(1,0)", "(0,1)-(1,1)", "(0,0)-(0,1)", "(1,0)-(1,1)"]
    assert [len(maze.edges((g, g))) for g in (4, 5, 6, 7)] == [24, 40, 60, 84]
    one = np.zeros((1, 2, 2, 2), bool)
    one[0, 1, 1, 0] = True  # (1,0) to the right
    assert maze.open_edges(one)[0].tolist() == [False, False, False, True]


def test_equal_mazes_share_an_identity_and_no_others():
    mazes = maze.random_mazes(5000, 3, seed=1)
    names = maze.identities(mazes.connections)
    masks = maze.open_edges(mazes.connections) @ (1 << np.arange(12))
    assert len(set(names)) == len(set(masks.tolist())) == len(set(zip(names, masks.tolist(), strict=True)))
    square, long = (maze.connect(np.zeros((1, n), bool), shape) for n, shape in ((4, (2, 2)), (4, (1, 5))))
    assert maze.identities(square)[0] != maze.identities(long)[0]


def test_mazes_of_your_own_are_solved_or_refused():
    made = maze.random_mazes(20, 4, seed=3)
    ends = np.stack([made.origins, made.targets], 1)
    again = maze.solve(list(made.connections), ends)
    np.testing.assert_array_equal(again.paths, made.paths)
    pairs = np.stack(np.unravel_index(ends, (4, 4)), -1)
    np.testing.assert_array_equal(maze.solve(made.connections, pairs).paths, made.paths)
    assert_shortest(maze.solve(made.connections))
    other = [*made.connections[:3], maze.random_mazes(1, 5).connections[0]]
    with pytest.raises(ValueError, match=r"maze 3 is \(2, 5, 5\), maze 0 is \(2, 4, 4\); solve each size by itself"):
        maze.solve(other)
    cut = made.connections.copy()
    cut[5] = False
    with pytest.raises(ValueError, match=r"no passages join \(\d,\d\) and \(\d,\d\) in maze 5 .*connected component"):
        maze.solve(cut, ends)
    with pytest.raises(ValueError, match="maze 5 has no passage at all"):
        maze.solve(cut)
    off = made.connections.copy()
    off[2, 0, 3, 1] = True
    with pytest.raises(ValueError, match="a passage leads off the lattice"):
        maze.solve(off, ends)


def test_impossible_wishes_are_refused_by_name():
    with pytest.raises(ValueError, match="at least two cells, size 1 has 1"):
        maze.random_mazes(3, 1)
    with pytest.raises(ValueError, match="no generator 'dsf'; there are dfs, prim"):
        maze.random_mazes(3, 5, "dsf")
    with pytest.raises(ValueError, match="found only 0 of 3 percolation mazes of 5x5"):
        maze.random_mazes(3, 5, "percolation", p=0.0)
    with pytest.raises(ValueError, match="p is the probability of a passage, between 0 and 1, not 1.5"):
        maze.random_mazes(3, 5, "percolation", p=1.5)
    with pytest.raises(ValueError, match="n is the number of mazes"):
        maze.random_mazes(0)


def test_a_drawing_shows_walls_ends_and_path():
    mazes = maze.solve([np.array([[[1, 0], [0, 0]], [[1, 0], [1, 0]]], bool)], np.array([[1, 3]]))
    assert maze.draw(mazes, 0).splitlines() == ["#####", "#..O#", "#.###", "#..X#", "#####"]


def test_the_benchmark_finds_that_the_generators_agree_with_theory():
    assert benchmarks.mazes.spanning_trees(3) == spanning_trees(3)
    found = benchmarks.mazes.check(4000, seed=3)
    assert len(found) == 5 and all(value > 1e-3 for what, value in found.items() if what.endswith(": p"))
    assert all(value < 4.5 for what, value in found.items() if "|z|" in what)
