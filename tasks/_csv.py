"""A table of the user's as a data frame."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd


def read_csv(file: str | Path, missing: Sequence[str] = ()) -> pd.DataFrame:
    """The rows of a CSV file in UTF-8. `None` and `NA` are words; missing is what `missing` names.

    Raises:
        ValueError: It is no such file: pictures, spreadsheets, nothing at all.
    """
    try:
        return pd.read_csv(file, keep_default_na=False, na_values=list(missing))
    except ValueError as error:  # pandas' own errors and those of UTF-8 among them
        why = " ".join(str(error).split())
        raise ValueError(f"{file} is no table of comma-separated values ({why}); save it as CSV in UTF-8") from error
