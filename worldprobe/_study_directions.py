"""What the edits of a study are made from: per reading and site what its labels write, and per case what is to change.

A direction is named PROBE.read, PROBE.write, PROBE.inverse or PROBE.pair, as in `worldprobe._intervene_arms`; of
numbers, `pattern.write` is how activations follow the targets (multiple regression), and `ridge.inverse` the shortest
change that moves what a ridge probe reads. An edit of several targets at once writes the sum over the targets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from interventions import Edit, move_to, steer
from interventions._goals import move_all_to
from probing import LDAProbe, LogisticProbe, RidgeProbe, class_means, encoding_patterns
from tasks import Counterfactuals, LabelledPrompts
from tasks._study import Part

from ._intervene_arms import tensor

Arrays = Mapping[str, ndarray]


@dataclass(frozen=True)
class Way:
    """A way to write a change: a verb along a direction.

    Attributes:
        doses: Of a whole and of a quick study.
        quick: Whether a quick study has it.
    """

    verb: str
    direction: str
    unit: str
    doses: tuple[Sequence[float], Sequence[float]]
    quick: bool = False

    @property
    def name(self) -> str:
        return f"{self.verb}-{self.direction}"


MOST_ROWS = 8000

STEER = ((0.5, 1.0, 1.5, 2.0, 3.0, 4.0), (1.0, 2.0, 4.0))
MOVE = ((0.5, 1.0, 1.5), (1.0,))
CLASS_WAYS = (
    Way("steer", "mass_mean.write", "class_mean", STEER, quick=True),
    Way("steer", "encoding.write", "class_mean", STEER),
    Way("steer", "logistic.read", "class_mean", STEER, quick=True),
    Way("move_to", "mass_mean.write", "class_goal", MOVE),
    Way("move_to", "logistic.read", "class_goal", MOVE),
    Way("move_to", "lda.pair", "class_goal", MOVE),
)
NUMBER_WAYS = (
    Way("steer", "pattern.write", "move", STEER, quick=True),
    Way("steer", "ridge.inverse", "move", STEER, quick=True),
    Way("move_to", "ridge.inverse", "goal", MOVE),
    Way("move_to", "ridge.pair", "goal", MOVE),
)
PATCH = Way("patch", "witness", "source_goal", ((1.0,), (1.0,)), quick=True)


def class_arrays(X: Float[ndarray, "example d_model"], Y: Int[ndarray, "example target"], pos: Int[ndarray, " example"],
                 n_classes: int, seed: int) -> dict[str, ndarray]:
    """What class labels write, and along what they are read: (target, class, d_model) each; only differences between
    the classes of a target mean something. `shuffled` are class means of shuffled labels. The logistic probe sees
    MOST_ROWS of the rows, where there are more. NaN where a class never occurs."""
    shuffled = np.random.default_rng(seed).permutation(Y)
    means = class_means(X, Y, n_classes)
    absent = np.isnan(means)
    found = {"mass_mean.write": means, "shuffled": class_means(X, shuffled, n_classes),
             "encoding.write": encoding_patterns(X, Y, n_classes, pos)}
    few = np.sort(np.random.default_rng(seed).permutation(len(X))[:MOST_ROWS])
    for name, probe, rows in (("logistic", LogisticProbe(tol=1e-3), few), ("lda", LDAProbe(), np.arange(len(X)))):
        probe.fit(X[rows], Y[rows])
        found[f"{name}.read"] = np.full_like(means, np.nan)
        found[f"{name}.read"][:, probe.classes_] = probe.coef_
    return {name: np.where(absent, np.nan, rows) for name, rows in found.items()}


def number_arrays(X: Float[ndarray, "example d_model"], Y: Float[ndarray, "example target"], groups: ndarray, seed: int
                  ) -> dict[str, ndarray]:
    """What numbers write, `pattern.write` (target, d_model), all other targets held fixed; along what a ridge probe
    reads them, `ridge.read`, and its `ridge.intercept` (target,). `shuffled` are patterns of shuffled labels."""
    probe = RidgeProbe().fit(X, Y, groups)
    coef, intercept = probe.coef_.reshape(Y.shape[1], -1), np.reshape(probe.intercept_, Y.shape[1])
    return {"pattern.write": _pattern(X, Y), "ridge.read": coef, "ridge.intercept": intercept,
            "shuffled": _pattern(X, np.random.default_rng(seed).permutation(Y))}


def _pattern(X: ndarray, Y: ndarray) -> Float[ndarray, "target d_model"]:
    return np.linalg.lstsq(Y - Y.mean(0), X - X.mean(0))[0]


def direction_arrays(X: Float[ndarray, "example d_model"], prompts: LabelledPrompts, label: str, seed: int
                     ) -> dict[str, ndarray]:
    """`class_arrays` or `number_arrays` of the training examples of a label, and their `spread` (1,): the largest
    standard deviation of a dimension, over the largest activation."""
    train, table = prompts.rows("train"), prompts.examples
    X, Y = X[train].astype(np.float64), prompts.labels(label)[train]
    spread = {"spread": np.array([X.std(0).max() / max(np.abs(X).max(), 1e-300)])}
    if classes := prompts.classes.get(label):
        return spread | class_arrays(X, Y, table["pos"].to_numpy()[train], len(classes), seed)
    return spread | number_arrays(X, Y.astype(np.float64), table["group"].to_numpy(dtype=str)[train], seed)


class PartDirections:
    """Directions of every case at one part of a place, at one site.

    Args:
        arrays: From `direction_arrays`, of the part's reading at the site.
        numeric: Whether the reading's labels are numbers.
    """

    def __init__(self, part: Part, cases: Counterfactuals, targets: Sequence[str], arrays: Arrays, numeric: bool):
        before, after = (np.asarray(f(cases), float) for f in (part.before, part.after))
        if before.shape != (wanted := (len(cases), len(targets))) or after.shape != wanted:
            raise ValueError(f"before and after of a part of {part.reading!r} are {before.shape} and {after.shape}, "
                             f"wanted {wanted}: a value per case and target of the reading, NaN where it stays")
        self.arrays, self.numeric, self.n_targets = arrays, numeric, len(targets)
        asked = ~np.isnan(before) & ~np.isnan(after) & (numeric | (before != after))
        width = max(1, int(asked.sum(1).max()))
        self.target = np.argsort(~asked, axis=1, kind="stable")[:, :width]  # the targets that change, first
        self.asked = np.take_along_axis(asked, self.target, 1)
        self.before, self.after = (np.where(self.asked, np.take_along_axis(v, self.target, 1), 0)
                                   for v in (before, after))

    @property
    def varies(self) -> bool:
        """Whether activations differ at all at this site (the embedding of one and the same token does not)."""
        return bool(self.arrays["spread"][0] > 1e-6)

    def rows(self, name: str, target: Int[ndarray, "case change"] | None = None
             ) -> Float[ndarray, "case change d_model"]:
        """What every changed target writes, or is read along, by array; zero where a case has fewer."""
        target, array = self.target if target is None else target, self.arrays[name]
        if self.numeric:
            found = array[target]
        else:
            found = array[target, self.after.astype(int)] - array[target, self.before.astype(int)]
        found = np.where(self.asked[..., None], found, 0)
        if np.isnan(found).any():
            raise ValueError("a class that a case takes or leaves never occurs in the training prompts; ask for more")
        return found

    def written(self, direction: str) -> Float[ndarray, "case d_model"]:
        """What a dose of 1 adds: the sum over the changed targets."""
        by = (self.after - self.before)[..., None]
        if direction == "ridge.inverse":
            W = self.rows("ridge.read")
            return np.einsum("ckd,ck->cd", np.linalg.pinv(W, rcond=1e-6).swapaxes(1, 2), by[..., 0])
        rows = self.rows(direction)
        if self.numeric:
            return (rows * by).sum(1)
        if not direction.endswith(".write"):
            means, square = self.rows("mass_mean.write"), (rows**2).sum(-1)
            apart = (means * rows).sum(-1)
            rows = np.where(square > 0, apart / np.where(square > 0, square, 1), 0)[..., None] * rows
        return rows.sum(1)

    def other_target(self, seed: int) -> Float[ndarray, "case d_model"] | None:
        """What the same change of other targets writes; None where there is one target."""
        if self.n_targets == 1:
            return None
        step = np.random.default_rng(seed).integers(1, self.n_targets, (len(self.target), 1))
        rows = self._absent_is_nothing((self.target + step) % self.n_targets)
        return (rows * (self.after - self.before)[..., None] if self.numeric else rows).sum(1)

    def _absent_is_nothing(self, target: ndarray) -> ndarray:
        name = "pattern.write" if self.numeric else "mass_mean.write"
        array = np.nan_to_num(self.arrays[name])
        rows = array[target] if self.numeric else (array[target, self.after.astype(int)]
                                                   - array[target, self.before.astype(int)])
        return np.where(self.asked[..., None], rows, 0)

    def shuffled(self) -> Float[ndarray, "case d_model"]:
        """What shuffled labels write."""
        return self.written("shuffled") if self.numeric else self.rows("shuffled").sum(1)

    def edit(self, way: Way, alpha: float) -> Edit:
        """The edit of a way at a dose."""
        if way.verb == "steer":
            return steer(tensor(self.written(way.direction)), alpha)
        return self._move(way.direction, alpha)

    def _move(self, direction: str, alpha: float) -> Edit:
        probe, _, side = direction.partition(".")
        if self.numeric:
            read = self.rows("ridge.read")
            goals = self.after - self.arrays["ridge.intercept"][self.target]
            write = self.rows("pattern.write") if side == "pair" else read
        else:
            read = self.rows(direction if side != "pair" else f"{probe}.read")
            write = self.rows("mass_mean.write") if side == "pair" else read
            goals = (read * np.nan_to_num(self.arrays["mass_mean.write"])[self.target, self.after.astype(int)]).sum(-1)
        if read.shape[1] == 1 and self.asked.all():
            return move_to(tensor(read[:, 0]), tensor(goals[:, 0]), tensor(write[:, 0]), alpha)
        return move_all_to(tensor(read), tensor(goals), tensor(write), alpha)


def ways_of(numeric: Sequence[bool], quick: bool) -> list[Way]:
    """The ways to write a change of parts whose labels are numbers (or not).

    Raises:
        ValueError: Some are and some are not.
    """
    if len(set(numeric)) > 1:
        raise ValueError("the parts of a place write classes and numbers; give them places of their own")
    return [way for way in (NUMBER_WAYS if numeric[0] else CLASS_WAYS) if way.quick or not quick]

