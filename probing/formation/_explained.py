"""How much of the variance of states a feature explains, which is not how much the model uses it.

    V_f = tr Cov(E[h | f]) / tr Cov(h)

Features that a network uses equally, and learns equally well, explain very different shares: simple, frequent and early
ones explain more. Read importance from an intervention (`without_feature` is the smallest), not from V.

Source: Lampinen et al., arXiv:2405.05847.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Real, Shaped
from numpy import ndarray

from .._statistics import resample

Labels = Shaped[ndarray, " example"]


def variance_explained(H: Real[ndarray, "example d_model"], features: Mapping[str, Shaped[ndarray, " _"]],
                       n_boot: int = 200, seed: int = 0, groups: Labels | None = None) -> pd.DataFrame:
    """One row per feature: feature, value (V), ci_low, ci_high, chance, n.

    `chance` is what a feature with as many values explains without having anything to do with the states,
    (values - 1) / (n - 1): the mean over all orders of the examples. V of independent features sum to at most 1.
    Intervals resample examples, or whole `groups` of them, and are shifted by what resamples explain more than the
    whole: in them examples recur, and chance explains more.

    Raises:
        ValueError: A feature of another length or with one value, or states that are all equal.
    """
    H = np.asarray(H, np.float64)
    H = H - H.mean(0)
    n, total = len(H), (H**2).sum()
    unit = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    if not total > 0:
        raise ValueError("all states are equal, so there is no variance to explain")
    rows = []
    for name, f in features.items():
        if len(f) != n:
            raise ValueError(f"the feature {name!r} has {len(f)} values for {n} states; give one for each")
        _, value = np.unique(f, return_inverse=True)
        if (k := int(value.max()) + 1) < 2:
            raise ValueError(f"the feature {name!r} has one value; leave it out")
        rows.append(dict(feature=name, **mean_share(H, [value], unit, n_boot, seed), chance=(k - 1) / (n - 1), n=n))
    return pd.DataFrame(rows)


def without_feature(H: Real[ndarray, "example d_model"], f: Labels) -> Float[ndarray, "example d_model"]:
    """States moved so that the mean of every value of `f` is the mean of all: h - E[h | f] + E[h]. What the rest of the
    model then gets wrong is what it used these means for."""
    H = np.asarray(H, np.float64)
    _, value, count = np.unique(f, return_inverse=True, return_counts=True)
    means = np.zeros((len(count), H.shape[1]))
    np.add.at(means, value, H)
    return H - (means / count[:, None])[value] + H.mean(0)


def mean_share(H: Float[ndarray, "example d_model"], features: Sequence[Int[ndarray, " example"]],
               unit: Int[ndarray, " example"], n_boot: int, seed: int = 0) -> dict[str, float]:
    """value, ci_low, ci_high: mean over features, numbered from 0, of what each explains of centred states.

    Args:
        unit: What is resampled together, from 0; all features in the same draws.
    """
    shares, n_units = [_share(H, value, unit) for value in features], int(unit.max()) + 1
    with np.errstate(invalid="ignore", divide="ignore"):  # draws of one state alone have no variance
        V, draws = (np.mean([share(w) for share in shares], 0) for w in (np.ones((1, n_units)),
                                                                         resample(n_units, n_boot, seed)))
    draws = draws[np.isfinite(draws)]
    low, high = np.percentile(draws, [2.5, 97.5]) - draws.mean() + V[0] if len(draws) else (np.nan, np.nan)
    return dict(value=float(V[0]), ci_low=float(np.clip(low, 0, V[0])), ci_high=float(np.clip(high, V[0], 1)))


def _share(H: Float[ndarray, "example d_model"], value: Int[ndarray, " example"], unit: Int[ndarray, " example"]
           ) -> Callable[[Float[ndarray, "draw unit"]], Float[ndarray, " draw"]]:
    """How often each unit of examples counts -> V."""
    n_units = int(unit.max()) + 1
    cells, cell, count = np.unique(value * n_units + unit, return_inverse=True, return_counts=True)
    of, who = cells // n_units, cells % n_units  # sums over each unit's examples of each value are all it takes
    order = np.argsort(cell, kind="stable")
    sums = np.add.reduceat(H[order], np.r_[0, np.cumsum(count)[:-1]], axis=0)
    square = np.bincount(unit, (H**2).sum(1))

    def share(weights: Float[ndarray, "draw unit"]) -> Float[ndarray, " draw"]:
        w = weights[:, who]
        centre = ((w @ sums) ** 2).sum(1) / (w @ count)
        between = np.zeros(len(w))
        for v in range(int(value.max()) + 1):
            here = of == v
            size = w[:, here] @ count[here]
            between += ((w[:, here] @ sums[here]) ** 2).sum(1) / np.where(size > 0, size, np.inf)
        return (between - centre) / (weights @ square - centre)

    return share
