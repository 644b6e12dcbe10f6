"""The part of a study's report about one change: where and how the fact can be written, beside everything that tells
an effect from noise."""

import pandas as pd

from tasks._study import Change

from ._report import Section


def change_section(table: pd.DataFrame, scans: pd.DataFrame, change: Change) -> Section:
    """All about one change.

    Args:
        table: Result rows of the change (`label` is its name).
        scans: Rows that sites and doses were chosen from, of all changes.
    """
    return Section(f"{change.name}: {change.words}", [f"{change.n} cases, edited at {', '.join(change.places)}."])
