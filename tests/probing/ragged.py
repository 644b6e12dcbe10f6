"""Prompts of many lengths, and their activations the slow and certain way."""

import numpy as np
import pandas as pd
import torch

from tasks import LabelledPrompts

LENGTHS = (11, 3, 20, 7, 20, 1, 14, 5)


def prompts_of(lengths=LENGTHS, d_vocab=40, seed=0, share=0.6):
    """Ragged random prompts; a share of their tokens is probed, in no order, and padding is token 0."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, d_vocab, (len(lengths), max(lengths)))
    tokens[np.arange(max(lengths)) >= np.array(lengths)[:, None]] = 0
    where = np.array([(i, p) for i, n in enumerate(lengths) for p in range(n)])
    where = rng.permutation(where)[: round(share * len(where))]
    examples = pd.DataFrame(where, columns=["prompt", "pos"]).assign(split="train")
    examples["group"] = examples["prompt"].astype(str)
    return LabelledPrompts(task="ragged", tokens=torch.from_numpy(tokens), lengths=torch.tensor(lengths),
                           examples=examples)


@torch.no_grad()
def one_by_one(model, prompts, sites, pool=None):
    """Each prompt alone, unpadded, through transformer-lens' own cache; pooled in float64 over start..pos."""
    rows = {site: [None] * len(prompts) for site in sites}
    for i, n in enumerate(prompts.lengths.tolist()):
        ours = prompts.examples.reset_index(drop=True).query(f"prompt == {i}")
        _, cache = model.run_with_cache(prompts.tokens[i : i + 1, :n])
        for site in sites:
            acts = cache[site.hook][0]
            acts = acts.flatten(1) if site.head is None else acts[:, site.head]
            for row, pos, start in zip(ours.index, ours["pos"], ours.get("start", ours["pos"] * 0), strict=True):
                span = acts[start : pos + 1].double()
                rows[site][row] = {None: span[-1], "mean": span.mean(0), "max": span.amax(0)}[pool].float()
    return {site: torch.stack(x) for site, x in rows.items()}


def assert_same_rows(came, want, tolerance=1e-5):
    for site in want:
        error = (came[site] - want[site]).norm(dim=1) / want[site].norm(dim=1)
        assert float(error.max()) < tolerance, site
