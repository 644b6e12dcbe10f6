"""Mazes of labelled prompts as SVG text."""

from collections.abc import Sequence

import numpy as np

from .._prompts import LabelledPrompts
from .._svg import Svg
from ._lattice import open_edges
from ._marks import BLUE, INK, Panel, border, document, ends, floor, trail, wall
from ._tokens import lattice_of, parse


def picture(prompts: LabelledPrompts, rows: Sequence[int]) -> Svg:
    """The maze that each of these examples tells of, with the shortest path, its origin and its target."""
    shape = lattice_of(prompts.vocabulary)
    panels = []
    for row in rows:
        prompt = int(prompts.examples["prompt"].iat[row])
        tokens = prompts.tokens[prompt, : int(prompts.lengths[prompt])].tolist()
        maze = parse([" ".join(prompts.vocabulary[token] for token in tokens)], shape)
        path = [cell for cell in maze.paths[0].tolist() if cell >= 0]
        walls = [wall(edge, shape, INK, 3.4) for edge in np.flatnonzero(~open_edges(maze.connections)[0]).tolist()]
        panels.append(Panel(f"prompt {prompt}", [*floor(shape), trail(path, shape, BLUE, 11, 0.3), *walls,
                                                 border(shape), *ends(path, shape)]))
    return document(panels, shape, [])
