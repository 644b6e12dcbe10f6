"""Pairs of prompts for interchange interventions: a base takes part of its activation from a source.

    pairs = interchange_pairs(tasks.decoy.cases("end"))
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
import xxhash
from jaxtyping import Bool, Int, Shaped
from numpy import ndarray
from torch import Tensor

from tasks._prompts import Counterfactuals, LabelledPrompts

PARTS = ("train", "validation", "report")
_PART_OF = {"train": "train", "validation": "validation", "test": "report"}


@dataclass(frozen=True)
class InterchangePairs:
    """Bases, the sources that each is paired with, and the answers of a causal model in which the label decides: a
    base that takes the label's value from a source with the other value answers `right_after`, from a source with its
    own value `right_before`.

    Attributes:
        tokens, lengths: (prompt, pos), (prompt,) all prompts, bases and sources; the site is their last real token.
        values: (prompt,) code of the label in every prompt.
        parts: (prompt,) `train`, `validation` or `report`; both prompts of a pair are in the same part.
        bases: One row per base: `prompt`, `was`, `becomes`, `group`, `part`.
        sources: (base, source) prompts. The first half of the columns hold the value `becomes`, the second half `was`.
        right_before, right_after: (base, d_vocab).
    """

    task: str
    label: str
    tokens: Int[Tensor, "prompt pos"]
    lengths: Int[Tensor, " prompt"]
    values: Int[ndarray, " prompt"]
    parts: Shaped[ndarray, " prompt"]
    bases: pd.DataFrame
    sources: Int[ndarray, "base source"]
    right_before: Bool[ndarray, "base d_vocab"]
    right_after: Bool[ndarray, "base d_vocab"]

    def __post_init__(self):
        if missing := {"prompt", "was", "becomes", "group", "part"} - set(self.bases):
            raise ValueError(f"bases lacks {sorted(missing)}, it has {list(self.bases)}; add the missing columns")
        if self.sources.shape[1] % 2:
            raise ValueError(f"sources has {self.sources.shape[1]} columns, wanted an even number: first those with "
                             "the other value, then as many with the base's own")

    def __len__(self) -> int:
        return len(self.bases)

    @property
    def changed(self) -> Bool[ndarray, " source"]:
        """Which columns of `sources` hold the other value."""
        return np.arange(self.sources.shape[1]) < self.sources.shape[1] // 2

    def inside(self, part: str) -> Bool[ndarray, " base"]:
        """Mask of the bases of one part."""
        if part not in PARTS:
            raise ValueError(f"part must be one of {', '.join(PARTS)}, not {part!r}")
        return (self.bases["part"] == part).to_numpy()

    @property
    def digest(self) -> str:
        """xxh3_128 over everything that a number can depend on."""
        digest = xxhash.xxh3_128(f"{self.task} {self.label}".encode() + self.bases.to_csv(index=False).encode())
        for a in (self.tokens.numpy(), self.lengths.numpy(), self.values, self.sources, self.right_before,
                  self.right_after):
            digest.update(f"{a.dtype}{a.shape}".encode() + np.ascontiguousarray(a).tobytes())
        return digest.hexdigest()


def interchange_pairs(
    cases: Counterfactuals,
    target: str | None = None,
    sources: LabelledPrompts | None = None,
    *,
    per_value: int = 2,
    validation: float = 0.2,
    seed: int = 0,
) -> InterchangePairs:
    """Every case of a label as a base, with `per_value` sources that hold the value it is to get and as many that hold
    its own.

    A source is another prompt, drawn at random among those of the same part and of another group, so that everything
    else about it differs too: a subspace that carries more than the label breaks the answer, and one that pushes every
    base to the other answer fails on the sources with its own value. The cases to report on stay `report`; of those
    to choose on, a share `validation` of the groups is held back for early stopping.

    A claim to be tested needs answers under that claim: for a label that is said to decide nothing, take
    `right_after` from the cases of one that does, `dataclasses.replace(cases, right_after=...)`.

    Args:
        target: Which label, where the cases change several (one square): a learned subspace is about one.
        sources: Labelled prompts to take sources from, probed anywhere (train, validation and test serve train,
            validation and report); by default the cases themselves.
    Raises:
        ValueError: Several targets and none named; no source with a wanted value; too few groups.
    """
    table, names = cases.cases, list(dict.fromkeys(cases.cases["target"]))
    if target is None and len(names) > 1:
        raise ValueError(f"the cases change {len(names)} labels ({', '.join(names[:4])}, ...) and a subspace is about "
                         f"one; choose it with target={names[0]!r}")
    if target is not None and target not in names:
        raise ValueError(f"no case changes {target!r}; the cases change {', '.join(names[:8])}")
    target = names[0] if target is None else target
    rng = np.random.default_rng(seed)
    chosen = np.flatnonzero(table["target"] == target)
    table = table.iloc[chosen].reset_index(drop=True)
    part = _parts(table, validation, rng)
    prompt = torch.as_tensor(table["prompt"].to_numpy(copy=True))
    pool = _Pool(cases.tokens[prompt], cases.lengths[prompt], table["was"].to_numpy(), part,
                 table["group"].to_numpy(dtype=str))
    n_bases = len(pool.values)
    pool = pool if sources is None else pool.joined(_labelled(sources, f"{cases.scheme}/{target}"))
    first = 0 if sources is None else n_bases
    wanted = np.stack([table["becomes"].to_numpy(), table["was"].to_numpy()], 1)
    drawn = _draw(pool, wanted, part, first, per_value, rng)
    used, index = np.unique(np.concatenate([np.arange(n_bases), drawn.ravel()]), return_inverse=True)
    bases = pd.DataFrame({"prompt": np.arange(n_bases), "was": table["was"], "becomes": table["becomes"],
                          "group": table["group"], "part": part})
    return InterchangePairs(
        task=cases.task, label=cases.scheme if len(names) == 1 else f"{cases.scheme}/{target}",
        tokens=pool.tokens[used], lengths=pool.lengths[used], values=pool.values[used], parts=pool.parts[used],
        bases=bases, sources=index[n_bases:].reshape(drawn.shape),
        right_before=cases.right_before[chosen], right_after=cases.right_after[chosen])


def shuffled(pairs: InterchangePairs, seed: int = 0) -> InterchangePairs:
    """The same pairs with the roles of their sources shuffled: which sources change the answer is an arbitrary, fixed
    fact about each pair. What a method learns from them it would learn from anything."""
    rng = np.random.default_rng(seed)
    return replace(pairs, sources=rng.permuted(pairs.sources, axis=1))


@dataclass(frozen=True)
class _Pool:
    tokens: Int[Tensor, "prompt pos"]
    lengths: Int[Tensor, " prompt"]
    values: Int[ndarray, " prompt"]
    parts: Shaped[ndarray, " prompt"]
    groups: Shaped[ndarray, " prompt"]

    def joined(self, other: "_Pool") -> "_Pool":
        width = max(self.tokens.shape[1], other.tokens.shape[1])
        tokens = [F.pad(t, (0, width - t.shape[1])) for t in (self.tokens, other.tokens)]
        arrays = (np.concatenate([getattr(self, n), getattr(other, n)]) for n in ("values", "parts", "groups"))
        return _Pool(torch.cat(tokens), torch.cat([self.lengths, other.lengths]), *arrays)


def _labelled(prompts: LabelledPrompts, column: str) -> _Pool:
    if column not in prompts.examples:
        raise ValueError(f"the sources have no label {column!r}; they have the schemes {prompts.schemes}")
    table = prompts.examples
    row = torch.as_tensor(table["prompt"].to_numpy(copy=True))
    return _Pool(prompts.tokens[row], torch.as_tensor(table["pos"].to_numpy() + 1), table[column].to_numpy(),
                 table["split"].map(_PART_OF).to_numpy(), table["group"].to_numpy(dtype=str))


def _parts(table: pd.DataFrame, validation: float, rng: np.random.Generator) -> ndarray:
    choose = np.unique(table["group"][table["split"] == "choose"].to_numpy(dtype=str))
    if len(choose) < 2 or not (table["split"] == "report").any():
        raise ValueError(f"pairs need at least 2 groups to choose on and 1 case to report on, there are {len(choose)} "
                         f"and {int((table['split'] == 'report').sum())}; ask the task for more cases")
    held = rng.permutation(choose)[: max(1, round(validation * len(choose)))]
    inside = np.isin(table["group"].to_numpy(dtype=str), held)
    return np.where(table["split"] == "report", "report", np.where(inside, "validation", "train")).astype(object)


def _draw(pool: _Pool, wanted: Int[ndarray, "base two"], part: ndarray, first: int, per_value: int,
          rng: np.random.Generator) -> Int[ndarray, "base source"]:
    """Rows of the pool, from `first` on, for every base: `per_value` of each wanted value."""
    _, group = np.unique(pool.groups, return_inverse=True)
    where = np.arange(len(group)) >= first
    of = {(p, v): np.flatnonzero(where & (pool.parts == p) & (pool.values == v))
          for p in PARTS for v in np.unique(wanted)}
    out = np.empty((len(wanted), 2 * per_value), int)
    for base, values in enumerate(wanted):
        for k, value in enumerate(values):
            candidates = of[part[base], value]
            candidates = candidates[group[candidates] != group[base]]
            if not len(candidates):
                raise ValueError(f"no source of another group holds the value {value} in part {part[base]!r}; ask the "
                                 "task for more cases, or pass labelled prompts as `sources`")
            out[base, k * per_value : (k + 1) * per_value] = rng.choice(
                candidates, per_value, replace=len(candidates) < per_value)
    return out
