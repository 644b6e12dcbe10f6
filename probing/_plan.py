"""Which prompts run together, and which rows come out of each forward pass: fixed before any work starts."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int, Shaped
from numpy import ndarray
from torch import Tensor

from tasks import LabelledPrompts

from ._pooling import Pool, check_spans, pooled, probed

BATCH_TOKENS = {"cpu": 2048}  # several run side by side; more at a time gains 1 %
ON_ACCELERATOR = 8192
SHARD_BYTES = 64 << 20
SHARD_BATCHES = 16  # where few tokens are kept of many that run, work is what a kill would cost

Take = Callable[[Tensor], Tensor]  # (prompt, pos, width) -> (row, width)


@dataclass(frozen=True)
class Batch:
    """One forward pass.

    Attributes:
        prompts: Prompts that run together, longest first.
        width: Positions that run: up to the last probed token under causal attention, else the longest prompt.
        rows: The examples that are read from it; `prompt` (counted inside the batch) and `pos` say where.
        start, pool: Rows are the `mean` or `max` over the tokens from `start` to `pos`, both included; None where
            they are single tokens.
    """

    prompts: Int[Tensor, " prompt"]
    width: int
    rows: Int[Tensor, " example"]
    prompt: Int[Tensor, " example"]
    pos: Int[Tensor, " example"]
    start: Int[Tensor, " example"] | None = None
    pool: Pool = None

    @functools.cached_property
    def span(self) -> slice | None:
        """The rows as a slice, where they are one; else None."""
        first, n = int(self.rows[0]) if len(self.rows) else 0, len(self.rows)
        return slice(first, first + n) if torch.equal(self.rows, torch.arange(first, first + n)) else None

    def inputs(self, prompts: LabelledPrompts, causal: bool, device: str | torch.device) -> dict[str, Tensor]:
        """Arguments of the model. Encoders get a padding mask; causal models need none, padding is on the right."""
        inputs = {"input_ids": prompts.tokens[self.prompts, : self.width]}
        if not causal:
            real = torch.arange(self.width) < prompts.lengths[self.prompts, None]
            inputs["attention_mask"] = real.long()
        return {name: x.to(device) for name, x in inputs.items()}

    def take(self, device: str | torch.device) -> Take:
        """What picks this batch's rows out of (prompt, pos, width) activations, as a copy; they are on `device`."""
        if self.pool is None or self.start is None:
            return functools.partial(probed, (self.prompt * self.width + self.pos).to(device))
        return functools.partial(pooled, self.prompt.to(device), self.start.to(device), self.pos.to(device), self.pool)

    def halved(self, times: int) -> "Iterator[Batch]":
        """The same rows in the same order from 2^times forward passes, or from one per prompt if that is fewer."""
        size = -(-len(self.prompts) // 2**times)
        for first in range(0, len(self.prompts), size):
            low, high = torch.searchsorted(self.prompt, torch.tensor([first, first + size])).tolist()
            yield Batch(self.prompts[first : first + size], self.width, self.rows[low:high],
                        self.prompt[low:high] - first, self.pos[low:high],
                        None if self.start is None else self.start[low:high], self.pool)


def plan_batches(prompts: LabelledPrompts, causal: bool, batch_size: int | None = None, pool: Pool = None,
                 device: str = "cpu") -> list[Batch]:
    """Prompts that have examples, sorted by the length that must run, cut into batches.

    Longest first, so that a batch too large for the memory fails at once; batches of `batch_size` prompts or, if
    None, of at most 2048 tokens on the CPU and 8192 on an accelerator.
    """
    if not len(prompts):
        raise ValueError(f"prompts of task {prompts.task!r} has no examples: there is nothing to read")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    prompt, pos = (prompts.examples[column].to_numpy(np.int64) for column in ("prompt", "pos"))
    needed = np.zeros(len(prompts.tokens), np.int64)
    np.maximum.at(needed, prompt, pos + 1 if causal else prompts.lengths.numpy()[prompt])
    order = np.argsort(-needed, kind="stable")[: np.count_nonzero(needed)]
    tokens = BATCH_TOKENS.get(device, ON_ACCELERATOR)
    cuts, start = [], 0
    while start < len(order):
        size = batch_size or max(1, tokens // int(needed[order[start]]))
        cuts.append(slice(start, start + size))
        start += size
    return _batches(prompts, order, [(cut, int(needed[order[cut.start]])) for cut in cuts], pool)


def sample_batch(batches: Sequence[Batch], prompts: LabelledPrompts, n: int = 3) -> Batch:
    """A few prompts from the longest to the shortest, padded to the longest: enough to compare two ways of reading."""
    order = torch.cat([batch.prompts for batch in batches]).numpy()
    chosen = order[np.unique(np.linspace(0, len(order) - 1, n).round().astype(int))]
    return _batches(prompts, chosen, [(slice(0, len(chosen)), batches[0].width)], batches[0].pool)[0]


def _batches(prompts: LabelledPrompts, order: Shaped[ndarray, " prompt"], cuts: Sequence[tuple[slice, int]],
             pool: Pool) -> list[Batch]:
    """`order` cut into batches of given widths, each with all its examples, prompt by prompt."""
    place = np.full(len(prompts.tokens), -1)
    place[order] = np.arange(len(order))
    within = place[prompts.examples["prompt"].to_numpy()]
    rows = np.argsort(within, kind="stable")[np.count_nonzero(within < 0) :]
    within, pos = within[rows], prompts.examples["pos"].to_numpy(np.int64)[rows]
    start = None if pool is None else check_spans(prompts)[rows]
    batches = []
    for cut, width in cuts:
        chosen = order[cut]
        ours = slice(*np.searchsorted(within, [cut.start, cut.start + len(chosen)]))
        batches.append(Batch(torch.from_numpy(chosen.copy()), width, torch.from_numpy(rows[ours]),
                             torch.from_numpy(within[ours] - cut.start), torch.from_numpy(pos[ours]),
                             None if start is None else torch.from_numpy(start[ours]), pool))
    return batches


def plan_shards(batches: Sequence[Batch], row_bytes: int) -> list[list[Batch]]:
    """Consecutive batches up to 16, and 64 MiB of activations: what is written at once, and what a kill can lose."""
    shards: list[list[Batch]] = [[]]
    size = 0
    for batch in batches:
        if shards[-1] and (len(shards[-1]) == SHARD_BATCHES or size + len(batch.rows) * row_bytes > SHARD_BYTES):
            shards.append([])
            size = 0
        shards[-1].append(batch)
        size += len(batch.rows) * row_bytes
    return shards
