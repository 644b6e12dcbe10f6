"""Which prompts run together, and which rows come out of each forward pass: fixed before any work starts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int, Shaped
from numpy import ndarray
from torch import Tensor

from tasks import LabelledPrompts

BATCH_TOKENS = 4096
SHARD_BYTES = 64 << 20
SHARD_BATCHES = 16  # where few tokens are kept of many that run, work is what a kill would cost


@dataclass(frozen=True)
class Batch:
    """One forward pass.

    Attributes:
        prompts: Prompts that run together, longest first.
        width: Positions that run: up to the last probed token under causal attention, else the longest prompt.
        rows: The examples that are read from it; `prompt` (counted inside the batch) and `pos` say where.
    """

    prompts: Int[Tensor, " prompt"]
    width: int
    rows: Int[Tensor, " example"]
    prompt: Int[Tensor, " example"]
    pos: Int[Tensor, " example"]

    def inputs(self, prompts: LabelledPrompts, causal: bool, device: str | torch.device) -> dict[str, Tensor]:
        """Arguments of the model. Encoders get a padding mask; causal models need none, padding is on the right."""
        inputs = {"input_ids": prompts.tokens[self.prompts, : self.width]}
        if not causal:
            real = torch.arange(self.width) < prompts.lengths[self.prompts, None]
            inputs["attention_mask"] = real.long()
        return {name: x.to(device) for name, x in inputs.items()}


def plan_batches(prompts: LabelledPrompts, causal: bool, batch_size: int | None = None) -> list[Batch]:
    """Prompts that have examples, sorted by the length that must run, cut into batches.

    Longest first, so that a batch too large for the memory fails at once; batches of `batch_size` prompts or, if
    None, of at most 4096 tokens.
    """
    if not len(prompts):
        raise ValueError(f"prompts of task {prompts.task!r} has no examples: there is nothing to read")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    prompt, pos = (prompts.examples[column].to_numpy(np.int64) for column in ("prompt", "pos"))
    needed = np.zeros(len(prompts.tokens), np.int64)
    np.maximum.at(needed, prompt, pos + 1 if causal else prompts.lengths.numpy()[prompt])
    order = np.argsort(-needed, kind="stable")[: np.count_nonzero(needed)]
    batches, start = [], 0
    while start < len(order):
        size = batch_size or max(1, BATCH_TOKENS // int(needed[order[start]]))
        batches.append(batch_of(prompts, order[start : start + size], int(needed[order[start]])))
        start += size
    return batches


def batch_of(prompts: LabelledPrompts, chosen: Shaped[ndarray, " prompt"], width: int) -> Batch:
    """These prompts in one forward pass, with all their examples, prompt by prompt."""
    place = np.full(len(prompts.tokens), -1)
    place[chosen] = np.arange(len(chosen))
    within = place[prompts.examples["prompt"].to_numpy()]
    rows = np.flatnonzero(within >= 0)
    rows = rows[np.argsort(within[rows], kind="stable")]
    pos = prompts.examples["pos"].to_numpy(np.int64)[rows]
    return Batch(torch.from_numpy(chosen.copy()), width, *map(torch.from_numpy, (rows, within[rows], pos)))


def sample_batch(batches: Sequence[Batch], prompts: LabelledPrompts, n: int = 4) -> Batch:
    """A few prompts from the longest to the shortest, padded to the longest: enough to compare two ways of reading."""
    order = torch.cat([batch.prompts for batch in batches]).numpy()
    chosen = order[np.unique(np.linspace(0, len(order) - 1, n).round().astype(int))]
    return batch_of(prompts, chosen, batches[0].width)


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
