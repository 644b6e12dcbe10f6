"""Transplants: the state of one prompt put into another, at its own layer and position or elsewhere.

    arm = transplant(source, Site("resid_post", 8))              # an arm for the `Sequences` of other prompts
    logits = target.logits(arm)
    table = future_lens(model, cases, prompt)                    # what a state says of the tokens after the next
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from probing._models import check_site, identify
from probing._results import results_frame
from probing._sites import Site
from probing._statistics import bootstrap_mean
from tasks._prompts import Counterfactuals

from ._controls import random_like
from ._edits import patch_from
from ._effect_rows import cases_digest
from ._last_token import LastToken
from ._patching import block_sites
from ._places import At, Positions, check_editable, width_of
from ._sequences import Sequences


def transplant(source: Sequences, read: Site, write: Site | None = None, *,
               read_at: Positions = -1, write_at: Positions = -1) -> dict[Site, At]:
    """An arm that puts the state of every source prompt at `read` into a target prompt at `write`.

    Args:
        source: The prompts to take states from: one per case of the targets, or a single one for all.
        write: `read`, unless given: another layer, or another stream of its width.
        read_at: The position of each source prompt. `write_at`: where the state goes; see `At`.
    Raises:
        ValueError: Sites of different widths, or that are not there; a position outside its prompt.
    Source: Pal et al., arXiv:2311.04897; between layers, Ghandeharioun et al., arXiv:2401.06102.
    """
    write, model = write or read, source.model
    check_site(model, read)
    states = state_at(source, read, read_at)
    edit = patch_from(states)
    if (width := width_of(model, write)) not in (None, states.shape[-1]):
        raise ValueError(f"{read} is {states.shape[-1]} wide, {write} is {width}; a state goes where its width fits")
    check_editable(model, write, edit)
    return {write: At(edit, write_at)}


def state_at(run: Sequences, site: Site, at: Positions = -1) -> Float[Tensor, "case width"]:
    """Activations at one position of every prompt."""
    _, pos = At(patch_from(torch.zeros(1)), at).places(run.rows, run.lengths)
    if len(pos) != len(run):
        raise ValueError(f"{len(pos)} positions for {len(run)} prompts; give one position for all, or one for each")
    out: Tensor | None = None
    for places, kept in run.stream([site]):
        x = kept[site]
        out = x.new_empty(len(run), x.shape[-1]) if out is None else out
        out[places.to(x.device)] = x[torch.arange(len(places)), pos[places]]
    assert out is not None, "a run has at least one case"
    return out


def future_lens(
    model,
    cases: Counterfactuals,
    prompt: Int[Tensor, " pos"],
    sites: Sequence[Site] | None = None,
    *,
    write: Site | None = None,
    n_tokens: int = 3,
    n_random: int = 20,
    split: str = "report",
    seed: int = 0,
    identity: Mapping[str, object] | None = None,
) -> pd.DataFrame:
    """How often the model, given the last state of a case inside another prompt, continues as it does after the case:
    result rows of intervention `transplant`, metric `agreement`.

    The state at each site goes to the last token of `prompt`, and the greedy continuation is compared token by token
    with that of the case: `subset` is `ahead=1` for the next token, `ahead=2` for the one after it, ... `null` is the
    prompt as it is; `random_direction`, the same change turned by random rotations, norms kept.

    Args:
        cases: Whose prompts the states come from, at their last token.
        prompt: Token ids of the prompt that is to say what is in the state.
        sites: By default resid_post of every layer; `write` puts the states of all of them at one site.
    Source: Pal et al., arXiv:2311.04897; their learned prompt is given here, not trained.
    """
    if 0 < n_random < 20 or n_random < 0:
        raise ValueError(f"a random band needs at least 20 draws, n_random is {n_random}; raise it, or scan with 0")
    inside = np.flatnonzero(cases.cases["split"] == split)
    if not len(inside):
        raise ValueError(f"no case of split {split!r}; there are {sorted(set(cases.cases['split']))}")
    sites = block_sites(model, ["resid_post"]) if sites is None else list(sites)
    source = LastToken.of(model, cases, only=inside)
    n, groups = len(inside), cases.cases["group"].to_numpy(dtype=str)[inside]
    target = LastToken(model, prompt.expand(n, -1), torch.full((n,), len(prompt)))
    truth = source.generate({}, n_tokens)
    _, states = source.logits(read=sites)
    _, before = target.logits(read=list(dict.fromkeys(write or site for site in sites)))
    known = identify(model)
    common = {"task": cases.task, "model": known.name, "revision": known.revision, "model_hash": known.digest,
              "data_hash": cases_digest(cases), "label": "next tokens", "split": split, "seed": seed,
              "intervention": "transplant", "metric": "agreement", **(identity or {})}
    rows = _rows(target.generate({}, n_tokens)[None], truth, groups, seed, control="null")
    for site in sites:
        into = write or site
        check_editable(model, into, edit := patch_from(states[site]))
        change = states[site] - before[into]
        drawn = random_like({into: change}, n_random, seed) if n_random else []
        said = target.generate_many([{into: edit}, *drawn], n_tokens)
        place = {"stream": into.stream, "layer": into.layer, "layer_end": into.layer, "head": into.head,
                 "positions": "last", "probe": None if into == site else f"state of {site}"}
        size = change.double().norm(dim=-1)
        rows += _rows(said[:1], truth, groups, seed, **place, applied_norm=float(size.mean()),
                      norm_share=float((size / before[into].double().norm(dim=-1)).mean()))
        rows += _rows(said[1:], truth, groups, seed, control="random_direction", **place) if n_random else []
    return results_frame(common | row for row in rows)


def _rows(said: Int[Tensor, "arm case step"], truth: Int[Tensor, "case step"], groups: ndarray, seed: int,
          **columns) -> list[dict]:
    """Per step, the share of cases where an arm says what is true, with its interval; of several arms their band."""
    rows = []
    for step, agrees in enumerate((said == truth).double().permute(2, 0, 1).numpy(), 1):
        value, low, high = bootstrap_mean(agrees[0], groups, seed=seed)
        n, more = len(groups), {"n_groups": len(np.unique(groups))}
        if columns.get("control") == "random_direction":
            draws = agrees.mean(1)
            value, (low, high), n, more = draws.mean(), np.percentile(draws, [5, 95]), len(draws), {}
        rows.append({"subset": f"ahead={step}", "value": value, "ci_low": min(low, value), "ci_high": max(high, value),
                     "n": n, **more, **columns})
    return rows
