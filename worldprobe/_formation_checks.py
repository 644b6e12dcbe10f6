"""Figures that others measured beside ours: what was seen on every seed, and whether another seed could give theirs.

A card's figure is one run. Three of ours have a mean m and a standard deviation s; the next run lies within
m +- t s sqrt(1 + 1/3) in 95 % of cases, t that of two degrees of freedom. A figure inside agrees with ours. The
interval is at least as wide as the rounding of the figure.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import t


def another_seed(what: str, card: float, ours: Sequence[float] | pd.Series, digits: int = 2) -> dict:
    """A check: the card's figure lies where one more seed of ours would."""
    values = np.asarray(ours, float)
    n = len(values)
    half = float(t.ppf(0.975, n - 1) * values.std(ddof=1) * np.sqrt(1 + 1 / n)) if n > 1 else 0.0
    half = max(half, 0.5 * 10**-digits)
    low, high = values.mean() - half, values.mean() + half
    return {"what": what, "paper": card, "ours": float(values.mean()), "ci_low": float(low), "ci_high": float(high),
            "pass_mark": f"inside the 95 % interval of one more seed ({n} seeds)", "pass": bool(low <= card <= high)}


def known(what: str, value: float, ours: float, within: float) -> dict:
    """A check of a number that is exact up to `within`."""
    return {"what": what, "paper": value, "ours": float(ours), "ci_low": None, "ci_high": None,
            "pass_mark": f"within {within:g}", "pass": bool(abs(ours - value) <= within)}


def asked(what: str, card: float | str | None, ours: Sequence[float] | pd.Series, mark: str, passed: bool) -> dict:
    """A check of something that must hold on every seed; the interval is the least and the most of them."""
    values = np.asarray(ours, float)
    return {"what": what, "paper": card, "ours": float(values.mean()), "ci_low": float(values.min()),
            "ci_high": float(values.max()), "pass_mark": mark, "pass": bool(passed)}


def together(what: str, parts: Sequence[dict]) -> dict:
    """One check of several figures."""
    inside = sum(p["pass"] for p in parts)
    return {"what": what, "paper": None, "ours": f"{inside} of {len(parts)}", "ci_low": None, "ci_high": None,
            "pass_mark": f"all {len(parts)} figures", "pass": inside == len(parts), "parts": list(parts)}
