"""Circular probes: a label that goes round (weekday, month, bearing) read off a plane, with its controls."""

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray
from sklearn.base import BaseEstimator, RegressorMixin, TransformerMixin
from sklearn.model_selection import LeaveOneGroupOut
from sklearn.utils.validation import check_array, check_consistent_length, check_is_fitted, validate_data

from ._subspaces import LinearPair


class CircularProbe(LinearPair, RegressorMixin, TransformerMixin, BaseEstimator):
    """Read a label t of period p as the angle of a point in a plane.

        (cos, sin)(2 pi k t / p) ~ read_ x + intercept_      least squares on the first principal components
        t^ = p / (2 pi k) atan2(sin^, cos^)  mod p / k

    Args:
        period: p, in units of the label.
        frequency: k, turns of the circle per period. Labels p/k apart share an angle.
        n_components: Principal components of X that the plane may use; None for all. With as many prompts as
            components any label fits, so judge on held-out labels (`circular_controls`).

    Attributes:
        read_: (2, d_model) rows of cos and sin in raw activation space; `read` is the plane of the circle, with the
            QR basis of the published code.
        write_: (2, d_model) how the activation moves per unit of cos and of sin, the other held fixed.
        intercept_: (2,). The published fit has none, which is the same thing if all labels are equally frequent.
        mean_: (d_model,) of X.
    Source: Engels et al., arXiv:2405.14860, and intervention/ in JoshEngels/MultiDimensionalFeatures.
    """

    def __init__(self, period=7, frequency=1, n_components=5):
        self.period, self.frequency, self.n_components = period, frequency, n_components

    def fit(self, X, y):
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2)
        circle = on_circle(y, self.period, self.frequency)
        self.read_, self.intercept_, self.mean_ = _regress(X, circle, self.n_components)
        self.write_ = np.linalg.lstsq(circle - circle.mean(0), X - self.mean_, rcond=1e-10)[0]
        return self

    def transform(self, X) -> Float[ndarray, "example 2"]:
        """Predicted (cos, sin); the length says how sure the reading is."""
        check_is_fitted(self)
        return validate_data(self, X, reset=False, dtype=np.float64) @ self.read_.T + self.intercept_

    def predict(self, X) -> Float[ndarray, " example"]:
        """The label in [0, period / frequency)."""
        cos, sin = self.transform(X).T
        modulus = self.period / self.frequency
        return modulus * (np.arctan2(sin, cos) / (2 * np.pi) % 1) % modulus  # the last %: 1 - 1e-17 rounds to 1

    def score(self, X, y):
        """Mean cosine of the angular error: 1 is perfect, 0 chance."""
        angle = 2 * np.pi * self.frequency / self.period
        return float(np.cos(angle * (self.predict(X) - np.asarray(y))).mean())

    def place(self, X, t) -> Float[ndarray, "example d_model"]:
        """X moved within the plane, and no further than needed, onto the point of the unit circle read as label `t`.

        At the mean activation this is the published edit: mean, less its part in the plane, plus the circle's point
        (to which ours adds the intercept, so that it is read as `t`).

        Args:
            t: One label, or (example,).
        """
        now = self.transform(X)
        goal = np.broadcast_to(on_circle(np.atleast_1d(t), self.period, self.frequency), now.shape)
        return np.asarray(X, dtype=np.float64) + (goal - now) @ np.linalg.pinv(self.read_).T

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True  # the score is of angles: a label without a period has none
        return tags


def on_circle(t, period: float | int, frequency: int = 1) -> Float[ndarray, "*shape 2"]:
    """(cos, sin) of 2 pi frequency t / period."""
    angle = 2 * np.pi * frequency * np.asarray(t, dtype=np.float64) / period
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def circular_error(t_hat, t, period: float | int) -> float:
    """Mean distance round the circle, in units of the label: at most period / 2, at chance period / 4."""
    gap = (np.asarray(t_hat, dtype=np.float64) - np.asarray(t)) % period
    return float(np.minimum(gap, period - gap).mean())


def circular_controls(
    X, y, period: float | int, *, frequencies: tuple[int, ...] = (1, 2), n_components: int | None = 5, groups=None
) -> pd.DataFrame:
    """Circular probes and the linear control, each example read by a fit that has not seen its group.

    The control reads t - (p - 1)/2, a line, off the same components. On a perfect circle of all p labels a line is no
    stranger: its least squares has R2 = 6 / ((p^2 - 1) sin^2(pi/p)), 0.66 at p = 7 and 0.61 for large p. So compare the
    two, and leave whole labels out (`groups=y`) to see the control break where the line would have to jump.

    Args:
        groups: (example,) left out together: the pair of labels that a prompt is made of, or the label. None leaves
            out one example at a time.
    Returns:
        One row per number: probe (circular, linear), control (missing for the first frequency), frequency, metric
        (r2_cos, r2_sin, r2; score, the mean cosine of the angular error; circular_error, in units of the label, of
        chance period / (4 frequency)), value, n.
    """
    X, y = check_array(X, dtype=np.float64), np.asarray(y, dtype=np.float64)
    groups = np.arange(len(X)) if groups is None else np.asarray(groups)
    check_consistent_length(X, y, groups)
    target = np.column_stack([*(on_circle(y, period, k) for k in frequencies), y - (period - 1) / 2])
    came, mean = np.empty_like(target), np.empty_like(target)
    for train, test in LeaveOneGroupOut().split(X, groups=groups):
        read, intercept, _ = _regress(X[train], target[train], n_components)
        came[test], mean[test] = X[test] @ read.T + intercept, target[train].mean(0)
    r2 = 1 - ((target - came) ** 2).sum(0) / ((target - mean) ** 2).sum(0)
    rows: list[tuple] = []
    for i, k in enumerate(frequencies):
        cos, sin = came[:, 2 * i : 2 * i + 2].T
        t_hat = period / k * (np.arctan2(sin, cos) / (2 * np.pi))
        values = {"r2_cos": r2[2 * i], "r2_sin": r2[2 * i + 1],
                  "score": np.cos(2 * np.pi * k / period * (t_hat - y)).mean(),
                  "circular_error": circular_error(t_hat, y, period / k)}
        rows += [("circular", "frequency" if i else None, k, name, value) for name, value in values.items()]
    rows.append(("linear", "line", None, "r2", r2[-1]))
    frame = pd.DataFrame(rows, columns=["probe", "control", "frequency", "metric", "value"])
    return frame.astype({"frequency": "Int64"}).assign(n=len(X))


def _regress(
    X: Float[ndarray, "example d_model"], target: Float[ndarray, "example target"], n_components: int | None
) -> tuple[Float[ndarray, "target d_model"], Float[ndarray, " target"], Float[ndarray, " d_model"]]:
    """(read, intercept, mean of X): least squares on the principal components, back in raw activation space."""
    mean = X.mean(0)
    u, s, v = np.linalg.svd(X - mean, full_matrices=False)
    keep = s[:n_components] > 1e-10 * max(s[0], 1e-30)
    u, s, v = (part[: len(keep)][keep] for part in (u.T, s, v))
    read = (u @ (target - target.mean(0)) / s[:, None]).T @ v  # u is orthonormal: no system to solve
    return read, target.mean(0) - read @ mean, mean
