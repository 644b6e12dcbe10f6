"""A lattice maze as an array of passages: neighbours, names, distances, shortest paths, identity.

`connections` is (maze, 2, row, column) of booleans, as in maze-dataset: [0, r, c] is the passage (r,c)-(r+1,c) down,
[1, r, c] the passage (r,c)-(r,c+1) to the right, so the last row of plane 0 and the last column of plane 1 are walls.
A cell is a number, row * n_columns + column. The edges of the lattice are numbered downward ones first, each kind row
by row: 2 g (g - 1) of them on g x g.
"""

import hashlib
from functools import cache

import numpy as np
from jaxtyping import Bool, Int, Shaped
from numpy import ndarray

DIRECTIONS = ("up", "down", "left", "right")
Shape = tuple[int, int]
Connections = Bool[ndarray, "maze 2 row col"]


def shape_of(size: int | tuple[int, int]) -> Shape:
    """(rows, columns) of `size`, a side length or both.

    Raises:
        ValueError: The lattice would have fewer than two cells.
    """
    rows, cols = (size, size) if isinstance(size, int) else size
    if min(rows, cols) < 1 or rows * cols < 2:
        raise ValueError(f"a maze needs at least two cells, size {size} has {max(rows, 0) * max(cols, 0)}; give a side "
                         "length from 2, or (rows, columns)")
    return int(rows), int(cols)


@cache
def neighbours(shape: Shape) -> Int[ndarray, "cell 4"]:
    """The cells above, below, left and right of each; rows * columns, one more than the last cell, off the lattice."""
    inside = np.full((shape[0] + 2, shape[1] + 2), shape[0] * shape[1])
    inside[1:-1, 1:-1] = np.arange(shape[0] * shape[1]).reshape(shape)
    ways = inside[:-2, 1:-1], inside[2:, 1:-1], inside[1:-1, :-2], inside[1:-1, 2:]
    return np.stack([way.ravel() for way in ways], 1)


@cache
def edges(shape: Shape) -> Int[ndarray, "edge 2"]:
    """The two cells of every edge of the lattice, the upper or left one first."""
    cells = np.arange(shape[0] * shape[1]).reshape(shape)
    down = np.stack([cells[:-1].ravel(), cells[1:].ravel()], 1)
    right = np.stack([cells[:, :-1].ravel(), cells[:, 1:].ravel()], 1)
    return np.concatenate([down, right])


def cell_names(shape: Shape) -> list[str]:
    """`(0,0) (0,1) ...`, row by row: also the tokens."""
    return [f"({row},{col})" for row in range(shape[0]) for col in range(shape[1])]


def edge_names(shape: Shape) -> list[str]:
    """`(0,0)-(1,0)`, in the order of `edges`."""
    names = cell_names(shape)
    return [f"{names[a]}-{names[b]}" for a, b in edges(shape)]


def open_edges(connections: Connections) -> Bool[ndarray, "maze edge"]:
    """Which edges are passages."""
    n, _, rows, cols = connections.shape
    down, right = connections[:, 0, :-1], connections[:, 1, :, :-1]
    return np.concatenate([down.reshape(n, (rows - 1) * cols), right.reshape(n, rows * (cols - 1))], 1)


def connect(is_open: Bool[ndarray, "maze edge"], shape: Shape) -> Connections:
    """The inverse of `open_edges`."""
    rows, cols = shape
    n, n_down = len(is_open), (rows - 1) * cols
    out = np.zeros((n, 2, rows, cols), bool)
    out[:, 0, :-1] = is_open[:, :n_down].reshape(n, rows - 1, cols)
    out[:, 1, :, :-1] = is_open[:, n_down:].reshape(n, rows, cols - 1)
    return out


def ways(connections: Connections) -> Bool[ndarray, "maze cell 4"]:
    """Whether there is a passage from each cell up, down, left and right."""
    down, right = connections[:, 0], connections[:, 1]
    up, left = np.zeros_like(down), np.zeros_like(right)
    up[:, 1:], left[:, :, 1:] = down[:, :-1], right[:, :, :-1]
    return np.stack([up, down, left, right], -1).reshape(len(down), down.shape[1] * down.shape[2], 4)


def degrees(connections: Connections) -> Int[ndarray, "maze cell"]:
    """Number of passages of each cell."""
    return ways(connections).sum(-1)


def distances(connections: Connections, source: Int[ndarray, " maze"]) -> Int[ndarray, "maze cell"]:
    """Steps from the source of each maze to every cell, -1 where no passages lead: breadth first, all mazes at once."""
    n, _, rows, cols = connections.shape
    down, right = connections[:, 0, :-1], connections[:, 1, :, :-1]
    front = np.zeros((n, rows, cols), bool)
    front.reshape(n, rows * cols)[np.arange(n), source] = True
    distance, steps = front.astype(np.int32) - 1, 0
    while front.any():
        steps += 1
        nearer, front = front, np.zeros_like(front)
        front[:, 1:] |= nearer[:, :-1] & down
        front[:, :-1] |= nearer[:, 1:] & down
        front[:, :, 1:] |= nearer[:, :, :-1] & right
        front[:, :, :-1] |= nearer[:, :, 1:] & right
        front &= distance < 0
        distance += front * np.int32(steps + 1)
    return distance.reshape(n, rows * cols)


def shortest_paths(connections: Connections, origin: Int[ndarray, " maze"],
                   target: Int[ndarray, " maze"]) -> Int[ndarray, "maze node"]:
    """Cells of a shortest path of each maze, both ends included, -1 past its end.

    Of several shortest paths (mazes with cycles), the one that goes up, else down, else left, at every choice.

    Raises:
        ValueError: No passages join the two ends of a maze.
    """
    shape = connections.shape[2:]
    distance, maze = distances(connections, target), np.arange(len(connections))
    if len(apart := np.flatnonzero(distance[maze, origin] < 0)):
        names, first = cell_names(shape), int(apart[0])
        raise ValueError(f"no passages join {names[origin[first]]} and {names[target[first]]} in maze {first} (so in "
                         f"{len(apart)} of {len(connections)} mazes); choose both ends from one connected component")
    beyond = np.full((len(connections), 1), -9, np.int32)
    distance, exits = np.concatenate([distance, beyond], 1), ways(connections)
    cell, path = np.array(origin), []
    for left in range(int(distance[maze, origin].max(initial=0)), -1, -1):
        path.append(cell)
        around = neighbours(shape)[cell]
        here = distance[maze, cell][:, None]
        nearer = exits[maze, cell] & (distance[maze[:, None], around] == here - 1)
        cell = np.where(here[:, 0] > 0, around[maze, nearer.argmax(1)], cell) if left else cell
    whole, n_nodes = np.stack(path, 1), distance[maze, origin] + 1
    return np.where(np.arange(whole.shape[1]) < n_nodes[:, None], whole, -1)


def identities(connections: Connections) -> Shaped[ndarray, " maze"]:
    """A name for each maze that is the same exactly for equal mazes: 16 hexadecimal digits of a hash."""
    shape = "x".join(map(str, connections.shape[2:])).encode()
    packed = np.packbits(open_edges(connections), axis=1)
    return np.array([hashlib.blake2b(row.tobytes(), digest_size=8, key=shape).hexdigest() for row in packed], object)
