"""Random sets of attention heads, and what they do where others were chosen."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from probing._results import results_frame
from probing._sites import Site
from tasks._prompts import Counterfactuals

from ._last_token import Edits
from ._measures import Measure, Measures, Score
from ._runs import on_split


def random_heads(others: Sequence[Site], n_heads: int, n_draws: int, seed: int = 0) -> list[list[Site]]:
    """Sets of `n_heads` heads, drawn without replacement from those that were not chosen.

    Raises:
        ValueError: Fewer than `n_heads` others.
    """
    if len(others) < n_heads:
        raise ValueError(f"{n_heads} heads were chosen and {len(others)} are left, too few for a random set of as "
                         "many; choose at most half of the heads")
    rng = np.random.default_rng(seed)
    return [[others[i] for i in rng.choice(len(others), n_heads, replace=False)] for _ in range(n_draws)]


def with_band(
    table: pd.DataFrame,
    model,
    cases: Counterfactuals,
    arms: Mapping[float, Sequence[Edits]],
    *,
    control: str,
    score: Score,
    split: str,
    metrics: Sequence[str] | Mapping[str, Measure] = (),
) -> pd.DataFrame:
    """A table of `effect` with one more band: dose -> the edits of each draw, with the same score, price and metrics.

    The rows are made like those of the band `random_direction`: the mean over draws, the 5th to 95th percentile of
    the draws, and n, how many there are.
    """
    run = on_split(model, cases, split)
    measures, rows = Measures(run, cases, score, metrics), []
    for alpha, draws in arms.items():
        beside = table[(table["control"] == "random_direction") & (table["alpha"] == alpha)]
        values = run.measure(draws, measures).mean(1).T.numpy()
        for metric, drawn in zip(measures.names, values, strict=True):
            like = beside[beside["metric"] == metric].iloc[0].dropna().to_dict()
            mean, (low, high) = drawn.mean(), np.percentile(drawn, [5, 95])
            rows.append({**like, "control": control, "value": mean, "ci_low": min(low, mean),
                         "ci_high": max(high, mean), "n": len(drawn)})
    return results_frame([*(row.dropna().to_dict() for _, row in table.iterrows()), *rows])
