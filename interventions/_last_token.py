"""Many edits of the last token of many cases, at little more than the cost of that token.

Under causal attention an edit at the last token changes nothing before it. So the keys and values of everything
before are computed once per case and shared by all arms (an arm = one set of edits), and so is what the blocks below
the first edited one give at the last token. Arms that fit into one batch are run together. On models without a
key/value cache the same calls run whole sequences.
"""

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from probing._models import check_site
from probing._sites import Site
from tasks._prompts import Counterfactuals

from ._caches import first_rows, map_cache, n_bytes, take_rows, tile, widen
from ._edits import Edit
from ._midway import Output, entered, first_block, is_one_stream, recorded, stream_of
from ._places import check_editable, inside
from ._sampling import Sampling

Edits = Mapping[Site, Edit]
Acts = dict[Site, Float[Tensor, "case d_model"]]
SCORED = 2**20  # logits scored at once, of which a score makes copies; those of one arm are never taken apart


@dataclass
class _Batch:
    """Cases of equal length: where they stand in the output, their case numbers, their tokens, their prefix, and what
    each block gives at their last token, for the one above: both once they were computed, and are kept."""

    places: Int[Tensor, " batch"]
    rows: Int[Tensor, " batch"]
    tokens: Int[Tensor, "batch pos"]
    prefix: DynamicCache | None = None
    entering: dict[int, Output] | None = None


@dataclass
class _Now:
    """What the hooks do at the moment: nothing, or edit and read some `positions` for some arms (arm-major)."""

    rows: Int[Tensor, " batch"]
    arms: Sequence[Edits] | None = None
    positions: slice = field(default_factory=lambda: slice(-1, None))
    read: dict = field(default_factory=dict)


class LastToken:
    """Logits of the last token of every case under edits of that token.

    Args:
        tokens, lengths: (case, pos) right-padded token ids and (case,) real tokens, as in `tasks.Counterfactuals`.
        share_prefix: Compute everything before the last token once (needs a key/value cache). When missing it is
            done where it was found, on two of the cases, to give the logits of whole sequences; `True` insists.
        batch_size: Most last tokens (cases x arms) in one forward pass.
        batch_tokens: Most tokens in one forward pass, those counted whose keys and values it only looks at.
        keep_bytes: Keys, values and streams kept between calls; past this they are computed once per call instead.

    Attributes:
        rows: (case,) case numbers that edits see; 0, 1, ... unless this is a `select`ion.
        shares_prefix: Whether the prefix is shared.
    """

    def __init__(
        self,
        model,
        tokens: Int[Tensor, "case pos"],
        lengths: Int[Tensor, " case"],
        *,
        share_prefix: bool | None = None,
        batch_size: int = 512,
        batch_tokens: int = 2**14,
        keep_bytes: int = 2**31,
    ):
        if len(lengths) != len(tokens) or not len(lengths):
            raise ValueError(f"lengths is for {len(lengths)} cases, tokens for {len(tokens)}; give one of each a case")
        if int(lengths.min()) < 1 or int(lengths.max()) > tokens.shape[1]:
            raise ValueError(f"lengths must lie in 1..{tokens.shape[1]}, they run from {int(lengths.min())} to "
                             f"{int(lengths.max())}; count the real tokens of every case")
        n_ctx = getattr(model.cfg, "n_ctx", None)
        if n_ctx and int(lengths.max()) > n_ctx:
            raise ValueError(f"case {int(lengths.argmax())} has {int(lengths.max())} tokens, the model's context is "
                             f"{n_ctx}; shorten it or drop it")
        self.model, self.batch_size, self.batch_tokens, self.keep_bytes = model, batch_size, batch_tokens, keep_bytes
        self.device = next(model.parameters()).device
        self.tokens, self.lengths = tokens, lengths.cpu()
        self.rows = torch.arange(len(tokens))
        self._kept, self._selections, self._resumable = 0, dict[tuple, LastToken](), dict[int, bool]()
        self._batches = self._group()
        forward = inspect.signature(model.original_model.forward).parameters
        self._brief = {"logits_to_keep": 1} if "logits_to_keep" in forward else {}  # no unembedding of the prefix
        self.shares_prefix = self._can_share() if share_prefix is None else share_prefix
        if share_prefix and not self._can_share():
            raise ValueError(f"{type(model.original_model).__name__} gives other logits through a key/value cache than "
                             "on whole sequences, or has none; leave share_prefix out to run whole sequences")

    @classmethod
    def of(cls, model, cases: Counterfactuals, *, only=None, **options) -> "LastToken":
        """The last tokens of counterfactual cases, in their order; `only` (a mask or index) as in `select`."""
        prompt = torch.as_tensor(cases.cases["prompt"].to_numpy(copy=True))
        run = cls(model, cases.tokens[prompt], cases.lengths[prompt], **options)
        return run if only is None else run.select(only)

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, where) -> "LastToken":
        """Some of the cases, by mask or index, without computing anything again. Edits keep counting all cases:
        the numbers in `rows` stay what they were. The same selection twice is one object: its prefix is kept."""
        places = torch.as_tensor(np.arange(len(self))[np.asarray(where)])
        key = tuple(places.tolist())
        if key not in self._selections:
            self._selections[key] = self._part(places)
        return self._selections[key]

    def _part(self, places: Tensor) -> "LastToken":
        part = copy.copy(self)
        part._selections = {}
        part.tokens, part.lengths, part.rows = self.tokens[places], self.lengths[places], self.rows[places]
        part._batches, part._kept = [], 0
        new_place = torch.full((len(self),), -1)
        new_place[places] = torch.arange(len(places))
        for batch in self._batches:
            inside = (new_place[batch.places] >= 0).nonzero()[:, 0]
            if not len(inside):
                continue
            prefix = batch.prefix
            if prefix is not None and len(inside) < len(batch.places):
                prefix = map_cache(prefix, partial(take_rows, places=inside))
            part._kept += n_bytes(prefix)
            part._batches.append(_Batch(new_place[batch.places][inside], batch.rows[inside.to(batch.rows.device)],
                                        batch.tokens[inside.to(batch.tokens.device)], prefix))
        return part

    def logits(self, edits: Edits | None = None, read: Sequence[Site] = ()):
        """(case, d_vocab) logits of the next token; with `read`, also {site: (case, width)} of the last token there,
        edits of that site included."""
        out, acts = self._collect([edits or {}], read)
        return (out[0], {site: x[0] for site, x in acts.items()}) if read else out[0]

    def logits_many(self, arms: Sequence[Edits], read: Sequence[Site] = ()):
        """`logits` of several arms at once: (arm, case, d_vocab), and {site: (arm, case, d_model)} with `read`."""
        out, acts = self._collect(arms, read)
        return (out, acts) if read else out

    def measure(
        self, arms: Sequence[Edits], score: Callable[[Tensor, Tensor], Tensor]
    ) -> Float[Tensor, "arm case number"]:
        """`score(logits (row, d_vocab), places (row,)) -> (row, number)` of every arm, without ever holding the logits
        of more than one batch. A row is a case under an arm; `places` point into the cases of this object (not into
        `rows`), and come again for every arm that is scored in the same call."""
        out: Tensor | None = None

        def take(which, batch, logits, acts):
            nonlocal out
            together = max(1, SCORED // logits[0].numel())
            for some, each in zip(torch.tensor(which).split(together), logits.split(together), strict=True):
                numbers = score(each.flatten(0, 1), batch.places.repeat(len(some)))
                if out is None:
                    out = torch.empty(len(arms), len(self), numbers.shape[-1], dtype=numbers.dtype)
                out[some[:, None], batch.places] = numbers.cpu().unflatten(0, (len(some), -1))

        self._run(arms, take)
        return torch.empty(0, len(self), 0) if out is None else out

    def generate(self, edits: Edits | None = None, n_tokens: int = 1, **how) -> Int[Tensor, "case n_tokens"]:
        """The continuation of every case; `how` as in `generate_many`."""
        return self.generate_many([edits or {}], n_tokens, **how)[0]

    def generate_many(
        self,
        arms: Sequence[Edits],
        n_tokens: int = 1,
        *,
        every_token: bool = False,
        temperature: float | int = 0.0,
        top_k: int | None = None,
        top_p: float | int | None = None,
        seed: int = 0,
    ) -> Int[Tensor, "arm case n_tokens"]:
        """Continuations of every case under several arms: greedy, or sampled where the temperature is not 0.

        What is drawn is a function of `seed`, the case and the arm, whatever runs in the same batch, and the beginning
        of what is drawn when more tokens are wanted. All arms draw with the same numbers.

        Args:
            every_token: Edit every generated token as well, when it is read (ITI). Else only the last token of the
                case is edited, and the tokens that follow see its edited keys and values.
            temperature, top_k, top_p: As in Hugging Face's `generate`; temperature 0 takes the likeliest token.
        """
        sampling = Sampling(temperature, top_k, top_p, seed)
        longest, n_ctx = int(self.lengths.max()), getattr(self.model.cfg, "n_ctx", None)
        if n_tokens < 1 or (n_ctx and longest + n_tokens - 1 > n_ctx):
            raise ValueError(f"n_tokens = {n_tokens} after a case of {longest} tokens; wanted at least 1, and all but "
                             f"the last within the context of {n_ctx}")
        self._check(arms)
        out, now = torch.empty(len(arms), len(self), n_tokens, dtype=torch.long), _Now(self.rows)
        with torch.no_grad(), self.model.hooks(fwd_hooks=self._hooks(arms, (), now)):
            for batch in self._batches:
                u = sampling.uniforms(batch.rows, n_tokens)
                together = max(1, self._most(batch.tokens.shape[1] + n_tokens) // len(batch.rows))
                for first in range(0, len(arms), together):
                    chunk = arms[first : first + together]
                    new = self._continue(batch, chunk, now, every_token, sampling, u.repeat(len(chunk), 1))
                    out[first : first + len(chunk), batch.places] = new.cpu()
        return out

    def _continue(self, batch: _Batch, arms: Sequence[Edits], now: _Now, every_token: bool, sampling: Sampling,
                  u: Float[Tensor, "sequence n_tokens"]) -> Int[Tensor, "arm batch n_tokens"]:
        tokens, length = batch.tokens.repeat(len(arms), 1), batch.tokens.shape[1]
        cache = map_cache(self._prefix(batch), partial(tile, n=len(arms))) if self.shares_prefix else None
        for draw in u.T:
            seen = 0 if cache is None else cache.get_seq_length()  # without a cache all is edited anew at every step
            now.positions = slice(max(0, length - 1 - seen), None if every_token else length - seen)
            now.arms, now.rows = (arms if every_token or seen < length else None), batch.rows
            logits = self._forward(tokens[:, seen:], cache)
            now.arms = None
            tokens = torch.cat([tokens, sampling.pick(logits, draw)[:, None].to(tokens)], dim=1)
        return tokens[:, length:].view(len(arms), len(batch.rows), -1)

    def _collect(self, arms: Sequence[Edits], read: Sequence[Site]):
        out: list = []
        acts: dict = {site: [] for site in read}

        def place(store: list, which: list[int], batch: _Batch, values: Tensor) -> None:
            if not store:
                store.append(values.new_empty(len(arms), len(self), values.shape[-1]))
            store[0][torch.tensor(which)[:, None], batch.places] = values

        def take(which, batch, logits, seen):
            place(out, which, batch, logits)
            for site in read:
                place(acts[site], which, batch, seen[site])

        self._run(arms, take, read)
        return (out[0] if out else torch.empty(0, len(self), 0)), {site: x[0] for site, x in acts.items() if x}

    def _run(self, arms: Sequence[Edits], take: Callable, read: Sequence[Site] = ()) -> None:
        """Calls `take(numbers of some arms, batch, logits (arm, batch, d_vocab), {site: (arm, batch, d_model)})` until
        every arm of every batch has come. Arms enter together where they edit first; one arm alone runs whole."""
        self._check(arms, read)
        now, firsts = _Now(self.rows), [first_block(self.model, (*arm, *read)) for arm in arms]
        shares = self.shares_prefix and len(arms) > 1 and hasattr(self.model, "blocks")
        with torch.no_grad(), self.model.hooks(fwd_hooks=self._hooks(arms, read, now)):
            for batch in self._batches:
                prefix = self._prefix(batch) if self.shares_prefix else None
                entering = self._entering(batch, prefix, set(firsts)) if shares else {}
                starts = [first if first in entering else 0 for first in firsts]
                together = max(1, self._most(batch.tokens.shape[1]) // len(batch.rows))
                for start in sorted(set(starts)):
                    mine = [i for i, s in enumerate(starts) if s == start]
                    wide = None if prefix is None else widen(prefix, min(together, len(mine)), start)
                    for which in (mine[i : i + together] for i in range(0, len(mine), together)):
                        n = len(which) * len(batch.rows)
                        cache = None if wide is None else map_cache(wide, partial(first_rows, n=n))
                        tokens = (batch.tokens if prefix is None else batch.tokens[:, -1:]).repeat(len(which), 1)
                        now.arms, now.rows, now.positions = [arms[i] for i in which], batch.rows, slice(-1, None)
                        with entered(self.model, start, entering.get(start), len(which)):
                            logits = self._forward(tokens, cache)
                        now.arms = None
                        take(which, batch, logits.reshape(len(which), len(batch.rows), -1), now.read)

    def _forward(self, tokens: Tensor, cache: DynamicCache | None) -> Tensor:
        """Logits of the last position (batch, d_vocab)."""
        shared = {} if cache is None else {"past_key_values": cache, "use_cache": True}
        return self.model(tokens, **shared, **self._brief)[:, -1]

    def _prefix(self, batch: _Batch) -> DynamicCache:
        """Keys and values of everything before the last token of a batch, kept while they fit into `keep_bytes`."""
        if batch.prefix is not None:
            return batch.prefix
        prefix = self._empty_cache()
        if batch.tokens.shape[1] > 1:
            self._forward(batch.tokens[:, :-1], prefix)
        if self._kept + n_bytes(prefix) <= self.keep_bytes:
            batch.prefix, self._kept = prefix, self._kept + n_bytes(prefix)
        return prefix

    def _entering(self, batch: _Batch, prefix: DynamicCache, starts: set[int]) -> dict[int, Output]:
        """start -> what block start - 1 gives at the last token, unedited: for those of `starts` at which an entered
        pass gives the logits of a whole one, bit by bit (seen on the batch that came first)."""
        tokens, outputs = batch.tokens[:, -1:], batch.entering
        if outputs is None:
            with recorded(self.model, set(range(1, self.model.cfg.n_layers + 1))) as outputs:
                self._forward(tokens, map_cache(prefix))
            outputs = {start: output for start, output in outputs.items() if is_one_stream(output)}
            size = sum(stream_of(output).nbytes for output in outputs.values())
            if self._kept + size <= self.keep_bytes:
                batch.entering, self._kept = outputs, self._kept + size
        if new := starts & set(outputs) - set(self._resumable):
            whole = self._forward(tokens, map_cache(prefix))
            for start in new:
                with entered(self.model, start, outputs[start]):
                    self._resumable[start] = torch.equal(self._forward(tokens, map_cache(prefix)), whole)
        return {start: outputs[start] for start in starts & set(outputs) if self._resumable[start]}

    def _empty_cache(self) -> DynamicCache:
        return DynamicCache(config=self.model.original_model.config)

    def _hooks(self, arms: Sequence[Edits], read: Sequence[Site], now: _Now) -> list:
        def edit_at(site):
            def edit(resid, hook):
                if now.arms is None:
                    return resid
                resid = resid.clone(memory_format=torch.contiguous_format)
                acts = inside(resid, site)[:, now.positions]
                rows = now.rows.to(resid.device).repeat_interleave(acts.shape[1])
                by_arm = acts.flatten(0, 1).clone().unflatten(0, (len(now.arms), len(rows)))
                new = [arm[site](x, rows) if site in arm else x for arm, x in zip(now.arms, by_arm, strict=True)]
                acts.copy_(torch.cat(new).view_as(acts))
                return resid

            return edit

        def read_at(site):
            def keep(resid, hook):
                if now.arms is not None:
                    last = inside(resid, site)[:, -1]
                    now.read[site] = last.unflatten(0, (len(now.arms), len(now.rows))).clone()
                return resid

            return keep

        edited = dict.fromkeys(site for arm in arms for site in arm)
        # readers come second at a site, so that they see what the edit left there
        return [(site.hook, edit_at(site)) for site in edited] + [(site.hook, read_at(site)) for site in read]

    def _check(self, arms: Sequence[Edits], read: Sequence[Site] = ()) -> None:
        for site, edit in ((site, edit) for arm in arms for site, edit in arm.items()):
            check_editable(self.model, site, edit)
            if (n := getattr(edit, "n_cases", 1)) != 1 and n <= int(self.rows.max()):
                raise ValueError(f"the edit at {site} is for {n} cases, but there is a case number "
                                 f"{int(self.rows.max())}; give one row per case, or one row for all")
        for site in read:
            check_site(self.model, site)

    def _most(self, length: int) -> int:
        """Most cases x arms in one pass."""
        return max(1, min(self.batch_size, self.batch_tokens // length))

    def _group(self) -> list[_Batch]:
        batches = []
        for length in self.lengths.unique().tolist():
            for places in (self.lengths == length).nonzero()[:, 0].split(self._most(length)):
                tokens = self.tokens[places.to(self.tokens.device), :length].to(self.device)
                batches.append(_Batch(places, self.rows[places].to(self.device), tokens))
        return batches

    def _can_share(self) -> bool:
        """Whether a key/value cache gives the logits of whole sequences, seen on two of the longest cases."""
        if not isinstance(getattr(self.model.original_model, "config", None), PreTrainedConfig):
            return False
        longest = self._batches[-1]
        sample = _Batch(longest.places[:2], longest.rows[:2], longest.tokens[:2])
        empty = self._empty_cache()
        if not all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in empty.layers):
            return False  # recurrent states are changed in place: a second arm would see the first
        with torch.no_grad():
            whole = self._forward(sample.tokens, None)
            if sample.tokens.shape[1] > 1:
                self._forward(sample.tokens[:, :-1], empty)
                if empty.get_seq_length() != sample.tokens.shape[1] - 1:
                    return False
            shared = self._forward(sample.tokens[:, -1:], empty)
        tolerance = 50 * torch.finfo(whole.dtype).eps * float(whole.abs().max().clamp_min(1))
        return float((whole - shared).abs().max()) <= tolerance
