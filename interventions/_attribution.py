"""Attribution patching: an estimate of every patch at once, from two forward passes and one backward pass.

    table = attribution_patching(model, pairs)               # resid_pre, attn_out, mlp_out x positions
    true = confirm(model, pairs, table, top=20)              # the largest estimates, patched for real
    rank_correlation(table, true)
"""

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from jaxtyping import Float
from scipy.stats import spearmanr
from torch import Tensor

from probing._sites import Site
from tasks._pairs import PromptPairs

from ._controls import random_like
from ._patch_rows import PatchTable
from ._patch_run import Cell, Metric, Patched, PatchRun, Where, head_of, size_of, whole
from ._patching import block_sites
from ._places import Positions, check_editable, inside

CELL = ["stream", "layer", "layer_end", "head", "positions"]
_ANY = Site("resid_pre", 0)  # random changes are asked for by site; these are of one site at a time
BATCH_TOKENS = 2**11  # a graph of the whole model is kept for the backward pass


def attribution_patching(
    model,
    pairs: PromptPairs,
    sites: Sequence[Site] | None = None,
    positions: Where = None,
    *,
    metric: Metric | None = None,
    n_random: int = 20,
    correction: str = "benjamini_hochberg",
    split: str = "report",
    seed: int = 0,
    identity: Mapping[str, object] | None = None,
) -> pd.DataFrame:
    """Estimates of what `activation_patching` would find when denoising, as result rows of intervention `attribute`:

        m(patched) - m(corrupted)  ~  (a_clean - a_corrupted) . dm/da at the corrupted run,

    at every cell from one backward pass. The first order of a function that is not linear: large changes, such as those
    of the stream, come out wrong, also in sign. Use it to rank cells, and `confirm` the first of them. Exact where the
    metric is linear in the activation. The random band, too, is one of estimates.

    Args:
        metric: As in `activation_patching`, in torch functions that have a gradient.
        others: As in `activation_patching`.
    Raises:
        ValueError: As `activation_patching`; a metric without a gradient.
    Source: N. Nanda, "Attribution Patching" (2023); Kramar et al., arXiv:2403.00745.
    """
    if 0 < n_random < 20 or n_random < 0:
        raise ValueError(f"a random band needs at least 20 draws, n_random is {n_random}; raise it, or scan with 0")
    run = model if isinstance(model, PatchRun) else PatchRun(model, pairs, metric, split, batch_tokens=BATCH_TOKENS)
    sites = block_sites(run.model) if sites is None else list(sites)
    if not sites:
        raise ValueError("no site to attribute to; pass sites=[Site('resid_pre', 3), ...]")
    for site in sites:
        check_editable(run.model, site, lambda x, rows: x)
    where, table = run.where(positions), PatchTable(run, seed, identity)
    for some in run.in_memory([((site,), name) for site in sites for name in where], n_random):
        for patched in _estimates(run, some, where, n_random, seed):
            table.cell("attribute", patched)
    return table.frame(correction)


def confirm(
    model,
    pairs: PromptPairs,
    table: pd.DataFrame,
    positions: Where = None,
    *,
    top: int = 20,
    metric: Metric | None = None,
    directions: Sequence[str] = ("denoise", "noise"),
    n_random: int = 20,
    correction: str = "benjamini_hochberg",
    split: str = "report",
    seed: int = 0,
    identity: Mapping[str, object] | None = None,
) -> pd.DataFrame:
    """The `top` cells of largest estimate, of either sign, patched for real: rows of `activation_patching`.

    Args:
        table: From `attribution_patching`.
        positions: As they were given there, if they were named by a mapping or as columns.
    """
    estimates = table[(table["intervention"] == "attribute") & table["control"].isna()]
    if estimates.empty:
        raise ValueError(f"no estimates in a table of {len(table)} rows; make them with attribution_patching(...)")
    first = estimates.loc[estimates["value"].abs().sort_values(ascending=False, kind="stable").index[:top]]
    run = model if isinstance(model, PatchRun) else PatchRun(model, pairs, metric, split)
    names = list(first["positions"])
    where = run.where([int(n) if n.lstrip("-").isdecimal() else n for n in names] if positions is None else positions)
    cells = [((Site(row.stream, int(row.layer), None if pd.isna(row.head) else int(row.head)),), row.positions)
             for row in first.itertuples()]
    rows = PatchTable(run, seed, identity)
    for direction, patched in run.patch(cells, where, directions, n_random=n_random, seed=seed).items():
        for each in patched:
            rows.cell(direction, each)
    return rows.frame(correction)


def rank_correlation(estimated: pd.DataFrame, true: pd.DataFrame, direction: str = "denoise") -> float:
    """Spearman's correlation of estimates and true effects over the cells that both tables have.

    Raises:
        ValueError: They share fewer than 3 cells.
    """
    sides = [table[(table["intervention"] == verb) & table["control"].isna() & (table["metric"] == "nie")]
             for table, verb in ((estimated, "attribute"), (true, direction))]
    both = sides[0].merge(sides[1], on=CELL)
    if len(both) < 3:
        raise ValueError(f"the tables share {len(both)} cells, a rank correlation needs at least 3; give estimates, "
                         f"and {direction!r} patches of the same cells")
    return float(spearmanr(both["value_x"], both["value_y"]).statistic)


def _estimates(run: PatchRun, cells: Sequence[Cell], where: Mapping[str, Positions], n_random: int,
               seed: int) -> list[Patched]:
    sites = list(dict.fromkeys(site for (site,), _ in cells))
    clean, (base, slopes) = run.read("clean", sites), gradients(run, "corrupted", sites)
    at = {name: run.touched(where[name]).to(clean[sites[0]].device) for _, name in cells}
    changes, dots = dict[Site, Tensor](), dict[Site, Tensor]()
    for site in sites:
        any_of = sum(at[name] for (s,), name in cells if s == site)
        changes[site] = (clean[site] - base[site]) * any_of.clamp_max(1)
        dots[site] = _dots(changes[site], slopes[site], n_random, seed)
    return [Patched((site,), name, (dots[site] * at[name][..., 0]).sum(-1).numpy(force=True),
                    *size_of(base[site], changes[site], at[name])) for (site,), name in cells]


def _dots(change: Float[Tensor, "case pos width"], slope: Float[Tensor, "case pos width"], n_random: int,
          seed: int) -> Float[Tensor, "arm case pos"]:
    """Of every token, the gradient times the change, and times the change turned by random rotations."""
    flat, along = change.flatten(0, 1), slope.flatten(0, 1)
    rows = flat.any(-1).nonzero()[:, 0]
    drawn = random_like({_ANY: flat}, n_random, seed) if n_random else []
    out = flat.new_zeros(1 + n_random, len(flat), dtype=torch.float64)
    for dot, moved in zip(out, (flat[rows], *(arm[_ANY](0 * flat[rows], rows) for arm in drawn)), strict=True):
        dot[rows] = (moved * along[rows]).sum(-1).double()
    return out.unflatten(1, change.shape[:2])


def gradients(run: PatchRun, name: str, sites: Sequence[Site]
              ) -> tuple[dict[Site, Float[Tensor, "case pos width"]], dict[Site, Float[Tensor, "case pos width"]]]:
    """Activations of one of the runs, and the gradient of every case's metric with respect to them."""
    model, side = run.model, run.runs[name]
    hooked = list(dict.fromkeys(whole(site) for site in sites))
    acts, slopes = dict[Site, Tensor](), dict[Site, Tensor]()
    for batch in side._batches:
        leaves, seen = dict[Site, Tensor](), dict[Site, Tensor]()

        def add_leaf(x: Tensor, hook, site: Site, leaves=leaves, seen=seen) -> Tensor:
            # what a hook is given may be a view that the model does not go on with; what it returns is
            leaves[site], seen[site] = torch.zeros_like(x, requires_grad=True), x.detach()
            return x + leaves[site]

        hooks = [(site.hook, lambda x, hook, site=site, add=add_leaf: add(x, hook, site)) for site in hooked]
        with torch.enable_grad(), model.hooks(fwd_hooks=hooks):
            total = run.measure(side._logits(batch)[0], batch.places).sum()
        if not total.requires_grad:
            raise ValueError(f"the metric {run.metric} has no gradient; write it in torch functions of the logits")
        found = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)
        for site, grad in zip(leaves, found, strict=True):
            for into, x in ((acts, seen[site]), (slopes, grad)):
                x = inside(x, site)
                if site not in into:
                    into[site] = x.new_zeros(len(run), side.tokens.shape[1], x.shape[-1])
                into[site][batch.places, : x.shape[1]] = x
    return ({site: head_of(model, acts[whole(site)], site.head) for site in sites},
            {site: head_of(model, slopes[whole(site)], site.head) for site in sites})
