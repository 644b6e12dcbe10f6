"""Do representations, weights and gradients align? The Canonical Representation Hypothesis, layer by layer.

Three matrices stand on each side of a linear layer: H of states, G of gradients, Z of weights. The hypothesis says they
are proportional: RGA (H ~ G), RWA (H ~ Z), GWA (G ~ Z), on the `out` and on the `in` side. Where only some hold, the
matrices are said to be powers of each other on shared eigenvectors (Polynomial Alignment Hypothesis).

Out-RWA and in-GWA are large at initialisation by algebra, as H_out = W H_in W^T: report the change from step 0 and
the null of rotated eigenvectors, never the raw value.

Source: Ziyin, Chuang, Galanti & Poggio, arXiv:2410.03006. They name the sides backward and forward; we could not
verify which is which.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy import ndarray
from scipy.stats import theilslopes
from torch import Tensor

from ._linear_layers import LayerMoments

RELATIONS = {"RGA": ("H", "G"), "RWA": ("H", "Z"), "GWA": ("G", "Z")}
SIDES = ("out", "in")
N_NULL = 20
WITHIN = 1e-3  # of the largest eigenvalue: below it a power law is fitted to rounding
N_BOOT = 500


def alpha(A: Float[Tensor, "d d"], B: Float[Tensor, "d d"]) -> float:
    """Pearson's correlation of the entries of two matrices, in [-1, 1]; NaN where one of them is constant."""
    return _correlation(_flat(A), _flat(B))


class _Flat(NamedTuple):
    entries: Float[Tensor, " entry"]
    mean: float
    length: float  # of the entries about their mean; 0 where they are equal up to rounding


def _flat(M: Float[Tensor, "d d"]) -> _Flat:
    entries = M.double().flatten()
    mean, square = float(entries.mean()), float(entries @ entries)
    about = square - len(entries) * mean**2
    return _Flat(entries, mean, about**0.5 if about > 1e-12 * square else 0.0)


def _correlation(a: _Flat, b: _Flat) -> float:
    size = a.length * b.length
    return (float(a.entries @ b.entries) - len(a.entries) * a.mean * b.mean) / size if size else np.nan


def alignments(moments: Mapping[str, LayerMoments], n_null: int = N_NULL, seed: int = 0) -> pd.DataFrame:
    """The six alignments of every layer: layer, relation, side, value, null, null_low, null_high, n.

    The null is the same with the eigenvectors of the first matrix rotated at random, its eigenvalues as they are: mean,
    5th and 95th percentile of `n_null` draws, missing for none. It is above 0, as diagonals of positive matrices are
    alike. An alignment with a matrix of zeros is missing.
    """
    rows = []
    for name, layer in moments.items():
        for side in SIDES:
            three = {kind: getattr(layer, f"{kind}_{side}") for kind in "HGZ"}
            rotations = _rotations(len(three["Z"]), n_null, seed)
            flat = {kind: _flat(M) for kind, M in three.items()}
            turned = {kind: [_flat(Q @ three[kind] @ Q.T) for Q in rotations] for kind in "HG"}
            for relation, (a, b) in RELATIONS.items():
                null = [_correlation(A, flat[b]) for A in turned[a]]
                mean, low, high = (np.mean(null), *np.percentile(null, [5, 95])) if null else (np.nan,) * 3
                rows.append(dict(layer=name, relation=relation, side=side, value=_correlation(flat[a], flat[b]),
                                 null=mean, null_low=low, null_high=high, n=layer.n))
    return pd.DataFrame(rows)


def alignment_gains(now: pd.DataFrame, before: pd.DataFrame) -> pd.DataFrame:
    """`now` with `at_start`, the value at another checkpoint (step 0), and `gain`, what it has grown by since.

    Raises:
        ValueError: The checkpoints have other layers: they are of different architectures.
    """
    key = ["layer", "relation", "side"]
    if set(map(tuple, now[key].values)) != set(map(tuple, before[key].values)):
        odd = sorted(set(now["layer"]) ^ set(before["layer"]))
        raise ValueError(f"the two checkpoints have different layers ({', '.join(odd[:4])}); compare checkpoints of "
                         "one architecture")
    both = now.merge(before[[*key, "value"]].rename(columns={"value": "at_start"}), on=key)
    return both.assign(gain=both["value"] - both["at_start"])


def power_laws(moments: Mapping[str, LayerMoments], n_boot: int = N_BOOT, seed: int = 0) -> pd.DataFrame:
    """Exponents of H and G against Z on both sides of every layer: layer, matrix, side, exponent, ci_low, ci_high, r2,
    n (singular values).

    On the singular vectors u_i of W, lambda_i(A) = u_i^T A u_i is regressed on s_i^2, both as logarithms, by least
    squares, over singular values whose square is within 1e-3 of the largest; `theil_sen` is the median of slopes.
    The interval is a bootstrap over singular values. `r2` says whether there is a power law at all. Missing where fewer
    than 3 singular values are left, or all are equal.
    """
    rows = []
    for name, layer in moments.items():
        U, s, V = torch.linalg.svd(layer.W, full_matrices=False)
        keep = s**2 >= WITHIN * s[0] ** 2
        x = (2 * s[keep].log()).numpy()
        for side, vectors in (("out", U[:, keep]), ("in", V.T[:, keep])):
            for kind in "HG":
                A = getattr(layer, f"{kind}_{side}")
                along = ((vectors.T @ A) * vectors.T).sum(1).numpy()
                rows.append(dict(layer=name, matrix=kind, side=side) | _slope(x, along, n_boot, seed))
    return pd.DataFrame(rows)


def _slope(x: Float[ndarray, " value"], along: Float[ndarray, " value"], n_boot: int, seed: int) -> dict[str, float]:
    there = along > 0
    x, y = x[there], np.log(along[there])
    none = dict.fromkeys(("exponent", "ci_low", "ci_high", "theil_sen", "r2"), np.nan) | {"n": len(x)}
    if len(x) < 3 or np.ptp(x) < 1e-6:
        return none
    draws = np.random.default_rng(seed).integers(0, len(x), (n_boot, len(x)))
    X, Y = x[draws], y[draws]
    X, Y = X - X.mean(1, keepdims=True), Y - Y.mean(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        slopes = (X * Y).sum(1) / (X**2).sum(1)
    cx, cy = x - x.mean(), y - y.mean()
    slope = cx @ cy / (cx @ cx)
    low, high = np.percentile(slopes[np.isfinite(slopes)], [2.5, 97.5])
    return none | dict(exponent=slope, ci_low=min(low, slope), ci_high=max(high, slope), theil_sen=theilslopes(y, x)[0],
                       r2=1 - ((cy - slope * cx) ** 2).sum() / (cy @ cy) if cy @ cy > 0 else 1.0)


def _rotations(d: int, n: int, seed: int) -> list[Float[Tensor, "d d"]]:
    """Uniform random rotations."""
    generator = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(n):
        Q, R = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
        out.append(Q * R.diagonal().sign())
    return out
