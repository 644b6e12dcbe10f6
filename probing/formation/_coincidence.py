"""Do two things form together? The lag between the transitions of two curves, and whether they move in step."""

from collections.abc import Sequence
from itertools import product
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray
from scipy.stats import rankdata

from ._curve import Curve
from ._transition import best_sigmoid, gap, half_rise, halfway, likely_sigmoids

N_NULL = 999

Lines = Float[ndarray, "line step"]


def coincidences(curves: Sequence[Curve], others: Sequence[Curve], seed: int = 0) -> pd.DataFrame:
    """`coincidence` of every curve with each of the others, one pair a row."""
    return pd.DataFrame([coincidence(a, b, seed) for a, b in product(curves, others)])


def coincidence(curve: Curve, other: Curve, seed: int = 0) -> dict:
    """Whether a curve moves with another one at the same checkpoints, by column:

    - `lag`: decades of training from the transition of the other to that of the curve, log10(step / step of the other):
      below 0 the curve is first. `half_rise_lag`: the same of the half-rise steps. With `_low`, `_high`, the 95 %
      percentile interval over paired draws, and `_p`, twice the smaller share of draws on one side of 0. Those of `lag`
      know as well of the places between checkpoints that fit no worse, see `transition`, and are there without draws;
      those of `half_rise_lag` are then missing.
    - `order`: `leads` where the curve is halfway (see `transition`) at a checkpoint at which the other is not yet, by
      95 % of the draws of both, `follows` the other way round, `cannot be told` where they are halfway between the same
      checkpoints; `does not grow` or `nothing to lead` where the gain of the curve, or of the other, is not above 0.
    - `spacing`: decades between the checkpoints around the transitions, the wider of the two: what is closer together
      is seen as one.
    - `spearman`: rank correlation of the two over checkpoints. Two curves that rise correlate whatever they are, so
      `spearman_p` is how often the curve with its own changes (per decade) in random order correlates as much.
      `spearman_changes`: of the changes per decade, with `spearman_changes_p` under the same null. Missing where a
      curve never moves.

    Raises:
        ValueError: The curves are of different checkpoints.
    """
    if curve.steps.shape != other.steps.shape or (curve.steps != other.steps).any():
        raise ValueError(f"{curve.name!r} and {other.name!r} are of different checkpoints, {curve.steps.tolist()} and "
                         f"{other.steps.tolist()}; keep those that both have")
    x = curve.x
    out: dict = dict(curve=curve.name, other=other.name)
    a, b = (np.concatenate([c.values[None], c.draws.reshape(-1, len(x))]) for c in (curve, other))
    (at, drawn), (theirs_at, theirs_drawn) = (
        (best_sigmoid(x, c.values[None])[0],
         likely_sigmoids(c, np.random.default_rng([seed, 5, crc32(c.values.tobytes())]))[0])  # same in both orders
        for c in (curve, other))
    n = min(len(drawn), len(theirs_drawn))
    out |= _lag("lag", np.r_[at - theirs_at, drawn[:n] - theirs_drawn[:n]])
    n = min(len(a), len(b))
    out |= _lag("half_rise_lag", half_rise(x, a[:n]) - half_rise(x, b[:n]))
    out["spacing"] = np.nan
    if np.isfinite(at - theirs_at).all():
        out["spacing"] = float(max(np.diff(x)[gap(x, place[0])] for place in (at, theirs_at)))
    out["order"] = order(halfway(curve), halfway(other))
    changes, theirs = (np.diff(c.values) / np.diff(x) for c in (curve, other))
    rng = np.random.default_rng([seed, 3])
    shuffled = np.stack([changes, *(rng.permutation(changes) for _ in range(N_NULL))])
    levels = np.cumsum(np.c_[np.full(len(shuffled), curve.values[0]), shuffled * np.diff(x)], axis=1)
    return out | _correlation("spearman", levels, other.values) | _correlation("spearman_changes", shuffled, theirs)


def order(own: Any, other: Any) -> str:
    """`order` of `coincidence`, of two rows of `transitions`; a gain without an interval counts as it is."""
    for row, said in ((other, "nothing to lead"), (own, "does not grow")):
        if not (row["gain"] if np.isnan(row["gain_low"]) else row["gain_low"]) > 0:
            return said
    if own["halfway_to"] <= other["halfway_from"]:
        return "leads"
    return "follows" if own["halfway_from"] >= other["halfway_to"] else "cannot be told"


def _lag(name: str, lags: Float[ndarray, " draw"]) -> dict[str, float]:
    draws = lags[1:][np.isfinite(lags[1:])]
    low, high, p = np.nan, np.nan, np.nan
    if len(draws):
        low, high = np.percentile(draws, [2.5, 97.5])
        sides = (1 + (draws <= 0).sum()) / (1 + len(draws)), (1 + (draws >= 0).sum()) / (1 + len(draws))
        p = min(1.0, 2 * min(sides))
    return {name: float(lags[0]), f"{name}_low": float(np.minimum(low, lags[0])),
            f"{name}_high": float(np.maximum(high, lags[0])), f"{name}_p": float(p)}


def _correlation(name: str, lines: Lines, other: Float[ndarray, " step"]) -> dict[str, float]:
    """Rank correlation of the first line with `other`, and the share of all lines that correlate as much."""
    a, b = (rankdata(y.round(12), axis=-1) for y in (lines, other))  # equal but for the rounding of sums is equal
    a, b = (r - r.mean(-1, keepdims=True) for r in (a, b))
    size = np.sqrt((a**2).sum(1) * (b**2).sum())
    if not size[0] > 0:
        return {name: np.nan, f"{name}_p": np.nan}
    rho = np.divide(a @ b, size, out=np.zeros(len(a)), where=size > 0)
    return {name: float(rho[0]), f"{name}_p": float((rho >= rho[0] - 1e-12).mean())}
