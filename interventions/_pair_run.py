"""Interchanges of pairs at one site: their runs, their scores, and the rows of a table of them.

    run = PairRun(model, pairs, Site("resid_post", 1))
    scores = run.interchange([None, Subspace.spanned_by(direction[None])], "report")
"""

import copy
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from probing._models import identify
from probing._sites import Site
from probing._statistics import bootstrap_ratio
from probing._subspaces import Subspace

from ._caches import map_cache
from ._edits import patch_from, steer
from ._interchange import InterchangePairs
from ._last_token import Edits, LastToken
from ._metrics import hits
from ._midway import Entry, entered, entry, is_one_stream, recorded


class PairRun:
    """Interchanges of pairs at one site, at the last token. Activations of all prompts are computed once.

    Attributes:
        acts: (prompt, d_model) at the site, in float32 or finer.
        run: The `LastToken` of the bases; edits count bases.
    """

    def __init__(self, model, pairs: InterchangePairs, site: Site, **options):
        self.model, self.pairs, self.site = model, pairs, site
        prompt = torch.as_tensor(pairs.bases["prompt"].to_numpy(copy=True))
        self.run = LastToken(model, pairs.tokens[prompt], pairs.lengths[prompt], **options)
        self.acts = _read(LastToken(model, pairs.tokens, pairs.lengths, **options), site)

    @classmethod
    def like(cls, run: "PairRun", pairs: InterchangePairs) -> "PairRun":
        """Other pairs of the same prompts, nothing computed again."""
        new = copy.copy(run)
        new.pairs = pairs
        return new

    @cached_property
    def entry(self) -> Entry | None:
        """Where the site's stream enters the model, so that the blocks below need not run: seen on two bases to give
        the logits of a whole forward pass; None where it does not, or where whole sequences are run."""
        at = entry(self.model, self.site)
        if at is None or not self.run.shares_prefix:
            return None
        few = self.run.select(range(min(2, len(self.run))))
        batch = few._batches[0]
        tokens, stream = batch.tokens[:, -1:], self.base()[batch.rows.cpu()][:, None]
        with torch.no_grad():
            with recorded(self.model, {at.start}) as outputs:
                whole = few._forward(tokens, map_cache(few._prefix(batch)))
            if not is_one_stream(outputs.get(at.start)):
                return None
            at = at._replace(as_tuple=isinstance(outputs[at.start], tuple))
            with entered(self.model, at.start, at.given(stream.to(whole.dtype))):
                same = few._forward(tokens, map_cache(few._prefix(batch)))
        return at if torch.allclose(same, whole, rtol=0, atol=1e-4 * float(whole.abs().max())) else None

    def base(self) -> Float[Tensor, "base d_model"]:
        """Activations of the bases."""
        return self.acts[self.pairs.bases["prompt"].to_numpy(copy=True)]

    def source(self, column: int) -> Float[Tensor, "base d_model"]:
        """Activations of one column of sources."""
        return self.acts[self.pairs.sources[:, column]]

    def inside(self, part: str) -> LastToken:
        """The bases of one part."""
        return self.run.select(self.pairs.inside(part))

    def swaps(self, space: Subspace | None) -> list[Edits]:
        """The interchange with every column of sources, as arms of `LastToken`: inside `space`, or of everything."""
        basis = None if space is None else space.basis.to(self.acts.dtype)[None]
        return [{self.site: patch_from(self.source(j), basis)} for j in range(self.pairs.sources.shape[1])]

    def turned(self, space: Subspace, frame: Subspace) -> list[Edits]:
        """`swaps` of a space, turned rigidly into a random one of its rank: the same norms, the same angles between
        cases, another direction."""
        q, f = (s.basis.to(self.acts) for s in (space, frame))
        base = self.base()
        return [{self.site: steer((self.source(j) - base) @ q.T @ f)} for j in range(self.pairs.sources.shape[1])]

    def score(self, arms: Sequence[Edits], part: str) -> Float[ndarray, "arm base answer number"]:
        """Of every arm against the answers `right_after` and `right_before`: the share of the right tokens among as
        many top picks (of one right token, 1 or 0), and their cross-entropy in nats, the right ones equally likely."""
        run = self.inside(part)
        right = [torch.as_tensor(r) for r in (self.pairs.right_after, self.pairs.right_before)]

        def numbers(logits: Tensor, places: Tensor) -> Tensor:
            rows = run.rows[places.cpu()]
            return torch.cat([torch.stack([hits(logits, r[rows]), cross_entropy(logits, r[rows])], -1)
                              for r in right], -1).double()

        return run.measure(arms, numbers).unflatten(-1, (2, 2)).numpy()

    def interchange(self, spaces: Sequence[Subspace | None], part: str) -> Float[ndarray, "space base source number"]:
        """`score` of interchanges inside each space (None: of the whole activation) against the answers of their
        sources."""
        return self.expected([self.swaps(space) for space in spaces], part)

    def expected(self, arms: Sequence[Sequence[Edits]], part: str) -> Float[ndarray, "arm base source number"]:
        """`score` of arms of one set of edits per column of sources, against the answers that the column calls for."""
        scored = self.score([edits for arm in arms for edits in arm], part)
        scored = scored.reshape(len(arms), -1, *scored.shape[1:])
        return np.where(self.pairs.changed[:, None, None], scored[..., 0, :], scored[..., 1, :]).swapaxes(1, 2)

    def unedited(self, part: str) -> Float[ndarray, "base source number"]:
        """What the bases score as they are, against the answers of each source."""
        after, before = self.score([{}], part)[0].swapaxes(0, 1)
        return np.stack([after if c else before for c in self.pairs.changed], 1)

    def context(self, **columns) -> dict:
        """The columns that all result rows about these pairs share."""
        known = identify(self.model)
        return {"task": self.pairs.task, "model": known.name, "revision": known.revision, "model_hash": known.digest,
                "data_hash": self.pairs.digest, "label": self.pairs.label, "stream": self.site.stream,
                "layer": self.site.layer, "layer_end": self.site.layer, "head": self.site.head, **columns}


def cross_entropy(logits: Float[Tensor, "case d_vocab"], right: Bool[Tensor, "case d_vocab"]) -> Float[Tensor, " case"]:
    """Cross-entropy, in nats, to the uniform distribution over the right tokens."""
    right = right.to(logits.device)
    return -logits.float().log_softmax(-1).where(right, 0).sum(-1) / right.sum(-1)


def _read(run: LastToken, site: Site, chunk: int = 1024) -> Float[Tensor, "prompt d_model"]:
    out: Tensor | None = None
    for places in run.lengths.argsort(stable=True).split(chunk):  # never the logits of more than a chunk
        x = run.select(places).logits(read=[site])[1][site]
        out = x.new_empty(len(run), x.shape[-1]) if out is None else out
        out[places.to(x.device)] = x
    assert out is not None, "a LastToken has at least one case"
    return out.float() if out.dtype in (torch.float16, torch.bfloat16) else out


class PairTable:
    """Result rows under construction, on one part of the pairs: means with cluster-bootstrap intervals, and bands.

    Every score per pair gives three rows, by `subset`: `all` pairs, those whose source holds the other value
    (`changed`), and those whose source holds the base's own (`same`), where nothing should happen.
    """

    def __init__(self, run: PairRun, part: str, seed: int, **common):
        inside = run.pairs.inside(part)
        self.rows: list[dict] = []
        self.common = run.context(split=part, seed=seed) | common
        self.groups, self.seed = run.pairs.bases["group"].to_numpy(dtype=str)[inside], seed
        changed = run.pairs.changed
        self.subsets = {"all": np.ones_like(changed), "changed": changed, "same": ~changed}

    def mean(self, values: Float[ndarray, "base source"], **columns) -> None:
        for subset, mask in self.subsets.items():
            counted = values[:, mask]
            value, low, high = bootstrap_ratio(counted.sum(1), np.full(len(counted), float(mask.sum())), self.groups,
                                               seed=self.seed)
            self.add(value, low, high, counted.size, subset=subset, n_groups=len(np.unique(self.groups)), **columns)

    def band(self, values: Float[ndarray, "draw base source"], **columns) -> None:
        for subset, mask in self.subsets.items():
            self.draws(values[..., mask].mean((1, 2)), subset=subset, **columns)

    def draws(self, values: Float[ndarray, " draw"], **columns) -> None:
        """A band: the mean of the draws and their 5th to 95th percentile."""
        mean, (low, high) = values.mean(), np.percentile(values, [5, 95])
        self.add(mean, min(low, mean), max(high, mean), len(values), **columns)

    def add(self, value, low, high, n: int, **columns) -> None:
        self.rows.append({**self.common, "value": float(value), "ci_low": float(low), "ci_high": float(high), "n": n,
                          **columns})


def random_subspaces(width: int, rank: int, n: int, seed: int = 0) -> list[Subspace]:
    """Uniformly random subspaces of `rank` dimensions, reproducible."""
    normal = np.random.default_rng(seed).normal(size=(n, rank, width))
    return [Subspace.spanned_by(torch.from_numpy(rows)) for rows in normal]
