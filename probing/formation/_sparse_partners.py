"""How many units of one network does it take to say what a unit of another one says? Few-to-one, by sparse regression.

A unit with one partner is shared as it is; one that needs three is spread over them; one that needs a hundred shares
no more than a subspace. The lasso chooses units along a path of penalties, least squares fits those chosen: the lasso
alone would shrink them, and ask for others to make up for it.

Source: Li et al., arXiv:1511.07543 (sparse prediction of units); Meinshausen 2007 (the relaxed lasso).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped
from numpy import ndarray
from scipy.linalg import solve
from sklearn.linear_model import lasso_path

from tasks import split_by_group

from ._similarity import Space, paired

PENALTIES = tuple(np.geomspace(0.8, 0.01, 20))
PATIENCE = 3  # sets of units that may do no better before a path is left
PARTS = ("train", "validation", "test")
_RIDGE = 1e-8  # two units that are equal share their weight


def sparse_partners(
    A: Space,
    B: Space,
    groups: Shaped[ndarray, " row"] | None = None,
    *,
    penalties: Sequence[float] = PENALTIES,
    share: float = 0.95,
    n_null: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """The fewest units of B from which each unit (column) of A can be predicted, one row per unit of A.

    Along a falling penalty the lasso lets units of B in; least squares on those fits the training half, the rest is for
    choosing (a fifth) and for reporting (three tenths).

    - `needed`, `partners`, `r2`: how many units the first penalty let in whose R2 is at least `share` of the best of
      the path, which ones, and their R2 on test rows.
    - `best_units`, `best_r2`: the same where R2 on validation rows is highest.
    - `one_r2`: of the one unit with the largest correlation.
    - `null`: mean R2 with rows of A in random order; `null_high`: its 95th percentile over all units and draws. Both
      have the same choices made.
    - `n`: test rows.

    A unit whose R2 is not above `null_high` is not there in B, whatever is said to be needed. R2 is that of test rows
    about their own mean. It and `needed` are missing for a unit that does not vary in one of the three parts. A
    constant unit of B is never chosen.

    Args:
        groups: Rows of a group (the tokens of a prompt) never straddle two parts; by default each is its own.
        penalties: In units of correlation: a unit is let in when its correlation with what is left exceeds it.
        n_null: Draws of the null; 0 leaves it missing.
    Raises:
        ValueError: Rows that are not paired, groups of other rows, penalties that are not between 0 and 1, or a share
            that is not.
    """
    paired(A, B)
    path = np.sort(np.asarray(penalties, float))[::-1]
    if not len(path) or path[0] >= 1 or path[-1] <= 0:
        raise ValueError(f"penalties are correlations between 0 and 1, but {list(map(float, path))} came; leave them "
                         "out for a path from 0.8 to 0.01")
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, not {share}; 0.95 asks for 95 % of the best R2")
    if groups is not None and len(groups) != len(A):
        raise ValueError(f"there are {len(groups)} groups for {len(A)} rows; give one per row")
    split = split_by_group(np.arange(len(A)) if groups is None else groups, seed, validation=0.2, test=0.3)
    rows = [np.flatnonzero(split == part) for part in PARTS]
    b = _scaled(np.asarray(B, np.float64), rows)
    found = _predicted(np.asarray(A, np.float64), b, rows, path, share)
    rng = np.random.default_rng(seed)
    null = np.full((n_null, len(found)), np.nan)
    for draw in null:
        mixed = np.arange(len(A))
        for part in rows:
            mixed[part] = rng.permutation(part)
        draw[:] = _predicted(np.asarray(A, np.float64)[mixed], b, rows, path, share)["r2"]
    high = np.nanpercentile(null, 95) if np.isfinite(null).any() else np.nan
    return found.assign(null=null.mean(0) if n_null else np.nan, null_high=high, n=len(rows[2]))


def _scaled(X: Float[ndarray, "row unit"], rows: Sequence[ndarray]) -> list[Float[ndarray, "_ unit"]]:
    """The parts, in standard deviations of the training rows about their mean; a constant unit becomes 0."""
    train = X[rows[0]]
    mean, sd = train.mean(0), train.std(0)
    alive = sd > 1e-12 * np.abs(train).max(0)
    scale = np.where(alive, 1 / np.where(alive, sd, 1), 0)
    return [np.asfortranarray((X[part] - mean) * scale) for part in rows]


def _predicted(A: Float[ndarray, "row unit_a"], b: Sequence[Float[ndarray, "_ unit_b"]], rows: Sequence[ndarray],
               path: Float[ndarray, " penalty"], share: float) -> pd.DataFrame:
    a, n = _scaled(A, rows), len(rows[0])
    gram, cross = b[0].T @ b[0] / n, np.ascontiguousarray((b[0].T @ a[0] / n).T)
    found = []
    for unit, with_b in enumerate(cross):
        y = [part[:, unit] for part in a]
        if not all(np.ptp(part) > 0 for part in y):
            found.append(dict(unit=unit, partners=[]))
            continue
        _, lasso, _ = lasso_path(b[0], y[0], alphas=path, precompute=n * gram, Xy=n * with_b, check_input=False,
                                 tol=1e-3, max_iter=10_000)
        weights = _refitted(lasso != 0, gram, with_b, y[1], b[1])
        val = _r2(y[1], b[1] @ weights)
        best = int(val.argmax())
        few = int((val - val[0] >= share * (val[best] - val[0])).argmax())
        top = int(np.abs(with_b).argmax())
        r2 = _r2(y[2], b[2] @ weights[:, [few, best]])
        partners = np.flatnonzero(weights[:, few])
        found.append(dict(unit=unit, needed=len(partners), partners=partners.tolist(), r2=r2[0],
                          best_units=int((weights[:, best] != 0).sum()), best_r2=r2[1],
                          one_r2=_r2(y[2], b[2][:, [top]] * with_b[top])[0]))
    table = pd.DataFrame(found, columns=["unit", "needed", "partners", "r2", "best_units", "best_r2", "one_r2"])
    return table.astype({"needed": "Int64", "best_units": "Int64"})


def _refitted(chosen: Shaped[ndarray, "unit_b penalty"], gram: Float[ndarray, "unit_b unit_b"],
              with_b: Float[ndarray, " unit_b"], y: Float[ndarray, " row"], b: Float[ndarray, "row unit_b"]
              ) -> Float[ndarray, "unit_b model"]:
    """Least squares on the units of each penalty, behind a first model of none; until three more sets of units have
    not done better on `y` and `b`."""
    models = [np.zeros(len(gram))]
    best, since, before = _r2(y, 0 * b[:, :1])[0], 0, np.zeros(len(gram), bool)
    for units in chosen.T:
        if (units == before).all():
            continue
        on, before = np.flatnonzero(units), units
        weights = np.zeros(len(gram))
        weights[on] = solve(gram[np.ix_(on, on)] + _RIDGE * np.eye(len(on)), with_b[on], assume_a="pos")
        models.append(weights)
        reached = _r2(y, b @ weights[:, None])[0]
        best, since = (reached, 0) if reached > best else (best, since + 1)
        if since == PATIENCE:
            break
    return np.array(models).T


def _r2(y: Float[ndarray, " row"], predicted: Float[ndarray, "row model"]) -> Float[ndarray, " model"]:
    return 1 - ((y[:, None] - predicted) ** 2).sum(0) / ((y - y.mean()) ** 2).sum()
