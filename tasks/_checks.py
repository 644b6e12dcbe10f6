"""Published results beside ours, as objects of `checks.json`.

A check is an object with `what, paper, ours, ci_low, ci_high, pass_mark, pass`. Some checks need more than one figure:
`parts` holds them in the same form, and the check passes when all of them do. An interval of a difference of two rows
is the conservative one: the ends of the two intervals that are farthest apart.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import pandas as pd

Interval: TypeAlias = tuple[float, float, float]  # value, low, high


def check(what: str, paper: float | str | None, ours: Sequence, pass_mark: str, passed: bool,
          parts: Sequence[dict] = ()) -> dict:
    """One check; `ours` is (value,), exact, or (value, low, high)."""
    value, low, high = (None if v is None else float(v) for v in (*ours, None, None)[:3])
    own = {"what": what, "paper": paper, "ours": value, "ci_low": low, "ci_high": high, "pass_mark": pass_mark,
           "pass": bool(passed and all(p["pass"] for p in parts))}
    return own | ({"parts": list(parts)} if parts else {})


def rows(table: pd.DataFrame, **where) -> pd.DataFrame:
    """Rows that agree with `where` (None: missing); the real thing and all examples unless `control` or `subset` say
    otherwise.

    Raises:
        LookupError: There are none.
    """
    where = {"control": None, "subset": "all", **where}
    keep = np.ones(len(table), bool)
    for column, value in where.items():
        same = table[column].isna() if value is None else (table[column] == value).fillna(False)
        keep &= same.to_numpy(bool)
    if not keep.any():
        raise LookupError(f"no rows with {where}")
    return table[keep]


def best_reading(table: pd.DataFrame, positions: str, label: str, metric: str = "accuracy",
                 probes: Sequence[str] | None = None, **where) -> pd.Series:
    """The test row of the probe and layer of a reading that are best on validation."""
    where = {"positions": positions, "label": label, "metric": metric, "intervention": None, **where}
    held = rows(table, split="validation", **where)
    held = held[held["probe"].isin(probes)] if probes is not None else held
    if held.empty:
        raise LookupError(f"no probe {', '.join(probes or ())} of {label} at {positions}")
    top = held.loc[held["value"].idxmax()]
    return rows(table, split="test", probe=top["probe"], stream=top["stream"], layer=top["layer"], **where).iloc[0]


def interval(row) -> Interval:
    """(value, low, high) of a result row."""
    return float(row["value"]), float(row["ci_low"]), float(row["ci_high"])


def difference(a: Interval, b: Interval) -> Interval:
    return a[0] - b[0], a[1] - b[2], a[2] - b[1]
