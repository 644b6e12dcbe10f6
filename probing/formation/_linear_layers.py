"""What flows through the linear layers of any model: second moments of states and of gradients on both sides.

For a layer h_out = W h_in (its bias is left out), with g_out = -dloss/dh_out of each row and g_in = W^T g_out:

    H_in = E[h_in h_in^T],  H_out = W H_in W^T,  G_out = E[g_out g_out^T],  G_in = W^T G_out W,
    Z_in = W^T W,           Z_out = W W^T

Rows are examples, or tokens where there are several to an example. One backward pass per batch gives the gradients of
all layers; nothing is kept but running sums.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

Batch = Any
FUSED = "c_attn"  # of GPT-2: queries, keys and values one after the other; other fused layers deal them out by head
_PARTS = ("q", "k", "v")


@dataclass(frozen=True)
class LayerMoments:
    """Second moments around one linear layer, in float64.

    Attributes:
        W: Weights; of fused queries, keys and values, those of one.
        H_in, H_out, G_in, G_out: Of states and of negative gradients; of covariances, where rows were `normed`.
        n: Rows.
    """

    W: Float[Tensor, "d_out d_in"]
    H_in: Float[Tensor, "d_in d_in"]
    H_out: Float[Tensor, "d_out d_out"]
    G_in: Float[Tensor, "d_in d_in"]
    G_out: Float[Tensor, "d_out d_out"]
    n: int

    @property
    def Z_in(self) -> Float[Tensor, "d_in d_in"]:
        return self.W.T @ self.W

    @property
    def Z_out(self) -> Float[Tensor, "d_out d_out"]:
        return self.W @ self.W.T


def layer_moments(
    model: nn.Module,
    loss: Callable[[Any, Batch], Float[Tensor, "*example"]],
    batches: Iterable[Batch],
    layers: Sequence[str] | None = None,
    *,
    normed: bool = True,
) -> dict[str, LayerMoments]:
    """Second moments around every linear layer that the loss depends on, or around those named, over all batches.

    Args:
        loss: (model, batch) -> loss of every example, with a graph behind it; examples must not depend on each other.
        layers: Names as in `named_modules`; of GPT-2's fused queries, keys and values, with `.q`, `.k` or `.v` at the
            end. Other fused layers count as one.
        normed: Rows of states and of gradients are divided by their length, and their mean is subtracted, so that no
            outlier decides; rows of length 0 are left out. Else the raw moments, for which the identities above hold.
    Raises:
        KeyError: No such linear layer.
        ValueError: No gradient reaches a layer that was named, or any layer; all its states or gradients are zero; or
            there is no batch.
    """
    linear = dict(_linear(model))
    if missing := [name for name in layers or () if name not in linear]:
        raise KeyError(f"{missing[0]!r} is no linear layer; there are {', '.join(linear)}")
    linear = {name: linear[name] for name in layers or linear}
    sums: dict[str, dict[str, _Sum]] = {}
    with _in_graph({id(m): m for m, _ in linear.values()}.values()) as seen:
        for batch in batches:
            grads = _gradients(model, loss, batch, seen)
            for name, (module, part) in linear.items():
                W = _weight(module)[part]
                for h, g in _rows(seen[id(module)], grads):
                    g = g[:, part]
                    for key, rows in (("H_in", h), ("H_out", h @ W.T), ("G_in", g @ W), ("G_out", g)):
                        sums.setdefault(name, {}).setdefault(key, _Sum(rows.shape[1], normed)).add(rows)
    if not sums:
        raise ValueError("there is nothing to measure: no batch was given, or the loss depends on no linear layer")
    if unreached := [name for name in layers or () if name not in sums]:
        raise ValueError(f"no gradient reaches the layer {unreached[0]!r}: the loss does not depend on it; leave it "
                         "out with layers=[...]")
    out = {}
    for name, each in sums.items():
        module, part = linear[name]
        found = {key: total.moment(f"{key} of {name}") for key, total in each.items()}
        out[name] = LayerMoments(_weight(module)[part].detach().double().cpu(), **found, n=each["H_in"].rows)
    return out


def _gradients(model: nn.Module, loss: Callable, batch: Batch, seen: dict) -> dict[int, Tensor | None]:
    """Gradient of the summed loss at every output that was seen, by its id."""
    for flows in seen.values():
        flows.clear()
    with torch.enable_grad():
        total = loss(model, batch).sum()
    outputs = [out for flows in seen.values() for _, out in flows]
    found = torch.autograd.grad(total, outputs, allow_unused=True) if outputs else ()
    return {id(out): g for out, g in zip(outputs, found, strict=True)}


def _rows(flows: Sequence[tuple[Tensor, Tensor]], grads: dict[int, Tensor | None]) -> Iterator[tuple[Tensor, Tensor]]:
    """(input, negative gradient at the output), one example or token a row, of every call of a layer."""
    for h, out in flows:
        if (g := grads[id(out)]) is not None:
            yield h.flatten(0, -2), -g.flatten(0, -2)


class _Sum:
    """Running sum of rows and of their outer products."""

    def __init__(self, d: int, normed: bool):
        self.normed, self.n, self.rows = normed, 0, 0
        self.first, self.second = torch.zeros(d, dtype=torch.float64), torch.zeros(d, d, dtype=torch.float64)

    @torch.no_grad()
    def add(self, x: Float[Tensor, "row d"]) -> None:
        x = x.detach()
        self.rows += len(x)
        if self.normed:
            length = x.norm(dim=1)
            x = x[length > 0] / length[length > 0, None]
            self.first += x.sum(0).double().cpu()
        self.n += len(x)
        self.second += (x.T @ x).double().cpu()

    def moment(self, what: str) -> Float[Tensor, "d d"]:
        if not self.n or not self.second.any():
            raise ValueError(f"{what} is zero on every row, so that nothing aligns with it; measure where "
                             "the loss still changes")
        mean = self.first / self.n
        return self.second / self.n - (torch.outer(mean, mean) if self.normed else 0)


def _linear(model: nn.Module) -> Iterator[tuple[str, tuple[nn.Module, slice]]]:
    """Name -> (module, rows of its weights) of every linear layer, fused ones in parts."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D):
            d = _weight(module).shape[0]
            clean = name.replace("._original_component", "")
            if clean.rpartition(".")[2] == FUSED and d % 3 == 0:
                for i, part in enumerate(_PARTS):
                    yield f"{clean}.{part}", (module, slice(i * d // 3, (i + 1) * d // 3))
            else:
                yield clean, (module, slice(None))


def _weight(module: Any) -> Tensor:
    """(d_out, d_in): GPT-2 keeps its weights the other way round."""
    return module.weight.T if isinstance(module, Conv1D) else module.weight


@contextmanager
def _in_graph(modules: Iterable[Any]) -> Iterator[dict[int, list[tuple[Tensor, Tensor]]]]:
    """Inside, every call of a module leaves (input, output) under its id, in a graph even where weights are frozen."""
    modules = list(modules)
    seen: dict[int, list[tuple[Tensor, Tensor]]] = {id(m): [] for m in modules}
    frozen = [m.weight for m in modules if not m.weight.requires_grad]
    hooks = [m.register_forward_hook(lambda m, args, out: seen[id(m)].append((args[0].detach(), out))) for m in modules]
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
        for weight in frozen:
            weight.requires_grad_(False)
