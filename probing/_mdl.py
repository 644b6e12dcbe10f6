"""Minimum description length: how many bits the labels cost, given the activations, to who has to learn the probe too.

    table = online_code(X, Y, groups)      # metric `codelength` in bits, and `compression` against a uniform coder
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped
from numpy import ndarray
from scipy.special import softmax
from sklearn.base import BaseEstimator, clone
from sklearn.utils import get_tags

from ._logistic import LogisticProbe
from ._target_rows import target_rows

FRACTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)

Codes = Int[ndarray, "example target"]


def online_code(
    X: Float[ndarray, "example d_model"],
    Y: Codes,
    groups: Shaped[ndarray, " example"],
    probe: BaseEstimator | None = None,
    *,
    targets: Sequence[str] | None = None,
    fractions: Sequence[float] = FRACTIONS,
    n_orders: int = 3,
    seed: int = 0,
) -> pd.DataFrame:
    """Rows (see `target_rows`) of the online code, averaged over orders: `codelength` in bits, and `compression`.

    compression = n log2 K / codelength is 1 when the activations say nothing. The interval resamples groups and keeps
    the trained probes: it holds for these probes, not for other training sets.

    Args and source: as in `online_code_lengths`.
    """
    bits = online_code_lengths(X, Y, groups, probe, fractions=fractions, n_orders=n_orders, seed=seed).mean(0)
    uniform = np.full_like(bits, np.log2(len(np.unique(Y))))
    length = target_rows("codelength", bits, groups, targets, seed=seed)
    length[["value", "ci_low", "ci_high"]] = length[["value", "ci_low", "ci_high"]].mul(length["n"], axis=0)
    return pd.concat([length, target_rows("compression", uniform, groups, targets, bits, seed)], ignore_index=True)


def online_code_lengths(
    X: Float[ndarray, "example d_model"],
    Y: Codes,
    groups: Shaped[ndarray, " example"],
    probe: BaseEstimator | None = None,
    *,
    fractions: Sequence[float] = FRACTIONS,
    n_orders: int = 3,
    seed: int = 0,
) -> Float[ndarray, "order example target"]:
    """Bits that each label costs when the examples arrive block by block and the probe learns from all earlier blocks.

    L = n_1 log2 K + sum_j -log2 p_j(y of block j + 1), p_j fitted on blocks 1..j; here one number per label, so that
    sums over examples are code lengths. K counts the classes in Y, shared by all targets.

    Args:
        groups: Shuffled as a whole, in an order that depends on `seed` and the groups alone, hence is the same for all
            representations. A block ends with the group that reaches its fraction.
        probe: Any classifier with `predict_proba`; one that takes many targets gets them in one fit. A `LogisticProbe`
            unless given.
        fractions: Ends of the blocks as shares of the examples; the last is 1.
    Raises:
        ValueError: Fractions that do not increase to 1; fewer than two groups or classes.
    Source: Voita & Titov, arXiv:2003.12298. Ours is in bits throughout (their notebook adds n_1 log2 K to sums in nats)
        and smooths p_j, see `next_bits`.
    """
    if list(fractions) != sorted(set(fractions)) or fractions[0] <= 0 or fractions[-1] != 1:
        raise ValueError(f"fractions must increase from above 0 to 1, not {tuple(fractions)}")
    _, group = np.unique(groups, return_inverse=True)
    classes, codes = np.unique(Y, return_inverse=True)
    if group.max(initial=0) == 0 or len(classes) < 2:
        raise ValueError(f"an online code needs at least 2 groups and 2 classes, there are {group.max(initial=0) + 1} "
                         f"and {len(classes)}")
    codes, bits = codes.reshape(Y.shape), np.full((n_orders, *Y.shape), np.log2(len(classes)))
    for order in range(n_orders):
        rank = np.random.default_rng([seed, order]).permutation(group.max() + 1)
        rows = np.argsort(rank[group], kind="stable")
        group_ends = np.cumsum(np.bincount(rank[group]))
        reached = np.searchsorted(group_ends, np.array(fractions) * len(rows) * (1 - 1e-12))
        ends = np.unique(group_ends[reached])
        for start, end in zip(ends[:-1], ends[1:], strict=True):
            seen, new = rows[:start], rows[start:end]
            bits[order, new] = next_bits(probe, X[seen], codes[seen], X[new], codes[new], len(classes))
    return bits


def next_bits(
    probe: BaseEstimator | None,
    X: Float[ndarray, "example d_model"] | None,
    codes: Codes,
    X_new: Float[ndarray, "new d_model"] | None,
    codes_new: Int[ndarray, "new target"],
    n_classes: int,
) -> Float[ndarray, "new target"]:
    """-log2 p(new label) of a probe fitted on n examples; without X, of their label frequencies.

    p = (n p_probe + 1) / (n + K), Laplace's rule, so that a class not seen so far costs log2(n + K) bits and not
    infinitely many. The uniform p stays what it is.
    """
    n, columns = len(codes), np.arange(codes.shape[1])
    if X is None or X_new is None:
        counts = np.stack([np.bincount(column, minlength=n_classes) for column in codes.T])
        p = (counts / n)[columns, codes_new]
    else:
        p = _probabilities(LogisticProbe() if probe is None else probe, X, codes, X_new, n_classes)
        p = np.take_along_axis(p, codes_new[..., None], 2)[..., 0]
    return -np.log2((n * p + 1) / (n + n_classes))


def _probabilities(
    probe: BaseEstimator, X: ndarray, codes: ndarray, X_new: ndarray, n_classes: int
) -> Float[ndarray, "new target class"]:
    """All targets in one fit where the probe takes many, else one by one; classes that it has not seen have 0."""
    p = np.zeros((len(X_new), codes.shape[1], n_classes))
    together = codes.shape[1] > 1 and get_tags(probe).target_tags.multi_output
    for part in [slice(None)] if together else [slice(t, t + 1) for t in range(codes.shape[1])]:
        y = codes[:, part]
        if (y == y[0, 0]).all():  # nothing to classify
            p[:, part, y[0, 0]] = 1
            continue
        fitted = clone(probe).fit(X, y if together else y[:, 0])
        if hasattr(fitted, "logits"):  # always (example, target, class), where predict_proba is what scikit-learn asks
            scores = softmax(fitted.logits(X_new).astype(np.float64), axis=-1)
        else:
            scores = fitted.predict_proba(X_new)
        if isinstance(scores, list):  # of scikit-learn's own: a list over targets, each with its classes
            for target, (found, classes) in enumerate(zip(scores, fitted.classes_, strict=True)):
                p[:, target, classes] = found
        else:
            p[:, part][..., fitted.classes_] = np.asarray(scores).reshape(len(X_new), -1, len(fitted.classes_))
    return p
