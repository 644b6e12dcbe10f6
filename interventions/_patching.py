"""Activation patching: which state, of which layer and position or head, carries what clean and corrupted differ in.

    pairs = tasks.decoy.pairs()
    table = activation_patching(model, pairs)                                # resid_pre, attn_out, mlp_out x positions
    table = activation_patching(model, pairs, head_sites(model), ["all"])    # every head, at all positions together
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from probing._guards import available_sites
from probing._sites import Site
from probing._subspaces import Subspace
from tasks._pairs import PromptPairs

from ._patch_rows import PatchTable
from ._patch_run import DIRECTIONS, Metric, PatchRun, Where


def block_sites(model, streams: Sequence[str] = ("resid_pre", "attn_out", "mlp_out")) -> list[Site]:
    """These streams of every layer, as far as the architecture has them."""
    return [site for site in available_sites(model) if site.stream in streams]


def head_sites(model) -> list[Site]:
    """Every attention head of every layer that has heads, each a site of its own."""
    layers = [site.layer for site in available_sites(model) if site.stream == "z"]
    return [Site("z", layer, head) for layer in layers for head in range(model.cfg.n_heads)]


def activation_patching(
    model,
    pairs: PromptPairs,
    sites: Sequence[Site] | None = None,
    positions: Where = None,
    *,
    metric: Metric | None = None,
    directions: Sequence[str] = ("denoise", "noise"),
    spaces: Mapping[Site, Subspace] | None = None,
    probe: str | None = None,
    n_random: int = 20,
    correction: str = "benjamini_hochberg",
    split: str = "report",
    seed: int = 0,
    identity: Mapping[str, object] | None = None,
) -> pd.DataFrame:
    """Every site x position patched from one run of the pairs into the other: result rows.

    `denoise` patches the clean state into the corrupted run: is it enough to bring the clean answer back? `noise`
    patches the corrupted state into the clean run: is the clean one needed? Metric `nie` (see `PatchTable`): 0 where
    the patch does nothing, 1 where it closes the whole gap, in either direction; p-values are corrected over all cells.
    Beside every cell: `random_direction`, the same change turned by one random rotation per draw, norms kept, and
    `null`, 0. The rows `clean` and `corrupted` are the metric of the unedited runs, `no_gap` counts the pairs that were
    left out.

    Blocks below the patched one are computed once per prompt. Activations of both runs, and the rotations, are held for
    as many sites at a time as fit into 1 GiB (`keep_bytes` of a `PatchRun`).

    Args:
        model: A model, or the `PatchRun` of these pairs, so that several calls share it (metric and split are its own).
        sites: By default resid_pre, attn_out and mlp_out of every layer; `head_sites(model)` for heads.
        positions: A cell of every site each: positions counted from 0, or from -1 backwards, which aligns prompts of
            several lengths; the name of a column of the pairs (`question` for `pos:question`); `all`, every token
            together. Or (case, k), a cell per column; or name -> positions as in `At`, those of a name patched
            together. By default every position; where lengths differ, as many from the end as the shortest has.
        metric: (logits (batch, d_vocab), numbers (batch,) of the pairs) -> (batch,); by default `answer_difference`.
        spaces: Patch only the component inside the subspace of each site; `probe` then names it.
        n_random: At least 20, or 0 for a scan without bands, whose rows no results table takes.
    Raises:
        ValueError: A metric without a gap; a position outside its prompt; a site that the model lacks; too few draws.
    Source: normalised as in Geometry of Truth (arXiv:2310.06824); the ratio of means, not the mean of ratios.
    """
    if 0 < n_random < 20 or n_random < 0:
        raise ValueError(f"a random band needs at least 20 draws, n_random is {n_random}; raise it, or scan with 0")
    if not directions or (unknown := set(directions) - set(DIRECTIONS)):
        raise ValueError(f"directions are {' and '.join(DIRECTIONS)}, not {sorted(unknown) if directions else 'none'}")
    run = model if isinstance(model, PatchRun) else PatchRun(model, pairs, metric, split)
    sites = block_sites(run.model) if sites is None else list(sites)
    if not sites:
        raise ValueError("no site to patch; pass sites=[Site('resid_pre', 3), ...]")
    if spaces is not None and (absent := [str(site) for site in sites if site not in spaces]):
        raise ValueError(f"no subspace for {', '.join(absent)}; there are {', '.join(map(str, spaces)) or 'none'}")
    where = run.where(positions)
    cells = [((site,), name) for site in sites for name in where]
    table = PatchTable(run, seed, identity, probe=probe)
    for direction, patched in run.patch(cells, where, directions, spaces=spaces, n_random=n_random, seed=seed).items():
        for each in patched:
            table.cell(direction, each)
    return table.frame(correction)
