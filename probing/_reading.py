"""Reading a model: checks before the first forward pass, then batch after batch of activations at the probed tokens."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from tasks import LabelledPrompts

from ._ahead import in_order
from ._forward import Kept, Reader, choose_reader, is_out_of_memory
from ._identity import is_causal
from ._models import check_fits, check_numerics, check_site
from ._plan import Batch, plan_batches, sample_batch
from ._pooling import Pool
from ._progress import Progress
from ._sites import Site, residual_sites

SIDE_BY_SIDE = 256 << 20  # bytes; on the CPU, batches that need more run one at a time and on all threads


def read_batches(model: TransformerBridge, prompts: LabelledPrompts, sites: Sequence[Site] | None = None, *,
                 pool: Pool = None, batch_size: int | None = None,
                 progress: Callable[[int, int], None] | None = None) -> Iterator[tuple[Batch, Kept]]:
    """Every batch of the plan with its activations, site -> (row, width), as the forward pass leaves them.

    The same checks, plan and numbers as `extract`, and nothing is kept: for moments that are summed while the model
    runs. `batch.rows` says which examples the rows belong to. The tensors are on the model's device, in its dtype
    (pooled ones in float32), finite, and the caller's to keep or change. Checks run at the call, forward passes as
    the batches are asked for, a few ahead. Where memory runs out, batches come halved from there on.

    Args, Raises: As `extract`; `progress` counts this model's prompts only.
    """
    reading = plan_reading(model, prompts, sites, batch_size, pool)
    check_numerics(model, prompts.tokens, prompts.lengths)

    def batches() -> Iterator[tuple[Batch, Kept]]:
        groups = {i: [batch] for i, batch in enumerate(reading.batches)}
        with Progress("reading prompts", reading.n_prompts, progress) as advance:
            for group in reading.read(reading.reader, groups, advance):
                yield from zip(group.batches, group.kept, strict=True)

    return batches()


@dataclass(frozen=True)
class Group:
    """Batches that are kept together, and what was read from each.

    Attributes:
        batches: As they ran: those of the plan, each cut in 2^halved pieces where memory had run out.
    """

    index: int
    batches: list[Batch]
    kept: list[Kept]
    halved: int

    @property
    def rows(self) -> Tensor:
        return torch.cat([batch.rows for batch in self.batches])


@dataclass(frozen=True)
class Reading:
    """What is read of which prompts, in which batches, along which road; whatever weights the model has.

    Attributes:
        widths: Numbers per row of every site.
        batches: The fixed plan.
        reader: Of the model that was checked; `make_reader(other, sites, reader.road)` reads another the same way.
    """

    prompts: LabelledPrompts
    sites: tuple[Site, ...]
    widths: list[int]
    batches: list[Batch]
    causal: bool
    device: torch.device
    reader: Reader

    @property
    def n_prompts(self) -> int:
        return sum(len(batch.prompts) for batch in self.batches)

    def read(self, reader: Reader, groups: Mapping[int, Sequence[Batch]], advance: Progress,
             dtype: torch.dtype | None = None, device: str | None = None,
             halved: Callable[[int], int] = lambda index: 0, into: Kept | None = None) -> Iterator[Group]:
        """Groups of batches, in order, with finite activations in `dtype` on `device`; as computed where None.

        Where memory runs out the group is read again with every batch cut in half, and so are all that follow.

        Args:
            halved: How often the batches of a group are halved to begin with: what an interrupted run had come to.
            into: Site -> (example, width), where rows go as soon as they are read; the groups then hold none. Rows
                that are kept beside each other until a group is full would be written to fresh memory first, which
                costs more than the copy.
        """
        todo, least = list(groups), 0
        n = self._side_by_side(reader)
        make = partial(self._make, reader, n, partial(_settle, dtype=dtype, device=device, into=into))
        while todo:
            times = {i: max(least, halved(i)) for i in todo}
            with closing(in_order(make, (piece for i in times for piece in _cut(groups[i], times[i])), n)) as ahead:
                for i in times:
                    group = Group(i, list(_cut(groups[i], times[i])), [], times[i])
                    if not _fill(group, ahead, advance):
                        break
                    todo.remove(i)
                    yield group
            if todo:  # the group at which memory ran out is the first of them
                advance(-sum(len(batch.prompts) for batch in group.batches[: len(group.kept)]))
                if len((batch := group.batches[len(group.kept)]).prompts) == 1:
                    raise _too_much(batch, self.device)
                least = group.halved + 1
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()  # else the smaller batch finds what is free in pieces
                advance.note(f"out of memory; from here on every batch is cut in {2**least}, which the records say")

    def _make(self, reader: Reader, n: int, settle: Callable[[Batch, Site, Tensor], Tensor]
              ) -> Callable[[Batch], Kept | None]:
        own = reader.another() if n and reader.another else reader
        early = self.device.type == "cpu"  # else all at the end: a copy in between would keep the device waiting

        def read(batch: Batch) -> Kept | None:
            """None where memory runs out: an error would keep the tensors of its frames."""
            try:
                inputs, take = batch.inputs(self.prompts, self.causal, self.device), batch.take(self.device)
                kept = own.read(inputs, take, partial(settle, batch)) if early else own.read(inputs, take)
                return {site: kept[site] if early else settle(batch, site, kept[site]) for site in self.sites}
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            return None

        return read

    def _side_by_side(self, reader: Reader) -> int:
        """How many batches run at once, each on one thread; 0 for one at a time on all threads.

        What decides between the two is never the number of threads, as it would change bits.
        """
        if self.device.type != "cpu" or reader.another is None:
            return 0
        per_token = 4 * (sum(self.widths) + 8 * self.reader.d_model)
        if max(len(batch.prompts) * batch.width for batch in self.batches) * per_token > SIDE_BY_SIDE:
            return 0
        threads = torch.get_num_threads()
        return threads if threads > 1 else 0


def plan_reading(model: TransformerBridge, prompts: LabelledPrompts, sites: Sequence[Site] | None,
                 batch_size: int | None, pool: Pool) -> Reading:
    """Everything that can be known before the first forward pass, checked; then the plan and the road.

    Raises:
        ValueError: A site, the vocabulary or the context does not fit the model; the model trains or is edited.
    """
    sites = _checked(model, prompts, sites, pool)
    device = torch.device(model.cfg.device)
    batches = plan_batches(prompts, causal := is_causal(model), batch_size, pool, device.type)
    for n in (3, 2, 1):
        few = sample_batch(batches, prompts, n)
        try:
            reader, widths = choose_reader(model, sites, few.inputs(prompts, causal, device), few.take(device))
            return Reading(prompts, sites, widths, batches, causal, device, reader)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
    raise _too_much(few, device)


def _checked(model: TransformerBridge, prompts: LabelledPrompts, sites: Sequence[Site] | None,
             pool: Pool) -> tuple[Site, ...]:
    if pool not in (None, "mean", "max"):
        raise ValueError(f"pool must be None, 'mean' or 'max', not {pool!r}")
    if model.training:
        raise ValueError("the model is in training mode, where dropout makes activations random; call model.eval()")
    if hooked := [name for name, point in model.hook_dict.items() if point.has_hooks("fwd", including_permanent=False)]:
        raise ValueError(f"hooks are attached to the model at {', '.join(hooked[:3])}, which may edit what is read; "
                         "remove them with model.reset_hooks()")
    check_fits(model, prompts)
    sites = tuple(dict.fromkeys(residual_sites(model.cfg.n_layers) if sites is None else sites))
    if not sites:
        raise ValueError("no sites to read; leave sites out for all residual streams, or name some, such as "
                         "[Site('resid_post', 3)]")
    for site in sites:
        check_site(model, site)
    return sites


def _cut(batches: Sequence[Batch], times: int) -> Iterator[Batch]:
    return (piece for batch in batches for piece in (batch.halved(times) if times else [batch]))


def _fill(group: Group, ahead: Iterator[Kept | None], advance: Progress) -> bool:
    """Whether memory was enough for all batches of the group."""
    for batch in group.batches:
        if (kept := next(ahead)) is None:
            return False
        group.kept.append(kept)
        advance(len(batch.prompts))
    return True


def _too_much(batch: Batch, device: torch.device) -> MemoryError:
    return MemoryError(f"no memory for prompt {int(batch.prompts[0])} alone, {batch.width} tokens on {device}: shorten "
                       "the prompts, read fewer sites, load the model in a narrower dtype (load_model(name, "
                       "dtype='bfloat16')), or spread it with device_map='auto'")


def _settle(batch: Batch, site: Site, acts: Tensor, dtype: torch.dtype | None, device: str | None,
            into: Kept | None) -> Tensor:
    """The rows of a site, finite and where they belong."""
    rows = _finite(acts, acts.to(device, dtype), site, batch)
    if into is None:
        return rows
    if (span := batch.span) is None:
        into[site].index_copy_(0, batch.rows, rows)
    else:
        into[site][span] = rows
    return into[site][:0]


def _finite(acts: Tensor, kept: Tensor, site: Site, batch: Batch) -> Tensor:
    """`kept`, which is `acts` in the dtype asked for, unless something in it is not finite."""
    if kept.sum(dtype=torch.float32).isfinite():  # the cheap way: a NaN or an infinity would reach the sum
        return kept
    if bool((finite := kept.isfinite().all(dim=1)).all()):
        return kept
    row = int((~finite).nonzero()[0])
    where = f"{site} at prompt {int(batch.prompts[batch.prompt[row]])}, position {int(batch.pos[row])}"
    if bool(acts[row].isfinite().all()):
        dtype = str(kept.dtype).removeprefix("torch.")
        raise ValueError(f"{where} reaches {float(acts[row].abs().max()):.3g}, too large for {dtype}; keep "
                         "dtype='bfloat16' or 'float32'")
    raise ValueError(f"{where} is not finite, computed in {acts.dtype}; load the model in a wider dtype "
                     "(load_model(name, dtype='float32')), and check that its weights are finite")
