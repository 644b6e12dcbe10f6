"""Mazes as tokens, in the published layout: adjacency list, origin, target, path.

    <ADJLIST_START> (2,0) <--> (1,0) ; (4,0) <--> (4,1) ; ... ; <ADJLIST_END>
    <ORIGIN_START> (0,3) <ORIGIN_END> <TARGET_START> (3,3) <TARGET_END>
    <PATH_START> (0,3) (1,3) ... (3,3) <PATH_END>

Strings and their order in the vocabulary are those of maze-dataset's legacy tokenizer, rasterised
(`AOTP_UT_rasterized`): 11 special tokens, then one per cell, row by row. The order of the passages and of the two cells
of each is random. Padding is on the right (theirs is on the left).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy import ndarray
from torch import Tensor

from ._lattice import Shape, cell_names, connect, edge_names, edges, open_edges, shape_of
from ._mazes import Mazes, solve

SPECIALS = ("<ADJLIST_START>", "<ADJLIST_END>", "<TARGET_START>", "<TARGET_END>", "<ORIGIN_START>", "<ORIGIN_END>",
            "<PATH_START>", "<PATH_END>", "<-->", ";", "<PADDING>")
(ADJLIST_START, ADJLIST_END, TARGET_START, TARGET_END, ORIGIN_START, ORIGIN_END, PATH_START, PATH_END, CONNECTOR, CLOSE,
 PADDING) = range(len(SPECIALS))
CELL = len(SPECIALS)  # token of cell 0
ORDERS = ("random", "sorted")  # of the passages in the list
_CELL = re.compile(r"\((\d+),(\d+)\)")
_NOT_PASSAGES = 10  # tokens that are neither a passage nor a cell of the path


@dataclass(frozen=True)
class Tokens:
    """Tokenised mazes.

    Attributes:
        tokens: (prompt, pos) ids, padded on the right; lengths: (prompt,).
        closes: (prompt, pos) the edge whose passage a `;` closes, -1 elsewhere.
        path_start: (prompt,) position of `<PATH_START>`; the path begins after it.
    """

    tokens: Int[ndarray, "prompt pos"]
    lengths: Int[ndarray, " prompt"]
    closes: Int[ndarray, "prompt pos"]
    path_start: Int[ndarray, " prompt"]


def words(size: int | tuple[int, int] = 5) -> list[str]:
    """The vocabulary: 11 special tokens and the cells, so 36 words at 5x5, 47 at 6x6."""
    return [*SPECIALS, *cell_names(shape_of(size))]


def lattice_of(vocabulary: Sequence[str]) -> Shape:
    """(rows, columns) of the lattice whose `words` a vocabulary consists of.

    Raises:
        ValueError: It is not that of mazes.
    """
    named = [tuple(map(int, found.groups())) for word in vocabulary if (found := _CELL.fullmatch(word))]
    shape = (max(r for r, _ in named) + 1, max(c for _, c in named) + 1) if named else None
    if shape is None or list(vocabulary) != words(shape):
        raise ValueError(f"the vocabulary of {len(vocabulary)} words is not that of mazes, which is "
                         f"{' '.join(SPECIALS[:2])} ... {SPECIALS[-1]} (0,0) (0,1) ...; train a model on them: "
                         "python -m tasks.maze.train --help")
    return shape


def longest(size: int | tuple[int, int] = 5) -> int:
    """Tokens of the longest prompt there can be: every edge a passage, every cell on the path."""
    shape = shape_of(size)
    return 4 * len(edges(shape)) + _NOT_PASSAGES + shape[0] * shape[1]


def tokenise(mazes: Mazes, seed: int | Sequence[int] = 0, listed: str = "random") -> Tokens:
    """Whole prompts, path and `<PATH_END>` included: 4 tokens per passage, 10 others and the path.

    Prompt i of a seed does not depend on how many mazes follow it.

    Args:
        listed: The passages in `random` order, as published, or `sorted`, in the order of `edge_names`, the cells of
            each too.
    Raises:
        ValueError: Another order.
    """
    if listed not in ORDERS:
        raise ValueError(f"passages are listed in one of the orders {', '.join(ORDERS)}, not {listed!r}")
    is_open, pairs, maze = open_edges(mazes.connections), edges(mazes.shape), np.arange(len(mazes))
    n_open = is_open.sum(1)
    draws = np.random.default_rng(seed).random((len(mazes), 2, len(pairs)))
    if listed == "sorted":
        draws[:, 0], draws[:, 1] = np.arange(len(pairs)) / len(pairs), 1
    order = np.where(is_open, draws[:, 0], 2).argsort(1)
    return _written(mazes, order, n_open, draws[maze[:, None], 1, order] < 0.5)


def _written(mazes: Mazes, order: Int[ndarray, "maze slot"], n_listed: Int[ndarray, " maze"],
             turned: Bool[ndarray, "maze slot"]) -> Tokens:
    """Prompts whose lists are the first `n_listed` edges of `order`, the lower or right cell first where `turned`."""
    n, n_nodes = len(mazes), mazes.n_nodes
    pairs = edges(mazes.shape)[order]
    pairs = np.where(turned[..., None], pairs[..., ::-1], pairs)
    lengths, after = 4 * n_listed + _NOT_PASSAGES + n_nodes, 4 * n_listed + 1
    tokens = np.full((n, int(lengths.max(initial=0))), PADDING)
    closes = np.full_like(tokens, -1)
    maze, slot = np.nonzero(np.arange(order.shape[1]) < n_listed[:, None])
    tokens[:, 0] = ADJLIST_START
    for offset, what in enumerate((CELL + pairs[..., 0], CONNECTOR, CELL + pairs[..., 1], CLOSE)):
        tokens[maze, 1 + 4 * slot + offset] = what[maze, slot] if isinstance(what, ndarray) else what
    closes[maze, 4 + 4 * slot] = order[maze, slot]
    marks = (ADJLIST_END, ORIGIN_START, CELL + mazes.origins, ORIGIN_END, TARGET_START, CELL + mazes.targets,
             TARGET_END, PATH_START)
    for offset, what in enumerate(marks):
        tokens[np.arange(n), after + offset] = what
    maze, node = np.nonzero(mazes.paths >= 0)
    tokens[maze, (after + len(marks))[maze] + node] = CELL + mazes.paths[maze, node]
    tokens[np.arange(n), lengths - 1] = PATH_END
    return Tokens(tokens, lengths, closes, after + len(marks) - 1)


def to_text(tokens: Int[ndarray, "prompt pos"] | Int[Tensor, "prompt pos"],
            size: int | tuple[int, int] = 5) -> list[str]:
    """Prompts as text, padding left out."""
    table = words(size)
    return [" ".join(table[token] for token in row if token != PADDING) for row in np.asarray(tokens).tolist()]


def to_ids(texts: Sequence[str], size: int | tuple[int, int] = 5,
           ) -> tuple[Int[Tensor, "prompt pos"], Int[Tensor, " prompt"]]:
    """Token ids, padded on the right, and lengths: the inverse of `to_text`.

    Raises:
        ValueError: A word is not in the vocabulary of this size.
    """
    number = {word: i for i, word in enumerate(words(size))}
    rows = [text.split() for text in texts]
    for i, row in enumerate(rows):
        if unknown := [word for word in row if word not in number]:
            raise ValueError(f"prompt {i} has the word {unknown[0]!r}, which is no token of mazes of size {size}; "
                             f"cells are (0,0) to {words(size)[-1]}")
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
    tokens = torch.full((len(rows), int(lengths.max()) if len(rows) else 0), PADDING)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor([number[word] for word in row], dtype=torch.long)
    return tokens, lengths


_PROMPT = re.compile(r"<ADJLIST_START>(?P<list>.*)<ADJLIST_END> <ORIGIN_START> (?P<origin>\S+) <ORIGIN_END> "
                     r"<TARGET_START> (?P<target>\S+) <TARGET_END> <PATH_START>")


def parse(texts: Sequence[str], size: int | tuple[int, int] = 5) -> Mazes:
    """The mazes of prompts in the published layout, solved; what follows `<PATH_START>` is not read.

    Raises:
        ValueError: A prompt is not laid out so, a passage joins cells that are not neighbours, or two ends are cut off.
    """
    shape = shape_of(size)
    cells = {name: i for i, name in enumerate(cell_names(shape))}
    number = {frozenset(pair): i for i, pair in enumerate(edges(shape).tolist())}
    is_open, ends = np.zeros((len(texts), len(number)), bool), np.zeros((len(texts), 2), np.int64)
    for i, text in enumerate(texts):
        if not (found := _PROMPT.match(" ".join(text.split()))):
            lacking = [mark for mark in SPECIALS[:7] if mark not in text]
            raise ValueError(f"prompt {i} is not a maze in the published layout"
                             + (f", it has no {' '.join(lacking)}" if lacking else "") + f": it begins {text[:60]!r}")
        try:
            ends[i] = cells[found["origin"]], cells[found["target"]]
            for passage in filter(None, (part.strip() for part in found["list"].split(";"))):
                a, _, b = passage.partition(" <--> ")
                is_open[i, number[frozenset((cells[a], cells[b]))]] = True
        except KeyError as error:
            raise ValueError(f"prompt {i} is not a maze of size {size}: {error.args[0]!r} is no cell, or no pair of "
                             f"neighbours, such as {edge_names(shape)[0]}") from None
    return solve(connect(is_open, shape), ends)
