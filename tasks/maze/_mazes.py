"""Mazes with a way to find: passages, two ends, and a shortest path between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from ._generators import GENERATORS
from ._lattice import (
    Connections,
    Shape,
    degrees,
    distances,
    edges,
    identities,
    open_edges,
    shape_of,
    shortest_paths,
    ways,
)

_CHUNK_CELLS, _MOST, _FEWEST = 2**16, 2048, 16  # cells and mazes made at a time: the working set stays in the cache
_PATIENCE = 50  # chunks in a row without a maze that will do


@dataclass(frozen=True)
class Mazes:
    """Solved mazes of one shape.

    Attributes:
        connections: (maze, 2, row, col), see `_lattice`.
        paths: (maze, node) cells of a shortest path from origin to target, -1 past its end.
    """

    connections: Connections
    paths: Int[ndarray, "maze node"]

    def __post_init__(self):
        if self.connections[:, 0, -1].any() or self.connections[:, 1, :, -1].any():
            raise ValueError("a passage leads off the lattice: the last row of plane 0 (down) and the last column of "
                             "plane 1 (right) must be False in every maze")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows) -> "Mazes":
        """Some of the mazes, by mask, slice, indices, or one of them by its number."""
        rows = [rows] if isinstance(rows, int) else rows
        paths = self.paths[rows]
        return Mazes(self.connections[rows], paths[:, : max(1, int((paths >= 0).sum(1).max(initial=1)))])

    def within(self, size: int | tuple[int, int]) -> "Mazes":
        """The same mazes in the upper left corner of a larger lattice, with walls all over the rest of it: so they are
        told in the words of that lattice.

        Raises:
            ValueError: The lattice is not larger.
        """
        (rows, cols), (high, wide) = self.shape, shape_of(size)
        if high < rows or wide < cols:
            raise ValueError(f"mazes of {rows}x{cols} do not fit into a lattice of {high}x{wide}; give a larger one")
        connections = np.pad(self.connections, ((0, 0), (0, 0), (0, high - rows), (0, wide - cols)))
        row, col = np.divmod(self.paths, cols)
        return Mazes(connections, np.where(self.paths >= 0, row * wide + col, -1))

    @property
    def shape(self) -> Shape:
        return self.connections.shape[2:]

    @property
    def origins(self) -> Int[ndarray, " maze"]:
        return self.paths[:, 0]

    @property
    def targets(self) -> Int[ndarray, " maze"]:
        return self.paths[np.arange(len(self)), self.n_nodes - 1]

    @property
    def n_nodes(self) -> Int[ndarray, " maze"]:
        """Cells on the path of each maze, both ends counted."""
        return (self.paths >= 0).sum(1)

    @cached_property
    def ways_forward(self) -> Int[ndarray, "maze node"]:
        """Passages at each cell of the path other than the one it was entered by; 0 at the target and past it.
        More than one makes the cell a decision."""
        maze, node = np.nonzero(self.paths[:, 1:] >= 0)
        out = np.zeros(self.paths.shape, np.int64)
        out[maze, node] = ways(self.connections)[maze, self.paths[maze, node]].sum(1) - (node > 0)
        return out


def random_mazes(n: int, size: int | tuple[int, int] = 5, generator: str = "dfs", seed: int | Sequence[int] = 0, *,
                 min_nodes: int = 2, reserved: bool | None = None, **options) -> Mazes:
    """`n` random mazes with two different ends, drawn uniformly from the component of the cell where the maze began.

    Maze i of a seed is the same whatever `n`. A maze whose component is a single cell (percolation), or whose path is
    shorter than `min_nodes`, is passed over.

    Args:
        generator: `dfs`, `prim`, `wilson`, `kruskal`, `percolation` or `dfs_percolation`; `options` are its own.
        min_nodes: Fewest cells on the path; Ivanitskiy et al. evaluate with 6.
        reserved: Only mazes that no reference model is trained on (True) or only the others (False), see `is_reserved`.
    """
    shape = shape_of(size)
    if n < 1:
        raise ValueError(f"n is the number of mazes, at least 1, not {n}")
    if generator not in GENERATORS:
        raise ValueError(f"no generator {generator!r}; there are {', '.join(GENERATORS)}")
    at_a_time = int(np.clip(_CHUNK_CELLS // (shape[0] * shape[1]), _FEWEST, _MOST))
    name = list(GENERATORS).index(generator)
    found, count, chunk, dry = [], 0, 0, 0
    while count < n and dry < _PATIENCE:
        rng = np.random.default_rng([*np.atleast_1d(seed).tolist(), *shape, name, chunk])
        connections, start = GENERATORS[generator](at_a_time, shape, rng, **options)
        origin, target, apart = _ends(connections, start, rng)
        paths = shortest_paths(connections[apart], origin[apart], target[apart])
        wanted = (paths >= 0).sum(1) >= min_nodes
        if reserved is not None:
            wanted &= is_reserved(connections[apart]) == reserved
        found.append((connections[apart][wanted], paths[wanted]))
        count, chunk, dry = count + int(wanted.sum()), chunk + 1, 0 if wanted.any() else dry + 1
    if count < n:
        kind = {None: "", True: "reserved ", False: "not reserved "}[reserved] + generator
        raise ValueError(f"found only {count} of {n} {kind} mazes of {shape[0]}x{shape[1]} with a path of at least "
                         f"{min_nodes} cells; ask for fewer or shorter ones, for more passages, or a larger size")
    widest = max(paths.shape[1] for _, paths in found)
    padded = [np.pad(paths, ((0, 0), (0, widest - paths.shape[1])), constant_values=-1) for _, paths in found]
    return Mazes(np.concatenate([c for c, _ in found])[:n], np.concatenate(padded)[:n])[slice(None)]


def is_reserved(connections: Connections) -> Bool[ndarray, " maze"]:
    """Whether a maze is kept from training: half of all are, by a hash of their passages.

    Depth-first search makes some mazes again and again: among 72,000 of 5x5 there are 66,000 different ones, and of the
    next thousand one in six has been there. Seeds alone would not keep training and test apart.
    """
    return np.array([int(name[0], 16) % 2 == 0 for name in identities(connections)], bool)


def _ends(connections: Connections, start: Int[ndarray, " maze"], rng: np.random.Generator
          ) -> tuple[Int[ndarray, " maze"], Int[ndarray, " maze"], Bool[ndarray, " maze"]]:
    """Two different cells of the component of `start`, and whether it has two."""
    component, maze = distances(connections, start) >= 0, np.arange(len(connections))
    keys = np.where(component, rng.random(component.shape), -1)
    origin = keys.argmax(1)
    keys[maze, origin] = -1
    return origin, keys.argmax(1), component.sum(1) > 1


def solve(connections: Connections | Sequence[Bool[ndarray, "..."]],  # another shape is named by the error below
          ends: Int[ndarray, "maze 2"] | Int[ndarray, "maze 2 2"] | None = None, seed: int = 0) -> Mazes:
    """Mazes of your own with their shortest paths.

    Args:
        connections: (maze, 2, row, col), or a list of (2, row, col): see `tasks.maze.Mazes`.
        ends: Origin and target of each, as cells (row * n_columns + column) or as (row, column) pairs; random ones of
            the component of a random cell with a passage, unless given.
    Raises:
        ValueError: Shapes differ, a passage leads off the lattice, an end lies off it, or no passages join two ends.
    """
    shapes = [np.shape(maze) for maze in connections]
    if not shapes:
        raise ValueError("there is no maze; give one or more")
    if other := [i for i, shape in enumerate(shapes) if shape != shapes[0] or len(shape) != 3 or shape[0] != 2]:
        raise ValueError(f"mazes must all be (2, rows, columns) of one size: maze {other[0]} is {shapes[other[0]]}, "
                         f"maze 0 is {shapes[0]}; solve each size by itself")
    whole = np.asarray(connections, bool)
    shape = shape_of(tuple(whole.shape[2:]))
    if ends is None:
        origin, target = _random_ends(whole, np.random.default_rng(seed))
    else:
        origin, target = _cells(np.asarray(ends), len(whole), shape).T
    return Mazes(whole, shortest_paths(whole, origin, target))


def _cells(ends: Int[ndarray, "..."], n: int, shape: Shape) -> Int[ndarray, "maze 2"]:
    """Origin and target of each maze as cells."""
    if ends.shape not in ((n, 2), (n, 2, 2)):
        raise ValueError(f"ends are two cells of each maze, ({n}, 2), or their rows and columns, ({n}, 2, 2), for {n} "
                         f"mazes; these are {ends.shape}")
    top = np.array([shape[0] * shape[1]] if ends.ndim == 2 else shape)
    if len(off := np.argwhere((ends < 0) | (ends >= top))):
        maze = int(off[0, 0])
        raise ValueError(f"an end of maze {maze} lies off its lattice of {shape[0]}x{shape[1]}: {ends[maze].tolist()}; "
                         "rows, columns and cells count from 0")
    return ends if ends.ndim == 2 else ends[..., 0] * shape[1] + ends[..., 1]


def _random_ends(connections: Connections, rng: np.random.Generator) -> tuple[ndarray, ndarray]:
    exits = degrees(connections) > 0
    if len(closed := np.flatnonzero(~exits.any(axis=1))):
        raise ValueError(f"maze {closed[0]} has no passage at all, so it has no two ends; drop it")
    start = np.where(exits, rng.random(exits.shape), -1).argmax(1)
    origin, target, _ = _ends(connections, start, rng)
    return origin, target


def is_tree(mazes: Mazes) -> Bool[ndarray, " maze"]:
    """Whether exactly one path joins any two cells of the origin's component: it has one passage fewer than cells."""
    inside = distances(mazes.connections, mazes.origins) >= 0
    n_ends = (ways(mazes.connections).sum(-1) * inside).sum(1)  # each passage counted from both sides
    return n_ends == 2 * (inside.sum(1) - 1)


def draw(mazes: Mazes, row: int, passage: Float[ndarray, " edge"] | Bool[ndarray, " edge"] | None = None,
         path: Sequence[int] | Int[ndarray, " step"] | None = None) -> str:
    """One maze as text: `#` walls, `O` origin, `X` target, `.` the path between.

    With `passage`, the probability of a passage that a probe gives to each edge, walls are drawn as they are read, and
    errors stand out: `?` a wall that is read as open, `+` a passage that is read as a wall. With `path`, the cells a
    model walked, its steps are `*`, also those through walls.
    """
    (rows, cols), (down, right) = mazes.shape, mazes.connections[row]
    canvas = np.full((2 * rows + 1, 2 * cols + 1), "#")
    canvas[1::2, 1::2] = " "
    canvas[2::2, 1::2] = np.where(down, " ", "#")
    canvas[1::2, 2::2] = np.where(right, " ", "#")
    if path is not None:
        path = [int(cell) for cell in path if 0 <= cell < rows * cols]
    for mark, cells in ((".", [c for c in mazes.paths[row].tolist() if c >= 0]), ("*", path or [])):
        for cell, before in zip(cells, cells[:1] + cells, strict=False):
            canvas[_spot(cell, cell, cols)] = mark
            if abs(cell // cols - before // cols) + abs(cell % cols - before % cols) == 1:
                canvas[_spot(before, cell, cols)] = mark
    if passage is not None:
        is_open = open_edges(mazes.connections[row : row + 1])[0]
        for edge in np.flatnonzero((np.asarray(passage) > 0.5) != is_open):
            a, b = edges(mazes.shape)[edge].tolist()
            canvas[_spot(a, b, cols)] = "+" if is_open[edge] else "?"
    for mark, cell in (("O", int(mazes.origins[row])), ("X", int(mazes.targets[row]))):
        canvas[_spot(cell, cell, cols)] = mark
    return "\n".join("".join(line) for line in canvas)


def _spot(a: int, b: int, cols: int) -> tuple[int, int]:
    """Line and column in the drawing of what lies between two neighbouring cells, or of a cell and itself."""
    return a // cols + b // cols + 1, a % cols + b % cols + 1
