"""How much of the variance of states a feature explains, which is not how much the model uses it.

    V_f = tr Cov(E[h | f]) / tr Cov(h)

Features that a network uses equally, and learns equally well, explain very different shares: simple, frequent and early
ones explain more. Read importance from an intervention (`without_feature` is the smallest), not from V.

Source: Lampinen et al., arXiv:2405.05847.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float, Real, Shaped
from numpy import ndarray

from .._statistics import interval

Labels = Shaped[ndarray, " example"]


def variance_explained(H: Real[ndarray, "example d_model"], features: Mapping[str, Shaped[ndarray, " _"]],
                       n_boot: int = 200, seed: int = 0) -> pd.DataFrame:
    """One row per feature: feature, value (V), ci_low, ci_high, chance, n.

    `chance` is what a feature with as many values explains without having anything to do with the states,
    (values - 1) / (n - 1): the mean over all orders of the examples. V of independent features sum to at most 1.
    Intervals resample examples.

    Raises:
        ValueError: A feature of another length or with one value, or states that are all equal.
    """
    H = np.asarray(H, np.float64)
    H = H - H.mean(0)
    n, total = len(H), (H**2).sum()
    if not total > 0:
        raise ValueError("all states are equal, so there is no variance to explain")
    rows = []
    for name, f in features.items():
        if len(f) != n:
            raise ValueError(f"the feature {name!r} has {len(f)} values for {n} states; give one for each")
        _, value = np.unique(f, return_inverse=True)
        if (k := int(value.max()) + 1) < 2:
            raise ValueError(f"the feature {name!r} has one value; leave it out")
        V, low, high = interval(_share(H, value, k), n, n_boot, seed)
        rows.append(dict(feature=name, value=float(V), ci_low=float(low), ci_high=float(high),
                         chance=(k - 1) / (n - 1), n=n))
    return pd.DataFrame(rows)


def without_feature(H: Real[ndarray, "example d_model"], f: Labels) -> Float[ndarray, "example d_model"]:
    """States moved so that the mean of every value of `f` is the mean of all: h - E[h | f] + E[h]. What the rest of the
    model then gets wrong is what it used these means for."""
    H = np.asarray(H, np.float64)
    _, value, count = np.unique(f, return_inverse=True, return_counts=True)
    means = np.zeros((len(count), H.shape[1]))
    np.add.at(means, value, H)
    return H - (means / count[:, None])[value] + H.mean(0)


def _share(H: ndarray, value: ndarray, k: int):
    """Weights of the examples -> V."""
    square = (H**2).sum(1)

    def share(weights: Float[ndarray, "draw example"]) -> Float[ndarray, " draw"]:
        n = weights.sum(1)
        centre = ((weights @ H) ** 2).sum(1) / n
        between = np.zeros(len(weights))
        for v in range(k):
            w = weights[:, value == v]
            size = w.sum(1)
            between += ((w @ H[value == v]) ** 2).sum(1) / np.where(size > 0, size, np.inf)
        return (between - centre) / (weights @ square - centre)

    return share
