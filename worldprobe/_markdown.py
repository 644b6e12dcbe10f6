"""The leaderboard's rows of a run as a Markdown table in which text from results is nothing but text."""

import re

import pandas as pd

from ._paper_rows import LEFT_OUT, NOTE, Number, decimals, paper_columns
from ._terminal import plain

_MEANS = re.compile(r"([\\`*_\[\]<>|~$#!{}&])")


def markdown_table(rows: pd.DataFrame) -> str:
    """GitHub's Markdown: a line of what all rows share, the table, a note."""
    common, columns = paper_columns(rows)
    shared = ", ".join(f"{head}: {escaped(value)}" for head, value in common.items())
    lines = ["| " + " | ".join(c.head for c in columns) + " |",
             "|" + "|".join("---" if c.is_text else "---:" for c in columns) + "|"]
    for cells in zip(*(c.cells for c in columns), strict=True):
        lines.append("| " + " | ".join(map(_cell, cells)) + " |")
    return "\n".join([*([shared, ""] if shared else []), *lines, "", NOTE]) + "\n"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no link, no line break."""
    text = _MEANS.sub(r"\\\1", plain(text.replace("\n", " ").replace("\r", " ").replace("\t", " ")))
    text = re.sub(r"(?i)(:)(?=//)|(?<=www)(\.)|(@)", r"\\\g<0>", text)  # GitHub makes links of bare addresses
    return text.replace("\\&", "&amp;").replace("\\<", "&lt;").replace("\\>", "&gt;")  # some readers know no other


def _cell(cell: object) -> str:
    if cell is None:
        return LEFT_OUT
    if isinstance(cell, Number):
        interval = f" [{decimals(cell.low)}, {decimals(cell.high)}]" if cell.low == cell.low else ""
        return decimals(cell.value) + interval
    return escaped(str(cell))
