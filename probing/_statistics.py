"""Cluster bootstrap: intervals that respect that rows of one game, maze or place are not independent."""

import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Shaped
from numpy import ndarray

N_BOOT = 1000


def group_sums(
    values: Shaped[ndarray, "example *more"], groups: Shaped[ndarray, " example"]
) -> Float[ndarray, "group *more"]:
    """Sum of `values` over the examples of each group (groups in sorted order)."""
    _, index = np.unique(groups, return_inverse=True)
    order = np.argsort(index, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(index[order]) > 0])
    return np.add.reduceat(np.asarray(values, dtype=np.float64)[order], starts, axis=0)


@functools.lru_cache(maxsize=4)  # a table asks for the same draws in every row
def resample(n_groups: int, n_boot: int = N_BOOT, seed: int = 0) -> Float[ndarray, "boot group"]:
    """How often each group is drawn in each bootstrap replicate, read-only; the same for equal arguments, so that two
    quantities resampled with one seed stay paired."""
    counts = np.random.default_rng(seed).multinomial(n_groups, np.full(n_groups, 1 / n_groups), n_boot).astype(float)
    counts.flags.writeable = False
    return counts


def interval(
    statistic: Callable[[Float[ndarray, "draw group"]], Float[ndarray, "draw *more"]],
    n_groups: int,
    n_boot: int = N_BOOT,
    seed: int = 0,
    level: float = 0.95,
) -> tuple:
    """(value, low, high), each of shape (*more): a statistic of weighted groups with its percentile cluster bootstrap.

    Args:
        statistic: From how often each group counts, one row per draw, to the statistic of every draw.

    Draws where the statistic does not exist are left out; where nothing is left all three are NaN. The interval is
    widened, if need be, to contain the value itself (only happens with a handful of groups).
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        value = statistic(np.ones((1, n_groups)))[0]
        draws = statistic(resample(n_groups, n_boot, seed))
    shape, flat, draws = np.shape(value), np.reshape(value, -1), draws.reshape(n_boot, -1)
    bad = ~np.isfinite(draws)
    tails = 100 * np.array([(1 - level) / 2, (1 + level) / 2])
    with np.errstate(invalid="ignore"):  # infinite draws; such columns are done again
        low, high = np.percentile(draws, tails, axis=0)
    for column in np.flatnonzero(bad.any(0) & np.isfinite(flat)):
        low[column], high[column] = np.percentile(draws[~bad[:, column], column], tails)
    return tuple(a.reshape(shape)[()] for a in (flat, np.fmin(low, flat), np.fmax(high, flat)))


def ratio_interval(
    numerator: Float[ndarray, "group *more"],
    denominator: Float[ndarray, "group *more"],
    n_boot: int = N_BOOT,
    seed: int = 0,
    level: float = 0.95,
) -> tuple:
    """(value, low, high), each of shape (*more): sum(numerator) / sum(denominator), percentile cluster bootstrap."""
    num, den = (np.asarray(a, dtype=np.float64).reshape(len(a), -1) for a in (numerator, denominator))
    value, low, high = interval(lambda w: (w @ num) / (w @ den), len(num), n_boot, seed, level)
    shape = np.shape(numerator)[1:]
    return value.reshape(shape)[()], low.reshape(shape)[()], high.reshape(shape)[()]


def bootstrap_mean(
    values: Shaped[ndarray, "example *more"], groups: Shaped[ndarray, " example"], n_boot: int = N_BOOT, seed: int = 0
):
    """(mean, low, high) of `values` over examples, with a 95 % percentile cluster bootstrap over `groups`."""
    values = np.asarray(values)
    return bootstrap_ratio(values, np.ones_like(values, dtype=float), groups, n_boot, seed)


def bootstrap_ratio(
    numerator: Shaped[ndarray, "example *more"],
    denominator: Shaped[ndarray, "example *more"],
    groups: Shaped[ndarray, " example"],
    n_boot: int = N_BOOT,
    seed: int = 0,
):
    """(ratio, low, high) of sum(numerator) / sum(denominator), with a 95 % cluster bootstrap over `groups`."""
    return ratio_interval(group_sums(numerator, groups), group_sums(denominator, groups), n_boot, seed)
