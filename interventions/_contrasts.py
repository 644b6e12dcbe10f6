"""Planned contrasts: an edit against each of its controls, case by case, corrected for how many there are."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from probing._significance import holm, paired_difference
from probing._statistics import group_sums, interval

from ._effect_rows import EffectRows


def contrast_rows(rows: EffectRows, metric: str, edited: Float[ndarray, " case"],
                  rivals: Mapping[str, Float[ndarray, " case"]], bands: Mapping[str, Float[ndarray, "draw case"]],
                  **columns) -> None:
    """Adds to `rows`, for each rival and each band (against the mean of its draws), METRIC_difference: edited minus
    control, by a cluster bootstrap over the same cases, with a two-sided p-value and that of Holm over all of these
    contrasts. And for each band METRIC_over_band: how far the edit is beyond the 95th percentile of the draws or, where
    it lies below their mean, beyond the 5th (then negative); its interval leaves out 0 where it exceeds the band.
    """
    there = ~np.isnan(edited)
    if not there.any():
        return
    groups, mine = rows.groups[there], edited[there]
    found = {name: paired_difference(mine, values[there], groups, seed=rows.seed)
             for name, values in {**rivals, **{name: draws.mean(0) for name, draws in bands.items()}}.items()}
    n, n_groups = int(there.sum()), len(np.unique(groups))
    adjusted = holm(np.array([p for *_, p in found.values()]))
    for (name, (*difference, p)), corrected in zip(found.items(), adjusted.tolist(), strict=True):
        rows.add(tuple(difference), n, metric=f"{metric}_difference", control=name, n_groups=n_groups, p_value=p,
                 p_adjusted=corrected, correction="holm", **columns)
    for name, draws in bands.items():
        beyond = _over_band(mine, draws[:, there], groups, rows.seed)
        rows.add(beyond, n, metric=f"{metric}_over_band", control=name, n_groups=n_groups, **columns)


def _over_band(edited: Float[ndarray, " case"], draws: Float[ndarray, "draw case"], groups: ndarray,
               seed: int) -> tuple:
    """(value, low, high) of the distance to the edge of the band on the edit's side; both are resampled together."""
    edge = 95 if edited.mean() >= draws.mean() else 5
    sums = group_sums(np.concatenate([edited[None], draws]).T, groups)  # (group, 1 + draw)
    count = group_sums(np.ones(len(edited)), groups)

    def statistic(w: Float[ndarray, "boot group"]) -> Float[ndarray, " boot"]:
        means = (w @ sums) / (w @ count)[:, None]
        return means[:, 0] - np.percentile(means[:, 1:], edge, axis=1)

    return interval(statistic, len(sums), seed=seed)
