"""Which tokens carry a passage on its way to the next step, block by block.

A prompt and its edited twin differ in the two cells of one slot of the list. The stream of some tokens is taken from
the twin after one block: where that flips the next step, those tokens carry the passage there. Together the groups of
tokens are the whole prompt.
"""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.stats import binomtest
from torch import Tensor

from .._pairs import PromptPairs
from .._positions import NAMED
from .._svg import Svg
from ._cases import KINDS, pairs
from ._marks import BLUE, FONT, GRID, INK, MUTED, PAPER, text
from ._tokens import ADJLIST_END

N = 100  # pairs of each kind
TOGETHER = 64
GROUPS = {
    "passage": "the passage itself", "neighbours": "passages that share a cell with it or its stand-in",
    "list": "the rest of the list", "ends": "origin, target and <PATH_START>", "path": "the path so far",
    "cell": "the current cell",
    "passage+neighbours": "the passage and those that share a cell", "whole list": "the whole list"}


def carrier_rows(model, seed: int, **maze) -> pd.DataFrame:
    """`patched` of every group of tokens (subset `KIND: GROUP`) at the embedding and after every block: the share of
    cases, among those whose next step is right in both prompts, that take the step of the twin. Wilson intervals.

    Args:
        maze: Of `pairs`: size, generator, mazes, within.
    """
    sites = [("resid_pre", 0), *(("resid_post", layer) for layer in range(model.cfg.n_layers))]
    rows = []
    for kind in KINDS:
        asked = pairs(kind, N, seed=seed + 1, **maze)
        groups = groups_of(asked)
        found = [_flips(model, asked.select(part), {name: mask[part] for name, mask in groups.items()}, sites)
                 for part in np.array_split(np.arange(len(asked)), -(-len(asked) // TOGETHER))]
        solved = np.concatenate([right for right, _ in found])
        flips = np.concatenate([each for _, each in found], -1)[..., solved]  # site, group, case
        for (stream, layer), per_group in zip(sites, flips, strict=True):
            for name, each in zip(groups, per_group, strict=True):
                rows.append({"metric": "patched", "subset": f"{kind}: {name}", "stream": stream, "layer": layer,
                             **_share(each)})
    return pd.DataFrame(rows)


def groups_of(asked: PromptPairs) -> dict[str, Bool[Tensor, "case pos"]]:
    """Name of `GROUPS` -> its tokens."""
    pos = torch.arange(asked.clean.shape[1])
    first, last, start = (torch.as_tensor(asked.cases[f"{NAMED}{name}"].to_numpy(copy=True))[:, None]
                          for name in ("first_cell", "slot", "path_start"))
    here = asked.lengths[:, None] - 1
    listed = (pos > 0) & (pos < (asked.clean == ADJLIST_END).int().argmax(1, keepdim=True))
    own = (pos >= first) & (pos <= last)
    changed = torch.stack([prompt.gather(1, at) for prompt in (asked.clean, asked.corrupted)
                           for at in (first, last - 1)], -1)
    names = (asked.clean[..., None] == changed).any(-1) & listed
    whole = -(-(asked.clean.shape[1] - 1) // 4)  # passages that could stand there, of four tokens from the second on
    shares = torch.nn.functional.pad(names[:, 1:], (0, 4 * whole - names.shape[1] + 1)).unflatten(1, (whole, 4)).any(-1)
    beside = shares.repeat_interleave(4, 1)[:, : names.shape[1] - 1]
    beside = torch.nn.functional.pad(beside, (1, 0)) & listed & ~own
    return {"passage": own, "neighbours": beside, "list": (pos < start - 6) & ~own & ~beside,
            "ends": (pos >= start - 6) & (pos <= start), "path": (pos > start) & (pos < here), "cell": pos == here,
            "passage+neighbours": own | beside, "whole list": pos < start - 6}


def _flips(model, asked: PromptPairs, groups: dict[str, Tensor], sites) -> tuple[ndarray, ndarray]:
    """(case,) whether both prompts are answered rightly, and (site, group, case) whether the twin's answer is given."""
    names = {site: f"blocks.{site[1]}.hook_{site[0]}" for site in sites}
    right, wanted = torch.from_numpy(asked.right_clean), torch.from_numpy(asked.right_corrupted)
    at = torch.arange(len(asked)), asked.lengths - 1

    def answers(tokens: Tensor) -> Tensor:
        return model(tokens)[at].argmax(-1).cpu()

    def hit(answer: Tensor, among: Tensor) -> Tensor:
        return among[at[0], answer]

    with torch.inference_mode():
        logits, cache = model.run_with_cache(asked.corrupted, names_filter=lambda name: name in names.values())
        solved = hit(answers(asked.clean), right) & hit(logits[at].argmax(-1).cpu(), wanted)
        flips = torch.zeros(len(sites), len(groups), len(asked), dtype=torch.bool)
        for i, site in enumerate(sites):
            for j, mask in enumerate(groups.values()):
                def take(resid, hook=None, mask=mask, source=cache[names[site]]):
                    return torch.where(mask[..., None].to(resid.device), source, resid)

                with model.hooks(fwd_hooks=[(names[site], take)]):
                    flips[i, j] = hit(answers(asked.clean), wanted)
    return solved.numpy(), flips.numpy()


def _share(hits: ndarray) -> dict[str, float | int]:
    n, k = len(hits), int(hits.sum())
    low, high = binomtest(k, n).proportion_ci(method="wilson") if n else (np.nan, np.nan)
    return {"value": k / n if n else np.nan, "ci_low": low, "ci_high": high, "n": n}


def carrier_picture(panels: Mapping[str, Float[ndarray, "group depth"]], groups: Sequence[str]) -> Svg:
    """Percent in each cell: groups of tokens down, depth across, a panel per kind of change."""
    side, high, left, top = 40, 26, 16 + 6.1 * max(map(len, groups)), 44
    parts = [text(left - 10, top + high * row + 17, name, 11, INK, "end") for row, name in enumerate(groups)]
    x = left
    for kind, shares in panels.items():
        parts.append(text(x, 14, kind.capitalize(), 12.5, INK, "start", bold=True))
        for column in range(shares.shape[1]):
            parts.append(text(x + side * column + 18, top - 8, str(column), 10, MUTED))
        for row, column in np.ndindex(shares.shape):
            value = float(np.nan_to_num(shares[row, column]))
            at = f'x="{x + side * column}" y="{top + high * row}" width="36" height="23" rx="3"'
            parts.append(f'<rect {at} style="fill:{GRID}" opacity="0.4"/><rect {at} style="fill:{BLUE}" '
                         f'opacity="{0.85 * value:.3f}"/>'
                         + text(x + side * column + 18, top + high * row + 15.5, f"{100 * value:.0f}", 11,
                                PAPER if value > 0.6 else INK))
        x += side * shares.shape[1] + 24
    return Svg(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {x:.0f} {top + high * len(groups) + 4}" '
               f'width="{x:.0f}" height="{top + high * len(groups) + 4}" font-family="{escape(FONT)}">'
               f'{"".join(parts)}</svg>')
