"""Relative representations: states by their cosines to shared anchors, so that a probe moves to another model as it is.

Source: Moschella et al., arXiv:2209.15430.
"""

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Real, Shaped
from numpy import ndarray
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import LogisticRegression

from .._statistics import bootstrap_mean
from ._similarity import Space, paired


def relative(X: Real[ndarray, "row d_model"], anchors: Int[ndarray, " anchor"]) -> Float[ndarray, "row anchor"]:
    """Cosine of every row with each of the anchor rows; rotation and scale of the space change nothing.

    Raises:
        ValueError: A row of zeros, which has no direction.
    """
    X = np.asarray(X, np.float64)
    length = np.linalg.norm(X, axis=1, keepdims=True)
    if not length.all():
        raise ValueError(f"row {int(np.argmin(length))} is zero and has no cosine; drop such rows")
    unit = X / length
    return unit @ unit[anchors].T


def stitch(
    A: Space,
    B: Space,
    y: Shaped[ndarray, " row"],
    anchors: Int[ndarray, " anchor"],
    train: Bool[ndarray, " row"],
    groups: Shaped[ndarray, " row"] | None = None,
    probe: BaseEstimator | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracy off `train` of probes of relative representations, by where they were fitted and where they are read.

    One row each: `read` is `own` (fitted and read in B), `stitched` (fitted in A, read in B as it is),
    `shuffled_anchors` (the same, B's anchors in random order, which is chance with the same columns) and `majority`.
    Columns: read, value, ci_low, ci_high, n.

    Args:
        A, B: States of the same examples in the same order.
        anchors: Rows that serve as anchors; take them from train.
        groups: Examples of one group are resampled together.
        probe: A classifier; by default a logistic regression.
    Raises:
        ValueError: Rows that are not paired, or anchors off train.
    """
    paired(A, B)
    if not train[anchors].all():
        raise ValueError(f"{int((~train[anchors]).sum())} of {len(anchors)} anchors are test rows; choose anchors "
                         "among those of train")
    probe = LogisticRegression(C=100.0, max_iter=2000) if probe is None else probe
    groups = np.arange(len(y)) if groups is None else groups
    order = np.random.default_rng(seed).permutation(anchors)
    a, b, mixed = relative(A, anchors), relative(B, anchors), relative(B, order)
    of_a, of_b = (clone(probe).fit(X[train], y[train]) for X in (a, b))
    classes, count = np.unique(y[train], return_counts=True)
    said = {"own": of_b.predict(b[~train]), "stitched": of_a.predict(b[~train]),
            "shuffled_anchors": of_a.predict(mixed[~train]),
            "majority": np.full(int((~train).sum()), classes[count.argmax()])}
    rows = []
    for read, answer in said.items():
        value, low, high = bootstrap_mean(answer == y[~train], groups[~train], seed=seed)
        rows.append(dict(read=read, value=float(value), ci_low=float(low), ci_high=float(high), n=len(answer)))
    return pd.DataFrame(rows)
