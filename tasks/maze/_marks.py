"""Marks of the pictures of mazes: panels with numbered rows and columns, walls, paths, cells, arrows, a legend.

Colours are those of the reports' light theme, so that a page can turn them dark; shades are opacities, so that they go
along. Coordinates are those of the lattice's upper left corner.
"""

import re
import textwrap
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from .._svg import Svg
from ._lattice import Shape, edges

INK, MUTED, GRID, PAPER = "#1f2430", "#5b6475", "#dfe3ea", "#fefefe"
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#00876a", "#aa4499"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
Number = float | int
SIDE, LEFT, TOP, GAP = 44, 24, 44, 30  # a cell, row numbers, title and column numbers, between panels


class Panel(NamedTuple):
    """One maze of a picture."""

    title: str
    marks: list[str]
    note: str = ""


def document(panels: Sequence[Panel], shape: Shape, legend: Sequence[tuple[str, str]], title: str = "") -> Svg:
    """Panels side by side, the legend to their right, a title above them all."""
    wide, high = shape[1] * SIDE, shape[0] * SIDE
    x, head, parts = 0.0, 24 if title else 0, []
    notes = [textwrap.wrap(panel.note, max(28, int(wide / 5.6))) for panel in panels]
    for panel, lines in zip(panels, notes, strict=True):
        parts.append(f'<g transform="translate({x:g},{head})">{drawn_panel(panel, shape, lines)}</g>')
        x += LEFT + max([wide, 7.1 * len(panel.title), *(5.6 * len(line) for line in lines)]) + GAP
    keys = [f'<g transform="translate({x:g},{head + TOP + 10 + 22 * i})">{mark}'
            + text(30 if mark else 0, 3.7, words, 11, INK if mark else MUTED, "start") + "</g>"
            for i, (mark, words) in enumerate(legend)]
    width = max(x + (36 + 6.0 * max(len(words) for _, words in legend) if legend else 0), 8 + 7.4 * len(title))
    height = head + TOP + max(high + 12 + 15 * max(map(len, notes)), 22 * len(legend) + 4)
    above = text(0, 14, title, 13.5, INK, "start", bold=True) if title else ""
    return Svg(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
               f'height="{height:.0f}" font-family="{escape(FONT)}">{above}{"".join(parts)}{"".join(keys)}</svg>')


def stacked(rows: Sequence[Svg]) -> Svg:
    """Documents, one below the other."""
    sizes = [[float(v) for v in re.findall(r'viewBox="0 0 (\S+) (\S+)"', row)[0]] for row in rows]
    tops = [sum(high for _, high in sizes[:i]) for i in range(len(rows))]
    width, height = max(wide for wide, _ in sizes), sum(high for _, high in sizes)
    parts = [f'<g transform="translate(0,{top:g})">{row}</g>' for row, top in zip(rows, tops, strict=True)]
    return Svg(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
               f'height="{height:.0f}">{"".join(parts)}</svg>')


def drawn_panel(panel: Panel, shape: Shape, lines: Sequence[str]) -> str:
    rows, cols = shape
    names = "".join(text((c + 0.5) * SIDE, -8, str(c), 10, MUTED) for c in range(cols))
    names += "".join(text(-12, (r + 0.5) * SIDE + 3.5, str(r), 10, MUTED) for r in range(rows))
    below = "".join(text(0, rows * SIDE + 18 + 15 * i, line, 10.5, MUTED, "start") for i, line in enumerate(lines))
    return (text(LEFT, 16, panel.title, 12.5, INK, "start", bold=True)
            + f'<g transform="translate({LEFT},{TOP})">{"".join(filter(None, panel.marks))}{names}{below}</g>')


def centre(cell: int, shape: Shape) -> tuple[Number, Number]:
    return (cell % shape[1] + 0.5) * SIDE, (cell // shape[1] + 0.5) * SIDE


def between(edge: int, shape: Shape) -> tuple[Number, Number, bool]:
    """The middle of an edge, and whether its wall is horizontal."""
    a, b = edges(shape)[edge].tolist()
    (x, y), (to_x, to_y) = centre(a, shape), centre(b, shape)
    return (x + to_x) / 2, (y + to_y) / 2, x == to_x


def floor(shape: Shape, dots: bool = False) -> list[str]:
    """Faint cells: their outlines, or small squares at their centres."""
    if dots:
        return [f'<rect x="{x - 5:g}" y="{y - 5:g}" width="10" height="10" rx="2" style="fill:{GRID}"/>'
                for x, y in (centre(cell, shape) for cell in range(shape[0] * shape[1]))]
    wide, high = shape[1] * SIDE, shape[0] * SIDE
    lines = "".join(f"M{c * SIDE} 0v{high}" for c in range(1, shape[1]))
    lines += "".join(f"M0 {r * SIDE}h{wide}" for r in range(1, shape[0]))
    return [f'<path class="grid" d="{lines}" style="stroke:{GRID};stroke-width:1;fill:none"/>'] if lines else []


def border(shape: Shape) -> str:
    return (f'<rect class="border" x="0" y="0" width="{shape[1] * SIDE}" height="{shape[0] * SIDE}" '
            f'style="fill:none;stroke:{INK};stroke-width:3.4;stroke-linejoin:round"/>')


def wall(edge: int, shape: Shape, colour: str, width: Number, opacity: Number = 1.0, dashed: bool = False,
          cap: str = "round") -> str:
    x, y, flat = between(edge, shape)
    d = f"M{x - SIDE / 2:g} {y:g}h{SIDE}" if flat else f"M{x:g} {y - SIDE / 2:g}v{SIDE}"
    return f'<path class="wall" d="{d}" {stroke(colour, width, opacity, dashed, cap)}/>'


def stroke(colour: str, width: Number, opacity: Number = 1.0, dashed: bool = False, cap: str = "round") -> str:
    ends = "butt;stroke-dasharray:5 4" if dashed else cap
    return (f'style="fill:none;stroke:{colour};stroke-width:{width:g};stroke-linecap:{ends};stroke-linejoin:round" '
            f'opacity="{opacity:.3g}"')


def trail(cells: Sequence[int], shape: Shape, colour: str, width: Number, opacity: Number) -> str:
    if len(cells) < 2:
        return ""
    points = " ".join("{:g},{:g}".format(*centre(cell, shape)) for cell in cells)
    return f'<polyline class="path" points="{points}" {stroke(colour, width, opacity)}/>'


def ends(path: Sequence[int], shape: Shape) -> list[str]:
    return [dot(*centre(path[0], shape), BLUE), target(*centre(path[-1], shape))]


def dot(x: Number, y: Number, colour: str) -> str:
    return f'<circle cx="{x:g}" cy="{y:g}" r="6.5" style="fill:{colour};stroke:{PAPER};stroke-width:1.5"/>'


def target(x: Number, y: Number) -> str:
    return (f'<circle cx="{x:g}" cy="{y:g}" r="7.5" style="fill:{PAPER};stroke:{BLUE};stroke-width:2.5"/>'
            f'<circle cx="{x:g}" cy="{y:g}" r="3" style="fill:{BLUE}"/>')


def ring(cell: int, shape: Shape) -> str:
    x, y = centre(cell, shape)
    return f'<circle cx="{x:g}" cy="{y:g}" r="17" style="fill:none;stroke:{INK};stroke-width:2.2"/>'


def shade(cell: int, shape: Shape, colour: str, opacity: Number) -> str:
    x, y = centre(cell, shape)
    return (f'<rect class="shade" x="{x - SIDE / 2 + 2:g}" y="{y - SIDE / 2 + 2:g}" width="{SIDE - 4}" '
            f'height="{SIDE - 4}" rx="3" style="fill:{colour}" opacity="{opacity:.3g}"/>')


def percent(cell: int, shape: Shape, share: Number, above: bool = False) -> str:
    """A share in percent on a patch of paper, at the foot of its cell; at its head where an arrow comes from below."""
    x, y = centre(cell, shape)
    y += -20 if above else 6.5
    words = f"{100 * share:.0f}"
    half = 3.6 * len(words) + 2.5
    return (f'<rect x="{x - half:g}" y="{y:g}" width="{2 * half:g}" height="13.5" rx="3" '
            f'style="fill:{PAPER}" opacity="0.85"/>' + text(x, y + 10.5, words, 11, INK, bold=True))


def arrow(cell: int, other: int, shape: Shape, colour: str, share: Number) -> str:
    """From a cell over its border to a neighbour, as wide as the share."""
    (x, y), (to_x, to_y) = centre(cell, shape), centre(other, shape)
    dx, dy = (to_x - x) / SIDE, (to_y - y) / SIDE
    width, tip, neck = 2.5 + 4.5 * share, 0.72 * SIDE, 0.72 * SIDE - 8
    half = width / 2 + 3.5
    outline = [(9, width / 2), (neck, width / 2), (neck, half), (tip, 0), (neck, -half), (neck, -width / 2),
               (9, -width / 2)]
    points = " ".join(f"{x + along * dx - across * dy:.4g},{y + along * dy + across * dx:.4g}"
                      for along, across in outline)
    return (f'<polygon class="arrow" points="{points}" '
            f'style="fill:{colour};stroke:{PAPER};stroke-width:1.2;stroke-linejoin:round"/>')


def intensity(share: Number) -> float:
    return 0.06 + 0.94 * share


def chip(edge: int, shape: Shape, value: Number, share: Number) -> str:
    x, y, _ = between(edge, shape)
    if not np.isfinite(value):
        return ""
    strength = intensity(share)
    return (f'<rect class="chip" x="{x - 15:g}" y="{y - 9:g}" width="30" height="18" rx="4" '
            f'style="fill:{PAPER};stroke:{GRID};stroke-width:1"/>'
            f'<rect x="{x - 15:g}" y="{y - 9:g}" width="30" height="18" rx="4" style="fill:{BLUE}" '
            f'opacity="{strength:.3g}"/>'
            + text(x, y + 3.9, f"{100 * value:.0f}", 11, PAPER if strength > 0.6 else INK))


def swatch(colour: str, width: Number, opacity: Number = 1.0, dashed: bool = False) -> str:
    return f'<path d="M1 0h20" {stroke(colour, width, opacity, dashed)}/>'


def box(colour: str, opacity: Number = 0.6) -> str:
    return (f'<rect x="4" y="-7" width="14" height="14" rx="3" style="fill:{colour};stroke:{GRID}" '
            f'fill-opacity="{opacity:.3g}"/>')


def ring_swatch() -> str:
    return f'<circle cx="11" cy="0" r="7" style="fill:none;stroke:{INK};stroke-width:2.2"/>'


def text(x: Number, y: Number, text: str, size: Number, colour: str, anchor: str = "middle",
         bold: bool = False) -> str:
    weight = ";font-weight:600" if bold else ""
    return (f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}" '
            f'style="fill:{colour}{weight}">{escape(text)}</text>')
