"""Knocking out heads and neurons, and holding neurons at a value.

    run = Sequences(model, tokens, lengths)
    head = Site("z", 3, head=5)
    run.logits(knock_out([head], mean=position_means(run, [head])))
    run.logits(knock_out([Site("mlp_post", 2)], units=[17, 301]))     # two neurons, to zero
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probing._sites import Site

from ._edits import Edit, SizedEdit, _PerCase
from ._places import At, Positions
from ._sequences import Sequences


def clamp(values: Float[Tensor, "..."] | float | int, units: Sequence[int] | None = None) -> Edit:
    """x with the coordinates `units` (all of them, unless given) set to `values`, one number, (unit,) or (case, unit);
    the others stay."""
    values = torch.as_tensor(values, dtype=torch.get_default_dtype()) if isinstance(values, float | int) else values
    held = _PerCase("values", values[None, None] if values.ndim == 0 else values, 2)
    n_held = held.values.shape[1]
    if units is not None and (not len(units) or len(set(units)) < len(units) or min(units) < 0):
        raise ValueError(f"units must name coordinates from 0, each once, got {list(units)[:8]}")
    if units is not None and n_held not in (1, len(units)):
        raise ValueError(f"values has {n_held} columns for {len(units)} units; give one for each, or one for all")
    chosen = None if units is None else torch.as_tensor(list(units))

    def change(x: Tensor, rows: Tensor) -> Tensor:
        wanted = held.at(x, rows)
        if chosen is None:
            return wanted.expand_as(x)
        if int(chosen.max()) >= x.shape[1]:
            raise ValueError(f"unit {int(chosen.max())} is not among the {x.shape[1]} of this site, counted from 0")
        return x.index_copy(1, chosen.to(x.device), wanted.expand(len(x), len(chosen)))

    return SizedEdit(change, len(held.values), n_held if units is None and n_held > 1 else None)


def knock_out(
    sites: Sequence[Site],
    *,
    mean: Mapping[Site, Float[Tensor, "pos width"]] | None = None,
    resample: Mapping[Site, Float[Tensor, "case pos width"]] | None = None,
    units: Sequence[int] | None = None,
    positions: Positions = None,
) -> dict[Site, At]:
    """An arm of `Sequences` that takes away what heads (`Site("z", 3, head=5)`), neurons (`units` of
    `Site("mlp_post", 2)`) or whole writes compute, at every token unless `positions` are given.

    Zero is off the distribution: it takes away the constant part as well, which the layers above rely on. Prefer the
    mean over a reference set at the same position, or what the site computes on other prompts.

    Args:
        mean: `position_means` of a reference set; its prompts are at least as long as those that are edited.
        resample: Activations to put in instead, `run.read(sites)` in another order: `acts[donors(run.lengths)]`.
    Raises:
        ValueError: Both a mean and activations are given, or none for one of the sites.
    Source: mean-ablation of heads as in Wang et al., arXiv:2211.00593.
    """
    if mean is not None and resample is not None:
        raise ValueError("give mean (mean ablation) or resample (activations of other prompts), not both")
    source = mean if mean is not None else resample
    if source is not None and (absent := [str(site) for site in sites if site not in source]):
        raise ValueError(f"nothing to put in at {', '.join(absent)}; there is {', '.join(map(str, source)) or 'none'}")

    def at(site: Site) -> At:
        if source is None:
            return At(clamp(0.0, units), positions)
        values = source[site].flatten(0, -2)
        values = values if units is None else values[:, list(units)]
        return At(clamp(values, units), positions, by="position" if mean is not None else "token")

    return {site: at(site) for site in sites}


def position_means(run: Sequences, sites: Sequence[Site]) -> dict[Site, Float[Tensor, "pos width"]]:
    """Mean activations at every position, over the prompts of `run` that have it. One pass, nothing is kept."""
    sums: dict[Site, Tensor] = {}
    for _, kept in run.stream(sites):
        for site, acts in kept.items():
            total = sums.setdefault(site, acts.new_zeros(run.tokens.shape[1], acts.shape[-1], dtype=torch.float64))
            total[: acts.shape[1]] += acts.double().sum(0)
    longest = int(run.lengths.max())
    count = (torch.arange(longest) < run.lengths[:, None]).sum(0)[:, None]
    return {site: (total[:longest] / count.to(total.device)).float() for site, total in sums.items()}


def percentiles(run: Sequences, site: Site, units: Sequence[int], q: float | int = 99) -> Float[Tensor, " unit"]:
    """The q-th percentile of some units over every token of the prompts of `run`: `clamp` them there to ask what the
    model does when a neuron fires as strongly as it naturally does."""
    rows = torch.cat([acts[..., list(units)].flatten(0, 1).cpu() for _, kept in run.stream([site])
                      for acts in kept.values()])
    return torch.from_numpy(np.percentile(rows.float().numpy(), q, axis=0)).to(rows.dtype)


def donors(lengths: Int[Tensor, " case"], seed: int = 0) -> Int[Tensor, " case"]:
    """For every case another one, drawn among those that are at least as long, so that every token has a donor.

    Raises:
        ValueError: The longest case is alone in its length.
    """
    rng, n = np.random.default_rng(seed), lengths.numpy()
    if (n == n.max()).sum() < 2:
        raise ValueError(f"case {int(n.argmax())} alone has {n.max()} tokens, so no other prompt can stand in for it; "
                         "leave it out, or cut it")
    draw = [rng.choice(np.flatnonzero((n >= n[i]) & (np.arange(len(n)) != i))) for i in range(len(n))]
    return torch.as_tensor(np.array(draw))
