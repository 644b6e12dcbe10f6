"""Edits of tokens late in a prompt: what stands before the first of them is computed once, for all arms.

    run = Tails.of(model, cases, first=torch.from_numpy(cases.cases["pos:path_start"].to_numpy()))
    run.measure(arms, score)                # as `Sequences`: any token from the first on, any layer, the same numbers

Under causal attention nothing before the first edited token changes, so its keys and values are kept, and arms run the
tokens from there on, in the layers from the first edited one on. `Sequences` saves the layers alone, `LastToken` runs
the last token alone.

Every call runs some of its cases and arms again as whole sequences and holds the logits against those: what is shared
between thousands of arms must not be wrong unnoticed.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from probing._sites import Site
from tasks._prompts import Counterfactuals

from ._caches import map_cache, n_bytes, tile
from ._last_token import LastToken
from ._midway import Output, entered, recorded
from ._places import At, Positions
from ._sequences import Arm, Edited, Sequences, _Batch

TOGETHER = 16  # cases whose beginnings are cut at one place, that of the earliest: they are sorted by it
APART = 1e-3  # most that logits may differ from those of whole sequences, as a share of the largest


@dataclass
class _Tail(_Batch):
    """Cases of equal length, of which the first `seen` tokens are in `prefix`, once that was computed."""

    prefix: DynamicCache | None = None


class Tails(Sequences):
    """Logits of the last token of every case, under edits from the token `first` on.

    Args:
        first: (case,) the first token of every case that is ever edited.
        batch_tokens: Most tokens in one forward pass, those counted whose keys and values it only looks at.
        keep_bytes: Keys and values kept between calls; past this they are computed once per call instead.
    Raises:
        ValueError: The model gives other logits through a key/value cache, or has none: take `Sequences`, or `tails`.
        RuntimeError: In a call, where what is shared gives other logits than whole sequences.
    """

    def __init__(self, model, tokens: Int[Tensor, "case pos"], lengths: Int[Tensor, " case"],
                 first: Int[Tensor, " case"], *, batch_tokens: int = 2**13, keep_bytes: int = 2**31):
        if len(first) != len(tokens) or int(first.min()) < 0 or bool((first >= lengths).any()):
            raise ValueError(f"first is for {len(first)} cases, from {int(first.min())} to {int(first.max())}; wanted "
                             f"a token of each of {len(tokens)} cases")
        few = lengths.argsort()[-2:]
        if not LastToken(model, tokens[few], lengths[few]).shares_prefix:
            raise ValueError(f"{type(model.original_model).__name__} gives other logits through a key/value cache than "
                             "on whole sequences, or has none; take Sequences")
        self.first, self.keep_bytes, self._kept, self._calls = first.cpu(), keep_bytes, 0, 0
        self._loose: _Tail | None = None  # the batch whose prefix is there for now, and not kept
        self._selections = dict[tuple, Tails]()
        self._whole = Sequences(model, tokens, lengths)
        super().__init__(model, tokens, lengths, batch_tokens=batch_tokens)

    @classmethod
    def of(cls, model, cases: Counterfactuals, *, only=None, first: Int[Tensor, " case"] | None = None, **options
           ) -> "Tails":
        """The prompts of counterfactual cases, in their order; `first` is the last token unless given."""
        prompt = torch.as_tensor(cases.cases["prompt"].to_numpy(copy=True))
        lengths = cases.lengths[prompt]
        run = cls(model, cases.tokens[prompt], lengths, lengths - 1 if first is None else first, **options)
        return run if only is None else run.select(only)

    def select(self, where) -> "Tails":
        """As of `Sequences`. The same selection twice is one object: its beginnings are kept."""
        places = torch.as_tensor(np.arange(len(self))[np.asarray(where)])
        key = tuple(places.tolist())
        if key not in self._selections:
            part = copy.copy(self)
            part.tokens, part.lengths, part.rows = self.tokens[places], self.lengths[places], self.rows[places]
            part.first, part._kept, part._loose, part._selections = self.first[places], 0, None, {}
            part._whole, part._batches = self._whole.select(places), part._group()
            self._selections[key] = part
        return self._selections[key]

    def stream(self, sites: Sequence[Site], edits=None):
        raise ValueError("a Tails has no activations of what stands before the first edited token; read with Sequences")

    def _group(self) -> list[_Batch]:
        batches: list[_Batch] = []
        for length in self.lengths.unique().tolist():
            same = (self.lengths == length).nonzero()[:, 0]
            for places in same[self.first[same].argsort(stable=True)].split(TOGETHER):
                tokens = self.tokens[places.to(self.tokens.device), :length].to(self.device)
                seen = int(self.first[places].min())
                batches.append(_Tail(places, self.rows[places].to(self.device), tokens, seen))
        return batches

    def _prefix(self, batch: _Batch) -> DynamicCache:
        assert isinstance(batch, _Tail), "batches of a Tails are tails"
        if batch.prefix is None:
            batch.prefix = DynamicCache(config=self.model.original_model.config)
            if batch.seen:
                self._cached(batch.tokens[:, : batch.seen], batch.prefix)
            if self._loose is not None:
                self._loose.prefix = None
            fits = self._kept + n_bytes(batch.prefix) <= self.keep_bytes
            self._kept, self._loose = (self._kept + n_bytes(batch.prefix), None) if fits else (self._kept, batch)
        return batch.prefix

    def _cached(self, tokens: Tensor, cache: DynamicCache) -> Tensor:
        """Logits of the last token (batch, d_vocab)."""
        brief = {"logits_to_keep": 1} if self._selects else {}
        with torch.no_grad():
            return self.model(tokens, past_key_values=cache, use_cache=True, **brief)[:, -1]

    def _logits(self, batch: _Batch, n: int = 1, start: int = 0, entering: Output | None = None) -> Tensor:
        assert isinstance(batch, _Tail) and batch.prefix is not None, "beginnings are run before, outside of all hooks"
        cache = map_cache(batch.prefix)
        for layer in cache.layers[start:]:  # those below are not run
            if layer.is_initialized:
                layer.keys, layer.values = (partial(tile, n=n)(t) for t in (layer.keys, layer.values))
        with entered(self.model, start, entering, n):
            logits = self._cached(batch.tokens[:, batch.seen :].repeat(n, 1), cache)
        return logits.unflatten(0, (n, len(batch.rows)))

    def _entering(self, batch: _Batch, starts: set[int]) -> dict[int, Output]:
        prefix = map_cache(self._prefix(batch))
        if not (starts := starts - {0}):
            return {}
        with recorded(self.model, starts) as outputs:
            self._cached(batch.tokens[:, batch.seen :], prefix)
        return outputs

    def _run(self, arms: Sequence[Arm], read: Sequence[Site] = ()) -> Iterator[
            tuple[list[int], _Batch, Tensor, dict[Site, Tensor]]]:
        """As of `Sequences`; the first and last arm that come first for one of the batches, another one in every call,
        are held against whole sequences."""
        wanted: _Batch | None = self._batches[self._calls % len(self._batches)]
        self._calls += 1
        for which, batch, logits, kept in super()._run(arms, read):
            if batch is wanted:
                wanted = None
                self._hold(batch, {i: logits[at] for at, i in ((0, which[0]), (-1, which[-1]))}, arms)
            yield which, batch, logits, kept

    def _hold(self, batch: _Batch, found: Mapping[int, Float[Tensor, "batch d_vocab"]], arms: Sequence[Arm]) -> None:
        ends = torch.tensor([0, len(batch.rows) - 1]).unique()
        few = batch.places[ends]
        whole = self._whole.select(few).logits_many([arms[i] for i in found])
        for (arm, logits), right in zip(found.items(), whole, strict=True):
            apart = float((logits[ends] - right).abs().max() / right.abs().max())
            if not apart < APART:
                raise RuntimeError(
                    f"arm {arm} of cases {', '.join(map(str, self.rows[few].tolist()))}: with what stands before token "
                    f"{batch.seen} shared, logits are {apart:.2g} of the largest off those of whole sequences. Was "
                    "the model changed, or hooked, while this ran? Run it in a fresh process, or with Sequences")

    def _find_out(self, starts: set[int]) -> None:
        self._whole._find_out(starts)
        self._resumable = self._whole._resumable

    def _check(self, arms: Sequence[Edited], read: Sequence[Site]) -> None:
        super()._check(arms, read)
        for site, at in ((site, at) for arm in arms for site, edits in arm.items() for at in edits):
            index, pos = at.places(self.rows, self.lengths)
            if (early := (pos < self.first[index]).nonzero()[:, 0]).numel():
                case = int(index[early[0]])
                raise ValueError(f"an edit at {site} is at position {int(pos[early[0]])} of case "
                                 f"{int(self.rows[case])}, before the first that is edited, {int(self.first[case])}; "
                                 "name the earlier one as `first`")


def tails(model, cases: Counterfactuals, positions: Sequence[Positions]) -> Sequences | LastToken:
    """The cheapest run of cases that are edited at these tokens, each given as one for all or one for each case: of
    their last token, of what follows the first of them, or, where the model has no key/value cache, of all."""
    if all(p is not None and torch.as_tensor(p).ndim == 0 and int(torch.as_tensor(p)) == -1 for p in positions):
        return LastToken.of(model, cases)
    prompt = torch.as_tensor(cases.cases["prompt"].to_numpy(copy=True))
    lengths = cases.lengths[prompt]
    first = lengths
    for p in positions:
        index, pos = At(lambda x, rows: x, p).places(torch.arange(len(lengths)), lengths)
        first = first.scatter_reduce(0, index, pos, "amin")
    few = lengths.argsort()[-2:]
    if not LastToken(model, cases.tokens[prompt[few]], lengths[few]).shares_prefix:
        return Sequences.of(model, cases)
    return Tails(model, cases.tokens[prompt], lengths, first)
