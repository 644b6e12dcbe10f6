"""Edits at any positions of whole sequences, at any layers, many sets of them at a time.

    run = Sequences(model, tokens, lengths)
    run.logits({Site("resid_post", 3): At(steer(direction), positions=2)})

Nothing below the first edited layer changes: the stream that enters it is computed once per prompt and shared by all
arms (an arm = one set of edits), which run the layers above only. Where edits act on the last token alone, `LastToken`
shares the tokens before as well.
"""

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from probing._identity import is_causal
from probing._models import check_site
from probing._sites import Site
from tasks._prompts import Counterfactuals

from ._edits import Edit
from ._last_token import LastToken
from ._midway import Output, entered, first_block, is_one_stream, recorded
from ._places import At, check_editable, inside
from ._sampling import Sampling

Arm = Mapping[Site, Edit | At | Sequence[At]]
Edited = dict[Site, list[At]]


@dataclass
class _Batch:
    """Cases of equal length: where they stand in the output, their case numbers, their tokens, and how many of these
    are in a cache already."""

    places: Int[Tensor, " batch"]
    rows: Int[Tensor, " batch"]
    tokens: Int[Tensor, "batch pos"]
    seen: int = 0

    @property
    def lengths(self) -> Int[Tensor, " batch"]:
        return torch.full((len(self.rows),), self.tokens.shape[1])


@dataclass
class _Pass:
    """One forward pass: some arms (stacked, arm-major) of a batch, and what its hooks keep. When text is generated, the
    first `seen` positions are in a cache already, and the edits go on at `generated` tokens after the prompt."""

    arms: Sequence[Edited]
    batch: _Batch
    kept: dict[Site, Tensor] = field(default_factory=dict)
    seen: int = 0
    generated: int = 0

    def places(self, at: At) -> tuple[Int[Tensor, " edited"], Int[Tensor, " edited"]]:
        """(which case of the batch, position) of everything that this pass edits."""
        index, pos = at.places(self.batch.rows.cpu(), self.batch.lengths)
        if self.generated and at.goes_on:
            after = torch.arange(self.generated) + self.batch.tokens.shape[1]
            new = torch.cartesian_prod(torch.arange(len(self.batch.rows)), after)
            index, pos = torch.cat([index, new[:, 0]]), torch.cat([pos, new[:, 1]])
        here = pos >= self.seen
        return index[here], pos[here]


class Sequences:
    """Logits at chosen positions of every case, under edits at any positions.

    An arm maps sites to edits: `At(edit, positions)`, several of them in a list, or a bare edit, which acts on the
    last token as under `LastToken`. Where a model cannot be entered in the middle (seen on two of the cases: its
    layers pass on more than one stream), every arm runs all layers: the same numbers, more slowly.

    Args:
        tokens, lengths: (case, pos) right-padded token ids and (case,) real tokens, as in `tasks.Counterfactuals`.
        positions: Where logits are wanted: one position for all cases, (case,), or (case, k); see `At`.
        batch_tokens: Most tokens (of cases and arms together) in one forward pass.

    Attributes:
        rows: (case,) case numbers that edits see; 0, 1, ... unless this is a `select`ion.
    """

    def __init__(self, model, tokens: Int[Tensor, "case pos"], lengths: Int[Tensor, " case"], *,
                 positions: int | Int[Tensor, "..."] = -1, batch_tokens: int = 2**13):
        if len(lengths) != len(tokens) or not len(lengths):
            raise ValueError(f"lengths is for {len(lengths)} cases, tokens for {len(tokens)}; give one of each a case")
        n_ctx = getattr(model.cfg, "n_ctx", None) or tokens.shape[1]
        if int(lengths.min()) < 1 or int(lengths.max()) > min(tokens.shape[1], n_ctx):
            raise ValueError(f"lengths must lie in 1..{min(tokens.shape[1], n_ctx)}, they run from "
                             f"{int(lengths.min())} to {int(lengths.max())}; count the real tokens of every case")
        self.model, self.batch_tokens, self.positions = model, batch_tokens, positions
        self.device = next(model.parameters()).device
        self.tokens, self.lengths, self.rows = tokens, lengths.cpu(), torch.arange(len(tokens))
        forward = inspect.signature(model.original_model.forward).parameters
        self._selects = "logits_to_keep" in forward  # else logits of all positions are computed
        self._options = {"use_cache": False} if "use_cache" in forward else {}
        self._resumable: dict[int, bool] = {}
        self._batches = self._group()
        self._at(self.rows, self.lengths)  # a position outside its prompt is found now

    @classmethod
    def of(cls, model, cases: Counterfactuals, *, only=None, **options) -> "Sequences":
        """The prompts of counterfactual cases, in their order; `only` (a mask or index) as in `select`."""
        prompt = torch.as_tensor(cases.cases["prompt"].to_numpy(copy=True))
        run = cls(model, cases.tokens[prompt], cases.lengths[prompt], **options)
        return run if only is None else run.select(only)

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, where) -> "Sequences":
        """Some of the cases, by mask or index. Edits keep counting all cases: `rows` stay what they were."""
        part, places = copy.copy(self), torch.as_tensor(np.arange(len(self))[np.asarray(where)])
        part.tokens, part.lengths, part.rows = self.tokens[places], self.lengths[places], self.rows[places]
        part._batches = part._group()
        return part

    def logits(self, edits: Arm | None = None) -> Float[Tensor, "case *k d_vocab"]:
        """Logits at the chosen positions; the axis k is there if each case has several."""
        return self.logits_many([edits or {}])[0]

    def logits_many(self, arms: Sequence[Arm]) -> Float[Tensor, "arm case *k d_vocab"]:
        """`logits` of several arms at once."""
        return self._collect(arms, lambda logits, places: logits)

    def measure(self, arms: Sequence[Arm], score: Callable[[Tensor, Tensor], Tensor]) -> Float[Tensor, "arm case n"]:
        """`score(logits (batch, *k, d_vocab), places (batch,)) -> (batch, n)` of every arm, without ever holding the
        logits of more than one batch. `places` point into the cases of this object (not into `rows`)."""
        return self._collect(arms, lambda logits, places: score(logits, places).cpu())

    def read(self, sites: Sequence[Site], edits: Arm | None = None) -> dict[Site, Float[Tensor, "case pos width"]]:
        """Activations at every position, edits of that site included; zero beyond the end of a prompt."""
        out: dict[Site, Tensor] = {}
        for places, kept in self.stream(sites, edits):
            for site, acts in kept.items():
                if site not in out:
                    out[site] = acts.new_zeros(*self.tokens.shape, acts.shape[-1])
                out[site][places, : acts.shape[1]] = acts
        return out

    def stream(self, sites: Sequence[Site], edits: Arm | None = None) -> Iterator[
            tuple[Int[Tensor, " batch"], dict[Site, Float[Tensor, "batch pos width"]]]]:
        """(places, {site: activations}) of one batch of equally long prompts after another, as in `read`."""
        for _, batch, _, kept in self._run([edits or {}], sites):
            yield batch.places, {site: acts[0] for site, acts in kept.items()}

    def generate(self, edits: Arm | None = None, n_tokens: int = 1, **how) -> Int[Tensor, "case n_tokens"]:
        """The continuation of every case; `how` as in `generate_many`."""
        return self.generate_many([edits or {}], n_tokens, **how)[0]

    def generate_many(
        self,
        arms: Sequence[Arm],
        n_tokens: int = 1,
        *,
        every_token: bool = False,
        temperature: float | int = 0.0,
        top_k: int | None = None,
        top_p: float | int | None = None,
        seed: int = 0,
    ) -> Int[Tensor, "arm case n_tokens"]:
        """Continuations of every case under several arms, as `LastToken.generate_many`; every arm runs the prompt.

        Args:
            every_token: Edits of every token and of the last one (positions None and -1) act on every generated token
                as well, when it is read; edits of other positions stay in the prompt, as all do without it.
        """
        sampling, edited = Sampling(temperature, top_k, top_p, seed), [_lists(arm) for arm in arms]
        self._check(edited, ())
        self._check_generation(edited, n_tokens, every_token)
        few = self.lengths.argsort()[-2:]
        cached = LastToken(self.model, self.tokens[few], self.lengths[few]).shares_prefix
        out = torch.empty(len(arms), len(self), n_tokens, dtype=torch.long)
        for batch in self._batches:
            u = sampling.uniforms(batch.rows, n_tokens)
            together = max(1, self.batch_tokens // (len(batch.rows) * (batch.tokens.shape[1] + n_tokens)))
            for first in range(0, len(arms), together):
                now = _Pass(edited[first : first + together], batch)
                tokens = self._continue(now, every_token, sampling, u.repeat(len(now.arms), 1), cached)
                out[first : first + len(now.arms), batch.places] = tokens.cpu()
        return out

    def _continue(self, now: _Pass, every_token: bool, sampling: Sampling, u: Float[Tensor, "sequence n_tokens"],
                  cached: bool) -> Int[Tensor, "arm batch n_tokens"]:
        tokens, length = now.batch.tokens.repeat(len(now.arms), 1), now.batch.tokens.shape[1]
        cache = DynamicCache(config=self.model.original_model.config) if cached else None
        options = {"past_key_values": cache, "use_cache": True} if cached else self._options
        brief = {"logits_to_keep": 1} if self._selects else {}
        with torch.no_grad(), self.model.hooks(fwd_hooks=self._hooks(now, ())):
            for draw in u.T:
                now.seen = 0 if cache is None else cache.get_seq_length()
                now.generated = tokens.shape[1] - length if every_token else 0
                logits = self.model(tokens[:, now.seen :], **brief, **options)[:, -1]
                tokens = torch.cat([tokens, sampling.pick(logits, draw)[:, None].to(tokens)], dim=1)
        return tokens[:, length:].view(len(now.arms), len(now.batch.rows), -1)

    def _check_generation(self, arms: Sequence[Edited], n_tokens: int, every_token: bool) -> None:
        longest, n_ctx = int(self.lengths.max()), getattr(self.model.cfg, "n_ctx", None)
        if n_tokens < 1 or (n_ctx and longest + n_tokens - 1 > n_ctx):
            raise ValueError(f"n_tokens = {n_tokens} after a case of {longest} tokens; wanted at least 1, and all but "
                             f"the last within the context of {n_ctx}")
        if not is_causal(self.model):
            raise ValueError(f"{type(self.model.original_model).__name__} is an encoder and generates nothing; take a "
                             "decoder")
        for site, at in ((site, at) for arm in arms for site, edits in arm.items() for at in edits):
            n, wanted = getattr(at.edit, "n_cases", 1), longest + n_tokens - 1
            if every_token and at.goes_on and n != 1 and (at.by == "token" or (at.by == "position" and n < wanted)):
                raise ValueError(f"the edit at {site} has constants for {n} {at.by}s, but the generated tokens are "
                                 f"edited too; give one for all, one per case, or one for each of {wanted} positions")

    def _collect(self, arms: Sequence[Arm], score: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        out = torch.empty(0, len(self), 0)
        for which, batch, logits, _ in self._run(arms):
            for arm, each in zip(which, logits, strict=True):
                numbers = score(each, batch.places)
                if not out.numel():
                    out = numbers.new_empty(len(arms), len(self), *numbers.shape[1:])
                out[arm, batch.places] = numbers
        return out

    def _run(self, arms: Sequence[Arm], read: Sequence[Site] = ()) -> Iterator[
            tuple[list[int], _Batch, Tensor, dict[Site, Tensor]]]:
        """(numbers of some arms, batch, their logits (arm, batch, *k, d_vocab), {site: (arm, batch, pos, width)}),
        until every arm of every batch has come."""
        edited = [_lists(arm) for arm in arms]
        self._check(edited, read)
        starts = [first_block(self.model, (*arm, *read)) for arm in edited]
        self._find_out(set(starts))
        starts = [start if self._resumable[start] else 0 for start in starts]
        for batch in self._batches:
            entering = self._entering(batch, set(starts))
            together = max(1, self.batch_tokens // batch.tokens.numel())
            for start in sorted(set(starts)):
                mine = [i for i, s in enumerate(starts) if s == start]
                for which in (mine[i : i + together] for i in range(0, len(mine), together)):
                    now = _Pass([edited[i] for i in which], batch, seen=batch.seen)
                    with torch.no_grad(), self.model.hooks(fwd_hooks=self._hooks(now, read)):
                        logits = self._logits(batch, len(which), start, entering.get(start))
                    yield which, batch, logits, now.kept

    def _logits(self, batch: _Batch, n: int = 1, start: int = 0, entering: Output | None = None) -> Tensor:
        """(arm, batch, *k, d_vocab) of `n` arms, from block `start` on."""
        index, at = self._at(batch.rows.cpu(), batch.lengths)
        keep, where = at.unique(return_inverse=True)
        with entered(self.model, start, entering, n):
            logits = self._forward(batch.tokens.repeat(n, 1), keep)
        logits = logits.unflatten(0, (n, len(batch.rows)))
        where = where if self._selects else at
        picked = logits[:, index.to(logits.device), where.to(logits.device)]
        several = not isinstance(self.positions, int) and self.positions.ndim == 2
        return picked.unflatten(1, (len(batch.rows), -1)) if several else picked

    def _forward(self, tokens: Tensor, keep: Tensor, **options) -> Tensor:
        brief = {"logits_to_keep": keep.to(self.device)} if self._selects else {}
        return self.model(tokens, **brief, **self._options, **options)

    def _at(self, rows: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return At(lambda x, rows: x, self.positions).places(rows, lengths)

    def _entering(self, batch: _Batch, starts: set[int]) -> dict[int, Output]:
        """start -> what block start - 1 gives for this batch, unedited."""
        if not (starts := starts - {0}):
            return {}
        last = {"stop_at_layer": max(starts)} if max(starts) < self.model.cfg.n_layers else {}
        with torch.no_grad(), recorded(self.model, starts) as outputs:
            self._forward(batch.tokens, torch.zeros(1, dtype=torch.long), **last)
        return outputs

    def _find_out(self, starts: set[int]) -> None:
        """Whether a forward pass entered at each of these blocks gives the logits of a whole one, on two cases."""
        self._resumable.setdefault(0, True)
        if not (new := starts - set(self._resumable)):
            return
        if not hasattr(self.model, "blocks"):
            self._resumable |= dict.fromkeys(new, False)
            return
        few = self._batches[-1]
        few = _Batch(few.places[:2], few.rows[:2], few.tokens[:2])
        with torch.no_grad():
            entering, whole = self._entering(few, new), self._logits(few)
            for start in new:
                output = entering.get(start)
                same = is_one_stream(output) and torch.equal(self._logits(few, 1, start, output), whole)
                self._resumable[start] = same

    def _hooks(self, now: _Pass, read: Sequence[Site]) -> list:
        def edit_at(site):
            def edit(acts, hook):
                acts = acts.clone(memory_format=torch.contiguous_format)
                by_arm = inside(acts, site).unflatten(0, (len(now.arms), len(now.batch.rows)))
                for arm, edits in zip(by_arm, now.arms, strict=True):
                    for at in edits.get(site, ()):
                        index, pos = now.places(at)
                        if not len(index):
                            continue
                        rows = at.numbers(now.batch.rows.cpu()[index], pos, self.tokens.shape[1])
                        where = index.to(acts.device), (pos - now.seen).to(acts.device)
                        arm[where] = at.edit(arm[where], rows.to(acts.device)).to(acts.dtype)
                return acts

            return edit

        def keep_at(site):
            def keep(acts, hook):
                now.kept[site] = inside(acts, site).unflatten(0, (len(now.arms), len(now.batch.rows))).clone()
                return acts

            return keep

        edited = dict.fromkeys(site for arm in now.arms for site in arm)
        # readers come second at a site, so that they see what the edit left there
        return [(site.hook, edit_at(site)) for site in edited] + [(site.hook, keep_at(site)) for site in read]

    def _check(self, arms: Sequence[Edited], read: Sequence[Site]) -> None:
        for site in read:
            check_site(self.model, site)
        longest = self.tokens.shape[1]
        for site, at in ((site, at) for arm in arms for site, edits in arm.items() for at in edits):
            check_editable(self.model, site, at.edit)
            index, pos = at.places(self.rows, self.lengths)
            n, most = getattr(at.edit, "n_cases", 1), int(at.numbers(self.rows[index], pos, longest).max())
            if n != 1 and (n <= most or (at.by == "token" and n % longest)):
                wanted = f"cases x {longest} tokens" if at.by == "token" else f"at least {most + 1}"
                raise ValueError(f"the edit at {site} has constants for {n} {at.by}s, wanted {wanted}; give one per "
                                 f"{at.by}, or one for all")

    def _group(self) -> list[_Batch]:
        batches = []
        for length in self.lengths.unique().tolist():
            for places in (self.lengths == length).nonzero()[:, 0].split(max(1, self.batch_tokens // length)):
                tokens = self.tokens[places.to(self.tokens.device), :length].to(self.device)
                batches.append(_Batch(places, self.rows[places].to(self.device), tokens))
        return batches


def _lists(arm: Arm) -> Edited:
    def as_list(edit: Edit | At | Sequence[At]) -> list[At]:
        if isinstance(edit, At):
            return [edit]
        return list(edit) if isinstance(edit, Sequence) else [At(edit, -1)]

    return {site: as_list(edit) for site, edit in arm.items()}
