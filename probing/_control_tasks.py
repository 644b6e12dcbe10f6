"""Control tasks: labels that only memory of the input can get right, and what is left of a score above them.

    types = input_types(prompts, "token")          # or the pair of token and position, on boards and mazes
    table = selectivity(X, Y, types, groups, train, test)
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped
from numpy import ndarray
from sklearn.base import BaseEstimator, clone
from sklearn.utils import get_tags

from ._logistic import LogisticProbe
from ._target_rows import target_rows

Codes = Int[ndarray, "example target"]
Types = Shaped[ndarray, " example"]
Rows = Bool[ndarray, " example"]


def control_labels(types: Types, Y: Codes, seed: int = 0) -> Codes:
    """A random label per type and target, drawn from that target's label distribution; examples inherit it.

    Source: Hewitt & Liang, arXiv:1909.03368.
    """
    names, index = np.unique(types, return_inverse=True)
    drawn = np.random.default_rng(seed).integers(len(Y), size=(len(names), Y.shape[1]))
    return Y[drawn, np.arange(Y.shape[1])][index]


def control_ceiling(types: Types, train: Rows, test: Rows) -> float:
    """Share of test examples whose type occurs in train: what perfect memory of the types gets right."""
    return float(np.isin(types[test], types[train]).mean())


def selectivity(
    X: Float[ndarray, "example d_model"],
    Y: Codes,
    types: Types,
    groups: Shaped[ndarray, " example"],
    train: Rows,
    test: Rows,
    probe: BaseEstimator | None = None,
    *,
    targets: Sequence[str] | None = None,
    n_controls: int = 3,
    seed: int = 0,
) -> pd.DataFrame:
    """Rows (see `target_rows`) on the test examples, the same probe and split for the task and its controls.

    metric `accuracy` of the task (control missing), of the control task averaged over `n_controls` drawings
    (`control_task`), and the ceiling of the latter (`control_task_ceiling`: the share of examples whose type occurs in
    train; a guess may add to it); metric `selectivity`: task minus control task, its interval paired over groups.

    Args:
        probe: Any classifier, a `LogisticProbe` unless given. One that takes many targets gets the task and all
            controls in one fit.
    Raises:
        ValueError: Train and test overlap.
    Source: Hewitt & Liang, arXiv:1909.03368.
    """
    if (train & test).any():
        raise ValueError(f"{int((train & test).sum())} rows are in train and in test; keep them apart")
    drawn = [control_labels(types, Y, seed=seed + i) for i in range(n_controls)]
    hits = _hits(LogisticProbe() if probe is None else probe, X, np.concatenate([Y, *drawn], 1), train, test)
    hits = hits.reshape(len(hits), n_controls + 1, Y.shape[1])
    task, control = hits[:, 0], hits[:, 1:].mean(1)
    seen = np.repeat(np.isin(types[test], types[train])[:, None], Y.shape[1], 1).astype(float)
    parts = [("accuracy", task, None), ("accuracy", control, "control_task"),
             ("accuracy", seen, "control_task_ceiling"), ("selectivity", task - control, None)]
    return pd.concat([target_rows(metric, values, groups[test], targets, seed=seed, control=name)
                      for metric, values, name in parts], ignore_index=True)


def _hits(probe: BaseEstimator, X: ndarray, Y: ndarray, train: Rows, test: Rows) -> Float[ndarray, "test column"]:
    if get_tags(probe).target_tags.multi_output:
        return (clone(probe).fit(X[train], Y[train]).predict(X[test]) == Y[test]).astype(float)
    hits = np.empty((int(test.sum()), Y.shape[1]))
    for column, y in enumerate(Y.T):
        constant = (y[train] == y[train][0]).all()  # nothing to classify
        guess = y[train][0] if constant else clone(probe).fit(X[train], y[train]).predict(X[test])
        hits[:, column] = y[test] == guess
    return hits
