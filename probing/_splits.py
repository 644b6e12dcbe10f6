"""Which rows are fitted, chosen on and scored: nothing that a probe is scored on was seen before, not even the state.

A split deals out whole groups, but two groups may hold one prompt, or pass through one state: games share their
openings. Under causal attention equal prefixes give equal activations. A held-out row whose prompt or prefix was read
in an earlier split is a repetition; it is neither chosen on nor scored.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xxhash
from jaxtyping import Bool, UInt64
from numpy import ndarray

from tasks import LabelledPrompts

Splits = Mapping[str, Bool[ndarray, " example"]]


def disjoint_splits(prompts: LabelledPrompts, causal: bool | None = None) -> dict[str, ndarray]:
    """Masks of train, validation and test, no group, prompt or state in two of them: split -> (example,).

    Args:
        causal: Whether a token sees the tokens before it alone, so that its prefix is its state; else the state is
            the whole prompt and the place in it. None: tokens say nothing about states, all rows are kept.
    Raises:
        ValueError: A group or a prompt straddles splits, or a split has no row left.
    """
    split = prompts.examples["split"].to_numpy()
    for column in ("group", "prompt"):
        shared = prompts.examples.groupby(column, sort=False)["split"].nunique()
        if (bad := shared.index[shared > 1]).size:
            raise ValueError(f"a {column} never straddles splits, but {len(bad)} of {len(shared)} do (first: "
                             f"{bad[0]!r}); split by group, see tasks.split_by_group")
    masks = {name: split == name for name in ("train", "validation", "test")}
    if causal is not None:
        for key in (_prompts(prompts), *((_prefixes(prompts),) if causal else ())):
            seen: ndarray = key[split == "train"]
            for name in ("validation", "test"):
                here = split == name
                masks[name] &= ~np.isin(key, seen)
                seen = np.concatenate([seen, key[here]])
    for name, mask in masks.items():
        if not mask.any():
            n = int((split == name).sum())
            said = f"all its {n} rows repeat states of earlier splits" if n else "it has no rows"
            raise ValueError(f"the split {name!r} of {prompts.task!r} is empty: {said}; give more groups (there are "
                             f"{prompts.examples['group'].nunique()}), see tasks.split_by_group")
    return masks


def splits_of(acts: Any, prompts: LabelledPrompts) -> dict[str, ndarray]:
    """`disjoint_splits` for the model that `acts` were read from."""
    model = getattr(acts, "identity", {}).get("model", {})
    return disjoint_splits(prompts, model.get("causal"))


def _prompts(prompts: LabelledPrompts) -> UInt64[ndarray, " example"]:
    """A digest of the whole prompt of every example."""
    texts = zip(prompts.tokens.numpy(), prompts.lengths.numpy(), strict=True)
    digests = [xxhash.xxh3_64_intdigest(tokens[:length].tobytes()) for tokens, length in texts]
    return np.array(digests, np.uint64)[prompts.examples["prompt"].to_numpy()]


def _prefixes(prompts: LabelledPrompts) -> UInt64[ndarray, " example"]:
    """A digest of the tokens of every example up to and including its own."""
    tokens = prompts.tokens.numpy()
    seen = (tokens[prompt, : pos + 1].tobytes()
            for prompt, pos in zip(prompts.examples["prompt"], prompts.examples["pos"], strict=True))
    return np.fromiter(map(xxhash.xxh3_64_intdigest, seen), np.uint64, len(prompts))
