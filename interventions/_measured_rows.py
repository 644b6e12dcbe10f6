"""Rows of a measured study: without a dose, per dose, its planned contrasts, its share of a full patch, its curve."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from ._arms import Measured
from ._contrasts import contrast_rows
from ._dose_curve import curve_rows
from ._effect_rows import EffectRows, mean_over

SMALL_GAP = 0.1  # standard deviations of the metric over both runs, as in patching


def ratio_name(metric: str) -> str:
    return "error_ratio" if metric == "set_error" else f"{metric}_ratio"


def _has_ratio(found: Measured) -> bool:
    """Whether the first metric is a score, which is divided by its null."""
    return found.names[0] != "kl" and bool(found.unedited["null"][:, 0].any())


def undosed_rows(rows: EffectRows, found: Measured, clean: Float[ndarray, " case"] | None,
                 ideal: Float[ndarray, " case"] | None) -> None:
    """Rows of whatever has no dose."""
    plain = {"alpha": None, "unit": None}
    for which, metric in enumerate(found.names):
        null = found.unedited["null"][:, which]
        if metric == "kl":
            rows.exactly(0, metric="kl", control="null", **plain)
        else:
            rows.mean(null, metric=metric, control="null", **plain)
        if which == 0 and clean is not None:
            rows.mean(clean, metric=metric, control="clean", **plain)
            if ideal is not None:
                rows.mean(ideal, metric=metric, control="ideal_null", **plain)
        for name, values in {**found.unedited, **found.fixed}.items():
            if name != "null":
                rows.mean(values[:, which], metric=metric, control=name, **plain)
    if _has_ratio(found):
        rows.exactly(1, metric=ratio_name(found.names[0]), control="null", **plain)


def dose_rows(rows: EffectRows, found: Measured, i: int, alpha: float | int) -> None:
    """Rows of one dose: the edit, its controls, its bands."""
    arms = [(None, found.edited[i]), *found.controls[i].items()]
    own, equal = found.sizes[i], {k: found.sizes[i][k] for k in ("applied_norm", "norm_share")}
    for name, values in arms:
        columns = {"alpha": alpha, "control": name, **(own if name is None else equal)}
        for which, metric in enumerate(found.names):
            rows.mean(values[:, which], metric=metric, **columns)
        if _has_ratio(found) and name != "random_init":
            rows.ratio(values[:, 0], found.unedited["null"][:, 0], metric=ratio_name(found.names[0]), **columns)
    for name, draws in found.bands[i].items():
        columns = {"alpha": alpha, "control": name, **equal}
        for which, metric in enumerate(found.names):
            rows.band(mean_over(draws[..., which]), metric=metric, **columns)
        if _has_ratio(found):
            ratio = mean_over(draws[..., 0]) / found.unedited["null"][:, 0].mean()
            rows.band(ratio, metric=ratio_name(found.names[0]), **columns)


def planned_rows(rows: EffectRows, found: Measured, which: int, i: int, **columns) -> None:
    """Contrasts of one dose with everything. That with random weights is of what the edit does in either model."""
    null, metric = found.unedited["null"][:, which], found.names[which]
    rivals = {"null": null} | {name: values[:, which] for name, values in {**found.fixed, **found.controls[i]}.items()}
    if "random_init" in rivals:
        rivals["random_init"] = rivals["random_init"] - found.unedited["random_init_null"][:, which] + null
    bands = {name: draws[..., which] for name, draws in found.bands[i].items()}
    contrast_rows(rows, metric, found.edited[i][:, which], rivals, bands, **columns)


def nie_rows(rows: EffectRows, found: Measured, which: int, alphas: Sequence[float | int],
             becomes: ndarray) -> None:
    """Normalised effect of every dose: (edited - null) / (full_patch - null), sums over the cases with a gap."""
    null, full = found.unedited["null"][:, which], found.fixed["full_patch"][:, which]
    gap = np.abs(full - null) >= SMALL_GAP * np.nanstd(np.r_[null, full])  # not where either is NaN
    subsets = {"all": np.ones(len(null), bool)} | {f"becomes={c}": becomes == c for c in np.unique(becomes)}
    for subset, inside in subsets.items():
        there = inside & gap
        if not there.any() or not (full - null)[there].sum():
            continue
        n_groups = len(np.unique(rows.groups[there]))
        rows.add((0, 0, 0), int(there.sum()), n_groups=n_groups, metric="nie", control="null", subset=subset,
                 alpha=None, unit=None)
        for i, alpha in enumerate(alphas):
            columns = {"metric": "nie", "subset": subset, "alpha": alpha}
            gain = np.where(there, found.edited[i][:, which] - null, np.nan)
            rows.ratio(gain, np.where(there, full - null, np.nan), **columns, **found.sizes[i])
            draws = found.bands[i]["random_direction"][..., which]
            rows.band((draws - null)[:, there].sum(1) / (full - null)[there].sum(), control="random_direction",
                      **columns)


def dose_curve_rows(rows: EffectRows, found: Measured, which: int, alphas: Sequence[float | int],
                    at_kl: float) -> None:
    """The curve of a metric and of its price in numbers."""
    two = [which, found.names.index("kl")]
    values = found.edited[..., two].transpose(2, 0, 1)
    draws = np.stack([bands["random_direction"][..., two] for bands in found.bands], 1).transpose(3, 1, 0, 2)
    curve_rows(rows, alphas, found.names[which], values, draws, found.unedited["null"][:, two].T, at_kl)
