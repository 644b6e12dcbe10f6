"""Reading a model: checks before the first forward pass, then batch after batch of activations at the probed tokens."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from tasks import LabelledPrompts

from ._forward import Kept, Reader, choose_reader
from ._identity import is_causal
from ._models import check_fits, check_numerics, check_site
from ._plan import Batch, plan_batches, sample_batch
from ._progress import Progress
from ._sites import Site, residual_sites


def read_batches(model: TransformerBridge, prompts: LabelledPrompts, sites: Sequence[Site] | None = None, *,
                 batch_size: int | None = None,
                 progress: Callable[[int, int], None] | None = None) -> Iterator[tuple[Batch, Kept]]:
    """Every batch of the plan with its activations, site -> (row, width), as the forward pass leaves them.

    The same checks, plan and numbers as `extract`, and nothing is kept: for moments that are summed while the model
    runs. `batch.rows` says which examples the rows belong to. The tensors are on the model's device, in its dtype,
    finite, and the caller's to keep or change. Checks run at the call, forward passes as the batches are asked for.

    Args, Raises: As `extract`; `progress` counts this model's prompts only.
    """
    reading = plan_reading(model, prompts, sites, batch_size)
    check_numerics(model, prompts.tokens, prompts.lengths)

    def batches() -> Iterator[tuple[Batch, Kept]]:
        with Progress("reading prompts", reading.n_prompts, progress) as advance:
            for batch in reading.batches:
                yield batch, reading.read(reading.reader, batch)
                advance(len(batch.prompts))

    return batches()


@dataclass(frozen=True)
class Reading:
    """What is read of which prompts, in which batches, along which road; whatever weights the model has.

    Attributes:
        batches: The fixed plan.
        reader: Of the model that was checked; `make_reader(other, sites, reader.road)` reads another the same way.
    """

    prompts: LabelledPrompts
    sites: tuple[Site, ...]
    batches: list[Batch]
    causal: bool
    device: torch.device
    reader: Reader

    @property
    def n_prompts(self) -> int:
        return sum(len(batch.prompts) for batch in self.batches)

    def read(self, reader: Reader, batch: Batch, dtype: torch.dtype | None = None,
             device: str | torch.device | None = None) -> Kept:
        """Finite activations of one batch, in `dtype` on `device`; as computed where these are None."""
        kept = reader.read(batch.inputs(self.prompts, self.causal, self.device), batch.prompt, batch.pos)
        return {site: _finite(kept[site], kept[site].to(device, dtype), site, batch) for site in self.sites}


def plan_reading(model: TransformerBridge, prompts: LabelledPrompts, sites: Sequence[Site] | None,
                 batch_size: int | None) -> Reading:
    """Everything that can be known before the first forward pass, checked; then the plan and the road.

    Raises:
        ValueError: A site, the vocabulary or the context does not fit the model; the model trains or is edited.
    """
    sites = _checked(model, prompts, sites)
    batches = plan_batches(prompts, causal := is_causal(model), batch_size)
    few, device = sample_batch(batches, prompts), torch.device(model.cfg.device)
    reader = choose_reader(model, sites, few.inputs(prompts, causal, device), few.prompt, few.pos)
    return Reading(prompts, sites, batches, causal, device, reader)


def _checked(model: TransformerBridge, prompts: LabelledPrompts, sites: Sequence[Site] | None) -> tuple[Site, ...]:
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
