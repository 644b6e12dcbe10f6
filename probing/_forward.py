"""One forward pass that keeps chosen sites at chosen positions and computes nothing above them.

Two roads give the same activations. *bridge*: hooks of the TransformerBridge, right for every model it can load, but
its hook points and its own attention cost 20-50 % of a forward. *plain*: the Hugging Face modules inside the bridge,
sharing its weights, with torch hooks. `choose_reader` takes the plain road only where it is seen to agree.
"""

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ._plan import Take
from ._sites import Site

AGREE = 1e-5  # |plain - bridge| / |bridge| of a row in float32; a wrong mask or position gives 1e-1
HOOK_TABLES = ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks",
               "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks")

Kept = dict[Site, Float[Tensor, "row _"]]


class _Enough(Exception):
    """Every site has been read; the layers above and the unembedding are not run."""


class _NoTwin(Exception):
    """The Hugging Face modules of this bridge cannot be run on their own."""


class Reader:
    """Reads some sites of a model along one road, one batch at a time.

    Attributes:
        road: `bridge`, `plain sdpa` or `plain eager`; part of the identity of what was read.
        another: Makes a second reader that may run beside this one in another thread; None if there can be none,
            since the bridge's hooks are attached to the model that all threads share.
    """

    def __init__(self, road: str, sites: Sequence[Site], model,
                 run: Callable[[dict[str, Tensor], Callable], None],
                 another: "Callable[[], Reader] | None" = None):
        self.road, self.sites, self.another = road, tuple(sites), another
        self.d_model, self._n_heads, self._run = model.cfg.d_model, model.cfg.n_heads, run

    @torch.no_grad()
    def read(self, inputs: dict[str, Tensor], take: Take,
             then: Callable[[Site, Tensor], Tensor] = lambda site, rows: rows) -> Kept:
        """What `take` picks out of the (prompt, pos, width) activations of every site.

        Args:
            then: Turns a site's rows into what is kept, before the model runs on: they are still in the cache.
        """
        kept: Kept = {}

        def keep(site: Site, acts: Tensor) -> None:
            acts = acts.flatten(2)  # z comes as (prompt, pos, head, d_head) through the bridge
            if site.head is not None:
                acts = acts.unflatten(2, (self._n_heads, -1))[:, :, site.head]
            kept[site] = then(site, take(acts))  # a copy: the model may write into `acts` later
            if len(kept) == len(self.sites):
                raise _Enough

        try:
            self._run(inputs, keep)
        except _Enough:
            return kept
        raise RuntimeError(f"the forward pass ended without passing {sorted(set(self.sites) - set(kept))}; "
                           "this model does not compute them: leave them out of sites")


def bridge_reader(model, sites: Sequence[Site]) -> Reader:
    """The canonical road: the bridge's own hooks."""

    def run(inputs, keep):
        def hook(acts, hook, site):
            keep(site, acts)

        with model.hooks(fwd_hooks=[(site.hook, partial(hook, site=site)) for site in sites]):
            model(inputs["input_ids"], attention_mask=inputs.get("attention_mask"), return_type=None)

    return Reader("bridge", sites, model, run)


def plain_reader(model, sites: Sequence[Site], attention: str) -> Reader:
    """The Hugging Face modules inside the bridge, with `attention` `sdpa` or `eager`.

    Raises:
        _NoTwin: The model is not a Hugging Face model, or its modules were patched one by one.
    """
    twins: dict[int, nn.Module] = {}
    root = _twin(model.original_model, attention, twins, {})
    places = [(site, *_place(model, site, twins)) for site in sites]

    def run(inputs, keep):
        handles = [_listen(module, at_input, partial(keep, site)) for site, module, at_input in places]
        try:
            root(**inputs)
        finally:
            for handle in handles:
                handle.remove()

    return Reader(f"plain {attention}", sites, model, run,
                  another=lambda: plain_reader(model, sites, attention))


def make_reader(model, sites: Sequence[Site], road: str) -> Reader:
    """The reader of a road by its name, as in `Reader.road`."""
    return bridge_reader(model, sites) if road == "bridge" else plain_reader(model, sites, road.removeprefix("plain "))


def _twin(module: nn.Module, attention: str, twins: dict[int, nn.Module], memo: dict) -> nn.Module:
    """A copy of the module tree without bridge components; parameters and buffers are shared, not copied."""
    from transformers import PreTrainedModel

    module = _inner(module)
    if id(module) in twins:
        return twins[id(module)]
    if (not twins and not isinstance(module, PreTrainedModel)) or "forward" in vars(module):
        raise _NoTwin(type(module).__name__)
    twin = twins[id(module)] = copy.copy(module)
    for table in HOOK_TABLES:  # a shallow copy would share them, and hooks on the twin would fire on the model
        vars(twin)[table] = OrderedDict()
    if hasattr(config := vars(module).get("config"), "_attn_implementation"):
        twin.config = copy.deepcopy(config, memo)  # one memo: modules that shared a config still do
        twin.config._attn_implementation, twin.config.use_cache = attention, False
        twin.config.output_attentions = False
    vars(twin)["_buffers"] = dict(module._buffers)  # some rotary embeddings replace theirs as they see longer prompts
    vars(twin)["_modules"] = {name: None if child is None else _twin(child, attention, twins, memo)
                              for name, child in module._modules.items()}
    return twin


def _inner(module: nn.Module) -> nn.Module:
    """The Hugging Face module behind a bridge component."""
    while (inner := module._modules.get("_original_component")) is not None:
        module = inner
    return module


def _place(model, site: Site, twins: dict[int, nn.Module]) -> tuple[nn.Module, bool]:
    """The plain module whose input (True) or output (False) is `site`, from the hook's canonical name."""
    component, _, end = model.hook_dict[site.hook].name.rpartition(".")
    module = twins.get(id(_inner(model.get_submodule(component))))
    if module is None or end not in ("hook_in", "hook_out"):
        raise _NoTwin(f"{site} is {component}.{end}")
    return module, end == "hook_in"


def _listen(module: nn.Module, at_input: bool, keep: Callable[[Tensor], None]):
    def before(module, args, kwargs):
        keep(args[0] if args else kwargs["hidden_states"])

    def after(module, args, output):
        keep(output[0] if isinstance(output, tuple) else output)

    if at_input:
        return module.register_forward_pre_hook(before, with_kwargs=True)
    return module.register_forward_hook(after)


def choose_reader(model, sites: Sequence[Site], inputs: dict[str, Tensor], take: Take) -> tuple[Reader, list[int]]:
    """The fastest road that agrees with the bridge on these examples, and the width of every site.

    In float32 rows may differ by rounding, |plain - bridge| <= 1e-5 |bridge|; in half precision, where rounding
    could hide a mistake, they must be equal bit for bit.
    """
    bridge = bridge_reader(model, sites)
    wanted = bridge.read(inputs, take)
    widths = [wanted[site].shape[1] for site in sites]
    for attention in ("sdpa", "eager"):
        try:
            plain = plain_reader(model, sites, attention)
            came = plain.read(inputs, take)
        except (_NoTwin, RuntimeError, TypeError, ValueError, AttributeError, KeyError) as error:
            if is_out_of_memory(error):
                raise  # the road must not depend on what else is in memory
            continue  # not a fallback in the result: the bridge is the definition, the plain road only a shortcut
        if all(_agree(came[site], wanted[site]) for site in sites):
            return plain, widths
    return bridge, widths


def is_out_of_memory(error: Exception) -> bool:
    """torch has a class of its own for accelerators; its allocator on the CPU raises a bare RuntimeError."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(w in str(error).lower() for w in words)


def _agree(came: Tensor, wanted: Tensor) -> bool:
    if came.shape != wanted.shape or wanted.dtype not in (torch.float32, torch.float64):
        return torch.equal(came, wanted)
    error = (came - wanted).norm(dim=-1) / wanted.norm(dim=-1).clamp_min(torch.finfo(wanted.dtype).tiny)
    return bool((error <= AGREE).all())  # a NaN does not agree
