"""How many dimensions do states fill? From the distances to nearest rows: TwoNN and its generalisation, GRIDE.

mu = r_2n / r_n is the ratio of the distances to the 2n-th and the n-th nearest row. In d dimensions of locally even
density its likelihood is

    f(mu | d) = d (mu^d - 1)^(n - 1) / (mu^((2n - 1) d + 1) B(n, n)),

for n = 1 (TwoNN) d = 1 / mean log mu. Both fall short where d is large (about 8 and more at 2,000 rows), so layers are
compared at equal numbers of rows. Distances between tokens of one text say less than those between texts.

Source: Facco et al. 2017 (TwoNN), Denti et al. 2022 (GRIDE); DADApy.
"""

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, Real
from numpy import ndarray
from scipy.optimize import brentq
from scipy.stats import chi2
from torch import Tensor

from ._neighbours import largest

FEWEST = 20  # rows
_CELLS = 1 << 24
_SPARE = 6  # candidates beyond those asked for

Rows = Real[ndarray, "row d_model"]


def neighbour_distances(X: Rows, k: int = 2) -> Float[ndarray, "row k"]:
    """Euclidean distances to the `k` nearest other rows, ascending, in blocks of rows.

    Neighbours are looked for in float32, a few more than `k`, and their distances taken in float64. Where the rounding
    of the former could have hidden a nearer row, they are looked for in float64.

    Raises:
        ValueError: Too few rows, or rows that are equal: no dimension follows from a distance of 0.
    """
    n = len(X)
    if n < max(FEWEST, k + 1):
        raise ValueError(f"{k} neighbours need at least {max(FEWEST, k + 1)} rows, there are {n}; give more rows")
    rows = torch.from_numpy(np.asarray(X, np.float64))
    rows = rows - rows.mean(0)
    r, sure = _nearest(rows.float(), rows, torch.arange(n), k)
    if not sure.all():
        again = (~sure).nonzero()[:, 0]
        r[again] = _nearest(rows, rows, again, k)[0]
    found = r.numpy()
    if same := int((found[:, 0] == 0).sum()):
        raise ValueError(f"{same} of {n} rows equal another one, and from a distance of 0 no dimension follows; keep "
                         "one of each, np.unique(X, axis=0)")
    return found


def _nearest(rows: Float[Tensor, "row d"], exact: Float[Tensor, "row d"], which: Int[Tensor, " asked"], k: int
             ) -> tuple[Float[Tensor, "asked k"], Bool[Tensor, " asked"]]:
    """(distances in `exact` to the k nearest of a few candidates found in `rows`, whether no other can be nearer)."""
    n, d = rows.shape
    square, length = (rows**2).sum(1), exact.norm(dim=1)
    few = min(k + _SPARE, n - 1)
    rounding = (d + 4) * torch.finfo(rows.dtype).eps * (length + length.max()) ** 2  # of a squared distance, at most
    out, sure = torch.empty(len(which), k, dtype=torch.float64), torch.empty(len(which), dtype=torch.bool)
    for part in torch.arange(len(which)).split(max(1, _CELLS // max(n, few * d))):
        here = which[part]
        near = torch.addmm(-square, rows[here], rows.T, alpha=2) - square[here, None]
        near[torch.arange(len(here)), here] = -torch.inf
        value, candidate = largest(near, few)
        apart = (exact[candidate] - exact[here, None]).norm(dim=2).sort(dim=1).values  # squares lose small distances
        out[part] = apart[:, :k]
        sure[part] = (few == n - 1) | (apart[:, k - 1] ** 2 <= -value[:, -1] - rounding[here])
    return out, sure


def two_nn(X: Rows, method: str = "likelihood", fraction: float = 0.9) -> tuple[float, float, float]:
    """(dimension, low, high) by TwoNN, with a 95 % interval for independent ratios.

    Args:
        method: `likelihood`, (n - 1) / sum log mu; or `fit`, the slope through the origin of -log(1 - F(mu)) on log mu,
            of the lowest `fraction` of the ratios, which outliers move less; its interval is that of the likelihood, in
            proportion.
    """
    if method not in ("likelihood", "fit"):
        raise ValueError(f"method must be likelihood or fit, not {method!r}")
    r = neighbour_distances(X, 2)
    log_mu = np.sort(np.log(r[:, 1] / r[:, 0]))
    n = len(log_mu)
    if not log_mu.any():
        raise ValueError("all rows are as far from their second neighbour as from their first, as on a grid; no "
                         "dimension follows")
    d = (n - 1) / log_mu.sum()
    if method == "fit":
        kept = max(2, int(fraction * n))
        x, y = log_mu[:kept], -np.log1p(-np.arange(1, kept + 1) / (n + 1))
        d = float(x @ y / (x @ x))
    low, high = d * chi2.ppf([0.025, 0.975], 2 * n) / (2 * n)  # 2 d sum log mu is chi-squared
    return float(d), float(low), float(high)


def gride(X: Rows, most: int = 64) -> pd.DataFrame:
    """Dimension by scale: one row per n = 1, 2, 4, ... up to `most` / 2, from the ratios of the distances to the 2n-th
    and the n-th neighbour: n, dimension, ci_low, ci_high, distance (mean to the 2n-th).

    The interval is normal, from the curvature of the likelihood, for independent ratios; neighbourhoods of many rows
    overlap, so it is too narrow where n is large.
    """
    r = neighbour_distances(X, most)
    rows = []
    for n in (2**i for i in range(int(np.log2(most)))):
        log_mu = np.log(r[:, 2 * n - 1] / r[:, n - 1])
        log_mu = np.maximum(log_mu, 1e-300)
        d, error = _most_likely(log_mu, n)
        rows.append(dict(n=n, dimension=d, ci_low=d - 1.96 * error, ci_high=d + 1.96 * error,
                         distance=r[:, 2 * n - 1].mean()))
    return pd.DataFrame(rows)


def two_nn_by_scale(X: Rows, halvings: int = 4, seed: int = 0) -> pd.DataFrame:
    """TwoNN of all rows, of random halves, quarters, ...: n, dimension (mean over the parts), sd, distance (mean to the
    second neighbour). Fewer rows are farther apart: a dimension that holds over scales is one of the manifold, not of
    its noise."""
    order = np.random.default_rng(seed).permutation(len(X))
    rows = []
    for i in range(halvings + 1):
        parts = [X[part] for part in np.array_split(order, 2**i)]
        found = [two_nn(part)[0] for part in parts]
        rows.append(dict(n=len(X) // 2**i, dimension=np.mean(found), sd=np.std(found) if i else np.nan,
                         distance=np.mean([neighbour_distances(part, 2)[:, 1].mean() for part in parts])))
    return pd.DataFrame(rows)


def participation_ratio(X: Rows) -> float:
    """(sum l)^2 / sum l^2 of the eigenvalues l of the covariance: the linear counterpart."""
    X = np.asarray(X, np.float64)
    C = np.cov(X.T)
    return float(np.trace(C) ** 2 / (C**2).sum())


def _most_likely(log_mu: Float[ndarray, " row"], n: int) -> tuple[float, float]:
    """(d, its standard error): where 1/d + (n - 1) E[log mu / (1 - mu^-d)] = (2n - 1) E[log mu]."""
    right = (2 * n - 1) * log_mu.mean()

    def slope(d: float) -> float:
        return 1 / d + (n - 1) * (log_mu / -np.expm1(-d * log_mu)).mean() - right

    d = float(brentq(slope, 1e-3, 1e5))
    with np.errstate(over="ignore"):
        bend = ((log_mu / (2 * np.sinh(d * log_mu / 2))) ** 2).mean()
    return d, 1 / np.sqrt(len(log_mu) * (1 / d**2 + (n - 1) * bend))
