"""Reading a model: its residual stream at the probed tokens of labelled prompts, into a store or into memory."""

import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Shaped
from numpy import ndarray
from transformer_lens.model_bridge import TransformerBridge

from tasks import LabelledPrompts

from ._activations import Activations, control_identity
from ._forward import Reader, make_reader
from ._models import ModelIdentity, check_numerics, identify
from ._models import random_init as with_random_weights
from ._plan import Batch, plan_shards
from ._pooling import Pool
from ._progress import Progress
from ._reading import Group, Reading, plan_reading
from ._room import room
from ._sites import Site
from ._store import DTYPES, Identity, Store, canonical, explain_difference, widths

MODEL_FIELDS = ("digest", "config", "mode", "architecture", "dtype", "attention", "causal", "n_layers", "d_model")
LIBRARIES = ("torch", "transformers", "transformer-lens")


def extract(model: TransformerBridge, prompts: LabelledPrompts, sites: Sequence[Site] | None = None, *,
            pool: Pool = None, cache: str | Path | Literal[False] | None = None, batch_size: int | None = None,
            dtype: str = "float32", random_init: int | None = 0,
            progress: Callable[[int, int], None] | None = None) -> Activations:
    """Activations of every example of `prompts` at `sites`, and of the same architecture with random weights.

    All sites come from one forward pass per batch, which stops at the last of them and runs no unembedding. The
    store under `cache` is found again by everything that changes a number: called again, this only opens it; called
    after an interruption, it continues and ends with the same bytes. On the CPU small batches run side by side, each
    on one thread, and the bytes do not depend on the number of threads. Where memory runs out, batches are cut in
    half from that shard on; its record and those that follow say so (`halved`), and a resumed run goes on from there.

    Args:
        sites: The embedding and the stream after every block, unless given.
        pool: `mean` or `max` over the tokens from column `start` of the examples (the first token, where there is
            no such column) to `pos`, both included, in float32; None reads the token at `pos`.
        cache: Folder of all stores; False keeps the activations in memory. By default WORLDPROBE_CACHE, else
            `~/.cache/worldprobe`.
        batch_size: Prompts per forward pass; 2048 tokens' worth on the CPU, 8192 on an accelerator, unless given.
        dtype: Of what is kept, float32, bfloat16 or float16; the model computes in its own.
        random_init: Seed of the random-weights control, reachable as `.random_init`; None skips it.
        progress: Called as `progress(prompts done, prompts in all)` after every batch, both models counted; None
            shows a bar on a terminal and prints lines elsewhere.
    Raises:
        ValueError: A site, the vocabulary or the context does not fit the model; the model trains or is being
            edited; an activation is not finite.
        NumericsError: The model does not compute what plain Hugging Face does.
        MemoryError: A single prompt is too much.
        StoreError: The store is damaged, cannot be written, or the disk is too small.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    reading = plan_reading(model, prompts, sites, batch_size, pool)
    shards = plan_shards(reading.batches, sum(reading.widths) * DTYPES[dtype].itemsize)
    model_identity = identify(model, anew=True)  # `weight.data` is changed unseen
    identity = _identity(model_identity, reading, dtype, shards, pool)

    def trained() -> Reader:
        check_numerics(model, prompts.tokens, prompts.lengths)
        return reading.reader

    def untrained(seed: int) -> Reader:
        return make_reader(with_random_weights(model, seed), reading.sites, reading.reader.road)

    with Progress("reading prompts", reading.n_prompts * (1 if random_init is None else 2), progress) as advance:
        about = {"model": model_identity.name, "task": prompts.task}
        work = _Work(reading, shards, dtype, advance, about)
        into = work.into_memory if cache is False else partial(work.into_store, cache)
        acts = into(identity, trained)
        if random_init is not None:
            acts.random_init = into(control_identity(identity, random_init), partial(untrained, random_init))
    acts.model_identity = model_identity
    return acts


@dataclass(frozen=True)
class _Work:
    """What is read, whichever weights the model has and wherever the activations go."""

    reading: Reading
    shards: list[list[Batch]]
    dtype: str
    advance: Progress
    about: dict[str, str]  # names for people who list stores, no part of the identity

    def into_store(self, cache: str | Path | None, identity: Identity, make: Callable[[], Reader]) -> Activations:
        store = Store.at(identity, cache)
        if store.missing():
            self._announce(store, cache)
            with store.writing(lambda: self.advance.note(f"another process writes {store.path}; waiting for it"),
                               self.about):
                todo = store.missing()  # again: the other process may have done it all
                self._skip(set(range(len(self.shards))) - set(todo))
                if todo:
                    self._write(store, todo, make)
        else:
            self._skip(range(len(self.shards)))
        return Activations(store.read, identity, store.path)

    def _write(self, store: Store, todo: Sequence[int], make: Callable[[], Reader]) -> None:
        n_rows = sum(len(batch.rows) for i in todo for batch in self.shards[i])
        store.check_space(n_rows * sum(self.reading.widths) * DTYPES[self.dtype].itemsize)
        halved = _halved_before(store, todo)
        groups, dtype = {i: self.shards[i] for i in todo}, DTYPES[self.dtype]
        with ThreadPoolExecutor(1) as writer:  # hashing and syncing a shard while the model runs on the next
            write: Future[None] | None = None
            for group in self.reading.read(make(), groups, self.advance, dtype, "cpu", halved.__getitem__):
                if write:
                    write.result()  # one at a time: two shards in memory, and errors stop the run
                write = writer.submit(_write, store, group)
            if write:
                write.result()

    def _skip(self, shards: Iterable[int]) -> None:
        self.advance(sum(len(batch.prompts) for i in shards for batch in self.shards[i]))

    def into_memory(self, identity: Identity, make: Callable[[], Reader]) -> Activations:
        n, dtype = identity["plan"]["n_examples"], DTYPES[self.dtype]
        acts = {site: room([n, width], dtype) for site, width in widths(identity).items()}
        groups = {i: [batch] for i, batch in enumerate(self.reading.batches)}
        for _ in self.reading.read(make(), groups, self.advance, dtype, "cpu", into=acts):
            pass
        return Activations(acts.__getitem__, identity)

    def _announce(self, store: Store, cache: str | Path | None) -> None:
        """Say why nothing could be reused; the control is silent, it always goes with its model."""
        if store.path.exists() or store.identity["random_init"] is not None:
            return
        fields = explain_difference(store.identity, cache, alike=lambda other: other.get("random_init") is None)
        if fields:
            self.advance.note(f"new activation store {store.path.name}: the nearest one differs in {', '.join(fields)}")


def _write(store: Store, group: Group) -> None:
    acts = {site: [kept[site] for kept in group.kept] for site in store.sites}
    store.write(group.index, acts, group.rows, group.halved)


def _halved_before(store: Store, todo: Sequence[int]) -> dict[int, int]:
    """How often memory had run out before each shard of `todo`, from the records of those before it."""
    most, times = 0, {}
    for i in range(store.n_shards):
        if i in todo:
            times[i] = most
        else:
            most = max(most, store.record(i).get("halved", 0))
    return times


def _identity(model: ModelIdentity, reading: Reading, dtype: str, shards: list[list[Batch]], pool: Pool) -> Identity:
    """Everything that changes a number, and nothing else: not the model's name, not the task's."""
    return {
        "model": {field: getattr(model, field) for field in MODEL_FIELDS},
        "random_init": None,
        "prompts": prompts_identity(reading.prompts, pool),
        "sites": [str(site) for site in reading.sites],
        "pool": pool,
        "dtype": dtype,
        "plan": {"n_examples": len(reading.prompts), "widths": reading.widths, "n_shards": len(shards),
                 "batches": _digest(np.array([[len(b.prompts), b.width, len(b.rows)] for b in reading.batches])),
                 "shards": _digest(np.array([len(shard) for shard in shards]))},
        "forward": {"road": reading.reader.road, "device": reading.device.type},
        "versions": _versions(),
    }


def prompts_identity(prompts: LabelledPrompts, pool: Pool = None) -> dict[str, str]:
    """Digests of what the model is given and of the places that are kept; labels and splits do not enter."""
    place = ["prompt", "pos", *(["start"] if pool and "start" in prompts.examples else [])]
    return {"tokens": _digest(prompts.tokens.numpy()), "lengths": _digest(prompts.lengths.numpy()),
            "examples": _digest(prompts.examples[place].to_numpy("int64")),
            "vocabulary": hashlib.sha256(canonical(prompts.vocabulary).encode()).hexdigest()[:32]}


@functools.cache
def _versions() -> dict[str, str]:
    return {library: version(library) for library in LIBRARIES}


def _digest(x: Shaped[ndarray, "..."]) -> str:
    return hashlib.sha256(f"{x.dtype} {x.shape} ".encode() + x.tobytes()).hexdigest()[:32]
