"""Random pairs of prompts for models with random weights, and brute force for patches of them."""

from functools import partial

import numpy as np
import pandas as pd
import torch

from tasks._pairs import PromptPairs


def make_pairs(lengths: list[int], seed: int = 0, differ: int | None = None) -> PromptPairs:
    """Random clean and corrupted prompts, in groups of two; they differ everywhere, or at position `differ` alone."""
    generator, n = torch.Generator().manual_seed(seed), len(lengths)
    clean, other = torch.randint(1, 30, (2, n, max(lengths)), generator=generator)
    corrupted = other if differ is None else torch.where(torch.arange(max(lengths)) == differ, other % 29 + 1, clean)
    padding = torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]
    right = np.eye(30, dtype=bool)[[1] * n], np.eye(30, dtype=bool)[[2] * n]
    table = pd.DataFrame({"group": np.arange(n) // 2, "split": "report", "pos:first": 0,
                          "pos:middle": np.array(lengths) // 2})
    return PromptPairs("toy", "tokens", clean.masked_fill(padding, 0), corrupted.masked_fill(padding, 0),
                       torch.tensor(lengths), table, *right)


def last_logits(model, tokens, lengths, hooks=()):
    """(case, d_vocab), one full forward pass per case; `hooks` makes the plain hooks of a case from its number."""
    out = []
    for case, n in enumerate(lengths.tolist()):
        with torch.no_grad(), model.hooks(fwd_hooks=hooks(case) if hooks else []):
            out.append(model(tokens[case : case + 1, :n])[0, -1])
    return torch.stack(out)


def gap_metric(model, pairs: PromptPairs):
    """What the clean logits have more of than the corrupted ones, along their own difference: its gap is positive."""
    away = last_logits(model, pairs.clean, pairs.lengths) - last_logits(model, pairs.corrupted, pairs.lengths)

    def along(logits, numbers):
        return (logits.double() * away[numbers].double()).sum(-1)

    return along


def cached(model, tokens, n, names):
    """Hook name -> activations of one prompt of n tokens."""
    kept = {}
    hooks = [(name, partial(lambda x, hook, name: kept.__setitem__(name, x.clone()), name=name)) for name in names]
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        model(tokens[None, :n])
    return kept
