"""What the study of the maze asks: where the passages are known, who follows them, and what comes of changing one.

    worldprobe run maze
    worldprobe run maze --with generator=wilson
    worldprobe run maze --with size=4                       # smaller mazes, told in the words of the model's lattice
    worldprobe run maze --with mazes=mine.json
    worldprobe run maze --model ./mine-6x6

Source: Ivanitskiy et al., arXiv:2312.02566, and Spies et al., arXiv:2412.11867; what differs is said where it does.
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from math import isqrt
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from .. import reference_models
from .._prompts import Counterfactuals, LabelledPrompts
from .._study import Behaviour, Change, Measure, Part, Reading, Study, codes
from . import _study_checks, _study_measures, _study_pictures
from ._behaviour import behaviour
from ._carriers import carrier_rows
from ._cases import cases
from ._generators import GENERATORS
from ._labels import load
from ._lattice import DIRECTIONS, Shape, edge_names, identities, shape_of
from ._mazes import Mazes, random_mazes
from ._own import read_mazes
from ._tokens import CELL, lattice_of

_SEEDS = 3 << 32  # other mazes than those of the trainer, of `load` and of `cases`
SINGLE = {
    "origin_after_path_start": "the origin after <PATH_START>", "first_path_choice": "the first step",
    "rand_path_token": "any later cell of the path", "rand_path_token_nonend": "any cell between the ends",
    "final_before_path_end": "the target at its place", "path_end": "<PATH_END> at its place"}


def study(size: int | str | None = None, generator: str = "dfs", mazes: str | None = None, model: str = "maze",
          tokenizer: Any = None, d_vocab: int | None = None) -> Study:
    """The study of a model that walks mazes.

    Args:
        size: Side of the mazes, or `4x6`; that of the model's lattice, unless given. Smaller ones are told in the words
            of that lattice, in its corner. Of your own mazes it is read from them.
        generator: One of `GENERATORS`, for prompts, cases and behaviour.
        mazes: A file of your own mazes instead, see `read_mazes`.
        model: The reference model that is studied unless another is named.
        tokenizer, d_vocab: Of a model that is not a reference model, if it has a tokenizer.
    Raises:
        ValueError: No such generator, a size that is none, or mazes for which the model has no words.
    """
    if generator not in GENERATORS:
        raise ValueError(f"no generator {generator!r}; there are {', '.join(GENERATORS)}")
    own = None if mazes is None else read_mazes(mazes)
    asked = own.shape if own is not None else None if size is None else _shape(size)
    lattice = _lattice(model, tokenizer, d_vocab, asked)
    shape = asked or lattice
    if shape[0] > lattice[0] or shape[1] > lattice[1]:
        raise ValueError(f"the model has words for the cells of {lattice[0]}x{lattice[1]} mazes, not of "
                         f"{shape[0]}x{shape[1]}; take smaller ones, or train a model for them: "
                         "python -m tasks.maze.train --size N")
    made = partial(load, size=shape, generator=generator, mazes=own, within=lattice)
    changed = partial(cases, size=shape, generator=generator, mazes=own, within=lattice)
    sample, names = partial(_mazes, shape, lattice, generator, own), edge_names(shape)
    return Study(
        task="maze", title="What the model {model} knows of the maze, and uses", model=model,
        question="The model reads a maze as a list of passages in random order, then its two ends, and writes the path "
                 "between them. Does it put the passages together to a map of the maze, in one token or where it "
                 "stands, and does it walk by that map? A cell is named once per passage it has; so the passages of "
                 "every cell can be counted without knowing where they lead, and from the counts alone four edges in "
                 "five are told rightly (by degree, beside every score). A map has to be better than that.",
        behaviour=Behaviour(
            partial(_behaviour, sample),
            {"exact": "path without a mistake", "valid": "every step is a passage", "target": "reaches the target",
             "decision": "right where the path forks", "origin_decision": "right first step where there is a choice",
             "token": "tokens of the path"} | SINGLE,
            {"exact": "walker", "decision": "chance", "origin_decision": "origin_chance"},
            {"decision": "n_decisions"}, n=400, quick=128, items="mazes"),
        readings=[
            Reading("path_start", "passage", "every passage, from the token <PATH_START>", _at(made, "path_start"),
                    ("logistic", "mlp"), n=3000, quick=800, followed=True, groups="mazes"),
            Reading("adjlist_end", "passage", "every passage, from the token <ADJLIST_END>", _at(made, "adjlist_end"),
                    ("logistic",), n=3000, quick=800, groups="mazes"),
            Reading("semicolon", "own", "whether each edge is the passage just listed, from the ; that closes it",
                    _at(made, "edges"), ("logistic",), n=400, quick=120, scores={"all_edges_right": _all_right},
                    groups="mazes"),
            Reading("second_cell", "own", "whether each edge is the passage being listed, from its second cell",
                    _at(made, "edges", "second_cell"), ("logistic",), n=400, quick=120,
                    scores={"all_edges_right": _all_right}, groups="mazes"),
            Reading("first_cell", "own", "the same, from its first cell, where the second is still to come",
                    _at(made, "edges", "first_cell"), ("logistic",), n=400, quick=120,
                    scores={"all_edges_right": _all_right}, groups="mazes"),
            Reading("path", "local", "the passages of the current cell, from the cells of the path", _at(made, "path"),
                    ("logistic",), n=800, quick=250, subsets=("interior", "ahead"), positions="step", followed=True,
                    groups="mazes"),
        ],
        changes=[
            Change("add", "a passage is added that shortens the rest of the path", partial(_seeded, changed, "add"),
                   _places(names), n=240, quick=120, groups="mazes"),
            Change("remove", "the passage is removed that the path takes next", partial(_seeded, changed, "remove"),
                   _places(names), n=240, quick=120, groups="mazes"),
        ],
        measures=[
            Measure("adjacency", "Heads that look one passage ahead. From the cells of the path, attention to other "
                    "cells of the prompt: score is the share on cells one passage away; contrast is the attention per "
                    "token there over that per token of neighbours behind a wall, 1 for a head that sees the lattice "
                    "and not the maze; cell_attention and connected_attention are the attention itself, per cell of "
                    "the path. Control: the same attention, with the passages of the maze dealt anew.",
                    partial(_study_measures.adjacency, sample=sample),
                    twin=False, heads="connected_attention"),
            Measure("gathering", "Heads that gather the two cells of a passage. From the ; that closes a passage, "
                    "attention to its first and second cell and their sum. Control: the same to the passage before.",
                    partial(_study_measures.gathering, sample=sample), twin=False),
            Measure("carriers", "Which tokens carry a changed passage to the next step. The stream of some tokens is "
                    "taken from the prompt that tells of the change, at the embedding or after one block: share of "
                    "cases, answered rightly in both prompts, that take the step of the other one. Wilson intervals.",
                    partial(carrier_rows, size=shape, generator=generator, mazes=own, within=lattice),
                    _study_pictures.carriers, twin=False),
            Measure("embedding", "The geometry of the cells' embeddings. Pearson's correlation of their L1 distance "
                    "with the Manhattan distance of the cells, over all pairs and over near ones; p by permutation of "
                    "the cells, interval by bootstrap over cells.",
                    partial(_study_measures.embedding, size=lattice)),
        ],
        contrasts={"maze-forkless": ("path_start",)},
        checks=_study_checks.checks(shape),
        pictures=_study_pictures.pictures,
        draws=_study_pictures.examples,
        shows=_study_pictures.shows,
        text=partial(_walks, _at(made, "path")))


def _shape(size: int | str) -> Shape:
    if isinstance(size, int) or size.isdigit():
        return shape_of(int(size))
    rows, _, cols = size.partition("x")
    if not (rows.isdigit() and cols.isdigit()):
        raise ValueError(f"size is a side length or rows x columns, such as 6 or 4x6, not {size!r}")
    return shape_of((int(rows), int(cols)))


def _at(made: Callable, at: str, where: str | None = None) -> Callable[[int, int], LabelledPrompts]:
    """(n, seed) -> prompts, probed at one of the places of `load`, or at a position that they name."""
    def prompts(n: int, seed: int) -> LabelledPrompts:
        found = made(n, seed, at=at)
        return found if where is None else found.at(where)
    return prompts


def _seeded(changed: Callable, kind: str, n: int, seed: int) -> Counterfactuals:
    return changed(kind, n, seed=seed)


def _lattice(model: str, tokenizer: Any, d_vocab: int | None, asked: Shape | None) -> Shape:
    """The lattice whose cells the model has words for. Of one without a tokenizer only their number is known: it is
    taken to be that of the mazes asked for, or square."""
    if tokenizer is not None:
        number = tokenizer.get_vocab()
        return lattice_of(sorted(number, key=number.__getitem__))
    if d_vocab is None:
        number = json.loads((reference_models()[model] / "tokenizer.json").read_text())["model"]["vocab"]
        return lattice_of(sorted(number, key=number.__getitem__))
    return next((shape for shape in (asked, (isqrt(max(d_vocab - CELL, 0)),) * 2)
                 if shape is not None and CELL + shape[0] * shape[1] == d_vocab), asked or shape_of(5))


def _mazes(shape: Shape, lattice: Shape, generator: str, own: Mazes | None, n: int, seed: int) -> Mazes:
    """The first of your own mazes, or random ones that no reference model was trained on."""
    made = own[:n] if own is not None else random_mazes(n, shape, generator, _SEEDS + seed, reserved=True)
    return made.within(lattice)


def _behaviour(sample: Callable[[int, int], Mazes], model, n: int, seed: int) -> pd.DataFrame:
    mazes = sample(n, seed)
    return behaviour(model, mazes, (_SEEDS + seed, 1)).assign(group=identities(mazes.connections))


def _walks(load: Callable[[int, int], LabelledPrompts], n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """The paths alone are learnt, not the lists of passages."""
    prompts = load(n, seed)
    tokens = prompts.tokens
    real = torch.arange(tokens.shape[1]) < prompts.lengths[:, None]
    path = (tokens == prompts.vocabulary.index("<PATH_START>")).cumsum(1).bool()
    following = torch.where(real, tokens, -1).roll(-1, 1)
    following[:, -1] = -1
    return tokens, torch.where(path, following, -1), real


def _all_right(truth: ndarray, answer: ndarray) -> Float[ndarray, " row"]:
    """Whether every target of a row is right: of many edges that are almost all no, the share says little."""
    return (truth == answer).all(1).astype(float)


def _places(names: Sequence[str]) -> dict[str, list[Part]]:
    """Where a passage is written: as part of the whole map, at the cell where the model stands, and in the list, where
    the passage takes the place of the one that stands in for it (or gives way to it)."""
    def listed(which: str, cases: Counterfactuals) -> Float[ndarray, "case target"]:
        passage = codes(cases, names, which)
        other = {"was": "becomes", "becomes": "was"}[which]
        return np.where(np.isnan(passage), codes(cases, names, other, of="stand_in"), passage)

    def whole(reading: str, position: int | str, targets: Sequence[str], of: str = "target") -> Part:
        return Part(reading, position, *(partial(codes, targets=targets, column=column, of=of)
                                         for column in ("was", "becomes")))

    def own(reading: str, position: str) -> Part:
        return Part(reading, position, partial(listed, "was"), partial(listed, "becomes"))

    return {"path start": [whole("path_start", "path_start", names)],
            "current cell": [whole("path", -1, DIRECTIONS, of="direction")],
            "semicolon": [own("semicolon", "slot")],
            "whole passage": [own("first_cell", "first_cell"), own("second_cell", "second_cell"),
                              own("semicolon", "slot")]}
