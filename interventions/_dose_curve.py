"""A dose-response curve in a few numbers, each with its interval and the same number of every random direction."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.stats import rankdata

from probing._results import MIN_DRAWS
from probing._statistics import group_sums, interval

from ._doses import AT_KL
from ._effect_rows import EffectRows

Curves = Float[ndarray, "*more dose"]
Numbers = Float[ndarray, "*more"]  # of one curve without axes


def slope(alphas: Float[ndarray, " dose"], curve: Curves) -> Numbers:
    """Change per unit of dose at 0: the finite difference between the doses nearest to 0 on either side."""
    zero = int(np.flatnonzero(alphas == 0)[0])
    low, high = max(zero - 1, 0), min(zero + 1, len(alphas) - 1)
    return np.asarray((curve[..., high] - curve[..., low]) / (alphas[high] - alphas[low]))


def saturation(alphas: Float[ndarray, " dose"], curve: Curves) -> Numbers:
    """The largest change from dose 0 at any dose above 0, with its sign."""
    change = _above(alphas, curve - curve[..., alphas == 0])
    most = np.abs(change).argmax(-1)[..., None]
    return np.asarray(np.take_along_axis(change, most, -1)[..., 0])


def alpha50(alphas: Float[ndarray, " dose"], curve: Curves) -> Numbers:
    """The first dose above 0 with half of the change of `saturation`, between doses on a line; NaN where nothing
    changes."""
    change = _above(alphas, curve - curve[..., alphas == 0])
    most = saturation(alphas, curve)
    return crossing(alphas[alphas >= 0], change * np.sign(most)[..., None], np.abs(most) / 2)


def monotonicity(alphas: Float[ndarray, " dose"], curve: Curves) -> Numbers:
    """Spearman's rank correlation of dose and value; 0 for a curve that is flat."""
    ranks = rankdata(np.round(curve, 12), axis=-1)  # ties by rounding are ties
    x, y = rankdata(alphas) - (len(alphas) + 1) / 2, ranks - (len(alphas) + 1) / 2
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nan_to_num((y @ x) / np.sqrt((x**2).sum() * (y**2).sum(-1))))


def crossing(alphas: Float[ndarray, " dose"], curve: Curves, level: Numbers | float) -> Numbers:
    """The first dose, in ascending order, at which a curve reaches `level`, between doses on a line; NaN if never."""
    level = np.broadcast_to(np.asarray(level, float), curve.shape[:-1])[..., None]
    there = (curve >= level) & (level > 0)
    first = np.maximum(there.argmax(-1), 1)[..., None]
    low, high = np.take_along_axis(curve, first - 1, -1), np.take_along_axis(curve, first, -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (level - low) / (high - low)
        found = alphas[first - 1] + share * (alphas[first] - alphas[first - 1])
    return np.where(there.any(-1), found[..., 0], np.nan)


def value_at(alphas: Float[ndarray, " dose"], curve: Curves, dose: Numbers) -> Numbers:
    """The curve at a dose, on a line between its neighbours; NaN for a dose that is."""
    left = np.clip(np.searchsorted(alphas, np.nan_to_num(dose), "right") - 1, 0, len(alphas) - 2)
    low, high = (np.take_along_axis(curve, (left + i)[..., None], -1)[..., 0] for i in (0, 1))
    return np.asarray(low + (high - low) * (dose - alphas[left]) / (alphas[left + 1] - alphas[left]))


def _above(alphas: Float[ndarray, " dose"], curve: Curves) -> Float[ndarray, "*more positive"]:
    return curve[..., alphas >= 0]


def curve_rows(rows: EffectRows, alphas: Sequence[float | int], metric: str, values: Float[ndarray, "number dose case"],
               draws: Float[ndarray, "number dose draw case"], null: Float[ndarray, "number case"],
               at_kl: float = AT_KL, **columns) -> None:
    """Adds the numbers of a curve to `rows`: METRIC_slope, METRIC_saturation, METRIC_monotonicity, alpha50_METRIC;
    alpha_at_kl_0.1, the first dose above 0 that costs `at_kl` nats, and METRIC_at_kl_0.1, the metric there. Intervals
    are cluster bootstraps of the whole curve. The band holds the number of every random direction; where one never
    costs that much, METRIC_at_kl is its value at the largest dose.

    Args:
        values, draws, null: The metric and KL (the two numbers) of the edit, of the random directions, of no edit.
    Raises:
        ValueError: No dose above 0.
    """
    at = np.unique([0.0, *alphas])
    if at[-1] <= 0:
        raise ValueError(f"a dose-response curve needs doses above 0, alphas are {list(alphas)}; add some")
    there = ~np.isnan(null[0])
    if not there.any():
        return
    where = {a: i for i, a in enumerate(np.asarray(alphas, float).tolist())}
    whole = np.stack([values[:, where[a]] if a in where else null for a in at.tolist()], 1)[..., there]
    random = np.stack([draws[:, where[a]] if a in where else np.broadcast_to(null[:, None], draws[:, 0].shape)
                       for a in at.tolist()], -1)[..., there, :].mean(-2)  # (number, draw, dose)
    groups = rows.groups[there]
    sums = group_sums(whole.transpose(2, 0, 1), groups)  # (group, number, dose)
    count = group_sums(np.ones(int(there.sum())), groups)

    def add(name: str, number: Callable[[Curves, Curves], Numbers], nothing: float | None) -> None:
        def statistic(w: Float[ndarray, "draw group"]) -> Float[ndarray, " draw"]:
            return number(*(np.einsum("bg,gnd->nbd", w, sums) / (w @ count)[None, :, None]))

        found = interval(statistic, len(sums), seed=rows.seed)
        if not np.isfinite(found).all():
            return  # it has none
        rows.add(found, int(there.sum()), metric=name, n_groups=len(sums), **columns)
        if (bands := number(*random))[np.isfinite(bands)].size >= MIN_DRAWS:
            rows.band(bands, metric=name, control="random_direction", **columns)
        if nothing is not None:
            rows.exactly(nothing, metric=name, control="null", **columns)

    def at_cost(curve: Curves, price: Curves) -> Numbers:
        dose = crossing(at[at >= 0], _above(at, price), at_kl)
        return value_at(at, curve, np.where(np.isnan(dose) & reached, at[-1], dose))

    reached = bool(np.isfinite(crossing(at[at >= 0], _above(at, whole[1].mean(-1)), at_kl)))
    add(f"{metric}_slope", lambda curve, price: slope(at, curve), 0.0)
    add(f"{metric}_saturation", lambda curve, price: saturation(at, curve), 0.0)
    add(f"{metric}_monotonicity", lambda curve, price: monotonicity(at, curve), 0.0)
    add(f"alpha50_{metric}", lambda curve, price: alpha50(at, curve), None)
    add(f"alpha_at_kl_{at_kl:g}", lambda curve, price: crossing(at[at >= 0], _above(at, price), at_kl), None)
    add(f"{metric}_at_kl_{at_kl:g}", at_cost, float(null[0, there].mean()))
