"""Did training change the features (rich), or only what is read from them (lazy)? What moved since step 0."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Real
from numpy import ndarray

from ._dimension import participation_ratio
from ._similarity import debiased_cka

Matrix = Real[ndarray, "_ _"]  # weights (d_out, d_in) or states (example, d_model), of every layer its own


def regime(weights: Mapping[str, Matrix], start: Mapping[str, Matrix]) -> pd.DataFrame:
    """One row per layer: layer, weight_change (||W - W_0|| / ||W_0||), stable_rank (||W||_F^2 / ||W||_2^2),
    stable_rank_at_start.

    Raises:
        ValueError: The two have other layers, or layers of other shapes: they are of different architectures.
    """
    _same(weights, start)
    rows = []
    for name, W in weights.items():
        W, W0 = np.asarray(W, np.float64), np.asarray(start[name], np.float64)
        rows.append(dict(layer=name, weight_change=float(np.linalg.norm(W - W0) / np.linalg.norm(W0)),
                         stable_rank=stable_rank(W), stable_rank_at_start=stable_rank(W0)))
    return pd.DataFrame(rows)


def kernel_regime(acts: Mapping[str, Matrix], start: Mapping[str, Matrix]) -> pd.DataFrame:
    """One row per layer: layer, kernel_alignment (debiased CKA of the states with those at step 0; 1: lazy, the kernel
    never moved), participation_ratio, participation_ratio_at_start, n.

    Raises:
        ValueError: The two have other layers, or other examples.
    """
    _same(acts, start)
    return pd.DataFrame([dict(layer=name, kernel_alignment=debiased_cka(X, start[name]),
                              participation_ratio=participation_ratio(X),
                              participation_ratio_at_start=participation_ratio(start[name]), n=len(X))
                         for name, X in acts.items()])


def stable_rank(W: Matrix) -> float:
    """||W||_F^2 / ||W||_2^2: how many singular values are as large as the first."""
    s = np.linalg.svd(W, compute_uv=False)
    return float((s**2).sum() / s[0] ** 2)


def _same(now: Mapping[str, ndarray], start: Mapping[str, ndarray]) -> None:
    shapes, before = ({name: np.shape(X) for name, X in each.items()} for each in (now, start))
    if shapes != before:
        odd = sorted(k for k in {*shapes, *before} if shapes.get(k) != before.get(k))
        raise ValueError(f"{odd[0]!r} is {shapes.get(odd[0], 'absent')} now and {before.get(odd[0], 'absent')} at the "
                         "start; compare checkpoints of one architecture on the same examples")
