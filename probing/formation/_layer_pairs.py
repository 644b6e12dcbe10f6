"""Two models on the same rows, every layer against every layer; the best pair beside the best pair of chance."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ._similarity import METRICS, paired, prepare

MIN_DRAWS = 20


def compare_layers(
    a: Mapping[Any, Any],
    b: Mapping[Any, Any],
    metrics: Sequence[str] = ("mutual_knn", "debiased_cka"),
    *,
    k: int = 10,
    n_null: int = 100,
    clamp: float | None = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per metric and layer pair, and one for the best pair of all, which is what gets published.

    Columns: metric, layer_a, layer_b, control, value, ci_low, ci_high, p_value, n, k. Control is missing for the pairs
    and `best_of_pairs` for their maximum, whose p-value is the share of nulls as high; `best_of_pairs_null` is the same
    maximum with the rows of `b` in random order: its mean, with the 5th and 95th percentile of `n_null` draws. One
    order serves all pairs of a draw.

    Args:
        a, b: Name of a layer -> activations of the same examples in the same order; or what `extract` returns, which
            knows of which.
        k: Neighbours, and components of svcca.
        clamp: See `prepare`; None takes the activations as they are.
    Raises:
        ValueError: An unknown metric, rows that are not paired, or fewer than 20 draws.
    """
    if unknown := [m for m in metrics if m not in METRICS]:
        raise ValueError(f"unknown metric {unknown[0]!r}; there are {', '.join(METRICS)}")
    if n_null < MIN_DRAWS:
        raise ValueError(f"a null needs at least {MIN_DRAWS} draws, not {n_null}")
    same_examples(a, b)
    a, b = ({str(name): np.asarray(X) for name, X in each.items()} for each in (a, b))
    for X in (*a.values(), *b.values()):
        paired(next(iter(a.values())), X)
    n = len(next(iter(a.values())))
    rng = np.random.default_rng(seed)
    orders = [None, *(rng.permutation(n) for _ in range(n_null))]
    rows: list[dict] = []
    for metric in metrics:
        summarise, compare = METRICS[metric](k)
        left, right = ({name: summarise(X if clamp is None else prepare(X, clamp)) for name, X in each.items()}
                       for each in (a, b))
        pairs = [(i, j) for i in left for j in right]
        values = np.array([[compare(left[i], right[j], order) for i, j in pairs] for order in orders])
        best = values.max(1)
        top = pairs[int(values[0].argmax())]
        common = {"metric": metric, "n": n, "k": k}
        rows += [common | {"layer_a": i, "layer_b": j, "value": v} for (i, j), v in zip(pairs, values[0], strict=True)]
        low, high = np.percentile(best[1:], [5, 95])
        rows += [common | {"layer_a": top[0], "layer_b": top[1], "control": "best_of_pairs", "value": best[0],
                           "p_value": (best >= best[0]).mean()},
                 common | {"control": "best_of_pairs_null", "value": best[1:].mean(), "ci_low": low, "ci_high": high}]
    return pd.DataFrame(rows, columns=["metric", "layer_a", "layer_b", "control", "value", "ci_low", "ci_high",
                                       "p_value", "n", "k"])


def same_examples(a: Mapping[Any, Any], b: Mapping[Any, Any]) -> None:
    """Whether two readings are of the same tokens, where both know.

    Raises:
        ValueError: They are not: row i of the one is another example than row i of the other.
    """
    one, other = (getattr(each, "identity", {}).get("prompts") for each in (a, b))
    if one and other and (odd := [key for key in ("tokens", "lengths", "examples") if one[key] != other[key]]):
        raise ValueError(f"the rows are not paired: the two were read from different {' and '.join(odd)}; extract both "
                         "models on the same prompts")
