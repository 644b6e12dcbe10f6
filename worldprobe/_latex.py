"""The leaderboard's rows of a run as a LaTeX table: booktabs, siunitx, and text from results that is nothing but text.

Needs `\\usepackage{booktabs,siunitx}` and an engine that reads UTF-8, as all of today do. Numbers stand in S columns,
aligned at their points, their intervals beside them.
"""

import pandas as pd

from . import __version__
from ._paper_rows import NOTE, Column, Number, decimals, paper_columns
from ._terminal import plain

_MEANS = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_",
          "%": r"\%", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
          ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\char34{}", "`": r"\textasciigrave{}",
          "'": r"\textquotesingle{}", "–": "--"}


def latex_table(rows: pd.DataFrame) -> str:
    """A `table` with its caption; what all rows share is said there."""
    common, columns = paper_columns(rows)
    shared = ", ".join(f"{escaped(head)}: {escaped(value)}" for head, value in common.items())
    body = [" & ".join(cell for column in cells for cell in column) + r" \\"
            for cells in zip(*map(_cells, columns), strict=True)]
    note = escaped(NOTE)
    return "\n".join([
        f"% worldprobe {__version__}; \\usepackage{{booktabs,siunitx}}",
        r"\begin{table}", r"  \centering", r"  \small",
        f"  \\caption{{{shared + '. ' if shared else ''}{note}}}",
        f"  \\begin{{tabular}}{{@{{}}{''.join(map(_layout, columns))}@{{}}}}", r"    \toprule",
        "    " + " & ".join(map(_head, columns)) + r" \\", r"    \midrule",
        *(f"    {line}" for line in body),
        r"    \bottomrule", r"  \end{tabular}", r"\end{table}"]) + "\n"


def escaped(text: str) -> str:
    """Text that LaTeX sets as it is: no command, no group, no line break."""
    return "".join(_MEANS.get(c, c) for c in plain(" ".join(text.split())))


def _layout(column: Column) -> str:
    if column.is_text:
        return "l"
    texts = [decimals(c.value) for c in column.cells if c is not None]
    whole = max(len(t.lstrip("-").partition(".")[0]) for t in texts)
    sign = "-" if any(t.startswith("-") for t in texts) else ""
    return f"S[table-format={sign}{whole}.3]" + ("@{\\;}l" if _has_interval(column) else "")


def _head(column: Column) -> str:
    if column.is_text:
        return escaped(column.head)
    return rf"\multicolumn{{{2 if _has_interval(column) else 1}}}{{c}}{{{escaped(column.head)}}}"


def _cells(column: Column) -> list[list[str]]:
    """The cells of a column, each as one or two columns of LaTeX. Text and dashes are in braces, so that a [ or a * at
    the start of a line does not belong to the line break before it."""
    if column.is_text:
        return [["{--}" if c is None else f"{{{escaped(str(c))}}}"] for c in column.cells]
    pairs = [("{--}", "") if c is None else (decimals(c.value), _interval(c)) for c in column.cells]
    return [list(pair) if _has_interval(column) else [pair[0]] for pair in pairs]


def _interval(number: Number) -> str:
    if number.low != number.low:
        return ""
    return rf"{{[\num{{{decimals(number.low)}}}, \num{{{decimals(number.high)}}}]}}"


def _has_interval(column: Column) -> bool:
    return any(c is not None and c.low == c.low for c in column.cells)
