"""Tables as CSV that a spreadsheet shows and never computes, and that comes back as it was.

A spreadsheet runs a cell that starts with = + - @ as a formula, quoted or not. Such a text gets an apostrophe before
it, and so does one that starts with an apostrophe, so that reading takes exactly one away. All text is quoted, numbers
and missing values are not: an empty text is '' there and a missing value nothing.
"""

import csv
import io
import re
from pathlib import Path

import pandas as pd

from probing._results import COLUMNS, ResultsError, results_frame

_FORMULA = re.compile(r"^[\s\x00-\x20\u200b\ufeff]*[=+\-@|%\uff1d\uff0b\uff0d\uff20]|^[\s\x00-\x20\ufeff']|^$")


def guarded(text: str) -> str:
    """The text, behind an apostrophe where a spreadsheet could take it for something else."""
    return f"'{text}" if _FORMULA.match(text) else text


def unguarded(text: str) -> str:
    """What `guarded` was given."""
    return text[1:] if text.startswith("'") else text


def csv_text(table: pd.DataFrame) -> str:
    """Any table as CSV with a header; numbers with all their digits."""
    columns = [[_cell(v) for v in table.iloc[:, i].astype(object)] for i in range(table.shape[1])]
    head = ",".join(_cell(str(c)) for c in table)
    return "\n".join([head, *map(",".join, zip(*columns, strict=True))]) + "\n"


def read_csv(path: str | Path) -> pd.DataFrame:
    """The results table of a file that `csv_text` made of one.

    Raises:
        ResultsError: It is not such a file, or a cell does not hold what its column does.
    """
    lines = csv.reader(io.StringIO(Path(path).read_bytes().decode(), newline=""), strict=True)
    try:
        head = [unguarded(c) for c in next(lines)]
        if unknown := [c for c in head if c not in COLUMNS]:
            raise ResultsError(f"{path} has the columns {unknown[:5]}, which no result has; it is no exported table")
        rows = [{c: _value(c, cell) for c, cell in zip(head, line, strict=True)} for line in lines]
    except (csv.Error, StopIteration, ValueError) as error:
        if isinstance(error, ResultsError):
            raise
        raise ResultsError(f"{path} is not a results table as CSV ({error}); export it again") from error
    return results_frame(rows)


def _cell(value: object) -> str:
    if value is None or value is pd.NA or value != value:
        return ""
    if isinstance(value, float):
        return repr(float(value))  # a numpy float calls itself np.float64(...)
    if isinstance(value, int) or not isinstance(value, str) and hasattr(value, "__index__"):
        return str(value)
    return '"' + guarded(str(value)).replace('"', '""') + '"'


def _value(column: str, cell: str) -> object:
    if not cell:
        return None
    kind = COLUMNS[column][0]
    return unguarded(cell) if kind == "str" else int(cell) if kind == "Int64" else float(cell)
