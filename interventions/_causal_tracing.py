"""Causal tracing: noise on the subject, and which clean states bring the answer back.

    table = causal_tracing(model, cases, subject=subject_mask)                                  # resid_post x positions
    table = causal_tracing(model, cases, subject, block_sites(model, ["mlp_out"]), window=10)   # ten MLPs at a time
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from probing._sites import Site
from tasks._pairs import PromptPairs
from tasks._prompts import Counterfactuals

from ._metrics import probability_mass
from ._midway import Output
from ._patch_rows import PatchTable
from ._patch_run import Metric, PatchRun, Where
from ._patching import block_sites
from ._places import At, Positions
from ._sequences import Sequences, _Batch


def causal_tracing(
    model,
    cases: Counterfactuals,
    subject: Positions | Bool[Tensor, "case pos"],
    sites: Sequence[Site] | None = None,
    positions: Where = None,
    *,
    window: int = 1,
    noise: float | int = 3.0,
    n_noise: int = 10,
    metric: Metric | None = None,
    n_random: int = 20,
    correction: str = "benjamini_hochberg",
    split: str = "report",
    seed: int = 0,
    identity: Mapping[str, object] | None = None,
) -> pd.DataFrame:
    """Clean states restored in runs whose subject was blurred: result rows of intervention `restore`, metric `nie` (1:
    restoring the state undoes what the noise did), with the controls of `activation_patching`.

    Gaussian noise is added to the token embeddings of the subject, and the state of every site x position of the clean
    run is put back, `n_noise` times per prompt. The dose, `alpha`, is the standard deviation of the noise, in standard
    deviations of the subjects' embeddings (over all their coordinates). A prompt is left out where the noise, on
    average of its samples, leaves the metric as it was.

    Args:
        cases: Prompts, with `right_before` as their answers.
        subject: Tokens to blur: positions as in `At`, or a mask where subjects differ in length.
        sites: By default resid_post of every layer.
        positions: As in `activation_patching`; the cases may have `pos:NAME` columns.
        window: Restore this many consecutive layers together: a single `attn_out` or `mlp_out` is rarely enough.
        metric: (logits (batch, d_vocab), numbers (batch,) of the cases) -> (batch,); by default the probability of the
            right answers.
        n_random: At least 20, or 0 for a scan without bands.
    Raises:
        ValueError: A subject outside its prompt, or none; a window of more layers than there are; as
            `activation_patching`.
    Source: Meng et al., arXiv:2202.05262, experiments/causal_trace.py (3 standard deviations, 10 samples). Their
        windows are cut at the first and the last layer; ours are full.
    """
    if 0 < n_random < 20 or n_random < 0:
        raise ValueError(f"a random band needs at least 20 draws, n_random is {n_random}; raise it, or scan with 0")
    run = NoisedRun(model, cases, subject, metric, split, noise=noise, n_noise=n_noise, seed=seed)
    sites = block_sites(model, ["resid_post"]) if sites is None else list(sites)
    where = run.where(positions)
    cells = [(sites, name) for sites in layer_windows(sites, window) for name in where]
    table = PatchTable(run, seed, identity, alpha=noise, unit="embedding sd")
    for patched in run.patch(cells, where, ("denoise",), n_random=n_random, seed=seed)["denoise"]:
        table.cell("restore", patched)
    return table.frame(correction)


def layer_windows(sites: Sequence[Site], n: int) -> list[tuple[Site, ...]]:
    """Every run of `n` consecutive layers of one stream (and head) among the sites.

    Raises:
        ValueError: There is none.
    """
    if n == 1 and sites:
        return [(site,) for site in sites]
    ordered = sorted(set(sites), key=lambda site: (site.stream, -1 if site.head is None else site.head, site.layer))
    runs = [tuple(ordered[i : i + n]) for i in range(len(ordered) - n + 1)] if n > 0 else []
    full = [run for run in runs if all((a.stream, a.head, a.layer + 1) == (b.stream, b.head, b.layer)
                                       for a, b in pairwise(run))]
    if not full:
        raise ValueError(f"no window of {n} consecutive layers among {len(sites)} sites; take a narrower window, or "
                         "name a site of one stream in every layer")
    return full


class NoisedRun(PatchRun):
    """A `PatchRun` of every case `n_noise` times, whose corrupted run is the clean prompt with its subject blurred.

    Attributes:
        embedding_sd: Standard deviation of the subjects' token embeddings, over all tokens and coordinates.
    """

    def __init__(self, model, cases: Counterfactuals, subject: Positions | Bool[Tensor, "case pos"],
                 metric: Metric | None = None, split: str = "report", *, noise: float | int = 3.0, n_noise: int = 10,
                 seed: int = 0, **options):
        if n_noise < 1 or not noise > 0:
            raise ValueError(f"noise is {noise} standard deviations in {n_noise} samples; both must be positive")
        prompt = torch.as_tensor(cases.cases["prompt"].to_numpy(copy=True))
        tokens, lengths = cases.tokens[prompt], cases.lengths[prompt]
        rows, pos = _subject(subject, lengths)
        acts = _embeddings(Sequences(model, tokens, lengths))[rows, pos]
        self.n_noise, self.embedding_sd = n_noise, float(acts.double().std())
        draws = torch.randn(n_noise, *acts.shape, generator=torch.Generator().manual_seed(seed))
        self._noise = (noise * self.embedding_sd * draws).flatten(0, 1)
        self._index = torch.full((len(tokens), n_noise, tokens.shape[1]), -1)  # which row of the noise a token gets
        self._index[rows, :, pos] = torch.arange(len(self._noise)).view(n_noise, -1).T
        self._index = self._index.flatten(0, 1)
        pairs = _repeated(cases, tokens, lengths, n_noise)
        super().__init__(model, pairs, _once(metric or _probability(cases), n_noise), split, **options)

    def _run(self, name: str, options: dict) -> Sequences:
        run = super()._run(name, options)
        return run if name == "clean" else _Noised.like(run, self._noise, self._index[self.numbers])

    def where(self, positions: Where) -> dict[str, Positions]:
        """As of a `PatchRun`, positions given by case."""
        def again(at):
            several = isinstance(at, Tensor) and at.ndim and len(at) > 1
            return at.repeat_interleave(self.n_noise, 0) if several else at

        if isinstance(positions, Mapping):
            return super().where({name: again(at) for name, at in positions.items()})
        return super().where(again(positions))

    def _with_gap(self) -> ndarray:
        every = self.gap
        self.gap = every.reshape(-1, self.n_noise).mean(1).repeat(self.n_noise)
        kept = super()._with_gap()
        self.gap = every
        return kept


class _Noised(Sequences):
    """Prompts whose token embeddings carry noise, in every run and below every edit."""

    noise: Float[Tensor, "token d_model"]
    index: Int[Tensor, "case pos"]

    @classmethod
    def like(cls, run: Sequences, noise: Tensor, index: Tensor) -> "_Noised":
        noised = cls(run.model, run.tokens, run.lengths, positions=run.positions, batch_tokens=run.batch_tokens)
        noised.noise, noised.index = noise, index
        return noised

    def _entering(self, batch: _Batch, starts: set[int]) -> dict[int, Output]:
        with self.model.hooks(fwd_hooks=[("hook_embed", self._blur(batch))]):
            return super()._entering(batch, starts)

    def _logits(self, batch: _Batch, n: int = 1, start: int = 0, entering: Output | None = None) -> Tensor:
        with self.model.hooks(fwd_hooks=[("hook_embed", self._blur(batch))]):
            return super()._logits(batch, n, start, entering)

    def _blur(self, batch: _Batch):
        index = self.index[batch.rows.cpu(), : batch.tokens.shape[1]]

        def blur(embedded: Tensor, hook) -> Tensor:
            added = torch.where(index[..., None] >= 0, self.noise[index.clamp_min(0)], 0).to(embedded)
            return embedded + added.repeat(len(embedded) // len(added), 1, 1)

        return blur


def _subject(subject: Positions | Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """(case, position) of every token to blur."""
    if isinstance(subject, Tensor) and subject.dtype == torch.bool:
        if (subject & (torch.arange(subject.shape[1]) >= lengths[:, None])).any() or not subject.any(1).all():
            raise ValueError("the subject reaches beyond its prompt, or a case has none; mark one or more real tokens "
                             "of every case")
        rows, pos = subject.nonzero().T
        return rows, pos
    return At(lambda x, rows: x, subject).places(torch.arange(len(lengths)), lengths)


def _embeddings(run: Sequences) -> Float[Tensor, "case pos d_model"]:
    """Token embeddings of every prompt."""
    out: list[Tensor] = []
    for batch in run._batches:
        kept: list[Tensor] = []
        with torch.no_grad(), run.model.hooks(fwd_hooks=[("hook_embed", lambda x, hook, kept=kept: kept.append(x))]):
            run._forward(batch.tokens, torch.zeros(1, dtype=torch.long))
        out.append(kept[0].cpu())
    acts = out[0].new_zeros(*run.tokens.shape, out[0].shape[-1])
    for batch, x in zip(run._batches, out, strict=True):
        acts[batch.places, : x.shape[1]] = x
    return acts


def _repeated(cases: Counterfactuals, tokens: Tensor, lengths: Tensor, n: int) -> PromptPairs:
    table = cases.cases[["group", "split", *(c for c in cases.cases if c.startswith("pos:"))]]
    table = table.loc[table.index.repeat(n)].reset_index(drop=True)
    tokens, right = tokens.repeat_interleave(n, 0), np.repeat(cases.right_before, n, 0)
    return PromptPairs(cases.task, cases.scheme, tokens, tokens, lengths.repeat_interleave(n), table, right, right)


def _once(metric: Metric, n: int) -> Metric:
    """The metric of a case, for each of its samples."""

    def of_case(logits: Tensor, numbers: Tensor) -> Tensor:
        return metric(logits, numbers // n)

    of_case.__name__ = getattr(metric, "__name__", "metric")
    return of_case


def _probability(cases: Counterfactuals) -> Metric:
    right = torch.as_tensor(cases.right_before)

    def probability(logits: Tensor, numbers: Tensor) -> Tensor:
        return probability_mass(logits, right[numbers])

    return probability
