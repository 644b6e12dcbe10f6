"""Places and times of labelled prompts as SVG text: those asked for among all of them."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from .._prompts import LabelledPrompts
from .._svg import Svg
from ._pictures import GRID, INK, MUTED, ORANGE, PAPER, _coast, _dot, _frame, _onto, _stretch, _ticks, document, text

WIDE, MOST = 430, 1500  # of the map; places and events drawn besides those asked for


def picture(prompts: LabelledPrompts, rows: Sequence[int]) -> Svg:
    """Where the entities of these examples lie, or when they were: in orange and by name, among all others."""
    names = [str(prompts.examples["entity"].iat[row]) for row in rows]
    scheme = "place" if "place" in prompts.schemes else "time"
    values, every = prompts.labels(scheme).astype(float), np.arange(len(prompts))[:: -(-len(prompts) // MOST)]
    draw = _places if values.shape[1] == 2 else _times
    return Svg(draw(values, every, np.asarray(rows, np.int64), names, prompts.targets(scheme)))


def _places(at: Float[ndarray, "example 2"], every: Int[ndarray, " other"], rows: Int[ndarray, " row"],
            names: Sequence[str], targets: Sequence[str]) -> str:
    land = targets[0].startswith("lon")
    frame = _frame(at, land)
    high = WIDE * (frame[3] - frame[2]) / (frame[1] - frame[0]) * (_stretch(frame) if land else 1)
    there = _onto(at, frame, WIDE, high)
    marks = _coast(frame, WIDE, high) if land else ""
    marks += "".join(_dot(x, y, MUTED, 1.6) for x, y in there[every])
    for (x, y), name in zip(there[rows], names, strict=True):
        right = x < 0.75 * WIDE
        said = text(x + (7 if right else -7), y + 4, name, 11, INK, anchor="start" if right else "end", bold=True)
        marks += f'{_dot(x, y, ORANGE, 4)}<g style="stroke:{PAPER};stroke-width:3;paint-order:stroke">{said}</g>'
    return document(f'<svg width="{WIDE}" height="{high:.1f}" overflow="hidden">{marks}</svg><rect width="{WIDE}" '
                    f'height="{high:.1f}" style="fill:none;stroke:{GRID}"/>', high)


def _times(at: Float[ndarray, "example 1"], every: Int[ndarray, " other"], rows: Int[ndarray, " row"],
           names: Sequence[str], targets: Sequence[str]) -> str:
    low, high = float(at.min()), float(at.max())
    along = 10 + (WIDE - 20) * (at[:, 0] - low) / ((high - low) or 1)
    y = 22 + 15 * len(rows)
    marks = f'<path d="M10 {y}H{WIDE - 10}" style="stroke:{MUTED}"/>'
    marks += "".join(f'<path d="M{x:.1f} {y}v-5" style="stroke:{MUTED};stroke-width:0.6"/>' for x in along[every])
    for i, (row, name) in enumerate(zip(rows, names, strict=True)):
        x, right = along[row], along[row] < 0.75 * WIDE
        marks += f'<path d="M{x:.1f} {y}V{14 + 15 * i}" style="stroke:{ORANGE}"/>' + _dot(x, y, ORANGE, 3)
        marks += text(x + (4 if right else -4), 18 + 15 * i, name, 11, INK, anchor="start" if right else "end")
    for tick in _ticks(low, high):
        marks += text(10 + (WIDE - 20) * (tick - low) / ((high - low) or 1), y + 16, f"{tick:g}", 10, MUTED, "middle")
    return document(marks, y + 22)
