"""Pictures of mazes as SVG text: the walls a probe reads, what an edit does to the next step, where a head looks.

Cells are named as in the tokens, (row, column) from 0.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int, Num
from numpy import ndarray

from .._svg import Svg
from ._lattice import edge_names, edges, neighbours, open_edges, shape_of, ways
from ._marks import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    Panel,
    arrow,
    border,
    box,
    centre,
    chip,
    document,
    dot,
    ends,
    floor,
    intensity,
    percent,
    ring,
    ring_swatch,
    shade,
    stacked,
    swatch,
    target,
    trail,
    wall,
)
from ._mazes import Mazes
from ._tokens import CELL, PATH_END

Passages = Float[ndarray, " edge"]


def map_picture(mazes: Mazes, row: int, passage: Passages | Mapping[str, Passages] | None = None,
                path: Sequence[int] | Int[ndarray, " step"] | None = None, title: str = "") -> Svg:
    """A maze as a probe reads it, over the true walls, with the true path and one that a model walked.

    Args:
        passage: Probability of a passage that the probe gives to each edge, NaN where it reads none; or title of a
            panel -> these, for several panels.
        path: Cells the model walked; what is no cell of the lattice is left out.
    """
    true = [cell for cell in mazes.paths[row].tolist() if cell >= 0]
    several = isinstance(passage, Mapping)
    panels: Mapping = passage if isinstance(passage, Mapping) else {title or "The maze": passage}
    drawn = [_map_panel(name, mazes, row, each, true, path) for name, each in panels.items()]
    return document(drawn, mazes.shape, _map_legend(passage is not None, path is not None), title if several else "")


def examples_picture(panels: Sequence[tuple[str, Mazes, Passages]]) -> Svg:
    """Several mazes as a probe reads them, three in a row: (title, one maze, probability of a passage at each edge)."""
    drawn = [_map_panel(name, mazes, 0, passage, [c for c in mazes.paths[0].tolist() if c >= 0], None)
             for name, mazes, passage in panels]
    shape, legend = panels[0][1].shape, _map_legend(read=True, walked=False)
    return stacked([document(drawn[i : i + 3], shape, [] if i else legend) for i in range(0, len(drawn), 3)])


def _map_legend(read: bool, walked: bool) -> list[tuple[str, str]]:
    legend = [(swatch(MUTED, 10, 0.38), "true wall"), (swatch(INK, 4.4), "read as a wall, the stronger the surer"),
              (swatch(ORANGE, 3.6), "read as a wall, but open"),
              (swatch(ORANGE, 2, dashed=True), "read as open, but a wall")] if read else [(swatch(INK, 3.4), "wall")]
    legend += [(swatch(BLUE, 11, 0.3), "shortest path")]
    legend += [(swatch(GREEN, 3.2), "path of the model")] if walked else []
    return legend + [(dot(11, 0, BLUE), "origin"), (target(11, 0), "target")]


def _map_panel(name: str, mazes: Mazes, row: int, passage: Passages | None, true: Sequence[int],
               path: Sequence[int] | Int[ndarray, " step"] | None) -> Panel:
    is_open, note = open_edges(mazes.connections[row : row + 1])[0], ""
    marks = [*floor(mazes.shape), trail(true, mazes.shape, BLUE, 11, 0.3)]
    if path is not None:
        walked = [int(cell) for cell in path if 0 <= cell < mazes.shape[0] * mazes.shape[1]]
        marks.append(trail(walked, mazes.shape, GREEN, 3.2, 1))
    if passage is None:
        marks += [wall(edge, mazes.shape, INK, 3.4) for edge in np.flatnonzero(~is_open).tolist()]
    else:
        marks += [wall(edge, mazes.shape, MUTED, 10, 0.38, cap="butt") for edge in np.flatnonzero(~is_open).tolist()]
        read, read_open = ~np.isnan(passage), passage > 0.5
        for edge in np.flatnonzero(read).tolist():
            p, wrong = float(passage[edge]), read_open[edge] != is_open[edge]
            if wrong and read_open[edge]:  # a wall that is not seen: what is left of it stays pale
                marks.append(wall(edge, mazes.shape, ORANGE, 2, dashed=True))
            elif p < 0.98:
                marks.append(wall(edge, mazes.shape, ORANGE if wrong else INK, 4.4 - 3 * p, 1 - p))
        note = f"{(read_open == is_open)[read].sum()} of {read.sum()} edges read rightly"
    return Panel(name, [*marks, border(mazes.shape), *ends(true, mazes.shape)], note)


def edit_picture(mazes: Mazes, row: int, edge: str, node: int, panels: Mapping[str, Num[ndarray, " d_vocab"]],
                 title: str = "") -> Svg:
    """The next step before and after a passage was changed inside the model.

    Args:
        edge: The passage to add or to remove, one of `edge_names`; removed if the maze has it.
        node: Steps already walked: the model stands at this cell of the path.
        panels: Title of a panel -> probability of each next token there.
    Raises:
        ValueError: There is no such edge, or the path has no such step.
    """
    shape, names = mazes.shape, edge_names(mazes.shape)
    true = [cell for cell in mazes.paths[row].tolist() if cell >= 0]
    if edge not in names:
        raise ValueError(f"a lattice of {shape[0]}x{shape[1]} has no edge {edge!r}; edges are named as {names[0]!r}")
    if not 0 <= node < len(true) - 1:
        raise ValueError(f"the path of maze {row} has a next step from 0 to {len(true) - 2}, not from {node}")
    number, here = names.index(edge), true[node]
    is_open = open_edges(mazes.connections[row : row + 1])[0]
    removed, changed = bool(is_open[number]), edges(shape)[number].tolist()
    exits = set(neighbours(shape)[here][ways(mazes.connections[row : row + 1])[0, here]].tolist())
    kind = dict.fromkeys(exits, MUTED) | {true[node + 1]: BLUE}
    if removed:
        kind |= dict.fromkeys(exits - set(changed), GREEN)
    else:
        kind[next(cell for cell in changed if cell != here)] = GREEN
    walls = [wall(e, shape, INK, 3.4) for e in np.flatnonzero(~is_open).tolist() if e != number]
    question = wall(number, shape, PURPLE, 4.5, dashed=True)
    drawn = []
    for name, p in panels.items():
        marks = [*floor(shape), trail(true[: node + 1], shape, MUTED, 9, 0.35)]
        cells, end = p[CELL : CELL + shape[0] * shape[1]], float(p[PATH_END])
        for cell in np.flatnonzero(cells >= 0.005).tolist():
            colour = kind.get(cell, ORANGE)
            marks.append(shade(cell, shape, colour, 0.12 + 0.78 * float(cells[cell])))
        marks += [*walls, question, border(shape), *ends(true, shape)]
        marks += [arrow(here, cell, shape, kind.get(cell, ORANGE), float(cells[cell]))
                  for cell in neighbours(shape)[here].tolist()
                  if cell < len(cells) and cells[cell] >= 0.05]
        marks += [percent(cell, shape, float(cells[cell]), above=cell == here - shape[1])
                  for cell in np.flatnonzero(cells >= 0.005).tolist()]
        marks.append(dot(*centre(here, shape), INK))
        drawn.append(Panel(name, marks, f"{100 * end:.0f} % for <PATH_END>" if end >= 0.005 else ""))
    legend = [(swatch(PURPLE, 4.5, dashed=True), f"passage to {'remove' if removed else 'add'}"),
              (box(BLUE), "next step before, in %"), (box(GREEN), "right after the change"),
              (box(ORANGE), "behind a wall or elsewhere"), (swatch(MUTED, 9, 0.35), "walked so far"),
              (dot(11, 0, INK), "the model is here"), (dot(11, 0, BLUE), "origin"), (target(11, 0), "target")]
    return document(drawn, shape, legend, title)


def edge_picture(panels: Mapping[str, Float[ndarray, " edge"]], size: int | tuple[int, int] = 5, title: str = "",
                 what: str = "accuracy") -> Svg:
    """A number for every edge, in percent, at its place on the lattice: several panels on one scale."""
    shape = shape_of(size)
    every = np.concatenate([np.asarray(values, float) for values in panels.values()])
    low, high = float(np.nanmin(every)), float(np.nanmax(every))
    drawn = []
    for name, values in panels.items():
        marks = floor(shape, dots=True)
        for edge, value in enumerate(values.tolist()):
            marks.append(chip(edge, shape, value, (value - low) / (high - low) if high > low else 1.0))
        drawn.append(Panel(name, marks, f"mean {100 * float(np.nanmean(values)):.1f} %"))
    legend = [(box(BLUE, intensity(share)), f"{100 * (low + share * (high - low)):.0f} %")
              for share in (1, 0.5, 0)] if high > low else []
    return document(drawn, shape, [("", what), *legend], title)


def attention_picture(mazes: Mazes, row: int, panels: Mapping[str, tuple[int, Float[ndarray, " cell"]]],
                      title: str = "") -> Svg:
    """Where a head looks from a cell of the path: its attention to the tokens of every cell, in percent.

    Args:
        panels: Title of a panel -> the step of the path at which the head looks, and `attention_over_cells`.
    """
    shape, drawn = mazes.shape, []
    true = [cell for cell in mazes.paths[row].tolist() if cell >= 0]
    walls = [wall(edge, shape, INK, 3.4)
             for edge in np.flatnonzero(~open_edges(mazes.connections[row : row + 1])[0]).tolist()]
    for name, (step, mass) in panels.items():
        here = true[step]
        exits = neighbours(shape)[here][ways(mazes.connections[row : row + 1])[0, here]].tolist()
        marks = [*floor(shape), trail(true[: step + 1], shape, MUTED, 9, 0.35)]
        top = max(float(mass.max()), 1e-9)
        marks += [shade(cell, shape, GREEN if cell in exits else ORANGE if cell != here else MUTED,
                         0.1 + 0.75 * float(mass[cell]) / top)
                  for cell in np.flatnonzero(mass >= 0.01).tolist()]
        marks += [*walls, border(shape), *ends(true, shape)]
        marks += [percent(cell, shape, float(mass[cell])) for cell in np.flatnonzero(mass >= 0.01).tolist()]
        marks.append(ring(here, shape))
        others = float(np.delete(mass, here).sum())
        share = f", {100 * mass[exits].sum() / others:.0f} % of it one passage away" if others >= 0.005 else ""
        drawn.append(Panel(name, marks, f"{100 * others:.0f} % on other cells{share}"))
    legend = [(box(GREEN), "one passage away"), (box(ORANGE), "elsewhere"), (ring_swatch(), "it looks from here"),
              (swatch(MUTED, 9, 0.35), "walked so far"), (dot(11, 0, BLUE), "origin"), (target(11, 0), "target"),
              ("", "numbers: attention in %")]
    return document(drawn, shape, legend, title)


