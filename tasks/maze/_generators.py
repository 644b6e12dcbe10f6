"""The published ways to make lattice mazes, many at once.

| name | algorithm |
|---|---|
| `dfs` | random depth-first search; `accessible_cells`, `max_tree_depth` constrain it; `do_forks=False`: corridors |
| `prim` | the same with a random cell taken from the stack |
| `wilson` | loop-erased random walks: every spanning tree is equally likely |
| `kruskal` | edges in random order, kept where they join two components |
| `percolation` | every edge is a passage with probability `p` |
| `dfs_percolation` | a `dfs` maze together with a `percolation`: adds cycles |

Source: Ivanitskiy et al., arXiv:2309.10498 (maze-dataset). Ours differ in three points: the start cell is uniform over
all cells (theirs is never in the last row or column), `max_tree_depth` counts steps from the start, and all draws come
from one seed.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray

from ._lattice import Connections, Shape, connect, edges, neighbours

Made = tuple[Connections, Int[ndarray, " maze"]]  # and the cell where each maze was begun


def dfs(n: int, shape: Shape, rng: np.random.Generator, *, accessible_cells: int | float | None = None,
        max_tree_depth: int | float | None = None, do_forks: bool = True, random_pop: bool = False) -> Made:
    """Randomised depth-first search; each maze is a tree that holds its start cell.

    Args:
        accessible_cells: Stop at this many cells, or this share of all (a float).
        max_tree_depth: No cell is more than half this many steps from the start, so that no path is longer; a float
            is a share of rows + columns.
        do_forks: Otherwise a cell is left for good: one self-avoiding corridor, until it is stuck.
        random_pop: Go on from a random cell of the stack, not from the last (`prim`).
    """
    n_cells, around = shape[0] * shape[1], neighbours(shape)
    most = _count(accessible_cells, n_cells, n_cells, "accessible_cells")
    deepest = _count(max_tree_depth, shape[0] + shape[1], 2 * n_cells, "max_tree_depth") / 2
    start, maze = rng.integers(n_cells, size=n), np.arange(n)
    fresh = np.ones((n, n_cells + 1), bool)  # the last column is everything off the lattice
    fresh[:, -1] = fresh[maze, start] = False
    parent, depth = np.full((n, n_cells), -1), np.zeros((n, n_cells), np.int32)
    stack, height, left = np.zeros((n, n_cells), np.int32), np.ones(n, np.int32), np.full(n, most - 1)
    stack[:, 0] = start
    alive = maze[left > 0]
    while len(alive):
        top = height[alive] - 1
        taken = (rng.random(len(alive)) * (top + 1)).astype(np.int32) if random_pop else top
        cell = stack[alive, taken]
        stack[alive, taken] = stack[alive, top]
        free = fresh[alive[:, None], around[cell]] & (depth[alive, cell] + 1 <= deepest)[:, None]
        n_free = free.sum(1)
        way = (free.cumsum(1) > (rng.random(len(alive)) * n_free).astype(np.int32)[:, None]).argmax(1)
        grows, again = n_free > 0, (n_free > 1) & do_forks
        stack[alive[again], top[again]] = cell[again]
        height[alive] = top + again
        grown, old, new = alive[grows], cell[grows], around[cell, way][grows]
        stack[grown, height[grown]] = new
        height[grown] += 1
        left[grown] -= 1
        fresh[grown, new] = False
        parent[grown, new], depth[grown, new] = old, depth[grown, old] + 1
        alive = alive[(height[alive] > 0) & (left[alive] > 0)]
    return _tree(parent, shape), start


def wilson(n: int, shape: Shape, rng: np.random.Generator) -> Made:
    """Uniform spanning trees: a random walk from outside the tree, its loops erased, is added until nothing is left.

    In each round every maze takes one step, of its walk or of the way back over the walk's last exits, which skips
    all loops.
    """
    n_cells = shape[0] * shape[1]
    around = np.sort(neighbours(shape), 1)  # those off the lattice last
    n_around = (around < n_cells).sum(1)
    root, maze = rng.integers(n_cells, size=n), np.arange(n)
    inside, parent, exit_to = np.zeros((n, n_cells), bool), np.full((n, n_cells), -1), np.zeros((n, n_cells), np.int64)
    inside[maze, root] = True
    first = inside.argmin(1)
    at, walks, alive = first.copy(), np.ones(n, bool), maze
    while len(alive):
        here, walking = at[alive], walks[alive]
        step = around[here, (rng.random(len(alive)) * n_around[here]).astype(np.int64)]
        there = np.where(walking, step, exit_to[alive, here])
        exit_to[alive, here] = there
        back = alive[~walking]
        inside[back, here[~walking]], parent[back, here[~walking]] = True, there[~walking]
        at[alive], arrived = there, inside[alive, there]
        home, added = alive[walking & arrived], alive[~walking & arrived]
        at[home], walks[home] = first[home], False
        first[added] = at[added] = inside[added].argmin(1)
        walks[added] = True
        alive = alive[~inside[alive].all(1)] if len(added) else alive
    return _tree(parent, shape), root


def kruskal(n: int, shape: Shape, rng: np.random.Generator) -> Made:
    """Edges in random order, each a passage if it joins two components: the minimum spanning tree of random weights."""
    pairs, n_cells, maze = edges(shape), shape[0] * shape[1], np.arange(n)
    order = rng.random((n, len(pairs))).argsort(1)
    component, is_open = np.tile(np.arange(n_cells), (n, 1)), np.zeros((n, len(pairs)), bool)
    for edge in order.T:
        one, other = component[maze, pairs[edge, 0]], component[maze, pairs[edge, 1]]
        is_open[maze, edge] = one != other
        component = np.where(component == other[:, None], one[:, None], component)
    return connect(is_open, shape), rng.integers(n_cells, size=n)


def percolation(n: int, shape: Shape, rng: np.random.Generator, *, p: float = 0.4) -> Made:
    """Every edge is a passage with probability `p`, whatever the others are; parts may be cut off."""
    if not 0 <= p <= 1:
        raise ValueError(f"p is the probability of a passage, between 0 and 1, not {p}")
    return (connect(rng.random((n, len(edges(shape)))) < p, shape),
            rng.integers(shape[0] * shape[1], size=n))


def dfs_percolation(n: int, shape: Shape, rng: np.random.Generator, *, p: float = 0.1, **options) -> Made:
    """A `dfs` maze and a `percolation` laid over each other; Ivanitskiy et al. (arXiv:2312.02566) take p = 0.1."""
    tree, start = dfs(n, shape, rng, **options)
    return tree | percolation(n, shape, rng, p=p)[0], start


GENERATORS: Mapping[str, Callable[..., Made]] = {
    "dfs": dfs, "prim": partial(dfs, random_pop=True), "wilson": wilson, "kruskal": kruskal,
    "percolation": percolation, "dfs_percolation": dfs_percolation}


def _tree(parent: Int[ndarray, "maze cell"], shape: Shape) -> Bool[ndarray, "maze 2 row col"]:
    """The maze in which every cell that has a parent is joined to it."""
    out = np.zeros((len(parent), 2, parent.shape[1]), bool)
    maze, child = np.nonzero(parent >= 0)
    other = parent[maze, child]
    sideways = child // shape[1] == other // shape[1]
    out[maze, sideways.astype(int), np.minimum(child, other)] = True
    return out.reshape(len(parent), 2, *shape)


def _count(given: int | float | None, whole: int, default: int, name: str) -> int:
    """A number given as such, as a share of `whole`, or not at all."""
    count = default if given is None else int(given * whole) if isinstance(given, float) else given
    if count < 1 or (isinstance(given, float) and given > 1):
        raise ValueError(f"{name} is a number from 1, or a share of {whole} between 0 and 1, not {given}")
    return count
