"""Distributed alignment search: the subspace whose interchange makes the model answer as a causal model says.

    pairs = interchange_pairs(tasks.decoy.cases("end"))
    found = fit_das(model, pairs, Site("resid_post", 1))
    found.subspace, found.iia["report"], found.history
    table = das_effect(model, pairs, Site("resid_post", 1))      # the same with every control, as result rows
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probing._models import random_init
from probing._results import results_frame
from probing._sites import Site
from probing._subspaces import Subspace

from ._caches import map_cache, take_rows
from ._interchange import PARTS, InterchangePairs, shuffled
from ._last_token import LastToken, _Batch
from ._midway import Entry, entered
from ._pair_run import PairRun, PairTable, cross_entropy, random_subspaces

HEAT = (50.0, 0.1)  # temperature of the boundary at the start and at the end
LOOK, SURE = 10, 1e-4  # steps between looks at the validation pairs; a loss (nats) that nothing is gained below


@dataclass(frozen=True)
class DAS:
    """A learned subspace.

    Attributes:
        subspace: R^T, orthonormal rows.
        iia: Part of the pairs -> interchange accuracy: the share of interchanges after which the model gives the
            answer of the causal model (of several right answers, the share of the top picks). `train` says how much
            was fitted, `validation` chose the step, `report` was never seen.
        history: Every 10 steps: `step`, `loss` (mean cross-entropy of these steps, in nats) and `validation`, that of
            the validation pairs. The step of lowest `validation` was kept.
    """

    site: Site
    subspace: Subspace
    iia: Mapping[str, float]
    history: pd.DataFrame = field(repr=False)


def fit_das(
    model,
    pairs: InterchangePairs,
    site: Site,
    rank: int | None = 1,
    *,
    boundless: bool = False,
    steps: int = 240,
    patience: int = 6,
    batch_size: int = 128,
    lr: float = 0.05,
    width_penalty: float | int = 1.0,
    seed: int = 0,
) -> DAS:
    """The subspace of `rank` dimensions at `site`, last token, whose interchange gives the answers of `pairs`:

        x' = x_base + R (R^T x_source - R^T x_base),     R^T R = I,

    with R trained by cross-entropy to those answers and the model as it is. R is the QR factor of its parameter, hence
    orthonormal at every step, and the start is random, so that what is found owes nothing to any probe.

    Only the last token is run, with the keys and values of all others computed once; at the site it is replaced, so
    that no gradient reaches further down. Learned subspaces fit more than the truth: see `das_effect` for the controls.

    Args:
        model: A model, or the `PairRun` of these pairs and site, so that several fits share it.
        boundless: Learn the number of dimensions too, up to `rank` (None: all): dimension j counts with
            sigmoid((b - j - 1/2) / T), the temperature T annealed from 50 to 0.1, and `width_penalty` nats are paid
            for the share of dimensions that b takes up.
        steps: At most; the rate falls along a cosine that ends there. `boundless` takes them all. Every 10 steps the
            validation loss is looked at; it ends where that and the loss of all 10 steps are below 1e-4 nats.
        patience: Looks without a lower validation loss (by 1 %) before it stops.
        batch_size: Pairs in a step, roughly: prompts of one length are run together.
        lr: How far R turns in a step, in radians, at the start. A step follows the momentum of normalised gradients:
            where most pairs are right the gradient is small, and still says where to go.
    Raises:
        ValueError: A rank that does not fit the site.
    Source: Geiger et al., arXiv:2303.02536 (DAS); Wu et al., arXiv:2305.08809 (boundless); the optimiser is ours.
    """
    run = model if isinstance(model, PairRun) else PairRun(model, pairs, site)
    width = run.acts.shape[1]
    rank = width if rank is None else rank
    if not 1 <= rank <= width:
        raise ValueError(f"rank must be between 1 and the width of {site}, {width}; it is {rank}")
    training, generator = run.inside("train"), torch.Generator().manual_seed(seed)
    W = _qf(torch.randn(width, rank, generator=generator)).to(run.acts)
    W.requires_grad_()
    bound = torch.full((), rank / 2).to(W).requires_grad_() if boundless else None
    momentum, history, losses, best, kept, waited = torch.zeros_like(W), [], [], math.inf, W.detach(), 0
    for step, chunks in enumerate(islice(_steps(run, training, batch_size, generator), steps), 1):
        share = (1 + math.cos(math.pi * (step - 1) / steps)) / 2
        heat = HEAT[0] * (HEAT[1] / HEAT[0]) ** (step / steps)
        loss, of_W, of_bound = _gradients(run, training, chunks, W, bound, heat)
        losses.append(loss)
        with torch.no_grad():
            turn = of_W - W @ (W.T @ of_W + of_W.T @ W) / 2  # what the gradient has of rotation
            momentum = 0.9 * momentum + turn / turn.norm().clamp_min(1e-30)
            W.copy_(_qf(W - lr * share * momentum / momentum.norm().clamp_min(1e-30)))
            if bound is not None:
                bound.sub_(lr * share * rank / 5 * (of_bound + width_penalty / rank).sign()).clamp_(0.5, rank)
        if step % LOOK and step < steps:
            continue
        validation = float(run.interchange([_space(W, bound)], "validation")[0, ..., 1].mean())
        history.append({"step": step, "loss": float(np.mean(losses)), "validation": validation})
        sure = max(validation, *losses) < SURE
        waited, losses = (0 if validation < 0.99 * best else waited + 1), []
        if bound is not None or validation < best:
            best, kept = validation, W.detach().clone()
        if bound is None and (waited >= patience or sure):
            break
    space = _space(kept, bound)
    iia = {part: float(run.interchange([space], part)[0, ..., 0].mean()) for part in PARTS}
    return DAS(site, space, iia, pd.DataFrame(history))


def das_effect(
    model,
    pairs: InterchangePairs,
    site: Site,
    rank: int = 1,
    *,
    found: DAS | None = None,
    n_random: int = 20,
    seed: int = 0,
    identity: Mapping[str, object] | None = None,
    **training,
) -> pd.DataFrame:
    """Interchange accuracy of a learned subspace, as result rows, beside everything that tells learning from fitting.

    Rows of metric `iia`, for split `train` and `report` (held-out groups) and the subsets of `PairTable`. Controls:

    - `null`: no edit. On `all` pairs it is the share of sources that hold the base's own value, the score of a
      subspace that does nothing; a subspace that flips every answer scores the rest.
    - `random_direction`: the learned interchange turned into random subspaces of its rank, norms kept.
    - `random_subspace`: the interchange inside random subspaces of its rank.
    - `full_swap`: the interchange of the whole activation, the ceiling where sources differ from their base in the
      label alone; where all else differs too, it brings all else along.
    - `shuffled_labels`: learned with the roles of the sources shuffled, scored against them.
    - `random_init`: learned on the same architecture with random weights, and scored there.

    Args:
        found: The subspace to report, from `fit_das` on these pairs; it is learned when missing.
        training: Arguments of `fit_das`; the controls are learned with the same.
    """
    if n_random < 20:
        raise ValueError(f"a random band needs at least 20 draws, n_random is {n_random}; raise it")
    run = model if isinstance(model, PairRun) else PairRun(model, pairs, site)
    found = fit_das(run, pairs, site, rank, seed=seed, **training) if found is None else found
    mixed = PairRun.like(run, shuffled(pairs, seed))
    untrained = PairRun(random_init(run.model, seed), pairs, site)
    learned = {"shuffled_labels": (mixed, fit_das(mixed, mixed.pairs, site, rank, seed=seed, **training)),
               "random_init": (untrained, fit_das(untrained, pairs, site, rank, seed=seed, **training))}
    space, frames = found.subspace, random_subspaces(run.acts.shape[1], found.subspace.rank, n_random, seed)
    rows: list[dict] = []
    for part in ("train", "report"):
        table = PairTable(run, part, seed, probe=das_name(space.rank, training.get("boundless", False)),
                          intervention="interchange", metric="iia", **(identity or {}))
        own, full = run.interchange([space, None], part)[..., 0]
        table.mean(own)
        table.mean(full, control="full_swap")
        table.mean(run.unedited(part)[..., 0], control="null")
        table.band(run.expected([run.turned(space, f) for f in frames], part)[..., 0], control="random_direction")
        table.band(run.interchange(frames, part)[..., 0], control="random_subspace")
        for control, (other, fit) in learned.items():
            table.mean(other.interchange([fit.subspace], part)[0, ..., 0], control=control)
        rows += table.rows
    return results_frame(rows)


def das_name(rank: int, boundless: bool = False) -> str:
    """The name of a learned subspace in the column `probe`."""
    return f"{'boundless das' if boundless else 'das'}, rank {rank}"


def _qf(W: Float[Tensor, "d_model rank"]) -> Float[Tensor, "d_model rank"]:
    """The orthonormal factor of the QR decomposition whose triangular one has a positive diagonal: it is unique, hence
    smooth in W, and W itself where W is orthonormal."""
    q, r = torch.linalg.qr(W)
    return q * r.diagonal().sign()


def _mask(bound: Tensor, heat: float, rank: int) -> Float[Tensor, " rank"]:
    return torch.sigmoid((bound - torch.arange(rank, device=bound.device) - 0.5) / heat)


def _space(W: Tensor, bound: Tensor | None) -> Subspace:
    rank = W.shape[1] if bound is None else min(W.shape[1], max(1, round(bound.item())))
    return Subspace(_qf(W.detach())[:, :rank].T.contiguous().cpu())


_Chunk = tuple[_Batch, Int[Tensor, " _"], Int[Tensor, " _"]]  # of a pair each


def _steps(run: PairRun, training: LastToken, batch_size: int, generator: torch.Generator) -> Iterator[list[_Chunk]]:
    """The training pairs in random order, again and again: per step some chunks (batch, places in it, columns of
    sources), each of prompts of one length, until there are `batch_size` pairs."""
    n, step = run.pairs.sources.shape[1], list[_Chunk]()
    while True:
        chunks: list[_Chunk] = []
        for batch in training._batches:
            order = torch.randperm(len(batch.rows) * n, generator=generator)
            chunks += [(batch, items // n, items % n) for items in order.split(batch_size)]
        for i in torch.randperm(len(chunks), generator=generator).tolist():
            step.append(chunks[i])
            if sum(len(at) for _, at, _ in step) >= batch_size:
                yield _merged(step)
                step = []


def _merged(chunks: list[_Chunk]) -> list[_Chunk]:
    """One chunk per batch: few pairs fill a step by coming again."""
    mine = {id(batch): [c for c in chunks if c[0] is batch] for batch, _, _ in chunks}
    return [(each[0][0], torch.cat([at for _, at, _ in each]), torch.cat([column for _, _, column in each]))
            for each in mine.values()]


def _gradients(run: PairRun, training: LastToken, chunks: list[_Chunk], W: Tensor, bound: Tensor | None, heat: float):
    """Mean loss of the pairs of a step, and its gradients for W and the boundary. The model's own parameters get none,
    whether or not they ask for one."""
    wanted = [W] if bound is None else [W, bound]
    total, sums, n = 0.0, [torch.zeros_like(p) for p in wanted], sum(len(at) for _, at, _ in chunks)
    for batch, at, column in chunks:
        mask = None if bound is None else _mask(bound, heat, W.shape[1])
        loss = _loss(run, training, batch, at, column, _qf(W), mask)
        sums = [s + g / n for s, g in zip(sums, torch.autograd.grad(loss, wanted), strict=True)]
        total += loss.item() / n
    return total, sums[0], None if bound is None else sums[1]


def _loss(run: PairRun, training: LastToken, batch: _Batch, at: Tensor, column: Tensor, R: Tensor, mask: Tensor | None
          ) -> Tensor:
    """Summed cross-entropy of some pairs, with gradients for R and the mask."""
    pairs, rows = run.pairs, batch.rows.cpu()[at]
    base = run.acts[pairs.bases["prompt"].to_numpy()[rows]]
    move = (run.acts[pairs.sources[rows, column]] - base) @ R
    x = base + (move if mask is None else move * mask) @ R.T
    changed = torch.from_numpy(pairs.changed)[column][:, None]
    after, before = (torch.from_numpy(r[rows]) for r in (pairs.right_after, pairs.right_before))
    logits = _replaced(training, batch, at, run.site, x, run.entry)
    return cross_entropy(logits, after.where(changed, before)).sum()


def _replaced(run: LastToken, batch: _Batch, at: Tensor, site: Site, x: Float[Tensor, "pair d_model"],
              entry: Entry | None) -> Tensor:
    """Logits of the last token of some cases of a batch, repeats allowed, with `x` in its place at `site`: the gradient
    with respect to x included. With an entry, the blocks below the site do not run."""

    def replace(resid, hook):
        resid = resid.clone()
        resid[:, -1] = x.reshape(resid[:, -1].shape).to(resid.dtype)
        return resid

    tokens = batch.tokens[at.to(batch.tokens.device)]
    cache = None
    if run.shares_prefix:
        with torch.no_grad():
            cache = map_cache(run._prefix(batch))
            for layer in cache.layers[0 if entry is None else entry.start :]:
                if layer.is_initialized:
                    layer.keys, layer.values = (take_rows(t, at) for t in (layer.keys, layer.values))
        tokens = tokens[:, -1:]
    with torch.enable_grad():
        if entry is None:
            with run.model.hooks(fwd_hooks=[(site.hook, replace)]):
                return run._forward(tokens, cache)
        stream = x[:, None].to(next(run.model.parameters()).dtype)
        with entered(run.model, entry.start, entry.given(stream)):
            return run._forward(tokens, cache)
