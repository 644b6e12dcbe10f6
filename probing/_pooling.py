"""From the activations of a batch to its rows: single tokens, or the mean or maximum over a span of tokens."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from tasks import LabelledPrompts

Pool = Literal["mean", "max"] | None


def check_spans(prompts: LabelledPrompts) -> Int[ndarray, " example"]:
    """First token of every example's span: its column `start`, 0 where the task has none.

    Raises:
        ValueError: A span starts before the prompt or after its last token, `pos`.
    """
    pos = prompts.examples["pos"].to_numpy(np.int64)
    if "start" not in prompts.examples:
        return np.zeros_like(pos)
    start = prompts.examples["start"].to_numpy(np.int64)
    if (wrong := (start < 0) | (start > pos)).any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(f"example {row} pools the tokens from start {start[row]} to pos {pos[row]}; 0 <= start <= pos "
                         "is wanted: correct the column start of the examples, or drop it to pool from the beginning")
    return start


def probed(places: Int[Tensor, " row"], acts: Float[Tensor, "prompt pos width"]) -> Float[Tensor, "row width"]:
    """The probed tokens, as a copy. `places` are counted through the flattened (prompt, pos)."""
    return acts.flatten(0, 1).index_select(0, places.to(acts.device))


def pooled(prompt: Int[Tensor, " row"], start: Int[Tensor, " row"], pos: Int[Tensor, " row"], pool: Pool,
           acts: Float[Tensor, "prompt pos width"]) -> Float[Tensor, "row width"]:
    """Mean or maximum over the tokens start..pos of each row, in float32 at least; padding never enters.

    Rows are done in portions, so that no more memory is needed than `acts` take.
    """
    prompt, start, pos = (x.to(acts.device) for x in (prompt, start, pos))
    longest = int((pos - start).max()) + 1 if len(pos) else 1
    portion = max(1, acts.shape[0] * acts.shape[1] // longest)
    dtype = torch.promote_types(acts.dtype, torch.float32)
    out = acts.new_empty(len(pos), acts.shape[2], dtype=dtype)
    for i in range(0, len(pos), portion):
        rows = slice(i, i + portion)
        where = start[rows, None] + torch.arange(longest, device=acts.device)
        real = where <= pos[rows, None]
        x = acts[prompt[rows, None], where.clamp_max(acts.shape[1] - 1)].to(dtype)
        if pool == "max":
            out[rows] = x.masked_fill(~real[..., None], -torch.inf).amax(1)
        else:
            out[rows] = x.masked_fill(~real[..., None], 0).sum(1) / real.sum(1, keepdim=True)
    return out
