"""Do two networks learn the same units? Convergent learning: the partner of every unit, shared or one to one.

A unit whose best partner is taken by another one in the one-to-one matching has been learnt more often here than there.

Source: Li et al., arXiv:1511.07543.
"""

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray
from scipy.optimize import linear_sum_assignment

from ._similarity import Space, paired


def unit_correlations(A: Space, B: Space) -> Float[ndarray, "unit_a unit_b"]:
    """Pearson's correlation of every column of A with every column of B; 0 where a unit is constant."""
    paired(A, B)
    return standard(A).T @ standard(B)


def match_units(A: Space, B: Space) -> pd.DataFrame:
    """The partner of every unit (column) of A among those of B, one row each, by |correlation|:

    - `greedy`, `greedy_correlation`: the unit most like it, which several units may share.
    - `matched`, `matched_correlation`: its partner in the one-to-one matching with the largest sum (Hungarian
      algorithm); missing where A has more units than B.
    - `gap`: how much the matching costs it. A large gap: learnt more often in A, or missing in B.

    Raises:
        ValueError: Rows that are not paired.
    """
    correlation = unit_correlations(A, B)
    size = np.abs(correlation)
    unit, greedy = np.arange(len(size)), size.argmax(1)
    mine, theirs = linear_sum_assignment(-size)
    matched, value = np.full(len(size), -1), np.full(len(size), np.nan)
    matched[mine], value[mine] = theirs, correlation[mine, theirs]
    best = correlation[unit, greedy]
    return pd.DataFrame(dict(unit=unit, greedy=greedy, greedy_correlation=best,
                             matched=pd.Series(matched, dtype="Int64").mask(matched < 0),
                             matched_correlation=value, gap=np.abs(best) - np.abs(value)))


def standard(X: Space) -> Float[ndarray, "row unit"]:
    """Centred columns of unit length; a constant one, up to rounding, becomes 0."""
    X = np.asarray(X, np.float64)
    centred = X - X.mean(0)
    length = np.linalg.norm(centred, axis=0)
    alive = length > 1e-12 * np.linalg.norm(X, axis=0)
    return np.where(alive, centred / np.where(alive, length, 1), 0)
