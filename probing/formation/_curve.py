"""A score over the checkpoints of one training run, with what its resamples would have said."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from .._statistics import N_BOOT, resample

MIN_STEPS = 5  # a sigmoid has four numbers
_NORMAL = 1.959964  # half of a 95 % interval, in standard deviations


@dataclass(frozen=True)
class Curve:
    """A score at the checkpoints of one training run.

    Attributes:
        name: What is scored.
        steps: Training steps, ascending; the first is 0, before training.
        values: The score at each.
        draws: The curve in resamples of what it was scored on, one a row; no rows where that is unknown. Row i of two
            curves belongs together where the same groups were drawn.

    Raises:
        ValueError: Fewer than 5 checkpoints, none at step 0, steps that do not ascend, or a score that is no number.
    """

    name: str
    steps: Int[ndarray, " step"]
    values: Float[ndarray, " step"]
    draws: Float[ndarray, "draw step"] = field(default_factory=lambda: np.zeros((0, 0)))

    def __post_init__(self):
        steps, values = self.steps, self.values
        if len(steps) < MIN_STEPS:
            raise ValueError(f"a curve needs at least {MIN_STEPS} checkpoints, {self.name!r} has {len(steps)}; save "
                             "more of them, at steps spaced by equal factors")
        if steps[0] != 0:
            raise ValueError(f"a curve begins at step 0, before training, {self.name!r} at step {steps[0]}; save the "
                             "untrained model too: its score is what training has to beat")
        if (np.diff(steps) <= 0).any():
            raise ValueError(f"steps must ascend, those of {self.name!r} are {steps.tolist()}; sort the checkpoints "
                             "and keep one of each step")
        if not np.isfinite(values).all() or not np.isfinite(self.draws).all():
            bad = steps[~np.isfinite(values)].tolist() or "some resamples"
            raise ValueError(f"{self.name!r} is not a finite number at {bad}; leave those checkpoints or groups out")
        if len(self.draws) and self.draws.shape[1] != len(steps):
            raise ValueError(f"draws of {self.name!r} have {self.draws.shape[1]} steps, the curve {len(steps)}")

    @classmethod
    def of_groups(cls, name: str, steps: Int[ndarray, " step"], gain: Float[ndarray, "step group *target"],
                  size: Float[ndarray, "step group *target"], n_boot: int = N_BOOT, seed: int = 0) -> "Curve":
        """sum(gain) / sum(size) over groups, mean over targets, and the same with the groups resampled: at every step
        the same draw of groups, as checkpoints are scored on the same ones."""
        gain, size = (np.asarray(a, np.float64).reshape(*a.shape[:2], -1) for a in (gain, size))
        weights = resample(gain.shape[1], n_boot, seed)

        def score(w):
            with np.errstate(invalid="ignore", divide="ignore"):
                return np.stack([((w @ g) / (w @ s)).mean(1) for g, s in zip(gain, size, strict=True)], 1)

        draws = score(weights)
        return cls(name, steps, score(np.ones((1, gain.shape[1])))[0], draws[np.isfinite(draws).all(1)])

    @classmethod
    def of_intervals(cls, name: str, steps: Int[ndarray, " step"], values: Float[ndarray, " step"],
                     low: Float[ndarray, " step"], high: Float[ndarray, " step"], n_boot: int = N_BOOT, seed: int = 0
                     ) -> "Curve":
        """From scores whose 95 % intervals are all that is known: draws are normal, each side with its own width, and
        independent from step to step."""
        z = np.random.default_rng(seed).normal(size=(n_boot, len(steps))) / _NORMAL
        return cls(name, steps, values, values + z * np.where(z < 0, values - low, high - values))

    @property
    def x(self) -> Float[ndarray, " step"]:
        """`log_steps` of the steps."""
        return log_steps(self.steps)


def log_steps(steps: Int[ndarray, " step"]) -> Float[ndarray, " step"]:
    """log10 of steps from 0; step 0 stands as far before the first as that before the second."""
    x = np.log10(steps[1:])
    return np.r_[2 * x[0] - x[1], x]
