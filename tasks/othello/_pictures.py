"""Boards of labelled prompts as SVG text."""

from collections.abc import Sequence
from math import isqrt

from .._prompts import LabelledPrompts
from .._svg import Svg
from ._engine import square_name
from ._tokens import token_squares

CELL, EDGE, HEAD, GAP = 24, 18, 36, 22  # a square, letters at the side, title and numbers on top, between boards
INK, MUTED, FELT, LINE, DARK, LIGHT, LAST = ("#1f2430", "#5b6475", "#dbe7dc", "#a8bdaa", "#20242b", "#ffffff",
                                             "#cf5a00")
FONT = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica Neue, Arial, sans-serif"


def picture(prompts: LabelledPrompts, rows: Sequence[int]) -> Svg:
    """The board of each of these examples, after the move that is probed (orange), with the colours as they are."""
    colours = prompts.labels("black_white")
    size = isqrt(colours.shape[1])
    wide, high = EDGE + size * CELL + GAP, HEAD + size * CELL + 6
    boards = [f'<g transform="translate({i * wide},0)">{_board(prompts, row, colours[row], size)}</g>'
              for i, row in enumerate(rows)]
    return Svg(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {len(rows) * wide} {high}" '
               f'width="{len(rows) * wide}" height="{high}" font-family="{FONT}">{"".join(boards)}</svg>')


def _board(prompts: LabelledPrompts, row: int, colours, size: int) -> str:
    example, side = prompts.examples.iloc[row], size * CELL
    move = int(token_squares(size)[int(prompts.tokens[int(example["prompt"]), int(example["pos"])])])
    parts = [_text(EDGE, 13, f"after {example['ply']} moves, {square_name(move, size)} the last", 11, INK, "start"),
             f'<rect x="{EDGE}" y="{HEAD}" width="{side}" height="{side}" style="fill:{FELT}"/>']
    parts += [f'<path d="M{EDGE + i * CELL} {HEAD}v{side}M{EDGE} {HEAD + i * CELL}h{side}" '
              f'style="stroke:{LINE};fill:none"/>' for i in range(size + 1)]
    parts += [_text(EDGE + (i + 0.5) * CELL, HEAD - 5, str(i + 1), 9, MUTED)
              + _text(EDGE - 9, HEAD + (i + 0.5) * CELL + 3, "abcdefgh"[i], 9, MUTED) for i in range(size)]
    for square, code in enumerate(colours):
        x, y = EDGE + (square % size + 0.5) * CELL, HEAD + (square // size + 0.5) * CELL
        if code != 1:  # 1 is empty
            parts.append(f'<circle cx="{x}" cy="{y}" r="{0.4 * CELL:.1f}" '
                         f'style="fill:{DARK if code == 2 else LIGHT};stroke:{DARK}"/>')
        if square == move:
            parts.append(f'<circle cx="{x}" cy="{y}" r="2.6" style="fill:{LAST}"/>')
    return "".join(parts)


def _text(x: float | int, y: float | int, words: str, size: int, colour: str, anchor: str = "middle") -> str:
    return (f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" style="fill:{colour}">{words}</text>')
