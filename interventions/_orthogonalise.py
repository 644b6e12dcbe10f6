"""Weight orthogonalisation: the model whose every write to the stream has no component in a subspace.

    with orthogonalised(model, direction):
        logits = model(tokens)
    without = orthogonalise(model, direction)     # the same as a model of its own

Equal to projecting the subspace out of every write as the model runs (`writes` names them), at no cost per token.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from probing._identity import SOURCES
from probing._sites import Site
from probing._subspaces import Subspace

LEFT = 1e-4  # share of the stream's norm that may be left in the subspace, in float32; a missed write leaves more


def writes(model) -> list[Site]:
    """Everything that is written to the stream: the embedding, and both halves of every block."""
    halves = (Site(stream, layer) for layer in range(model.cfg.n_layers) for stream in ("attn_out", "mlp_out"))
    return [Site("resid_pre", 0), *halves]


@contextmanager
def orthogonalised(model, basis: Float[Tensor, "... d_model"]) -> Iterator[None]:
    """While the block runs, W' = W - (W r) r^T for every matrix and bias that writes to the stream: token and position
    embeddings, W_O, b_O, W_out, b_out. The unembedding is left alone, also where it is tied to the embedding.
    Parameters are exchanged, never written to, so that afterwards the model is bit for bit as it was.

    Normalisation is not folded here: call `enable_compatibility_mode()` before, if at all.

    Args:
        basis: (d_model,) a direction, or (rank, d_model) rows that span a subspace.
    Raises:
        ValueError: Another width; or something else writes to the stream as well: the component is seen to remain.
            Such are experts, scaled or normalised writes (Gemma 2, Granite), and encoders with post-norm (BERT).
    Source: the form used by Arditi et al., arXiv:2406.11717, for the refusal direction.
    """
    rows = torch.atleast_2d(torch.as_tensor(basis))
    if rows.shape[-1] != model.cfg.d_model or not torch.isfinite(rows).all():
        raise ValueError(f"the subspace is {rows.shape[-1]} wide, the model's stream is {model.cfg.d_model} wide, and "
                         "it must be finite; fit the direction on this model")
    space = Subspace.spanned_by(rows.double())
    before = [(module, name, module._parameters[name]) for module, name in _writers(model)]
    try:
        for module, name, parameter in before:
            module._parameters[name] = _without(module, name, parameter, space)
        _check(model, space)
        yield
    finally:
        for module, name, parameter in before:
            module._parameters[name] = parameter


def orthogonalise(model, basis: Float[Tensor, "... d_model"]):
    """A copy of the model with orthogonalised weights; see `orthogonalised`. `identify` tells the two apart."""
    fresh = copy.deepcopy(model)
    if model in SOURCES:
        SOURCES[fresh] = SOURCES[model]
    with orthogonalised(fresh, basis):
        kept = [(module, name, module._parameters[name]) for module, name in _writers(fresh)]
    for module, name, parameter in kept:
        module._parameters[name] = parameter
    return fresh


def _writers(model) -> list[tuple[nn.Module, str]]:
    """(module, parameter name) of every parameter that writes to the stream."""
    embeddings = [getattr(model, name, None) for name in ("embed", "pos_embed")]
    modules = [_inner(embedding) for embedding in embeddings if embedding is not None]
    for layer, block in enumerate(model.blocks):
        for half, last in (("attn", "o"), ("mlp", "out")):
            module = getattr(getattr(block, half, None), last, None)
            if module is None:
                raise ValueError(f"block {layer} of {model.cfg.model_name!r} has no single matrix by which its {half} "
                                 "writes to the stream; project out at run time instead, at the sites of writes(model)")
            modules.append(_inner(module))
    return [(module, name) for module in modules for name in ("weight", "bias")
            if module._parameters.get(name) is not None]


def _inner(module: nn.Module) -> nn.Module:
    while (inner := module._modules.get("_original_component")) is not None:
        module = inner
    return module


def _without(module: nn.Module, name: str, parameter: Tensor, space: Subspace) -> nn.Parameter:
    """The parameter less what it writes into the subspace; embeddings and Conv1D write along their last axis, Linear
    along its first."""
    W, Q = parameter.detach().double(), Subspace(space.basis.to(parameter.device))
    last = name == "bias" or isinstance(module, nn.Embedding | Conv1D)
    W = W - Q.project(W) if last else W - Q.project(W.T).T
    return nn.Parameter(W.to(parameter.dtype).contiguous(), requires_grad=parameter.requires_grad)


@torch.no_grad()
def _check(model, space: Subspace) -> None:
    """Raises ValueError where the stream is seen to have a component in the subspace still."""
    left: dict[int, float] = {}

    def look(stream, hook, layer):
        x = stream.double()
        left[layer] = float(space.project(x.cpu()).norm() / x.norm().clamp_min(1e-30))

    sites = {0: Site("resid_pre", 0)} | {n + 1: Site("resid_post", n) for n in range(model.cfg.n_layers)}
    tokens = torch.arange(min(4, model.cfg.n_ctx, model.cfg.d_vocab), device=model.cfg.device)[None]
    hooks = [(site.hook, lambda x, hook, layer=layer: look(x, hook, layer)) for layer, site in sites.items()]
    with model.hooks(fwd_hooks=hooks):
        model(tokens, return_type=None)
    dtype = next(model.parameters()).dtype
    allowed = max(LEFT, 10 * torch.finfo(dtype).eps)
    if bad := [layer for layer, share in left.items() if not share <= allowed]:
        raise ValueError(f"{left[bad[0]]:.2g} of the stream entering layer {bad[0]} is still in the subspace: "
                         f"{model.cfg.architecture} writes there by more than embeddings, W_O and W_out, or normalises "
                         "what was written; project out at run time instead")
