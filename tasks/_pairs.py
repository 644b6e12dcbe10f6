"""Pairs of prompts for patching: a clean one, and a corrupted twin of the same length with other right answers.

    pairs = tasks.decoy.pairs()                                     # a task's own minimal pairs
    pairs = nearest_pairs(tasks.othello.cases("natural"))           # of any task with counterfactual cases
    pairs = token_pairs(clean, corrupted, right, wrong, d_vocab=model.cfg.d_vocab)      # of any token ids
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
import xxhash
from jaxtyping import Bool, Int, Shaped
from numpy import ndarray
from torch import Tensor

from ._prompts import Counterfactuals


@dataclass(frozen=True)
class PromptPairs:
    """Clean prompts and their corrupted twins, position by position.

    Attributes:
        clean, corrupted: (case, pos) right-padded token ids.
        lengths: (case,) real tokens, of the clean prompt and of its twin alike.
        cases: One row per case: `group` (cases of one group are resampled together) and `split`, `choose` or `report`.
            A column `pos:NAME` names a position of every case (`pos:subject`).
        right_clean, right_corrupted: (case, d_vocab) right answers of either prompt.
        label: What differs within a pair, as it is called in result rows.
        answers_at: Where the answer is read: the last token, unless given as one position for all or (case,).
    """

    task: str
    label: str
    clean: Int[Tensor, "case pos"]
    corrupted: Int[Tensor, "case pos"]
    lengths: Int[Tensor, " case"]
    cases: pd.DataFrame
    right_clean: Bool[ndarray, "case d_vocab"]
    right_corrupted: Bool[ndarray, "case d_vocab"]
    answers_at: int | Int[Tensor, " case"] = -1

    def __post_init__(self):
        if missing := {"group", "split"} - set(self.cases):
            raise ValueError(f"cases lacks {sorted(missing)}, it has {list(self.cases)}; add the missing columns")
        if unknown := set(self.cases["split"]) - {"choose", "report"}:
            raise ValueError(f"split of a case must be 'choose' or 'report', found {sorted(unknown)}")
        if not len(self.cases) or self.clean.shape != self.corrupted.shape:
            raise ValueError(f"clean prompts are {tuple(self.clean.shape)}, corrupted ones "
                             f"{tuple(self.corrupted.shape)}; wanted some pairs of equal length (see token_pairs)")

    def __len__(self) -> int:
        return len(self.cases)

    def select(self, where: Shaped[ndarray, " some"]) -> "PromptPairs":
        """Some of the pairs, by mask or index."""
        rows = np.arange(len(self))[where]
        at = self.answers_at if isinstance(self.answers_at, int) else self.answers_at[rows]
        return replace(self, clean=self.clean[rows], corrupted=self.corrupted[rows], lengths=self.lengths[rows],
                       cases=self.cases.iloc[rows].reset_index(drop=True), right_clean=self.right_clean[rows],
                       right_corrupted=self.right_corrupted[rows], answers_at=at)

    @property
    def digest(self) -> str:
        """xxh3_128 over everything that a number can depend on."""
        digest = xxhash.xxh3_128(f"{self.task} {self.label}".encode() + self.cases.to_csv(index=False).encode())
        for a in (self.clean.numpy(), self.corrupted.numpy(), self.lengths.numpy(), np.asarray(self.answers_at),
                  self.right_clean, self.right_corrupted):
            digest.update(f"{a.dtype}{a.shape}".encode() + np.ascontiguousarray(a).tobytes())
        return digest.hexdigest()


def token_pairs(
    clean: Sequence[Sequence[int]],
    corrupted: Sequence[Sequence[int]],
    right: Sequence[int],
    wrong: Sequence[int],
    *,
    d_vocab: int,
    groups: Sequence[object] | None = None,
    split: str | Sequence[str] = "report",
    task: str = "pairs",
    label: str = "answer",
) -> PromptPairs:
    """Pairs of token ids, of any lengths, as a tokenizer gives them: `model.tokenizer(texts)["input_ids"]`.

    Args:
        right, wrong: Token that is right for each clean prompt, and for its twin.
        groups: Which cases are resampled together; each on its own, unless given.
    Raises:
        ValueError: A clean prompt and its twin differ in length, or there is not one of each for every case.
    """
    n = len(clean)
    if sizes := {name: len(x) for name, x in (("corrupted", corrupted), ("right", right), ("wrong", wrong))
                 if len(x) != n}:
        raise ValueError(f"there are {n} clean prompts, but {sizes}; give one of each for every case")
    lengths = [len(prompt) for prompt in clean]
    if bad := [i for i in range(n) if len(corrupted[i]) != lengths[i]]:
        raise ValueError(f"clean and corrupted prompts of different lengths in {len(bad)} of {n} cases (first: case "
                         f"{bad[0]}, {lengths[bad[0]]} and {len(corrupted[bad[0]])} tokens): activations are patched "
                         "position by position; swap words of equally many tokens")
    tokens = torch.zeros(2, n, max(lengths, default=0), dtype=torch.long)
    for padded, prompts in zip(tokens, (clean, corrupted), strict=True):
        for row, prompt in zip(padded, prompts, strict=True):
            row[: len(prompt)] = torch.as_tensor(prompt)
    masks = [np.arange(d_vocab) == np.array(answers)[:, None] for answers in (right, wrong)]
    cases = pd.DataFrame({"group": np.arange(n) if groups is None else list(groups), "split": split})
    return PromptPairs(task, label, tokens[0], tokens[1], torch.tensor(lengths), cases, masks[0], masks[1])


def nearest_pairs(cases: Counterfactuals) -> PromptPairs:
    """Every case's prompt as the clean one, paired with the prompt of another case that differs from it in the fewest
    tokens among those of the same length and split with other right answers. Cases without a twin are left out; of
    equals the first is taken.

    Where a task can swap the one token that matters, its own pairs say more: here several things may differ at once.

    Raises:
        ValueError: No case has a twin.
    """
    prompt, table = cases.cases["prompt"].to_numpy(copy=True), cases.cases
    tokens, lengths = cases.tokens[prompt], cases.lengths[prompt]
    _, answer = np.unique(cases.right_before, axis=0, return_inverse=True)
    _, block = np.unique(np.stack([lengths.numpy(), table["split"] == "report"]), axis=1, return_inverse=True)
    twin = np.full(len(table), -1)
    for b in np.unique(block):
        rows = np.flatnonzero(block == b)
        words = tokens[rows].numpy()
        for row, own in zip(rows, words, strict=True):
            distance = np.where(answer[rows] == answer[row], words.shape[1] + 1, (words != own).sum(1))
            if distance.min() <= words.shape[1]:
                twin[row] = rows[distance.argmin()]
    kept = np.flatnonzero(twin >= 0)
    if not len(kept):
        raise ValueError(f"none of the {len(table)} cases has another of equal length, in its split, with other right "
                         "answers; ask the task for more cases, or make pairs with token_pairs")
    return PromptPairs(cases.task, "answer", tokens[kept], tokens[twin[kept]], lengths[kept],
                       table[["group", "split"]].iloc[kept].reset_index(drop=True), cases.right_before[kept],
                       cases.right_before[twin[kept]])
