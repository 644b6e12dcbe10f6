"""Score against the number of training groups: would more data help, and does the probe beat its controls early?"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy import ndarray
from sklearn.base import BaseEstimator
from torch import Tensor

from tasks import LabelledPrompts

from ._controls import baseline_rows, input_only_rows
from ._fitting import Candidates, candidates
from ._probe_site import probe_site
from ._results import results_frame
from ._sites import Site
from ._splits import Splits, splits_of
from ._sweep import check_inputs, identity_columns
from ._threads import spread

SMALLEST = 4  # groups


def learning_curve(
    acts: Mapping[Site, Tensor],
    prompts: LabelledPrompts,
    site: Site,
    label: str,
    probe: BaseEstimator | Candidates,
    *,
    name: str = "probe",
    sizes: Sequence[int] | None = None,
    workers: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Result rows of one probe, with all its controls, fitted on more and more training groups.

    A smaller set is part of every larger one; validation and test rows stay the same, so the points differ by the
    training set alone. The number of groups is in `subset`: `train_groups=40`.

    Args:
        probe: An estimator, or several to choose among on validation.
        sizes: Numbers of training groups; by default all of them, half, a quarter, ... down to 4.
    Raises:
        ValueError: A size that there are not groups for, or at which the label is constant.
    """
    choices, splits = candidates(probe), splits_of(acts, prompts)
    check_inputs(acts, prompts, [label], {name: choices}, [site])
    masks = _nested(prompts.examples["group"].to_numpy(), splits["train"], sizes, seed)
    Y = prompts.examples[[f"{label}/{t}" for t in prompts.targets(label)]].to_numpy()
    if flat := [k for k, mask in masks.items() if (Y[mask] == Y[mask][:1]).all()]:
        if sizes is not None:
            raise ValueError(f"{label!r} is constant in {flat[0]} training groups; take larger sizes")
        masks = {k: mask for k, mask in masks.items() if k not in flat}
    work = partial(_point, acts, prompts, site, label, name, choices, seed)
    parts = spread(lambda k: [row | {"subset": f"train_groups={k}"} for row in work({**splits, "train": masks[k]})],
                   masks, workers)
    return results_frame([{**identity_columns(acts), "task": prompts.task, **row} for part in parts for row in part])


def _point(acts: Any, prompts: LabelledPrompts, site: Site, label: str, name: str, choices: Candidates, seed: int,
           splits: Splits) -> list[dict]:
    rows = baseline_rows(prompts, label, seed, splits) + input_only_rows(prompts, label, {name: choices}, seed, splits)
    rows += probe_site(acts, prompts, site, {label: [name]}, {name: choices}, seed=seed, shuffles=1, splits=splits).rows
    # the one p-value per size is of one question asked again and again: the curve is to be looked at
    return [{**row, "p_value": None} for row in rows if row["subset"] == "all" and row["split"] == "test"]


def _nested(groups: ndarray, train: ndarray, sizes: Sequence[int] | None, seed: int) -> dict[int, ndarray]:
    """Mask of the training rows of each size, smallest first: number of groups -> (example,)."""
    order = np.random.default_rng([seed, 2]).permutation(np.unique(groups[train]))
    if sizes is None:
        halvings = [len(order) >> i for i in range(len(order).bit_length())]
        sizes = [k for k in halvings if k >= SMALLEST] or [len(order)]
    if wrong := [k for k in sizes if not 1 <= k <= len(order)]:
        raise ValueError(f"sizes are numbers of training groups, 1 to {len(order)}, not {wrong}")
    return {int(k): train & np.isin(groups, order[:k]) for k in sorted(set(sizes))}
