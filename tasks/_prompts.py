"""What every task returns: token ids with labels, and counterfactual cases with the answers they should lead to."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int, Num
from numpy import ndarray
from torch import Tensor

from ._positions import Where, place
from ._shown import as_html, as_text

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class LabelledPrompts:
    """Token ids, right-padded so that under causal attention no real token sees padding, and a table with one
    row per probed token.

    Attributes:
        task: Name of the task, as in `tasks.load(name)`; a task with several worlds adds the world's own name
            (`othello` on 8x8, `othello-6x6`), which is also that of the reference model that lives there.
        tokens: (prompt, pos) token ids.
        lengths: (prompt,) real tokens of each prompt; the rest is padding.
        examples: One row per probed token. `prompt` and `pos` point into `tokens`; a `group` (a maze, a game, a
            city) never straddles splits; `split` is train, validation or test. A label column is named
            `scheme/target`: `mine_theirs/c4` is the state of square c4 under the scheme `mine_theirs`. Other places
            worth probing are columns named `pos:entity`, see `at`; `start` is where a pooled span begins.
        classes: scheme -> names of the integer codes. A scheme without classes is numeric, in its own units.
        shortcuts: scheme -> schemes that hold a *prediction* of it which needs no model (discs never flip; the
            degree of a maze cell); every score is reported beside them.
        subsets: Name -> (example, target) mask on which scores are reported as well (occupied squares).
        vocabulary: The word of each token id, where the task has a word-level vocabulary; () for natural text.
        by: What scores are broken down by: a column of `examples` that says where in the prompt a token stands (the
            ply of a game), and what a target is called (a square).
    """

    task: str
    tokens: Int[Tensor, "prompt pos"]
    lengths: Int[Tensor, " prompt"]
    examples: pd.DataFrame
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    shortcuts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    subsets: Mapping[str, Bool[ndarray, "example target"]] = field(default_factory=dict)
    vocabulary: tuple[str, ...] = ()
    by: tuple[str, str] = ("pos", "target")

    def __post_init__(self):
        if missing := {"prompt", "pos", "group", "split"} - set(self.examples):
            raise ValueError(f"examples lacks {sorted(missing)}, it has {list(self.examples)[:8]}; "
                             "add the missing columns")
        if unknown := set(self.examples["split"].unique()) - set(SPLITS):
            raise ValueError(f"split must be one of {SPLITS}, found {sorted(unknown)}; see tasks.split_by_group")
        beyond = self.examples["pos"].to_numpy() >= self.lengths.numpy()[self.examples["prompt"].to_numpy()]
        if beyond.any():
            row = int(np.flatnonzero(beyond)[0])
            raise ValueError(f"example {row} probes position {self.examples['pos'].iat[row]} of prompt "
                             f"{self.examples['prompt'].iat[row]}, which is padding; drop that row")

    def __len__(self) -> int:
        return len(self.examples)

    def __repr__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)

    @property
    def schemes(self) -> list[str]:
        """Names of the label schemes, shortcut predictions included, in column order."""
        return list(dict.fromkeys(c.split("/", 1)[0] for c in self.examples if "/" in c))

    def targets(self, scheme: str) -> list[str]:
        """Names of the targets of a scheme: squares, edges, coordinates."""
        names = [c.split("/", 1)[1] for c in self.examples if c.startswith(f"{scheme}/")]
        if not names:
            raise KeyError(f"no label scheme {scheme!r} in task {self.task!r}; it has {self.schemes}")
        return names

    def labels(self, scheme: str) -> Num[ndarray, "example target"]:
        """Codes of a scheme, or its numbers where it has no classes; one column per target. It is a copy: pandas hands
        out views that torch warns about."""
        return self.examples[[f"{scheme}/{t}" for t in self.targets(scheme)]].to_numpy(copy=True)

    def at(self, where: Where) -> "LabelledPrompts":
        """The same prompts and labels, probed elsewhere.

        A prompt with one example is labelled as a whole, and its example moves. Where a prompt has several, their
        labels belong to their positions: `last` keeps those that are there, `each` and functions are refused.

        Args:
            where: `last`, the last real token; `each`, every real token, the example repeated for each; the name of
                a position that the task gives (`entity` reads the column `pos:entity`); a function of a prompt's
                real tokens, (pos,), that gives a position; or one position per example. Positions count from 0.
        Raises:
            KeyError: The task names no such position; says which it has.
            ValueError: A position does not exist in its prompt.
        """
        rows, pos = place(self.tokens, self.lengths, self.examples, where)
        examples = self.examples.iloc[rows].reset_index(drop=True).assign(pos=pos)
        return replace(self, examples=examples, subsets={name: mask[rows] for name, mask in self.subsets.items()})

    def rows(self, split: str) -> Bool[ndarray, " example"]:
        """Mask of the examples of one split."""
        if split not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, not {split!r}")
        return (self.examples["split"] == split).to_numpy()


@dataclass(frozen=True)
class Counterfactuals:
    """Prompts with one fact to change inside the model, and the right next tokens before and after the change.

    Attributes:
        tokens, lengths: As in `LabelledPrompts`; the edit is applied at the last real token.
        cases: One row per case: `prompt`, `target` (which label is changed: `c4`), `was` and `becomes` (codes of
            `scheme`), `group` (cases of one group are resampled together), and `split`: `choose` (layers and doses
            are picked there) or `report`.
        right_before, right_after: (case, d_vocab) next tokens that are right before and after the change.
        kind: How the cases were made, e.g. `flip, published`; printed beside every number.
    """

    task: str
    kind: str
    scheme: str
    tokens: Int[Tensor, "prompt pos"]
    lengths: Int[Tensor, " prompt"]
    cases: pd.DataFrame
    right_before: Bool[ndarray, "case d_vocab"]
    right_after: Bool[ndarray, "case d_vocab"]

    def __post_init__(self):
        if missing := {"prompt", "target", "was", "becomes", "group", "split"} - set(self.cases):
            raise ValueError(f"cases lacks {sorted(missing)}, it has {list(self.cases)}; add the missing columns")
        if unknown := set(self.cases["split"]) - {"choose", "report"}:
            raise ValueError(f"split of a case must be 'choose' or 'report', found {sorted(unknown)}")

    def __len__(self) -> int:
        return len(self.cases)

    def __repr__(self) -> str:
        split, first = self.cases["split"].value_counts(), self.cases[:1].to_dict("records")
        changed = "".join(f"; the first: {c['target']} from {c['was']} to {c['becomes']}" for c in first)
        return (f"Counterfactuals: {self.task}, {self.scheme}, {self.kind}, {len(self):,} cases "
                f"({', '.join(f'{split[name]:,} to {name}' for name in sorted(split.index))}){changed}")


def split_by_group(group: ndarray, seed: int = 0, validation: float = 0.1, test: float = 0.2) -> ndarray:
    """Split names for every row; all rows of a group get the same one: (row,) of train / validation / test.

    Groups are shuffled with `seed` and dealt by count of groups, not of rows.
    """
    names, index = np.unique(group, return_inverse=True)
    if len(names) < 3:
        raise ValueError(f"a split into train, validation and test needs at least 3 groups, there are {len(names)}; "
                         "give more prompts")
    order = np.random.default_rng(seed).permutation(len(names))
    n_test, n_validation = max(1, round(test * len(names))), max(1, round(validation * len(names)))
    split = np.full(len(names), "train", dtype=object)
    split[order[:n_test]] = "test"
    split[order[n_test : n_test + n_validation]] = "validation"
    return split[index]
