"""Measures with one number per example and target, as rows: over all targets and for each, with their intervals."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped
from numpy import ndarray

from ._statistics import group_sums, ratio_interval

PerTarget = Float[ndarray, "example target"]


def target_rows(
    metric: str,
    numerator: PerTarget,
    groups: Shaped[ndarray, " example"],
    targets: Sequence[str] | None = None,
    denominator: PerTarget | None = None,
    seed: int = 0,
    control: str | None = None,
) -> pd.DataFrame:
    """sum(numerator) / sum(denominator), or a mean, of all targets together (`subset` "all") and of each one
    ("target=NAME"), with 95 % cluster-bootstrap intervals over `groups`.

    Columns: metric, control, subset, value, ci_low, ci_high, n, n_groups, seed, named as in the results table, so that
    `results_frame` takes them once task, model and site are added.
    """
    denominator = np.ones_like(numerator) if denominator is None else denominator
    names = [str(t) for t in (range(numerator.shape[1]) if targets is None else targets)]
    if len(names) != numerator.shape[1]:
        raise ValueError(f"{numerator.shape[1]} targets need as many names, got {len(names)}: {names[:5]}")
    num, den = (group_sums(part, groups) for part in (numerator, denominator))
    num, den = (np.c_[part.sum(1), part] for part in (num, den))
    value, low, high = ratio_interval(num, den, seed=seed)
    counts = [numerator.size] + [len(numerator)] * len(names)
    table = pd.DataFrame({"metric": metric, "control": control, "subset": ["all", *(f"target={t}" for t in names)],
                          "value": value, "ci_low": low, "ci_high": high, "n": counts, "n_groups": len(num),
                          "seed": seed})
    return table if len(names) > 1 else table[:1]
