"""Labels as a design matrix: a 0/1 column per class of every target, a column per number."""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from tasks import LabelledPrompts


@dataclass(frozen=True)
class Design:
    """Label columns of every example, written out one block of rows at a time: the matrix itself may be large.

    Attributes:
        codes: (example, code) classes, counted from 0; below 0 the label is missing, and all its columns are 0.
        levels: Classes of each column of `codes`.
        numbers: (example, number) numeric targets, in their own units.
        columns: Names: `mine_theirs/c4=2` for class 2 of target c4, `place/latitude` for a number, `pos=17` for a
            nuisance. Those of all codes come first.
        n_marks: How many of the codes, at their end, are the nuisance's: one of many columns is 1 in each of them, so
            that sums go by its index.
    """

    codes: Int[ndarray, "example code"]
    levels: tuple[int, ...]
    numbers: Float[ndarray, "example number"]
    columns: tuple[str, ...]
    n_marks: int = 0

    @classmethod
    def of(cls, prompts: LabelledPrompts, schemes: Sequence[str] | None = None,
           nuisance: Sequence[str] = ()) -> "Design":
        """Columns of these label schemes (all but the shortcuts' predictions, unless given), then of the nuisance.

        Args:
            nuisance: Columns of `prompts.examples` whose every value gets a column: `pos`.
        Raises:
            ValueError: A numeric label is missing or infinite.
        """
        shortcuts = {name for names in prompts.shortcuts.values() for name in names}
        chosen = [s for s in prompts.schemes if s not in shortcuts] if schemes is None else list(schemes)
        codes, numbers = [], []  # of (name, values, levels or None)
        for scheme in chosen:
            known = prompts.classes.get(scheme)
            for name in (f"{scheme}/{target}" for target in prompts.targets(scheme)):
                (codes if known else numbers).append((name, prompts.examples[name].to_numpy(), len(known or ())))
        for name in nuisance:
            found, column = np.unique(prompts.examples[name].to_numpy(), return_inverse=True)
            codes.append((name, column, found.tolist()))
        for name, column, _ in numbers:
            if bad := int((~np.isfinite(column.astype(float))).sum()):
                raise ValueError(f"label {name} is not finite in {bad} of {len(column)} examples; drop those examples")
        names = [f"{name}={level}" for name, _, levels in codes
                 for level in (range(levels) if isinstance(levels, int) else levels)]
        count = [levels if isinstance(levels, int) else len(levels) for _, _, levels in codes]
        n = len(prompts)
        return cls(np.stack([c for _, c, _ in codes], 1).astype(np.int64) if codes else np.zeros((n, 0), np.int64),
                   tuple(count), np.stack([c for _, c, _ in numbers], 1).astype(float) if numbers else np.zeros((n, 0)),
                   (*names, *(name for name, _, _ in numbers)), len(nuisance))

    @functools.cached_property
    def kept(self) -> Int[ndarray, " kept"]:
        """The columns that sums are taken of: those of `block`, then those of `marks`.

        The first class of every target that is labelled throughout is left out, being 1 minus the others: with three
        classes that saves a third of the products.
        """
        *first, end = self._starts
        left_out = np.array(first[: self.n_labels], int)[(self.codes[:, : self.n_labels] >= 0).all(0)]
        marks = np.arange(end - self.n_mark_columns, end)
        return np.r_[np.setdiff1d(np.arange(len(self.columns)), np.r_[left_out, marks]), marks].astype(int)

    @property
    def owner(self) -> Int[ndarray, " kept"]:
        """For each kept column, the column of its target that was not kept and is 1 minus the others; -1 for none."""
        first = self._starts[:-1]
        labelled = (self.codes >= 0).all(0) & (np.arange(len(first)) < self.n_labels)
        of_code = np.repeat(np.where(labelled, first, -1), self.levels)
        return np.r_[of_code, np.full(self.numbers.shape[1], -1)].astype(int)[self.kept]

    @property
    def shift(self) -> Float[ndarray, " kept"]:
        """What moments subtract for precision: the mean of numbers, nothing from counts."""
        return np.concatenate([np.zeros(sum(self.levels)), self.numbers.mean(0)])[self.kept]

    @property
    def n_labels(self) -> int:
        """Codes that are labels."""
        return len(self.levels) - self.n_marks

    def block(self, rows: Int[ndarray, " row"]) -> Float[ndarray, "row dense"]:
        """The kept columns of the labels, of these examples."""
        n_dense = len(self.kept) - self.n_mark_columns
        block = np.zeros((len(rows), n_dense + 1))
        np.put(block, self._places[rows] + np.arange(len(rows))[:, None] * (n_dense + 1), 1)
        block[:, n_dense - self.numbers.shape[1] : n_dense] = self.numbers[rows]
        return block[:, :n_dense]

    def marks(self, rows: Int[ndarray, " row"]) -> Int[ndarray, "row mark"]:
        """Which of the nuisance's columns are 1, counted from the first of them; the others are 0."""
        starts = self._starts[self.n_labels : -1]
        return self.codes[rows, self.n_labels :] + (starts - starts[:1])

    @property
    def _starts(self) -> Int[ndarray, " code_and_end"]:
        """First column of every code, and the one after the last."""
        return np.cumsum([0, *self.levels])

    @property
    def n_mark_columns(self) -> int:
        """Columns of the nuisance, which all are kept."""
        return sum(self.levels[self.n_labels :])

    @functools.cached_property
    def _places(self) -> Int[ndarray, "example label"]:
        """Column of `block` that is 1 for every label; one beyond them all where it is not kept, or missing."""
        n_dense = len(self.kept) - self.n_mark_columns
        place = np.full(len(self.columns) + 1, n_dense, np.int32)
        place[self.kept[:n_dense]] = np.arange(n_dense)
        codes = self.codes[:, : self.n_labels]
        return place[np.where(codes >= 0, self._starts[: self.n_labels] + codes, -1)]


def one_hot(codes: Int[ndarray, "example target"], n_classes: int) -> Float[ndarray, "example column"]:
    """A 0/1 column per class of every target, targets outermost."""
    return (codes[:, :, None] == np.arange(n_classes)).reshape(len(codes), -1).astype(np.float64)


def class_columns(columns: Sequence[str], scheme: str) -> Int[ndarray, "target class"]:
    """Where the classes of a scheme's targets stand among the columns of moments.

    Raises:
        KeyError: The scheme is not there, or is numeric.
    """
    places: dict[str, list[int]] = {}
    for i, column in enumerate(columns):
        if match := re.fullmatch(r"(.*)=(\d+)", column):
            if match[1] == scheme or match[1].startswith(f"{scheme}/"):
                places.setdefault(match[1], []).append(i)
    if not places:
        raise KeyError(_unknown("class labels", columns, scheme))
    return np.array(list(places.values()))


def number_columns(columns: Sequence[str], scheme: str) -> Int[ndarray, " target"]:
    """Where a scheme's numeric targets stand among the columns of moments.

    Raises:
        KeyError: The scheme is not there.
    """
    found = [i for i, c in enumerate(columns) if c == scheme or c.startswith(f"{scheme}/") and "=" not in c]
    if not found:
        raise KeyError(_unknown("numeric labels", columns, scheme))
    return np.array(found)


def fold_names(prompts: LabelledPrompts, k: int, seed: int = 0) -> tuple[Int[ndarray, " example"], tuple[str, ...]]:
    """Fold of every example, and the folds' names: `train/0` ... `train/k-1`, groups dealt at random, and the splits.

    Raises:
        ValueError: There are fewer training groups than folds.
    """
    examples = prompts.examples
    groups = np.unique(examples["group"].to_numpy()[prompts.rows("train")])
    if not 1 <= k <= len(groups):
        raise ValueError(f"cannot deal {len(groups)} training groups to {k} folds; choose 1 to {len(groups)}")
    dealt = dict(zip(np.random.default_rng(seed).permutation(len(groups)).tolist(), np.arange(len(groups)) % k,
                     strict=True))
    of_group = {group: f"train/{dealt[i]}" for i, group in enumerate(groups.tolist())}
    names = (*(f"train/{i}" for i in range(k)), *(s for s in ("validation", "test") if prompts.rows(s).any()))
    split, group = examples["split"].tolist(), examples["group"].tolist()
    index = {name: i for i, name in enumerate(names)}
    return np.array([index[of_group[g] if s == "train" else s] for s, g in zip(split, group, strict=True)]), names


def _unknown(what: str, columns: Sequence[str], scheme: str) -> str:
    schemes = dict.fromkeys(re.sub(r"[/=].*", "", c) for c in columns)
    return f"no {what} of {scheme!r} in these moments; they have {', '.join(schemes) or 'no labels'}"
