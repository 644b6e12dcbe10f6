"""Pictures of places and times as SVG text: where they are, where a probe says they are, and how far off that is.

Colours are those of the reports' light theme, so that a page can turn them dark; shades are opacities, so that they go
along. The coast is that of Natural Earth, 1:110m (`land_110m.json` names its source).
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.spatial import ConvexHull

INK, MUTED, GRID, PAPER = "#1f2430", "#5b6475", "#dfe3ea", "#fefefe"
BLUE, ORANGE, GREEN, PURPLE = SERIES = ("#0072b2", "#d55e00", "#00876a", "#aa4499")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
WIDTH, TOP, GAP = 640, 40, 18  # of a picture; title of a panel; between panels
MOST = 300  # points drawn in a panel
Frame = tuple[float, float, float, float]  # left, right, bottom, top, in the units of the coordinates


class Map(NamedTuple):
    """One panel of `map_picture`.

    Attributes:
        true, predicted: x and y, or longitude and latitude in degrees.
        marked: What is drawn in the second colour: a block that training never saw.
        note: Below the title.
    """

    title: str
    true: Float[ndarray, "place 2"]
    predicted: Float[ndarray, "place 2"]
    marked: Bool[ndarray, " place"] | None = None
    note: str = ""


def map_picture(maps: Sequence[Map], *, land: bool = True, columns: int = 1,
                regions: Mapping[str, Float[ndarray, "place 2"]] | None = None) -> str:
    """Maps, side by side in `columns`, all of the same section: a ring where a place is, a dot where the probe puts it,
    and the error between them. Of more than 300 places in a panel every second, third, ... is drawn.

    Args:
        land: Draw the coast; coordinates are then degrees.
        regions: Name -> places of a region, drawn as their convex hull.
    """
    frame = _frame(np.concatenate([*(m.true for m in maps), *(regions or {}).values()]), land)
    width = (WIDTH - GAP * (columns - 1)) / columns
    height = width * (frame[3] - frame[2]) / (frame[1] - frame[0]) * (_stretch(frame) if land else 1)
    parts = [f'<clipPath id="frame"><rect width="{width:.1f}" height="{height:.1f}"/></clipPath>']
    for i, one in enumerate(maps):
        x, y = i % columns * (width + GAP), i // columns * (height + TOP + GAP)
        parts.append(text(x, y + 15, one.title, 13, INK, bold=True) + text(x, y + 31, one.note, 10.5, MUTED))
        under, over = _regions(regions or {}, frame, width, height)
        marks = (_coast(frame, width, height) if land else "") + under + _errors(one, frame, width, height) + over
        parts.append(f'<g transform="translate({x:.1f},{y + TOP:.1f})"><g clip-path="url(#frame)">{marks}</g>'
                     f'<rect width="{width:.1f}" height="{height:.1f}" style="fill:none;stroke:{GRID}"/></g>')
    bottom = -(-len(maps) // columns) * (height + TOP + GAP)
    marked = any(m.marked is not None and m.marked.any() for m in maps)
    legend = [(_ring(6, 0), "where it is"), (_dot(6, 0, BLUE), "where the probe puts it")]
    legend += [(_dot(6, 0, ORANGE), "the same, of a block that it was not fitted on")] if marked else []
    return document("".join(parts) + _legend(legend, bottom + 8), bottom + 22)


def time_picture(true: Float[ndarray, " event"], predicted: Float[ndarray, " event"], *, title: str = "",
                 unit: str = "", marked: Bool[ndarray, " event"] | None = None) -> str:
    """Two axes of time: above when things happened, below when the probe says that they did. Upright lines are right;
    those that lean are off by as much as they lean. Of more than 300 events every second, third, ... is drawn."""
    low, high = float(min(true.min(), predicted.min())), float(max(true.max(), predicted.max()))
    left, right, above, below = 74, WIDTH - 14, TOP + 20, TOP + 150

    def at(t: float | int) -> float:
        return left + (right - left) * (t - low) / ((high - low) or 1)

    parts = [text(0, 15, title, 13, INK, bold=True)]
    for y, name in ((above, "true"), (below, "read")):
        parts.append(f'<path d="M{left} {y}H{right}" style="stroke:{MUTED}"/>'
                     + text(left - 10, y + 4, name, 11, INK, anchor="end"))
    for tick in _ticks(low, high):
        parts.append(f'<path d="M{at(tick):.1f} {below}v5M{at(tick):.1f} {above}v-5" style="stroke:{MUTED}"/>'
                     + text(at(tick), below + 18, f"{tick:g}", 10.5, MUTED, anchor="middle"))
    parts.append(text(right, below + 34, unit, 10.5, MUTED, anchor="end"))
    for i in range(0, len(true), -(-len(true) // MOST)):
        colour = ORANGE if marked is not None and marked[i] else BLUE
        a, b = at(float(true[i])), at(float(predicted[i]))
        parts.append(f'<path d="M{a:.1f} {above}L{b:.1f} {below}" style="stroke:{colour};stroke-width:1" '
                     f'opacity="0.55"/>' + _dot(a, above, colour, 2) + _dot(b, below, colour, 2))
    return document("".join(parts), below + 40)


def errors_picture(errors: Mapping[str, Float[ndarray, " entity"]], *, unit: str, title: str = "") -> str:
    """How errors are spread: for every reader the share of entities whose error is at most so large, on a log axis.

    Args:
        errors: Reader (the probe, the mean of the country, ...) -> errors in `unit`, at most four; the first one's
            line is the thickest.
    """
    every = np.concatenate(list(errors.values()))
    high = float(every.max()) or 1.0
    low = max(float(np.quantile(every[every > 0], 0.02)) if (every > 0).any() else high / 10, high / 1e4)
    left, right, top, bottom = 46, WIDTH - 200, 30, 240
    decades = np.log(high / low) or 1.0
    parts = [text(0, 15, title, 13, INK, bold=True)]
    for percent in (0, 25, 50, 75, 100):
        y = bottom - (bottom - top) * percent / 100
        parts.append(f'<path d="M{left} {y:.1f}H{right}" style="stroke:{GRID}"/>'
                     + text(left - 8, y + 4, f"{percent} %", 10.5, MUTED, anchor="end"))
    for tick in _log_ticks(low, high):
        x = left + (right - left) * np.log(tick / low) / decades
        parts.append(f'<path d="M{x:.1f} {bottom}v5" style="stroke:{MUTED}"/>'
                     + text(x, bottom + 18, f"{tick:,g}", 10.5, MUTED, anchor="middle"))
    parts.append(text((left + right) / 2, bottom + 36, f"error, at most so many {unit}", 11, INK, anchor="middle"))
    for i, (name, found) in enumerate(errors.items()):
        share = np.linspace(0, 1, 101)
        along = left + (right - left) * np.log(np.quantile(found, share).clip(low) / low) / decades
        line = "L".join(f"{a:.1f} {bottom - (bottom - top) * b:.1f}" for a, b in zip(along, share, strict=True))
        parts.append(f'<path d="M{line}" style="fill:none;stroke:{SERIES[i]};stroke-width:{1.6 if i else 2.6}"/>')
        parts.append(f'<path d="M{right + 16} {top + 12 + 34 * i}h16" style="stroke:{SERIES[i]};stroke-width:2.6"/>'
                     + text(right + 38, top + 16 + 34 * i, name, 11, INK)
                     + text(right + 38, top + 30 + 34 * i, f"median {_number(np.median(found))} {unit}", 10.5, MUTED))
    return document("".join(parts), bottom + 46)


def components_picture(curves: Mapping[str, Sequence[tuple[int, float]]], *, title: str = "") -> str:
    """R2 of a probe that is given the first k principal components, on an axis of k that doubles.

    Args:
        curves: Reader (the probe, a control) -> (k, R2), ascending, at most four; the first one's line is the thickest.
    """
    left, right, top, bottom = 46, WIDTH - 200, 30, 220
    every = [pair for curve in curves.values() for pair in curve]
    low, wide = min(0.0, *(value for _, value in every)), np.log2(max(k for k, _ in every)) or 1.0
    low = max(low, -0.25)  # a control far below 0 is as bad as at 0

    def at(k: int, value: float | int) -> tuple[float, float]:
        return left + (right - left) * np.log2(k) / wide, bottom - (bottom - top) * (max(value, low) - low) / (1 - low)

    parts = [text(0, 15, title, 13, INK, bold=True)]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        y = at(1, tick)[1]
        parts.append(f'<path d="M{left} {y:.1f}H{right}" style="stroke:{GRID}"/>'
                     + text(left - 8, y + 4, f"{tick:g}", 10.5, MUTED, anchor="end"))
    for k in sorted({k for k, _ in every}):
        x = at(k, 0)[0]
        parts.append(f'<path d="M{x:.1f} {bottom}v5" style="stroke:{MUTED}"/>'
                     + text(x, bottom + 18, f"{k}", 10.5, MUTED, anchor="middle"))
    parts.append(text((left + right) / 2, bottom + 36, "principal components that the probe is given", 11, INK,
                      anchor="middle"))
    for i, (name, curve) in enumerate(curves.items()):
        points = [at(k, value) for k, value in curve]
        line = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(f'<path d="M{line}" style="fill:none;stroke:{SERIES[i]};stroke-width:{1.6 if i else 2.6}"/>'
                     + "".join(_dot(x, y, SERIES[i], 2 if i else 3) for x, y in points))
        parts.append(f'<path d="M{right + 16} {top + 12 + 34 * i}h16" style="stroke:{SERIES[i]};stroke-width:2.6"/>'
                     + text(right + 38, top + 16 + 34 * i, name, 11, INK)
                     + text(right + 38, top + 30 + 34 * i, f"all: {curve[-1][1]:.2f}", 10.5, MUTED))
    return document("".join(parts), bottom + 46)


@cache
def coast() -> tuple[Float[ndarray, "point 2"], ...]:
    """Rings of land, (longitude, latitude) in degrees, beyond 180 where they cross the date line: Natural Earth 1:110m,
    rounded to 0.1 degrees."""
    rings = json.loads((Path(__file__).parent / "land_110m.json").read_text())["rings"]
    return tuple(np.array(ring, np.float64).reshape(-1, 2) for ring in rings)


def _frame(true: Float[ndarray, "place 2"], land: bool) -> Frame:
    """A section that holds all true places, and a tenth more on every side."""
    low, high = true.min(0), true.max(0)
    edge = np.maximum(0.1 * (high - low), 0.5 if land else 0.05)
    low, high = low - edge, high + edge
    if land:
        low, high = np.maximum(low, [-180, -90]), np.minimum(high, [180, 90])
    return float(low[0]), float(high[0]), float(low[1]), float(high[1])


def _stretch(frame: Frame) -> float:
    """A degree of latitude over one of longitude, in the middle of the section; 1 for the whole Earth."""
    return 1 / max(0.3, float(np.cos(np.radians((frame[2] + frame[3]) / 2)))) if frame[1] - frame[0] < 90 else 1.0


def _onto(points: Float[ndarray, "point 2"], frame: Frame, width: float | int, height: float | int
          ) -> Float[ndarray, "point 2"]:
    left, right, bottom, top = frame
    return np.stack([(points[:, 0] - left) / (right - left) * width,
                     (top - points[:, 1]) / (top - bottom) * height], 1)


def _line(points: Float[ndarray, "point 2"]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z"


def _coast(frame: Frame, width: float | int, height: float | int) -> str:
    seen = [r for r in coast() if r[:, 0].max() >= frame[0] and r[:, 0].min() <= frame[1]
            and r[:, 1].max() >= frame[2] and r[:, 1].min() <= frame[3]]
    line = "".join(_line(_onto(ring, frame, width, height)) for ring in seen)
    return f'<path d="{line}" style="fill:{GRID};stroke:{MUTED};stroke-width:0.4" fill-rule="evenodd" opacity="0.8"/>'


def _regions(regions: Mapping[str, Float[ndarray, "place 2"]], frame: Frame, width: float | int, height: float | int,
             ) -> tuple[str, str]:
    """Hulls, and the names that lie on top."""
    shapes, names = "", ""
    for name, places in regions.items():
        at = _onto(places, frame, width, height)
        if len(at) > 2:
            shapes += (f'<path d="{_line(at[ConvexHull(at).vertices])}" style="fill:{GRID};stroke:{MUTED};'
                       'stroke-width:0.8;stroke-linejoin:round" opacity="0.5"/>')
        names += text(float(at[:, 0].mean()), float(at[:, 1].mean()) + 7, name, 20, INK, anchor="middle", bold=True)
    return shapes, f'<g style="stroke:{PAPER};stroke-width:4;paint-order:stroke;stroke-linejoin:round">{names}</g>'


def _errors(one: Map, frame: Frame, width: float | int, height: float | int) -> str:
    true, read = (_onto(p, frame, width, height) for p in (one.true, one.predicted))
    lines, dots = "", ""
    for i in range(0, len(true), -(-len(true) // MOST)):
        colour = ORANGE if one.marked is not None and one.marked[i] else BLUE
        (a, b), (c, d) = true[i], read[i]
        lines += f'<path d="M{a:.1f} {b:.1f}L{c:.1f} {d:.1f}" style="stroke:{colour};stroke-width:0.9" opacity="0.6"/>'
        dots += _ring(a, b) + _dot(c, d, colour)
    return lines + dots


def _ticks(low: float | int, high: float | int) -> list[float]:
    """Round numbers, about six, from low to high."""
    step = 10 ** np.floor(np.log10(max(high - low, 1e-9)))
    step = next(s for s in (step / 5, step / 2, step, 2 * step) if (high - low) / s <= 7)
    return [round(float(k * step), 10) for k in range(int(np.ceil(low / step)), int(np.floor(high / step)) + 1)]


def _log_ticks(low: float | int, high: float | int) -> list[float]:
    """1, 2, 5, 10, ...; only 1, 10, 100, ... over more than two and a half decades."""
    kept = (1.0,) if high / low > 300 else (1.0, 2.0, 5.0)
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    return [t for k in powers for m in kept if low <= (t := float(f"{m * 10.0**k:.6g}")) <= high]


def _number(value: float | int) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _legend(entries: Sequence[tuple[str, str]], y: float | int) -> str:
    out, x = "", 0.0
    for mark, words in entries:
        out += f'<g transform="translate({x:.1f},{y - 4:.1f})">{mark}</g>' + text(x + 16, y, words, 11, INK)
        x += 36 + 6 * len(words)
    return out


def _ring(x: float | int, y: float | int, radius: float | int = 2.6) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" style="fill:{PAPER};stroke:{INK};stroke-width:1.1"/>'


def _dot(x: float | int, y: float | int, colour: str, radius: float | int = 1.9) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" style="fill:{colour}"/>'


def text(x: float | int, y: float | int, words: str, size: float | int, colour: str, anchor: str = "start",
          bold: bool = False) -> str:
    weight = ";font-weight:600" if bold else ""
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{anchor}" '
            f'style="fill:{colour}{weight}">{escape(str(words))}</text>') if words else ""


def document(body: str, height: float | int) -> str:
    """The drawing on a paper of its own, with a little room at its sides."""
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + 8} {height + 8:.0f}" '
            f'width="{WIDTH + 8}" height="{height + 8:.0f}" font-family="{escape(FONT)}">'
            f'<g transform="translate(4,4)">{body}</g></svg>')
