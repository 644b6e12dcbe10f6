"""Two nearby inputs while a network learns to tell them apart: dynamics that forget the architecture.

Two inputs at squared distance dx2 are to be mapped to targets at squared distance dy2. At one hidden layer the theory
follows three numbers: h, the squared distance of the hidden states; y, that of the outputs; and w = y - dy . dyhat,
which is 0 when the outputs differ as they should. With effective rates eta_h and eta_y

    h' = -eta_h dx2 w
    y' = -w (eta_y h + eta_h dx2 y / h)
    w' = -(eta_y / 2) (3 w - y + dy2) h - (eta_h / 2) dx2 (y + w) w / h.

With k = eta_y / (eta_h dx2), c = y / h - k h never changes, and training ends (w = 0, y = dy2) at

    h_end = (-c + sqrt(c^2 + 4 k dy2)) / (2 k).

From small weights c is near 0 and h_end = sqrt(eta_h / eta_y dx2 dy2), which the data set (rich); from large ones h
stays where it began (lazy).

Source: van Rossem & Saxe, arXiv:2402.09142, and the simulation in their code. The conserved c and the closed form are
ours.
"""

import itertools
import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.integrate import solve_ivp
from scipy.optimize import least_squares

State = Float[ndarray, "time 3"]  # h, y, w
_SCALES = np.logspace(-4, 5, 46)  # of the whole of training, in units of 1 / (eta_h dx2)
_RATIOS = (0.1, 0.5, 1.0, 2.0, 10.0)
_TINY = 1e-12
_MOST = 20_000  # evaluations of the dynamics; a training takes hundreds


class TwoPointFit(NamedTuple):
    """Effective rates of one layer, and how well the theory follows it: mean squared error over variance, per curve."""

    eta_h: float
    eta_y: float
    error_h: float
    error_y: float
    error_w: float

    @property
    def error(self) -> float:
        """Mean of the three."""
        return (self.error_h + self.error_y + self.error_w) / 3


def two_point(times: Float[ndarray, " time"], start: tuple[float, float, float], dx2: float, dy2: float, eta_h: float,
              eta_y: float) -> State:
    """(h, y, w) at ascending `times`, the first of which is where `start` = (h, y, w) holds.

    Raises:
        ValueError: h or a rate that is not above 0, or times that do not ascend.
    """
    _check(start[0], eta_h, eta_y, times)
    k, scale = eta_y / (eta_h * dx2), eta_h * dx2
    return _solve(start, k, dy2, scale * (times[-1] - times[0]), 1e-10)(scale * (times - times[0])).T


def conserved(h: Float[ndarray, "*time"], y: Float[ndarray, "*time"], dx2: float, eta_h: float, eta_y: float
              ) -> Float[ndarray, "*time"]:
    """c = y / h - k h, the same at all times of a training that follows the theory."""
    return y / h - eta_y / (eta_h * dx2) * h


def end_distance(h: float, y: float, dx2: float, dy2: float, eta_h: float, eta_y: float) -> float:
    """h at the end of training, from h and y at any time of it."""
    k = eta_y / (eta_h * dx2)
    c = y / h - k * h
    root = np.sqrt(c**2 + 4 * k * dy2)
    return float((root - c) / (2 * k) if c < 0 else 2 * dy2 / (root + c))  # never a difference of nearly equal numbers


def rich_limit(dx2: float, dy2: float, eta_h: float, eta_y: float) -> float:
    """h at the end of training from infinitely small weights, sqrt(eta_h / eta_y dx2 dy2)."""
    return float(np.sqrt(eta_h / eta_y * dx2 * dy2))


def two_point_loss(state: State, dy2: float, mean_error: Float[ndarray, " time"]) -> Float[ndarray, " time"]:
    """Loss of the pair, half the mean squared error, (2 m + w + (dy2 - y) / 2) / 4.

    Args:
        mean_error: m, squared length of the mean prediction error; in the theory m0 exp(-2 eta_m t).
    """
    return (2 * mean_error + state[:, 2] + (dy2 - state[:, 1]) / 2) / 4


def fit_two_point(times: Float[ndarray, " time"], recorded: State, dx2: float, dy2: float) -> TwoPointFit:
    """Effective rates at which the theory, from the first recorded state, comes closest to all of them.

    Each curve counts in units of its own standard deviation. The search starts from the ratio of rates that the
    conserved c and the rich limit say, at the best of many time scales.

    Args:
        recorded: h, y and w of one layer at ascending `times` (steps, epochs).
    Raises:
        ValueError: Fewer than 5 times, an h of 0, a curve that never moves, or dynamics that no solver can follow.
    """
    h, y, _ = recorded.T
    _check(float(h.min()), 1.0, 1.0, times)
    if len(times) < 5 or len(times) != len(recorded):
        raise ValueError(f"a fit needs at least 5 recorded states, one at each time; there are {len(times)} times and "
                         f"{len(recorded)} states")
    size = recorded.std(0)
    if not (size > 0).all():
        raise ValueError(f"{'hyw'[int(np.argmin(size))]} never moves, so it says nothing about rates; record a "
                         "training that learns the pair")
    start, span, since = tuple(recorded[0]), times[-1] - times[0], (times - times[0]) / (times[-1] - times[0])
    best = min((_scan(start, k, dy2, since, recorded, size) for k in _ratios(h, y, dy2)), key=lambda found: found[0])

    def residuals(at: Float[ndarray, " 2"]) -> Float[ndarray, " value"]:
        k, scale = np.exp(at)
        return ((_solve(start, k, dy2, scale, 1e-6)(scale * since).T - recorded) / size).ravel()

    found = least_squares(residuals, np.log(best[1:]), x_scale=0.1, diff_step=1e-3, xtol=1e-5, ftol=1e-7, max_nfev=40)
    k, scale = np.exp(found.x)
    eta_h = scale / span / dx2
    errors = (residuals(found.x).reshape(-1, 3) ** 2).mean(0)
    return TwoPointFit(float(eta_h), float(k * eta_h * dx2), *(float(e) for e in errors))


def _ratios(h: Float[ndarray, " time"], y: Float[ndarray, " time"], dy2: float) -> Float[ndarray, " guess"]:
    """Guesses of k: from the rich limit, and from c at the first and last state."""
    rich = dy2 / h[-1] ** 2
    moved = h[-1] - h[0]
    kept = (y[-1] / h[-1] - y[0] / h[0]) / moved if moved else np.nan
    return np.array([*(rich * r for r in _RATIOS), *([kept] if np.isfinite(kept) and kept > 0 else [])])


def _scan(start: tuple, k: float, dy2: float, since: ndarray, recorded: State, size: ndarray
          ) -> tuple[float, float, float]:
    """(squared error, k, scale) of the best time scale."""
    try:
        solution = _solve(start, k, dy2, _SCALES[-1], 1e-4)
    except ValueError:  # a guess that is far off
        return np.inf, float(k), float(_SCALES[0])
    every = solution(np.outer(_SCALES, since).ravel()).T.reshape(len(_SCALES), *recorded.shape)
    errors = (((every - recorded) / size) ** 2).mean((1, 2))
    i = int(np.argmin(errors))
    return float(errors[i]), float(k), float(_SCALES[i])


def _solve(start: tuple, k: float, dy2: float, end: float, tolerance: float):
    """s -> (h, y, w) in the time s = eta_h dx2 t, in which the dynamics have one parameter."""
    asked, told = itertools.count(), ", ".join(f"{value:.3g}" for value in start)

    def slope(_, state):
        if next(asked) > _MOST:
            raise ValueError(f"the dynamics from (h, y, w) = ({told}) cannot be followed: {_MOST:,} steps and no end; "
                             "h may be too small to say anything")
        h, y, w = state
        return (-w, -w * (k * h + y / h), -k / 2 * (3 * w - y + dy2) * h - (y + w) * w / (2 * h))

    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LSODA warns where it fails, and says so in `message` too
        found = solve_ivp(slope, (0, max(end, _TINY)), start, "LSODA", dense_output=True, rtol=tolerance,
                          atol=tolerance * 1e-3 * max(start[0], dy2))
    if not found.success or not np.isfinite(found.y).all():
        raise ValueError(f"the dynamics from (h, y, w) = ({told}) cannot be followed: {found.message}")
    return found.sol


def _check(h: float, eta_h: float, eta_y: float, times: Float[ndarray, " time"]) -> None:
    if not (h > 0 and eta_h > 0 and eta_y > 0):
        raise ValueError(f"h and both rates are above 0, not {h:g}, {eta_h:g} and {eta_y:g}; two inputs with the same "
                         "hidden state are never told apart")
    if (np.diff(times) <= 0).any():
        raise ValueError("times must ascend")
