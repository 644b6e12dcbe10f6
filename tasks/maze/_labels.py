"""Labels of maze prompts: the whole map, read from one token, and what single tokens could know of it."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int
from numpy import ndarray

from .._positions import NAMED
from .._prompts import LabelledPrompts, split_by_group
from ._lattice import DIRECTIONS, degrees, edge_names, edges, identities, neighbours, open_edges, shape_of, ways
from ._mazes import Mazes, random_mazes
from ._tokens import PADDING, Tokens, tokenise, words

PLACES = ("path_start", "adjlist_end", "edges", "path")
_FROM_LIST = 7  # <PATH_START> stands this far behind <ADJLIST_END>
_SEEDS = 1 << 32  # the trainer's seeds are small numbers, so that no seed of `load` repeats its mazes


def load(n: int | None = None, seed: int = 0, size: int | tuple[int, int] = 5, at: str = "path_start", *,
         generator: str = "dfs", mazes: Mazes | None = None, within: int | tuple[int, int] | None = None,
         listed: str = "random", **options) -> LabelledPrompts:
    """`n` random mazes (2,000 unless given) as prompts, probed at one of four places.

    | `at` | examples | scheme, its targets and codes |
    |---|---|---|
    | `path_start` | the token `<PATH_START>` of each prompt | `passage`, edges of the lattice: wall, passage |
    | `adjlist_end` | the token `<ADJLIST_END>` | `passage` |
    | `edges` | every `;`, which closes a passage of the list | `own`, edges: no, yes (is it the one just listed) |
    | `path` | every cell of the path | `local`, up to right: wall, passage (border: wall) |

    The first two are also columns, `prompts.at("adjlist_end")`. Shortcuts that need no map: `by_degree` predicts each
    passage from how often every cell occurs in the list (least squares on the train mazes, cut at one half: .82 at
    5x5), `by_step` the local passages from the cell and the way it was entered (the most frequent code on the train
    mazes). Subsets of `local`: `interior`, no border; `ahead`, nor the way the cell was entered by.

    Equal mazes form one group, whatever their ends, and lie in one split. None is one that a reference model was
    trained on (`is_reserved`).

    Args:
        seed: Of mazes, prompts and the split. The mazes of a seed extend those of a smaller `n`.
        size: Side of the lattice, or (rows, columns).
        generator: And its `options`, as in `random_mazes`.
        mazes: Your own (see `solve` and `parse`) instead of random ones: all of them, or the first `n`.
        within: Size of a larger lattice in whose corner the mazes lie and in whose words they are told, for a model of
            that size. Edges outside of the mazes are no targets.
        listed: Order of the passages in the prompt, `random` or `sorted`, as in `tokenise`.
    Source: Ivanitskiy et al., arXiv:2312.02566, section 3.4, which probes walls from `<PATH_START>`, border included.
    """
    if at not in PLACES:
        raise ValueError(f"at is one of {', '.join(PLACES)}, not {at!r}")
    if mazes is None:
        mazes = random_mazes(2000 if n is None else n, size, generator, _SEEDS + seed, **{"reserved": True} | options)
    part, made = mazes.shape, mazes[:n] if within is None else mazes[:n].within(within)
    text, group = tokenise(made, (_SEEDS + seed, 1), listed), identities(made.connections)
    split = split_by_group(group, seed)
    labelled = {"path": _along_the_path, "edges": _at_the_edges}.get(at, _whole_map)(made, text, split == "train")
    where, outside = labelled.where, set(edge_names(made.shape)) - set(edge_names(part))
    codes = labelled.codes[[c for c in labelled.codes if c.partition("/")[2] not in outside]]
    if (named := f"{NAMED}{at}") in where:
        where = where.assign(pos=where[named])
    prompt = where["prompt"].to_numpy()
    lengths = text.lengths - 1 if at == "path" else text.path_start + 1  # no token beyond the last that is probed
    real = np.arange(lengths.max()) < lengths[:, None]
    return LabelledPrompts(
        task=task_name(made.shape),
        tokens=torch.from_numpy(np.where(real, text.tokens[:, : lengths.max()], PADDING)),
        lengths=torch.from_numpy(lengths),
        examples=pd.concat([where.assign(group=group[prompt], split=split[prompt]), codes], axis=1),
        classes=labelled.classes,
        shortcuts=labelled.shortcuts,
        subsets=labelled.subsets,
        vocabulary=tuple(words(made.shape)),
        by=labelled.by,
    )


def task_name(size: int | tuple[int, int]) -> str:
    """`maze` at 5x5, `maze-6x6` at another size."""
    rows, cols = shape_of(size)
    return "maze" if (rows, cols) == (5, 5) else f"maze-{rows}x{cols}"


def shape_named(task: str) -> tuple[int, int]:
    """The inverse of `task_name`."""
    rows, _, cols = task.partition("-")[2].partition("x")
    return (int(rows), int(cols)) if rows else (5, 5)


class _Labelled(NamedTuple):
    where: pd.DataFrame
    codes: pd.DataFrame
    classes: dict[str, tuple[str, ...]]
    by: tuple[str, str]
    shortcuts: dict[str, tuple[str, ...]] = {}
    subsets: dict[str, Bool[ndarray, "example target"]] = {}


def _whole_map(mazes: Mazes, text: Tokens, train: Bool[ndarray, " maze"]) -> _Labelled:
    names, passage = edge_names(mazes.shape), open_edges(mazes.connections)
    codes = {"passage": passage, "by_degree": by_degree(mazes, train)}
    where = pd.DataFrame({"prompt": np.arange(len(mazes)), "pos": text.path_start,
                          f"{NAMED}path_start": text.path_start, f"{NAMED}adjlist_end": text.path_start - _FROM_LIST})
    return _Labelled(where, _columns(codes, names), dict.fromkeys(codes, ("wall", "passage")), ("pos", "edge"),
                     {"passage": ("by_degree",)})


def by_degree(mazes: Mazes, train: Bool[ndarray, " maze"]) -> Bool[ndarray, "maze edge"]:
    """Passages predicted from the number of passages of every cell: least squares on the `train` mazes, cut at 1/2.

    A cell occurs in the adjacency list once per passage, so an average over the list shows these numbers, with no
    knowledge of which cells are joined. Right for .822 of the edges of depth-first mazes at 5x5, .800 at 6x6.
    """
    degree = np.column_stack([degrees(mazes.connections), np.ones(len(mazes))])
    weights, *_ = np.linalg.lstsq(degree[train], open_edges(mazes.connections)[train].astype(float), rcond=None)
    return degree @ weights > 0.5


def border_inclusive(accuracy: float | int, size: int | tuple[int, int] = 5) -> float:
    """What an accuracy over edges would be called in Ivanitskiy et al., who ask every cell for four walls: each edge
    counts twice, and the outer walls, which are always there, are right. At 6x6, .800 becomes .833."""
    rows, cols = shape_of(size)
    return float((2 * len(edges((rows, cols))) * accuracy + 2 * (rows + cols)) / (4 * rows * cols))


def _at_the_edges(mazes: Mazes, text: Tokens, train: Bool[ndarray, " maze"]) -> _Labelled:
    names, (prompt, pos) = edge_names(mazes.shape), np.nonzero(text.closes >= 0)
    own = np.eye(len(names), dtype=bool)[text.closes[prompt, pos]]
    where = pd.DataFrame({"prompt": prompt, "pos": pos, f"{NAMED}first_cell": pos - 3, f"{NAMED}second_cell": pos - 1})
    return _Labelled(where, _columns({"own": own}, names), {"own": ("no", "yes")}, ("pos", "edge"))


def _along_the_path(mazes: Mazes, text: Tokens, train: Bool[ndarray, " maze"]) -> _Labelled:
    maze, step = np.nonzero(mazes.paths >= 0)
    cell, n_cells = mazes.paths[maze, step], mazes.shape[0] * mazes.shape[1]
    around = neighbours(mazes.shape)[cell]
    before = np.where(step > 0, mazes.paths[maze, np.maximum(step - 1, 0)], -1)
    entered = around == before[:, None]
    passage, interior = ways(mazes.connections)[maze, cell], around < n_cells
    codes = {"local": passage, "by_step": _by_step(cell, entered, passage, train[maze], n_cells)}
    where = pd.DataFrame({"prompt": maze, "pos": text.path_start[maze] + 1 + step, "step": step})
    return _Labelled(where, _columns(codes, list(DIRECTIONS)), dict.fromkeys(codes, ("wall", "passage")),
                     ("step", "direction"), {"local": ("by_step",)},
                     {"interior": interior, "ahead": interior & ~entered})


def _by_step(cell: Int[ndarray, " row"], entered: Bool[ndarray, "row 4"], passage: Bool[ndarray, "row 4"],
             train: Bool[ndarray, " row"], n_cells: int) -> Bool[ndarray, "row 4"]:
    """The more frequent code of each direction, counted per cell and way of entering it."""
    kind = np.where(entered.any(1), 1 + entered.argmax(1), 0)
    score = np.zeros((n_cells, 5, 4), np.int64)
    np.add.at(score, (cell[train], kind[train]), 2 * passage[train].astype(np.int64) - 1)
    return score[cell, kind] > 0


def _columns(codes: dict[str, ndarray], targets: list[str]) -> pd.DataFrame:
    return pd.DataFrame(np.concatenate(list(codes.values()), 1).astype(np.int8),
                        columns=[f"{scheme}/{target}" for scheme in codes for target in targets])
