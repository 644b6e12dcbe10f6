"""Entering a model in the middle: what the lower blocks gave is kept, and given again without computing it.

transformer-lens' own `start_at_layer` runs the blocks below as well and throws away what they give.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, TypeAlias

from torch import Tensor

from probing._sites import Site

Output: TypeAlias = Tensor | tuple[Tensor]


class Entry(NamedTuple):
    """The first block that runs, and whether what is given in place of the one below it is a tuple."""

    start: int
    as_tuple: bool

    def given(self, stream: Tensor) -> Output:
        return (stream,) if self.as_tuple else stream


def entry(model, site: Site) -> Entry | None:
    """Where the stream at a site enters a block, or leaves the last one; None at other sites, and where nothing is
    below. `as_tuple` is not known before a block has run: see `recorded`."""
    if site.stream not in ("resid_pre", "resid_post") or not hasattr(model, "blocks"):
        return None
    start = site.layer + (site.stream == "resid_post")
    return Entry(start, False) if start else None


def first_block(model, sites: Iterable[Site]) -> int:
    """The first block that has to run where these sites are edited or read; the number of blocks where there are none.
    What is edited after a block is edited where the next one is entered."""
    hooks = model.hook_dict
    after = {site: hooks[site.hook].name == f"blocks.{site.layer}.hook_out" for site in sites}
    return min((site.layer + later for site, later in after.items()), default=model.cfg.n_layers)


@contextmanager
def recorded(model, starts: set[int]) -> Iterator[dict[int, Output]]:
    """start -> what block start - 1 gives, filled while the model runs."""
    outputs: dict[int, Output] = {}

    def keep(module, args, output, start):
        outputs[start] = output

    handles = [model.blocks[start - 1].register_forward_hook(partial(keep, start=start)) for start in starts]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def entered(model, start: int, output: Output | None, n: int = 1) -> Iterator[None]:
    """Blocks below `start` give `output`, recorded before, `n` times along the batch, and compute nothing.

    The last of them passes its hook_out, so that an edit of the stream between two blocks acts on it. Without an
    output the whole model runs.
    """
    if output is None:
        yield
        return
    stream = stream_of(output)
    blocks = list(model.blocks)[:start]
    before = [vars(block).get("forward") for block in blocks]

    def passed(*args, top: bool, **kwargs):
        wide = stream.repeat(n, 1, 1)
        wide = blocks[-1].hook_out(wide) if top else wide
        return (wide,) if isinstance(output, tuple) else wide

    try:
        for block in blocks:  # by `vars`: a bridge's own setattr writes to the module inside
            vars(block)["forward"] = partial(passed, top=block is blocks[-1])
        yield
    finally:
        for block, forward in zip(blocks, before, strict=True):
            del vars(block)["forward"]
            if forward is not None:
                vars(block)["forward"] = forward


def is_one_stream(output: object) -> bool:
    """Whether a block gives one tensor and nothing else that later blocks could need."""
    return isinstance(output, Tensor) or (isinstance(output, tuple) and len(output) == 1)


def stream_of(output: Output) -> Tensor:
    """(batch, pos, d_model) of what a block gives."""
    return output[0] if isinstance(output, tuple) else output
