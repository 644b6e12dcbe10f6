"""Pictures of truth inside a model as SVG text: components by layer, scores token by token, effects, where to patch.

Colours are those of the reports' light theme, so that a page can turn them dark; shades are opacities, so that they go
along.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

INK, MUTED, GRID, PAPER = "#1f2430", "#5b6475", "#dfe3ea", "#fefefe"
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#00876a", "#aa4499"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
WIDTH, MOST = 640, 300  # of a picture; points drawn in a panel
Number = float | int


class Effect(NamedTuple):
    """One row of `effects_picture`: an edit at one place, its interval, and the band of random directions there."""

    name: str
    value: Number
    low: Number
    high: Number
    random: tuple[Number, Number] | None = None


def components_picture(layers: Mapping[str, Float[ndarray, "example d_model"]], true: Bool[ndarray, " example"],
                       affirmative: Bool[ndarray, " example"] | None = None) -> str:
    """The first two principal components of the activations, a panel per layer: true statements blue, false ones
    orange, negated ones as crosses. Of more than 300 examples every second, third, ... is drawn; the components are
    those of all. The share of variance of either component stands at its axis."""
    side, columns = 196, 2 if len(layers) == 4 else 3
    parts = []
    for i, (name, X) in enumerate(layers.items()):
        points, share = _components(X)
        x, y = i % columns * (side + 26), 22 + i // columns * (side + 54)
        dots = "".join(_dot(*_inside(points[k], points, side), bool(true[k]),
                            affirmative is None or bool(affirmative[k])) for k in range(0, len(X), -(-len(X) // MOST)))
        parts.append(f'<g transform="translate({x},{y})">' + text(0, -7, name, 12.5, INK, bold=True)
                     + f'<rect width="{side}" height="{side}" style="fill:none;stroke:{GRID}"/>{dots}'
                     + text(side, side + 14, f"PC 1, {share[0]:.0%}; PC 2 upwards, {share[1]:.0%}", 10, MUTED, "end")
                     + "</g>")
    bottom = 22 + -(-len(layers) // columns) * (side + 54) - 14
    legend = [(_dot(5, 0, True, True), "true"), (_dot(5, 0, False, True), "false")]
    if affirmative is not None and not affirmative.all():
        legend += [(_dot(5, 0, True, False), "true, negated"), (_dot(5, 0, False, False), "false, negated")]
    keys = "".join(f'<g transform="translate({8 + 120 * i},{bottom})">{mark}{text(16, 4, words, 11, INK)}</g>'
                   for i, (mark, words) in enumerate(legend))
    return document("".join(parts) + keys, bottom + 12)


def statement_picture(rows: Sequence[tuple[Sequence[str], Float[ndarray, " token"]]], title: str = "") -> str:
    """Texts with the score of a probe under every token: blue, above the threshold (0), for true; orange, below it, for
    false; the stronger the colour, the farther off. All rows share one scale."""
    top = max((float(np.abs(scores).max()) for _, scores in rows), default=0.0) or 1.0
    head, parts = 26 if title else 4, [text(0, 15, title, 13, INK, bold=True)] if title else []
    width = 0.0
    for i, (tokens, scores) in enumerate(rows):
        x, y = 0.0, head + 46 * i
        for token, score in zip(tokens, scores.tolist(), strict=True):
            wide = max(34.0, 7.6 * len(token) + 12)
            colour, depth = BLUE if score > 0 else ORANGE, 0.06 + 0.54 * abs(score) / top
            parts.append(f'<rect x="{x:.1f}" y="{y}" width="{wide - 3:.1f}" height="36" rx="4" '
                         f'style="fill:{colour}" opacity="{depth:.3f}"/>'
                         + text(x + wide / 2 - 1.5, y + 15, token, 12, INK, "middle")
                         + text(x + wide / 2 - 1.5, y + 30, f"{score:+.1f}", 10, INK, "middle"))
            x += wide
        width = max(width, x)
    return document("".join(parts), head + 46 * len(rows), max(width, 7.4 * len(title)))


def effects_picture(groups: Mapping[str, Sequence[Effect]], unit: str = "normalised indirect effect") -> str:
    """Effects as dots with their intervals, beside the band of random directions (grey); 0 is no edit, 1 what the
    model does when it is told."""
    rows = [e for effects in groups.values() for e in effects]
    low = min(0.0, *(v for e in rows for v in (e.low, *(e.random or ())))) if rows else 0.0
    high = max(1.0, *(v for e in rows for v in (e.high, *(e.random or ())))) if rows else 1.0
    left, right, parts, y = 210, WIDTH - 16, [], 6.0

    def at(value: Number) -> float:
        return left + (right - left) * (value - low) / (high - low)

    for name, effects in groups.items():
        y += 18
        parts.append(text(0, y, name, 12.5, INK, bold=True))
        for e in effects:
            y += 24
            band = "" if e.random is None else (
                f'<rect x="{at(e.random[0]):.1f}" y="{y - 12:.1f}" width="{at(e.random[1]) - at(e.random[0]):.1f}" '
                f'height="16" style="fill:{MUTED}" opacity="0.3"/>')
            parts.append(f'{band}<path d="M{at(e.low):.1f} {y - 4:.1f}H{at(e.high):.1f}" style="stroke:{BLUE};'
                         f'stroke-width:2.2"/><circle cx="{at(e.value):.1f}" cy="{y - 4:.1f}" r="5" '
                         f'style="fill:{BLUE}"/>' + text(left - 12, y, e.name, 11.5, INK, "end"))
        y += 14
    ticks = "".join(f'<path d="M{at(v):.1f} 8V{y:.1f}" style="stroke:{GRID}"/>'
                    + text(at(v), y + 15, f"{v:g}", 10.5, MUTED, "middle") for v in (0, 0.5, 1))
    return document(ticks + "".join(parts) + text((left + right) / 2, y + 32, unit, 11, INK, "middle"), y + 40)


def patching_picture(tokens: Sequence[str], layers: Sequence[str], share: Float[ndarray, "layer token"]) -> str:
    """How much of the answer follows when one token's stream after one layer is taken from the twin: layers upwards,
    tokens across, percent of the whole effect."""
    cell, left, top = 62, 70, 8
    parts = []
    for row, name in enumerate(layers):
        y = top + 34 * (len(layers) - 1 - row)
        parts.append(text(left - 10, y + 21, name, 11, MUTED, "end"))
        for column, value in enumerate(share[row].tolist()):
            x, depth = left + cell * column, min(1.0, abs(value))
            parts.append(f'<rect x="{x}" y="{y}" width="{cell - 3}" height="31" rx="4" style="fill:{GRID}" '
                         f'opacity="0.4"/><rect x="{x}" y="{y}" width="{cell - 3}" height="31" rx="4" '
                         f'style="fill:{BLUE if value > 0 else ORANGE}" opacity="{0.85 * depth:.3f}"/>'
                         + text(x + (cell - 3) / 2, y + 20, f"{100 * value:.0f}", 11.5,
                                PAPER if depth > 0.6 else INK, "middle"))
    y = top + 34 * len(layers) + 14
    parts += [text(left + cell * k + (cell - 3) / 2, y, token, 11, INK, "middle") for k, token in enumerate(tokens)]
    return document("".join(parts), y + 8, left + cell * len(tokens))


def document(marks: str, height: Number, width: Number = WIDTH) -> str:
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
            f'height="{height:.0f}" font-family="{escape(FONT)}">{marks}</svg>')


def text(x: Number, y: Number, words: str, size: Number, colour: str, anchor: str = "start", bold: bool = False
         ) -> str:
    weight = ";font-weight:600" if bold else ""
    return (f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}" '
            f'style="fill:{colour}{weight}">{escape(words)}</text>')


def _components(X: Float[ndarray, "example d_model"]) -> tuple[Float[ndarray, "example 2"], Float[ndarray, " 2"]]:
    """Centred examples on the first two components, and the shares of variance; the sign of a component is that of its
    largest weight."""
    X = X.astype(np.float64) - X.mean(0)
    _, s, rows = np.linalg.svd(X, full_matrices=False)
    rows = rows[:2] * np.sign(np.take_along_axis(rows[:2], np.abs(rows[:2]).argmax(1)[:, None], 1))
    return X @ rows.T, (s**2 / max((s**2).sum(), 1e-30))[:2]


def _inside(point: Float[ndarray, " 2"], points: Float[ndarray, "example 2"], side: int) -> tuple[float, float]:
    low, span = points.min(0), np.maximum(np.ptp(points, axis=0), 1e-12)
    x, y = (8 + (point - low) / span * (side - 16)).tolist()
    return x, side - y


def _dot(x: Number, y: Number, true: bool, affirmative: bool) -> str:
    colour = BLUE if true else ORANGE
    if affirmative:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.8" style="fill:{colour}" opacity="0.7"/>'
    return (f'<path d="M{x - 2.8:.1f} {y - 2.8:.1f}l5.6 5.6m0 -5.6l-5.6 5.6" style="stroke:{colour};stroke-width:1.6" '
            'opacity="0.8"/>')
