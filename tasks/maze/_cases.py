"""Counterfactual cases: a maze, some steps of its path, and one passage to add or to remove inside the model.

The prompt ends at a cell of the path where the passage decides what comes next. Its adjacency list has one slot that
differs between the prompt as it is and the *edited prompt*, which tells of the changed maze and is the ceiling of every
edit: the passage in question in one of them, a repetition of another passage, far from it, in the other. So both have
equal length, and can be patched token by token (`pairs`).
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int, Shaped
from numpy import ndarray

from .._pairs import PromptPairs
from .._positions import NAMED
from .._prompts import Counterfactuals
from ._labels import task_name
from ._lattice import (
    DIRECTIONS,
    cell_names,
    distances,
    edge_names,
    edges,
    identities,
    neighbours,
    open_edges,
    ways,
)
from ._mazes import Mazes, is_tree, random_mazes
from ._tokens import CELL, PADDING, _written, to_text, words

KINDS = ("add", "remove")
WALL, PASSAGE = 0, 1  # codes of the scheme `passage`
_SEEDS = 2 << 32  # other mazes than those of the trainer and of `load`


def cases(kind: str = "add", n: int = 500, size: int | tuple[int, int] = 5, seed: int = 0, *, generator: str = "dfs",
          mazes: Mazes | None = None, within: int | tuple[int, int] | None = None, **options) -> Counterfactuals:
    """Mazes with one passage to change inside the model, and the right next cells before and after.

    `add`: a passage from the last cell that shortens the rest of the path by two steps or more; right afterwards is the
    cell it leads to. `remove`: the passage the path takes next, from a cell with another way forward; right afterwards
    is every other cell that a passage leads to. Mazes with cycles are passed over, so that one path leads anywhere.

    Args:
        mazes: Your own instead of random ones: a case of each that offers one, at most `n`.
        within: Size of a larger lattice in whose words the mazes are told, as in `load`.
    Returns:
        Counterfactuals whose `cases` also has `witness` (the edited prompt as text; `to_ids` reads it), `node` (steps
        from the origin), `cell` (where the prompt ends), `direction` (from there to the other end of the passage),
        `stand_in` (the edge listed in the passage's place where it is not), `saves` (steps, 0 for `remove`), and
        positions `pos:slot` (the `;` of the passage or of its stand-in), `pos:first_cell`, `pos:second_cell` and
        `pos:path_start`. Equal mazes form one `group` and lie in one half.
    Source: kinds after Spies et al., arXiv:2412.11867; the slot and its stand-in are ours.
    """
    made = _make(kind, n, size, seed, generator, mazes, within, options)
    return Counterfactuals(task=made.task, kind=f"passage to {kind}", scheme="passage",
                           tokens=torch.from_numpy(made.tokens), lengths=torch.from_numpy(made.lengths),
                           cases=made.table, right_before=made.right_before, right_after=made.right_after)


def pairs(kind: str = "add", n: int = 200, size: int | tuple[int, int] = 5, seed: int = 0, *, generator: str = "dfs",
          mazes: Mazes | None = None, within: int | tuple[int, int] | None = None, **options) -> PromptPairs:
    """The prompts of `cases` as they are (clean) and their edited prompts (corrupted): at most the two cells of the
    slot differ. Positions are those of `cases`."""
    made = _make(kind, n, size, seed, generator, mazes, within, options)
    kept = ["group", "split", *(c for c in made.table if c.startswith(NAMED))]
    return PromptPairs(made.task, f"passage to {kind}", torch.from_numpy(made.tokens), torch.from_numpy(made.edited),
                       torch.from_numpy(made.lengths), made.table[kept], made.right_before, made.right_after)


class _Made(NamedTuple):
    task: str
    tokens: Int[ndarray, "case pos"]
    edited: Int[ndarray, "case pos"]
    lengths: Int[ndarray, " case"]
    table: pd.DataFrame
    right_before: Bool[ndarray, "case d_vocab"]
    right_after: Bool[ndarray, "case d_vocab"]


def _make(kind: str, n: int, size: int | tuple[int, int], seed: int, generator: str, own: Mazes | None,
          within: int | tuple[int, int] | None, options: dict) -> _Made:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, not {kind!r}")
    rng = np.random.default_rng([_SEEDS + seed, KINDS.index(kind), 1])
    mazes, node, cell = _choose(kind, n, size, seed, generator, own, within, options, rng)
    row, shape, size = np.arange(len(mazes)), mazes.shape, mazes.shape
    here, onward = mazes.paths[row, node], mazes.paths[row, node + 1]
    edge = _number(here, cell, shape)
    order, n_listed, slot, stand_in = _lists(mazes, edge, rng)
    turned = rng.random(order.shape) < 0.5
    without = order.copy()
    without[row, slot] = stand_in
    told, untold = _written(mazes, order, n_listed, turned), _written(mazes, without, n_listed, turned)
    lengths = told.path_start + 2 + node
    tokens, edited = (np.where(np.arange(lengths.max()) < lengths[:, None], text.tokens[:, : lengths.max()], PADDING)
                      for text in ((untold, told) if kind == "add" else (told, untold)))
    before = np.zeros((len(row), len(words(size))), bool)
    before[row, CELL + onward] = True
    after, closes = _right_after(kind, mazes, here, cell, before.shape), 4 + 4 * slot
    left, group = distances(mazes.connections, mazes.targets), identities(mazes.connections)
    edge_name, codes = edge_names(shape), (WALL, PASSAGE) if kind == "add" else (PASSAGE, WALL)
    table = pd.DataFrame({
        "prompt": row, "target": [edge_name[e] for e in edge], "was": codes[0], "becomes": codes[1], "group": group,
        "split": _halves(group), "node": node, "cell": [cell_names(shape)[c] for c in here],
        "direction": [DIRECTIONS[way] for way in (neighbours(shape)[here] == cell[:, None]).argmax(1)],
        "stand_in": [edge_name[e] for e in stand_in],
        "saves": left[row, here] - left[row, cell] - 1 if kind == "add" else 0, "witness": to_text(edited, size),
        f"{NAMED}slot": closes, f"{NAMED}first_cell": closes - 3, f"{NAMED}second_cell": closes - 1,
        f"{NAMED}path_start": told.path_start})
    return _Made(task_name(size), tokens, edited, lengths, table, before, after)


def _choose(kind: str, n: int, size, seed: int, generator: str, own: Mazes | None, within, options: dict,
            rng: np.random.Generator) -> tuple[Mazes, Int[ndarray, " case"], Int[ndarray, " case"]]:
    """Mazes, a step of the path of each, and the cell to which a passage is added or removed there, drawn uniformly
    from what the maze offers."""
    for most in (4 * n + 50, 16 * n + 200, 64 * n + 800) if own is None else (len(own),):
        mazes = own if own is not None else random_mazes(most, size, generator, _SEEDS + seed,
                                                         **{"reserved": True} | options)
        mazes = mazes if within is None else mazes.within(within)
        offers = _offers(kind, mazes) & is_tree(mazes)[:, None, None]
        keys = np.where(offers, rng.random(offers.shape), -1).reshape(len(mazes), -1)
        good = np.flatnonzero(keys.max(1) >= 0)[:n]
        if len(good) == n or (own is not None and len(good)):
            node, way = np.divmod(keys[good].argmax(1), 4)
            chosen = mazes[good]
            return chosen, node, _beside(chosen, node, way)
    kind_of = f"mazes of your own ({most})" if own is not None else f"{most} {generator} mazes of size {size}"
    raise ValueError(f"found only {len(good)} of {n} cases to {kind} among {kind_of}; "
                     "ask for fewer, for larger mazes, or for another generator")


def _beside(mazes: Mazes, node: Int[ndarray, " case"], way: Int[ndarray, " case"]) -> Int[ndarray, " case"]:
    """The cell up, down, left or right of a cell of each path."""
    row = np.arange(len(mazes))
    return neighbours(mazes.shape)[mazes.paths[row, node]][row, way]


def _offers(kind: str, mazes: Mazes) -> Bool[ndarray, "maze node 4"]:
    """At which cells of the path a passage up, down, left or right can be added or removed."""
    maze, node = np.nonzero(mazes.paths[:, 1:] >= 0)
    here, onward = mazes.paths[maze, node], mazes.paths[maze, node + 1]
    around, passage = neighbours(mazes.shape)[here], ways(mazes.connections)[maze, here]
    out = np.zeros((*mazes.paths.shape, 4), bool)
    if kind == "remove":
        out[maze, node] = (around == onward[:, None]) & (mazes.ways_forward[maze, node] > 1)[:, None]
    else:
        left = np.pad(distances(mazes.connections, mazes.targets), ((0, 0), (0, 1)), constant_values=-1)
        there = left[maze[:, None], around]
        out[maze, node] = ~passage & (there >= 0) & (there + 3 <= left[maze, here][:, None])
    return out


def _lists(mazes: Mazes, edge: Int[ndarray, " case"], rng: np.random.Generator) -> tuple[ndarray, ...]:
    """Edges of the list in random order, the one in question among them: order (case, edge) and how many are listed;
    its place; and another listed edge, to stand in for it, which shares no cell with it where there is such a one."""
    row, pairs = np.arange(len(mazes)), edges(mazes.shape)
    listed = open_edges(mazes.connections)
    listed[row, edge] = False
    touches = (pairs[None, :, :, None] == pairs[edge][:, None, None, :]).any((2, 3))
    stand_in = np.where(listed, rng.random(listed.shape) - touches, -2).argmax(1)
    listed[row, edge] = True
    order = np.where(listed, rng.random(listed.shape), 2).argsort(1)
    return order, listed.sum(1), (order == edge[:, None]).argmax(1), stand_in


def _right_after(kind: str, mazes: Mazes, here: Int[ndarray, " case"], cell: Int[ndarray, " case"],
                 shape: tuple[int, int]) -> Bool[ndarray, "case d_vocab"]:
    after, row = np.zeros(shape, bool), np.arange(len(mazes))
    if kind == "remove":
        case, way = np.nonzero(ways(mazes.connections)[row, here])
        after[case, CELL + neighbours(mazes.shape)[here][case, way]] = True
    after[row, CELL + cell] = kind == "add"
    return after


def _number(a: Int[ndarray, " case"], b: Int[ndarray, " case"], shape: tuple[int, int]) -> Int[ndarray, " case"]:
    """The numbers of the edges between neighbours `a` and `b`."""
    table = np.full((shape[0] * shape[1],) * 2, -1)
    table[tuple(edges(shape).T)] = np.arange(len(edges(shape)))
    return table[np.minimum(a, b), np.maximum(a, b)]


def _halves(group: Shaped[ndarray, " case"]) -> Shaped[ndarray, " case"]:
    """`choose` or `report`: every other group."""
    return np.where(np.isin(group, np.unique(group)[::2]), "choose", "report")
