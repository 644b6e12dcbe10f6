"""One label with everything that fitting and scoring need: its values, its kind, its rows, its parts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Int, Shaped
from numpy import ndarray

from tasks import LabelledPrompts

from ._splits import Splits, disjoint_splits


@dataclass(frozen=True)
class Question:
    """What is asked of a state.

    Attributes:
        label: The scheme.
        Y: (example, target) codes from 0, or numbers in their own units.
        n_classes: 0 for numbers.
        groups: Of every example; resampled together.
        splits: Masks of the rows that are fitted, chosen on and scored.
        targets: Names of the columns of Y.
        subsets: Name -> mask of the cells that are scored apart.
        where: Where in its prompt every example stands, what that and a target are called, as in `LabelledPrompts.by`.
        beside: Codes of the other schemes that have classes and one target, (example,): for probes whose `fit` asks for
            one of them by its name.
    """

    label: str
    Y: Shaped[ndarray, "example target"]
    n_classes: int
    groups: Shaped[ndarray, " example"]
    splits: Splits
    targets: Sequence[str]
    where: Shaped[ndarray, " example"]
    by: tuple[str, str] = ("pos", "target")
    subsets: Mapping[str, Bool[ndarray, "example target"]] = field(default_factory=dict)
    beside: Mapping[str, Shaped[ndarray, " example"]] = field(default_factory=dict)

    @classmethod
    def of(cls, prompts: LabelledPrompts, label: str, splits: Splits | None = None) -> "Question":
        """The question of a label scheme.

        Raises:
            KeyError: No such scheme.
            ValueError: Labels that are neither finite numbers nor codes of their classes.
        """
        targets = prompts.targets(label)
        Y = prompts.examples[[f"{label}/{t}" for t in targets]].to_numpy()
        n_classes = len(prompts.classes.get(label, ()))
        splits = splits or disjoint_splits(prompts)
        _check(label, Y, n_classes, prompts.classes.get(label, ()))
        return cls(label, Y if n_classes else Y.astype(np.float64), n_classes, prompts.examples["group"].to_numpy(),
                   splits, targets, prompts.examples[prompts.by[0]].to_numpy(), prompts.by,
                   {name: mask for name, mask in prompts.subsets.items() if mask.shape == Y.shape},
                   _beside(prompts, label))

    @property
    def metric(self) -> str:
        """What layers and penalties are chosen by, and p-values are about."""
        return "accuracy" if self.n_classes else "r2"

    @property
    def train(self) -> Bool[ndarray, " example"]:
        return self.splits["train"]

    @property
    def held(self) -> Bool[ndarray, " example"]:
        return self.splits["validation"] | self.splits["test"]

    def shuffled(self, n: int, seed: int = 0) -> list["Question"]:
        """`n` draws in which every group got the labels of another one of its split, place for place: what a group or
        a place in the prompt gives away stays, what ties labels to states is gone. Validation and test are shuffled
        too, so that a draw is a whole study in which nothing can be found.

        Rows of a group at one place hand on their labels in random order, or twins that are listed in the same order
        everywhere (true, false; true, false) would get their own labels back. A row at whose place the other group has
        none gets the label of any of its rows. Subsets move with the labels that define them.
        """
        rng = np.random.default_rng([seed, 1])
        return [self._handed_on(rng) for _ in range(n)]

    def _handed_on(self, rng: np.random.Generator) -> "Question":
        row, place = np.arange(len(self.Y)), np.unique(self.where, return_inverse=True)[1]
        for mask in self.splits.values():
            there = np.flatnonzero(mask)
            _, group, sizes = np.unique(self.groups[there], return_inverse=True, return_counts=True)
            giver = rng.permutation(len(sizes))[group]
            order, start, rank = _blocks(group, rng)
            taken = order[start[giver] + rank % sizes[giver]]
            spot = int(place.max(initial=0)) + 1
            cells, cell, count = np.unique(group * spot + place[there], return_inverse=True, return_counts=True)
            order, start, rank = _blocks(cell, rng)
            wanted = giver * spot + place[there]
            found = np.minimum(np.searchsorted(cells, wanted), len(cells) - 1)
            same = cells[found] == wanted
            taken[same] = order[(start[found] + rank % count[found])[same]]
            row[there] = there[taken]
        return replace(self, Y=self.Y[row], subsets={name: mask[row] for name, mask in self.subsets.items()})


def _blocks(block: Int[ndarray, " row"], rng: np.random.Generator
            ) -> tuple[Int[ndarray, " row"], Int[ndarray, " block"], Int[ndarray, " row"]]:
    """Rows sorted by block, in random order within each; where each block starts there; the rank of every row."""
    order = rng.permutation(len(block))
    order = order[np.argsort(block[order], kind="stable")]
    sizes = np.bincount(block)
    start = np.cumsum(sizes) - sizes
    rank = np.empty(len(block), int)
    rank[order] = np.arange(len(block)) - np.repeat(start, sizes)
    return order, start, rank


def _beside(prompts: LabelledPrompts, label: str) -> dict[str, ndarray]:
    others = {scheme: prompts.targets(scheme) for scheme in prompts.classes if scheme != label}
    return {scheme: prompts.examples[f"{scheme}/{targets[0]}"].to_numpy() for scheme, targets in others.items()
            if len(targets) == 1}


def _check(label: str, Y: ndarray, n_classes: int, names: Sequence[str]) -> None:
    if not np.issubdtype(Y.dtype, np.number) or not np.isfinite(Y.astype(np.float64)).all():
        raise ValueError(f"labels of {label!r} must be finite numbers or codes, found {Y.dtype} with missing or other "
                         "values; drop those examples or name classes by codes from 0")
    if n_classes and not (0 <= Y.min() and Y.max() < n_classes and np.issubdtype(Y.dtype, np.integer)):
        raise ValueError(f"codes of {label!r} must be integers from 0 to {n_classes - 1} ({', '.join(names)}), found "
                         f"{Y.min()} to {Y.max()} of {Y.dtype}; check `classes` of the prompts")
