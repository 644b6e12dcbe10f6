"""HTML for notebooks: tables and marked text that take the notebook's own colours and ask the network for nothing."""

from collections.abc import Iterable, Sequence
from html import escape

_CELL = "padding:2px 10px 2px 0;text-align:left;vertical-align:top;white-space:nowrap"
_HEAD = f"{_CELL};white-space:normal;max-width:8em;font-weight:600;border-bottom:1px solid rgba(128,128,128,.45)"


class Html(str):
    """HTML text that a notebook shows as what it says."""

    def _repr_html_(self) -> str:
        return str(self)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "", note: str = "") -> Html:
    """A table of text, all of it escaped; `note` stands below."""
    head = "".join(f'<th style="{_HEAD}">{escape(str(c))}</th>' for c in columns)
    body = "".join("<tr>" + "".join(f'<td style="{_CELL}">{escape(str(cell))}</td>' for cell in row) + "</tr>"
                   for row in rows)
    above = f'<div style="font-weight:600;margin:4px 0">{escape(title)}</div>' if title else ""
    below = f'<div style="opacity:.75;font-size:90%;margin:2px 0 6px">{escape(note)}</div>' if note else ""
    look = "border-collapse:collapse;font-variant-numeric:tabular-nums"
    return Html(f'<div style="overflow-x:auto">{above}<table style="{look}"><thead><tr>{head}</tr></thead>'
                f"<tbody>{body}</tbody></table>{below}</div>")


def marked(words: Sequence[str], at: int) -> Html:
    """Words in a row, the one at `at` marked."""
    mark = '<mark style="padding:0 3px;border-radius:3px">{}</mark>'
    said = [mark.format(escape(w)) if i == at else escape(w) for i, w in enumerate(words)]
    return Html(f'<code style="white-space:pre-wrap">{" ".join(said)}</code>')


def on_paper(svg: str) -> Html:
    """A drawing on light paper, so that it can be read in a dark notebook too."""
    return Html('<div style="background:#fefefe;display:inline-block;padding:6px;margin:3px 6px 3px 0;'
                f'border-radius:4px;max-width:100%;overflow:auto">{svg}</div>')
