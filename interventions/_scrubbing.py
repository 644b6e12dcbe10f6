"""Concept scrubbing: a label is erased at every site, each eraser fitted on what the erasers below it leave.

    scrubbed = scrub(model, prompts, "end")
    run.logits(scrubbed.edits())                                     # at the last token
    with model.hooks(fwd_hooks=scrubbed.hooks(where)):               # at tokens (batch, pos) of whole sequences
        model(tokens)
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probing._design import one_hot
from probing._models import check_site, padding_mask
from probing._moments import Moments
from probing._sites import Site, residual_sites
from tasks import LabelledPrompts

from ._amnesic import as_edits, random_erasers
from ._erasers import Eraser
from ._last_token import Edits
from ._leace import LEACE

ORDER = ("resid_pre", "attn_out", "mlp_out", "resid_post")  # within a block
TOKENS = 4096  # in one forward pass


class Scrubbing(Mapping):
    """Site -> its eraser, from below upwards."""

    def __init__(self, erasers: Mapping[Site, Eraser]):
        self._erasers = dict(erasers)

    def __getitem__(self, site: Site) -> Eraser:
        return self._erasers[site]

    def __iter__(self) -> Iterator[Site]:
        return iter(self._erasers)

    def __len__(self) -> int:
        return len(self._erasers)

    def __repr__(self) -> str:
        return f"Scrubbing({', '.join(f'{site}: rank {e.rank}' for site, e in self._erasers.items())})"

    def edits(self) -> Edits:
        """For `LastToken`: the last token is scrubbed at every site."""
        return as_edits(self._erasers)

    def hooks(self, where: Bool[Tensor, "batch pos"]) -> list:
        """For `model.hooks(fwd_hooks=...)`: these tokens of whole sequences are scrubbed at every site."""
        return [(site.hook, _hook(eraser, where)) for site, eraser in self._erasers.items()]

    def random(self, seed: int = 0) -> "Scrubbing":
        """The control: random subspaces of the same rank at every site, about the same means."""
        return Scrubbing(random_erasers(self._erasers, seed))


def scrub(model, prompts: LabelledPrompts, label: str, sites: Sequence[Site] | None = None, *, split: str = "train",
          every_token: bool = False, **options) -> Scrubbing:
    """LEACE at every site in turn, on activations that are already scrubbed below: one forward pass over the prompts
    per site, of which moments are kept and no activations.

    Erasers fitted side by side on untouched activations would not do: a block that still finds the label somewhere
    writes it anew, in directions that the untouched activations do not show.

    Args:
        label: A scheme of `prompts`, all its targets together, read at the probed tokens.
        sites: The embedding and the stream after every block, unless given; `resid_mid` cannot be edited.
        split: The examples that are fitted on.
        every_token: Scrub all real tokens with the eraser of the probed ones; else only the probed tokens.
        options: Of `LEACE.from_moments`.
    Raises:
        ValueError: A site that cannot be scrubbed or is named twice; a label that is constant or missing in some rows.
    Source: Belrose et al., arXiv:2306.03819, section 6.
    """
    sites = residual_sites(model.cfg.n_layers) if sites is None else list(sites)
    if wrong := [str(s) for s in sites if s.stream not in ORDER]:
        raise ValueError(f"{', '.join(wrong)} cannot be scrubbed; the streams {', '.join(ORDER)} can")
    if len(set(sites)) < len(sites) or not sites:
        raise ValueError(f"sites are different, and at least one; got {', '.join(map(str, sites)) or 'none'}")
    for site in sites:
        check_site(model, site)
    columns, values = _labels(prompts, label)
    chosen = prompts.rows(split)
    where = _tokens(prompts, every_token)
    erasers: dict[Site, Eraser] = {}
    for site in sorted(sites, key=lambda s: (s.layer, ORDER.index(s.stream))):
        moments = Moments(columns)
        for rows, acts in _read(model, prompts, site, erasers, where, chosen):
            moments.update(acts, values[rows])
        erasers[site] = LEACE.from_moments(moments, label, folds=None, **options)
    return Scrubbing(erasers)


def _labels(prompts: LabelledPrompts, label: str) -> tuple[list[str], Float[np.ndarray, "example column"]]:
    names, codes = [f"{label}/{target}" for target in prompts.targets(label)], prompts.labels(label)
    if label not in prompts.classes:
        return names, codes.astype(np.float64)
    n_classes = len(prompts.classes[label])
    return [f"{name}={k}" for name in names for k in range(n_classes)], one_hot(codes, n_classes)


def _tokens(prompts: LabelledPrompts, every_token: bool) -> Bool[Tensor, "prompt pos"]:
    if every_token:
        return torch.arange(prompts.tokens.shape[1]) < prompts.lengths[:, None]
    where = torch.zeros(prompts.tokens.shape, dtype=torch.bool)
    prompt, pos = (torch.from_numpy(prompts.examples[c].to_numpy(copy=True)) for c in ("prompt", "pos"))
    where[prompt, pos] = True
    return where


def _read(
    model, prompts: LabelledPrompts, site: Site, erasers: Mapping[Site, Eraser], where: Bool[Tensor, "prompt pos"],
    chosen: Bool[np.ndarray, " example"],
) -> Iterator[tuple[np.ndarray, Float[Tensor, "row d_model"]]]:
    """(examples, activations) at a site, batch by batch, with the erasers at work below it."""
    prompt, pos = (prompts.examples[c].to_numpy() for c in ("prompt", "pos"))
    device, used = model.cfg.device, np.unique(prompt[chosen])
    for at in np.array_split(used, max(1, -(-len(used) * prompts.tokens.shape[1] // TOKENS))):
        rows = np.flatnonzero(chosen & np.isin(prompt, at))
        place = torch.from_numpy(np.searchsorted(at, prompt[rows])), torch.from_numpy(pos[rows].copy())
        tokens, lengths = prompts.tokens[at], prompts.lengths[at]
        mask = padding_mask(model, tokens, lengths)
        extra = {} if mask is None else {"attention_mask": mask.long().to(device)}
        seen: list[Tensor] = []

        def keep(resid, hook, seen=seen, place=place):
            seen.append(resid[place].clone())

        hooks = [(below.hook, _hook(eraser, where[at])) for below, eraser in erasers.items()]
        with torch.no_grad(), model.hooks(fwd_hooks=[*hooks, (site.hook, keep)]):
            model(tokens.to(device), return_type=None, stop_at_layer=site.layer + 1, **extra)
        yield rows, seen[0]


def _hook(eraser: Eraser, where: Bool[Tensor, "batch pos"]):
    edit = eraser.edit()

    def scrubbed(resid: Float[Tensor, "batch pos d_model"], hook=None) -> Float[Tensor, "batch pos d_model"]:
        if where.shape != resid.shape[:2]:
            raise ValueError(f"where marks tokens of shape {tuple(where.shape)}, the batch has "
                             f"{tuple(resid.shape[:2])}; give one mark to every token")
        at = where.to(resid.device)
        resid = resid.clone()
        resid[at] = edit(resid[at], torch.zeros(1, dtype=torch.long, device=resid.device))
        return resid

    return scrubbed
