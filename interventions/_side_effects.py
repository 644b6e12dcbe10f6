"""What an edit costs on prompts that have nothing to do with it."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probing._results import MIN_DRAWS, results_frame
from probing._sites import Site
from probing._statistics import bootstrap_mean
from tasks._prompts import Counterfactuals, LabelledPrompts

from ._arms import Arms, Controls, Directions, EditAt, Measured
from ._edits import Edit, SizedEdit
from ._effect_rows import EffectRows, mean_over, row_context
from ._measures import Measures
from ._metrics import entropy, loss, top1_right
from ._runs import on_split

METRICS = {
    "loss": lambda logits, unedited, before, after: loss(logits, after.int().argmax(-1)),
    "top1_right": lambda logits, unedited, before, after: top1_right(logits, after),
    "entropy": lambda logits, unedited, before, after: entropy(logits),
}


def side_effects(
    model,
    prompts: LabelledPrompts,
    directions: Directions | None = None,
    *,
    alphas: Sequence[float | int],
    unit: str,
    intervention: str,
    probe: str,
    label: str,
    edit: EditAt | None = None,
    sites: Sequence[Site] | None = None,
    n_cases: int | None = None,
    n_prompts: int = 500,
    n_random: int = 20,
    seed: int = 0,
    identity: Mapping[str, object] | None = None,
) -> pd.DataFrame:
    """What an edit does to the prediction of tokens that are known, on prompts it was not made for: result rows.

    Every prompt is read up to its last token but one, which is edited, and scored on the last: `kl` to the model
    without the edit; `loss`, -log p of that token, in nats; `perplexity_ratio`, exp of the mean loss above that without
    the edit; `top1_right`, the share of prompts where it is the likeliest; `entropy`. Subset `unrelated`, beside `null`
    and the band of random directions of the same norm. Prompt i is given what case i, counted around, would be.

    Args:
        prompts: Each prompt that an example is of counts once.
        directions, edit, sites: As in `effect`.
        n_cases: Cases that the constants of `edit` are for, if there is an edit.
        label: What the edit is about, for the rows.
        n_prompts: At most, drawn with `seed`.
    Raises:
        ValueError: Fewer than 20 random directions; no prompt of two tokens.
    """
    from ._effect import edit_maker  # whose short call ends here

    make, sites = edit_maker(directions, edit, sites)
    if n_random < MIN_DRAWS:
        raise ValueError(f"a random band needs at least {MIN_DRAWS} draws, n_random is {n_random}; raise it")
    n = n_cases or max((len(v) for v in (directions or {}).values()), default=1)
    cases = next_token_cases(prompts, model.cfg.d_vocab, label, n_prompts, seed)
    run = on_split(model, cases, "report")
    arms = Arms(run, cases, Measures(run, cases, None, METRICS), lambda s, a: _around(make(s, a), n), sites)
    found = arms.measure(alphas, Controls(n_random), seed=seed)
    common = row_context(run, cases, sites, split="report", seed=seed, unit=unit, probe=probe, subset="unrelated",
                         intervention=intervention, positions="last", identity=identity)
    rows = EffectRows(common, cases.cases["group"].to_numpy(), seed)
    null = found.unedited["null"]
    for which, metric in enumerate(found.names):
        rows.mean(null[:, which], metric=metric, control="null", alpha=None, unit=None)
    rows.exactly(1, metric="perplexity_ratio", control="null", alpha=None, unit=None)
    for i, alpha in enumerate(alphas):
        _dose_rows(rows, found, i, alpha)
    return results_frame(rows.rows)


def next_token_cases(prompts: LabelledPrompts, d_vocab: int, label: str, n: int, seed: int) -> Counterfactuals:
    """Prompts without their last token, which is the right answer."""
    table = prompts.examples.drop_duplicates("prompt")
    table = table[prompts.lengths.numpy()[table["prompt"].to_numpy()] > 1]
    if table.empty:
        raise ValueError("no prompt has two tokens, so that one could be edited and the next one scored; give longer "
                         "prompts")
    table = table.iloc[np.sort(np.random.default_rng(seed).permutation(len(table))[:n])]
    prompt = torch.as_tensor(table["prompt"].to_numpy(copy=True))
    tokens, lengths = prompts.tokens[prompt], prompts.lengths[prompt] - 1
    right = np.zeros((len(prompt), d_vocab), bool)
    right[np.arange(len(prompt)), tokens[torch.arange(len(prompt)), lengths].numpy()] = True
    cases = pd.DataFrame({"prompt": np.arange(len(prompt)), "target": "next token", "was": 0, "becomes": 0,
                          "group": table["group"].to_numpy(), "split": "report"})
    return Counterfactuals(prompts.task, "next token", label, tokens, lengths, cases, right, right)


def _around(edit: Edit, n: int) -> Edit:
    def again(x: Tensor, rows: Tensor) -> Tensor:
        return edit(x, rows % n)

    return SizedEdit(again, 1, getattr(edit, "width", None))


def _dose_rows(rows: EffectRows, found: Measured, i: int, alpha: float | int) -> None:
    at, null = found.names.index("loss"), found.unedited["null"]
    for which, metric in enumerate(found.names):
        rows.mean(found.edited[i][:, which], metric=metric, alpha=alpha, **found.sizes[i])
        rows.band(mean_over(found.bands[i]["random_direction"][..., which]), metric=metric, alpha=alpha,
                  control="random_direction", **found.sizes[i])
    dearer = found.edited[i][:, at] - null[:, at]
    ratio = np.exp(np.array(bootstrap_mean(dearer, rows.groups, seed=rows.seed)))
    rows.add(tuple(ratio), len(dearer), n_groups=len(np.unique(rows.groups)), metric="perplexity_ratio", alpha=alpha,
             **found.sizes[i])
    draws = found.bands[i]["random_direction"][..., at] - null[:, at]
    rows.band(np.exp(mean_over(draws)), metric="perplexity_ratio", alpha=alpha, control="random_direction",
              **found.sizes[i])
