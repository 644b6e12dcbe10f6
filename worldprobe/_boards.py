"""Pictures of Othello boards as SVG: what is there, what a probe reads, what the model would play, and why.

Rows are lettered downwards and columns numbered across, as in the names of the squares (c4: row c, column 4).
Discs are drawn in their colours: codes here are 0 white, 1 empty, 2 black; `as_colours` turns mine/theirs into them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import isqrt

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from tasks._svg import Svg
from tasks.othello._engine import BLACK, square_name
from worldprobe._ink import FONT, INK, MUTED, Plot, plot, words
from worldprobe._plots import colour_bar, heat
from worldprobe._rows import control_name, metric_name, pick, require

WHITE_DISC, NO_DISC, BLACK_DISC = 0, 1, 2
CELL, EDGE, HEAD, GAP = 34, 20, 44, 26  # a square, the letters at the side, title and numbers on top, between boards
# A board stays light when the page turns dark, so what lies on it is not drawn in the colours of the theme.
FELT, LINE, DARK, LIGHT = "#dbe7dc", "#a8bdaa", "#20242b", "#ffffff"
LEGAL, WRONG, EDITED = "#008267", "#cf5a00", "#a63f94"
LOSES, GAINS = "#c0562b", "#2468a8"  # ends of the diverging scale of a saliency map


@dataclass(frozen=True)
class Position:
    """A board with what a probe reads there and what the model would play next.

    Attributes:
        truth: Disc codes of the squares (0 white, 1 empty, 2 black).
        reading: Probability that the probe gives to white, empty and black at each square.
        legal: Squares where the player to move may play.
        moves: Probability that the model gives to each square as the next move.
        last: Square of the last move.
    """

    truth: Int[ndarray, " square"]
    reading: Float[ndarray, "square 3"]
    legal: Bool[ndarray, " square"]
    moves: Float[ndarray, " square"]
    last: int | None = None

    def __post_init__(self):
        n = len(self.truth)
        if isqrt(n) ** 2 != n or {len(self.reading), len(self.legal), len(self.moves)} != {n}:
            raise ValueError(f"a position needs one entry per square of a square board in each field, got truth {n}, "
                             f"reading {len(self.reading)}, legal {len(self.legal)}, moves {len(self.moves)}")


def as_colours(mine_theirs: Int[ndarray, "*shape"], to_move: int) -> Int[ndarray, "*shape"]:
    """Codes theirs, empty, mine (0, 1, 2) as white, empty, black; `to_move` is the engine's BLACK or WHITE."""
    return np.asarray(mine_theirs) if to_move == BLACK else 2 - np.asarray(mine_theirs)


def reading_as_colours(mine_theirs: Float[ndarray, "*shape 3"], to_move: int) -> Float[ndarray, "*shape 3"]:
    """Probabilities of theirs, empty, mine as those of white, empty, black."""
    return np.asarray(mine_theirs) if to_move == BLACK else np.asarray(mine_theirs)[..., ::-1]


def position_picture(position: Position, title: str = "") -> Svg:
    """Three boards side by side: the true one with its legal moves, the probe's reading, the model's next move."""
    return _document([(title, _boards(position, None))])


def positions_picture(positions: Sequence[tuple[str, Position]]) -> Svg:
    """The same for several positions, one below the other, each under its title."""
    return _document([(title, _boards(position, None)) for title, position in positions])


def edit_picture(before: Position, after: Position, square: int, title: str = "") -> Svg:
    """The three boards before and after one square was changed inside the model; `after.truth` is the board meant."""
    name = square_name(square, isqrt(len(before.truth)))
    change = " to ".join(("white", "empty", "black")[p.truth[square]] for p in (before, after))
    return _document([(title or "Before the edit", _boards(before, square)),
                      (f"After the edit: {name} from {change}", _boards(after, square, meant=True))])


def saliency_picture(
    saliency: Float[ndarray, " square"], truth: Int[ndarray, " square"], move: int, title: str = ""
) -> Svg:
    """How much the probability of `move` (ringed) rests on each disc: p(move) minus p(move) once that disc is flipped.

    Blue squares hold discs that the move needs, orange ones discs that stand in its way; numbers are percentage points.
    """
    size = isqrt(len(truth))
    top = float(np.nanmax(np.abs(saliency))) or 1.0
    marks = []
    for square, value in enumerate(np.nan_to_num(saliency)):
        x, y = _corner(square, size)
        share = min(1.0, abs(value) / top)
        marks += [_rect(x, y, LIGHT, 1), _rect(x, y, GAINS if value > 0 else LOSES, share)]
        marks.append(_disc(x, y - 5, truth[square], radius=7.5))
        if share >= 0.05:
            points = f"{100 * value:+.{0 if abs(value) >= 0.095 else 1}f}"
            marks.append(_text(x + CELL / 2, y + CELL - 4, points, 9.5, LIGHT if share > 0.55 else DARK))
    marks.append(_ring(*_corner(move, size), EDITED))
    note = f"percentage points of p({square_name(move, size)}), the ringed move"
    return _document([(title, [("Latent saliency", note, marks, size)])])


def accuracy_by_square(
    table: pd.DataFrame, label: str, size: int = 8, metric: str = "accuracy", split: str = "test"
) -> Plot:
    """The best scored probe's accuracy at every square as a board, the task's shortcuts beside it on the same scale."""
    rows = pick(table, label=label, metric=metric, split=split, intervention=None)
    rows = rows[rows["subset"].str.startswith("square=").fillna(False).astype(bool)]
    require(rows, table, f"{label!r} by square", "label", "metric", "subset")
    shortcut = rows["control"].str.startswith("shortcut:").fillna(False).astype(bool)
    real = rows[rows["control"].isna()]
    mean = real.groupby(["probe", "stream", "layer"], sort=False)["value"].mean()
    boards = []
    if len(mean):
        probe, stream, layer = mean.idxmax()
        boards.append((f"{probe} probe, layer {layer}", pick(real, probe=probe, stream=stream, layer=layer)))
    boards += [(control_name(control), group) for control, group in rows[shortcut].groupby("control", sort=False)]
    rows = pd.concat([group for _, group in boards])
    grids = [_grid(group, size) for _, group in boards]
    limits = (min(map(np.nanmin, grids)), max(map(np.nanmax, grids)))
    figure, axes = plot(rows, len(grids), (0.9 + 4.1 * len(grids), 4.0))
    for ax, (name, _), grid in zip(axes, boards, grids, strict=True):
        mesh = heat(ax, grid, limits=limits)
        ax.set_title(words(name), color=INK, size=10)
        ax.set_xticks(range(size), [str(c + 1) for c in range(size)])
        ax.set_yticks(range(size), ["abcdefgh"[r] for r in range(size)])
        ax.set_xlabel("column")
        ax.set_ylabel("row")
    colour_bar(figure, mesh, axes, metric_name(metric))
    return figure


def _grid(rows: pd.DataFrame, size: int) -> ndarray:
    values = dict(zip(rows["subset"].str.removeprefix("square="), rows["value"], strict=True))
    names = [square_name(s, size) for s in range(size * size)]
    return np.array([values.get(name, np.nan) for name in names], float).reshape(size, size)


def _boards(position: Position, edited: int | None, meant: bool = False) -> list[tuple]:
    """(title, note, marks, size) of the three boards of a position."""
    size, n_legal = isqrt(len(position.truth)), int(position.legal.sum())
    read = position.reading.argmax(1)
    top = np.argsort(-position.moves, kind="stable")[:n_legal]
    truth, probe, model = [], [], []
    for square in range(size * size):
        x, y = _corner(square, size)
        truth += [_disc(x, y, position.truth[square]), _legal(x, y) if position.legal[square] else ""]
        if square == position.last:
            truth.append(f'<circle cx="{x + CELL / 2}" cy="{y + CELL / 2}" r="3.2" style="fill:{WRONG}"/>')
        sure, colour = position.reading[square].max(), LIGHT if read[square] == BLACK_DISC else DARK
        probe += [_disc(x, y, read[square]), _text(x + CELL / 2, y + CELL / 2 + 3.4, f"{100 * sure:.0f}", 10, colour)]
        if read[square] != position.truth[square]:
            probe.append(_ring(x, y, WRONG))
        model.append(_disc(x, y, position.truth[square], opacity=0.22))
        if square in top or position.moves[square] >= 0.01:
            share = 0.15 + 0.85 * position.moves[square] / position.moves.max()
            model.append(_rect(x, y, LEGAL if position.legal[square] else WRONG, share))
            model.append(_text(x + CELL / 2, y + CELL / 2 + 3.6, f"{100 * position.moves[square]:.0f}", 10.5,
                               LIGHT if share > 0.6 else DARK, bold=True))
        if position.legal[square]:
            model.append(_legal(x, y, corner=True))
    if edited is not None:
        for marks in (truth, probe, model):
            marks.append(_frame(*_corner(edited, size)))
    right = int((read == position.truth).sum())
    last = "; orange: last move" if position.last is not None else ""
    n_right = int(position.legal[top].sum())
    board, dots = "Board after the change" if meant else "True board", f"green dots: {n_legal} legal moves{last}"
    return [(board, dots, truth, size),
            ("Probe's reading", f"% of the state shown; {right} of {size * size} squares right", probe, size),
            ("Model's next move", f"% of each move; {n_right} of its top {n_legal} are legal (green)", model, size)]


def _document(rows: Sequence[tuple[str, list[tuple]]]) -> Svg:
    """Rows of boards, each row with its title, as one SVG document."""
    parts, y, width = [], 4, 0
    for title, boards in rows:
        if title:
            y += 18
            parts.append(_text(4, y, title, 14, INK, anchor="start", bold=True))
            y += 8
        x = 0
        for name, note, marks, size in boards:
            parts.append(f'<g transform="translate({x},{y})">{_panel(name, note, marks, size)}</g>')
            width = max(width, x + EDGE + max(size * CELL, round(5.8 * len(note))) + 8)
            x += EDGE + size * CELL + GAP
        y += HEAD + max(board[3] for board in boards) * CELL + 26
    return Svg(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" width="{width}" height="{y}" '
               f'font-family="{escape(FONT)}">{"".join(parts)}</svg>')


def _panel(name: str, note: str, marks: Sequence[str], size: int) -> str:
    side = size * CELL
    lines = "".join(f'<path d="M{EDGE + i * CELL} {HEAD}v{side}M{EDGE} {HEAD + i * CELL}h{side}"/>'
                    for i in range(size + 1))
    names = "".join(_text(EDGE + (i + 0.5) * CELL, HEAD - 6, str(i + 1), 10, MUTED) for i in range(size))
    names += "".join(_text(EDGE - 10, HEAD + (i + 0.5) * CELL + 3.5, "abcdefgh"[i], 10, MUTED) for i in range(size))
    return (_text(EDGE, 17, name, 12.5, INK, anchor="start", bold=True) + names
            + f'<rect x="{EDGE}" y="{HEAD}" width="{side}" height="{side}" style="fill:{FELT}"/>'
            + f'<g style="stroke:{LINE};stroke-width:1;fill:none">{lines}</g>' + "".join(marks)
            + _text(EDGE, HEAD + side + 15, note, 10.5, MUTED, anchor="start"))


def _corner(square: int, size: int) -> tuple[float, float]:
    return EDGE + CELL * (square % size), HEAD + CELL * (square // size)


def _disc(x: float, y: float, code: int, radius: float = 14, opacity: float = 1.0) -> str:
    if code == NO_DISC:
        return ""
    fill = DARK if code == BLACK_DISC else LIGHT
    return (f'<circle cx="{x + CELL / 2}" cy="{y + CELL / 2}" r="{radius}" '
            f'style="fill:{fill};stroke:{DARK};stroke-width:1" opacity="{opacity:g}"/>')


def _legal(x: float, y: float, corner: bool = False) -> str:
    cx, cy, r = (x + CELL - 6, y + 6, 3.2) if corner else (x + CELL / 2, y + CELL / 2, 5)
    edge = f";stroke:{LIGHT};stroke-width:1" if corner else ""
    return f'<circle cx="{cx}" cy="{cy}" r="{r}" style="fill:{LEGAL}{edge}"/>'


def _rect(x: float, y: float, colour: str, opacity: float) -> str:
    return (f'<rect x="{x + 0.5}" y="{y + 0.5}" width="{CELL - 1}" height="{CELL - 1}" '
            f'style="fill:{colour}" opacity="{opacity:.3f}"/>')


def _ring(x: float, y: float, colour: str) -> str:
    return (f'<circle cx="{x + CELL / 2}" cy="{y + CELL / 2}" r="15.4" '
            f'style="fill:none;stroke:{colour};stroke-width:2.6"/>')


def _frame(x: float, y: float) -> str:
    return (f'<rect x="{x}" y="{y}" width="{CELL}" height="{CELL}" '
            f'style="fill:none;stroke:{EDITED};stroke-width:3"/>')


def _text(x: float, y: float, text: str, size: float, colour: str, anchor: str = "middle", bold: bool = False) -> str:
    weight = ";font-weight:600" if bold else ""
    return (f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}" '
            f'style="fill:{colour}{weight}">{escape(text)}</text>')
