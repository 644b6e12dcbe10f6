"""When a curve over training steps rises, and whether it does so at once: a sigmoid in log step against a line.

    y = a + (b - a) / (1 + exp(-s (x - x0))),   x = log10 step,   width = 2 ln 9 / s: decades from 10 % to 90 %

For a place x0 and a width, a and b are a linear fit; so the best sigmoid is found by trying every place (0.02 decades
apart) and width. There is no start to choose and no local optimum.

What happens between two checkpoints is not seen: a jump fits as well anywhere between them. Intervals know of that: in
every resample the place is drawn from its profile likelihood, exp(-(RSS(x0) - RSS_min) / 2 s^2), with s^2 the residual
variance of the best sigmoid, and no less than what 1 % of the curve's spread makes.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray
from scipy.special import expit

from ._curve import Curve

PLACE = 0.02  # decades
N_WIDTHS = 24
JUMP = 1 / 30
N_NULL = 499
N_PLACES = 400  # drawn where a curve has no draws of its own
LEVEL = 0.05
FINEST = 0.01  # of the spread of a curve: closer than that no sigmoid is taken at its word
_FITTED = tuple(name + end for name in ("step", "width", "half_rise", "gain") for end in ("", "_low", "_high")) + (
    "start", "end", "bic_gain", "p_value", "steepest_from", "steepest_to", "between_from", "between_to", "halfway_from",
    "halfway_to")
_TEN_TO_NINETY = 2 * np.log(9)
_BLOCK = 128

Lines = Float[ndarray, "line step"]
PerLine = Float[ndarray, " line"]


def transitions(curves: Sequence[Curve], seed: int = 0) -> pd.DataFrame:
    """`transition` of every curve, one a row."""
    return pd.DataFrame([transition(curve, seed) for curve in curves])


def transition(curve: Curve, seed: int = 0) -> dict:
    """Where a curve rises (or falls), by column:

    - `first`, `last`: its values at step 0 and at the last checkpoint.
    - `step`, `width`: centre of the best sigmoid, and its decades from 10 % to 90 %; `start`, `end`: its levels.
      `between_from`, `between_to`: the neighbouring checkpoints around the centre.
    - `bic_gain`: BIC of the best straight line in log step minus that of the sigmoid, for errors of one unknown size.
      `p_value`: how often that line with noise of its size gains as much, since a sigmoid bends to noise more than two
      numbers should. `sharp`: the gain is above 0, p below 0.05, and the centre lies after the first checkpoint that
      was trained and before the last but one.
    - `half_rise`: where it first crosses halfway from `first` to `last`, on straight lines between checkpoints.
      `halfway_from`, `halfway_to`: the checkpoints between which it does, widened to 95 % of the draws: all that is
      known where there is no sigmoid. `gain`: `last` minus `first`.
    - `steepest_from`, `steepest_to`: the neighbouring checkpoints between which it changes most per decade.

    `_low` and `_high` are 95 % percentile intervals over the curve's draws, which know of the groups it was scored on
    and nothing of other seeds of training; those of `step` and `width` know as well of the places that fit no worse,
    which are all between two checkpoints for a jump, and are there without draws. Step 0 stands where `log_steps` says:
    a centre between it and the first checkpoint says no more than that. A curve that never moves has no transition, all
    of this is missing.
    """
    x, y = curve.x, curve.values
    out = dict(curve=curve.name, n=len(x), first=y[0], last=y[-1])
    if np.ptp(y) <= 1e-12 * np.abs(y).max():
        return out | dict.fromkeys(_FITTED, np.nan) | dict(sharp=False)
    place, width, share = best_sigmoid(x, y[None])
    places, widths = likely_sigmoids(curve, np.random.default_rng([seed, 4]))
    start, end = _levels(x, y, place[0], width[0])
    gain, p = _gain(share[0], len(x)), _p_of_line(x, y, share[0], seed)
    inside = x[1] < place[0] <= x[-2]  # a rise that has only begun has no place yet, one before the first step none
    steepest, around = int(np.argmax(np.abs(np.diff(y) / np.diff(x)))), gap(x, place[0])
    return out | _interval("step", 10 ** np.r_[place, places]) | _interval("width", np.r_[width, widths]) | halfway(
        curve) | dict(
        start=start, end=end, bic_gain=gain, p_value=p, sharp=bool(gain > 0 and p < LEVEL and inside),
        steepest_from=float(curve.steps[steepest]), steepest_to=float(curve.steps[steepest + 1]),
        between_from=float(curve.steps[around]), between_to=float(curve.steps[around + 1]))


def halfway(curve: Curve) -> dict[str, float]:
    """`gain`, `half_rise`, `halfway_from` and `halfway_to` of `transition`: no shape is fitted."""
    every = np.concatenate([curve.values[None], curve.draws.reshape(-1, len(curve.x))])
    crossed = half_rise(curve.x, every)
    after = np.searchsorted(curve.x, crossed[np.isfinite(crossed)]).clip(1)
    around = np.nan, np.nan
    if len(after):
        around = (float(np.percentile(curve.steps[after - 1], 2.5, method="lower")),
                  float(np.percentile(curve.steps[after], 97.5, method="higher")))
    return _interval("gain", every[:, -1] - every[:, 0]) | _interval("half_rise", 10**crossed) | dict(
        halfway_from=around[0], halfway_to=around[1])


def gap(x: Float[ndarray, " step"], place: float) -> int:
    """Index of the last checkpoint before a place."""
    return int(np.clip(np.searchsorted(x, place) - 1, 0, len(x) - 2))


def best_sigmoid(x: Float[ndarray, " step"], lines: Lines) -> tuple[PerLine, PerLine, PerLine]:
    """(place, width, share): log10 step of the centre, decades from 10 % to 90 %, and the residual sum of squares of
    the best sigmoid of every line as a share of that of the best straight line (1 where that fits exactly); a line that
    never moves has no place."""
    places, widths, shapes = _shapes(tuple(x.tolist()))
    best, left = np.zeros(len(lines), int), np.zeros(len(lines))
    y = lines - lines.mean(1, keepdims=True)
    of_line, size = _rss_of_line(x, y), (y**2).sum(1)
    for rows, explained in _explained(shapes, y):
        best[rows] = explained.argmax(1)
        left[rows] = size[rows] - explained.max(1)
    floor = 1e-12 * size  # rounding
    moves = of_line > floor
    share = np.where(moves, np.maximum(left, floor) / np.where(moves, of_line, 1.0), 1.0)
    return np.where(size > 0, places[best], np.nan), widths[best], share


def likely_sigmoids(curve: Curve, rng: np.random.Generator) -> tuple[PerLine, PerLine]:
    """(place, width) of a sigmoid for every draw of a curve (`N_PLACES` of the curve itself, without draws), its place
    drawn from the profile likelihood, its width the best one there; NaN where a draw never moves."""
    x, n = curve.x, len(curve.x)
    lines = curve.draws if len(curve.draws) else np.tile(curve.values, (N_PLACES, 1))
    places, widths, shapes = _shapes(tuple(x.tolist()), JUMP)
    y = lines - lines.mean(1, keepdims=True)
    size = (y**2).sum(1)
    chosen = np.zeros(len(y), int)
    for rows, explained in _explained(shapes, y):
        by_place = explained.reshape(len(explained), N_WIDTHS, -1)
        profile = by_place.max(1)
        most = profile.max(1, keepdims=True)
        variance = np.maximum((size[rows, None] - most) / max(n - 4, 1), FINEST**2 * size[rows, None] / n)
        with np.errstate(invalid="ignore"):
            odds = np.exp((profile - most) / (2 * variance))
        share = np.cumsum(odds, axis=1)
        place = (share < rng.random((len(share), 1)) * share[:, -1:]).sum(1)
        at = np.minimum(place, profile.shape[1] - 1)
        chosen[rows] = by_place[np.arange(len(at)), :, at].argmax(1) * profile.shape[1] + at
    between = places[chosen] + PLACE * (rng.random(len(chosen)) - 0.5)  # places that are tried lie a grid apart
    return np.where(size > 0, between, np.nan), np.where(size > 0, widths[chosen], np.nan)


def _explained(shapes: Float[ndarray, "shape step"], y: Lines
               ) -> Iterator[tuple[slice, Float[ndarray, "line shape"]]]:
    """(some of the centred lines, sum of squares that every shape explains of them)."""
    for start in range(0, len(y), _BLOCK):
        rows = slice(start, start + _BLOCK)
        yield rows, (y[rows] @ shapes.T) ** 2


def half_rise(x: Float[ndarray, " step"], lines: Lines) -> PerLine:
    """Where each line first crosses halfway from its first to its last value, in x; NaN where these are equal."""
    done = (lines - lines[:, :1]) / np.where(lines[:, -1:] == lines[:, :1], np.nan, lines[:, -1:] - lines[:, :1])
    after = np.argmax(done >= 0.5, axis=1)
    row = np.arange(len(lines))
    before = np.maximum(after - 1, 0)
    y0, y1 = done[row, before], done[row, after]
    share = (0.5 - y0) / np.where(y1 > y0, y1 - y0, 1)
    return np.where(np.isnan(y1), np.nan, x[before] + (x[after] - x[before]) * share)


@lru_cache(maxsize=8)
def _shapes(x: tuple[float, ...], narrowest: float = 1 / 4) -> tuple[ndarray, ndarray, ndarray]:
    """(place, width, sigmoid) of everything that is tried, widths the slower index, sigmoids centred and of unit length
    (0 where a jump at the very end touches no checkpoint): (shape,), (shape,), (shape, step).

    The narrowest, as a share of the distance of the closest checkpoints: at a quarter a jump is put in their middle, at
    a thirtieth (`JUMP`) it is as good anywhere between them."""
    at = np.array(x)
    span = at[-1] - at[0]
    place = np.linspace(at[0], at[-1], round(span / PLACE) + 1)
    width = np.geomspace(narrowest * np.diff(at).min(), 2 * span, N_WIDTHS)
    places, widths = (a.ravel() for a in np.meshgrid(place, width))
    shape = expit(_TEN_TO_NINETY * (at - places[:, None]) / widths[:, None])
    shape -= shape.mean(1, keepdims=True)
    size = np.sqrt((shape**2).sum(1, keepdims=True))
    return places, widths, np.where(size > 1e-6, shape, 0.0) / np.maximum(size, 1e-6)


def _rss_of_line(x: ndarray, y: Lines) -> PerLine:
    """Of centred lines."""
    u = (x - x.mean()) / np.sqrt(((x - x.mean()) ** 2).sum())
    return (y**2).sum(1) - (y @ u) ** 2


def _gain(share: float, n: int) -> float:
    """BIC of the line (3 numbers, the size of its errors among them) minus that of the sigmoid (5)."""
    return float(-n * np.log(share) - 2 * np.log(n))


def _p_of_line(x: ndarray, y: Float[ndarray, " step"], share: float, seed: int) -> float:
    line = np.polynomial.Polynomial.fit(x, y, 1)(x)
    noise = np.random.default_rng([seed, 2]).normal(size=(N_NULL, len(x)))
    null = best_sigmoid(x, line + noise * np.sqrt(((y - line) ** 2).sum() / (len(x) - 2)))[2]
    return float((1 + (null <= share).sum()) / (1 + N_NULL))


def _levels(x: ndarray, y: Float[ndarray, " step"], place: float, width: float) -> tuple[float, float]:
    shape = expit(_TEN_TO_NINETY * (x - place) / width)
    (a, rise), *_ = np.linalg.lstsq(np.stack([np.ones_like(x), shape], 1), y)
    return float(a), float(a + rise)


def _interval(name: str, values: PerLine) -> dict[str, float]:
    """The first value, with the percentiles of the others, widened to contain it."""
    draws = values[1:][np.isfinite(values[1:])]
    low, high = np.percentile(draws, [2.5, 97.5]) if len(draws) else (np.nan, np.nan)
    return {name: float(values[0]), f"{name}_low": float(np.minimum(low, values[0])),
            f"{name}_high": float(np.maximum(high, values[0]))}
