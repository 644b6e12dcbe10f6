"""What flows through the linear layers of any model: second moments of states and of gradients on both sides.

For a layer h_out = W h_in (its bias is left out), with g_out = -dloss/dh_out of each row and g_in = W^T g_out:

    H_in = E[h_in h_in^T],  H_out = W H_in W^T,  G_out = E[g_out g_out^T],  G_in = W^T G_out W,
    Z_in = W^T W,           Z_out = W W^T

Rows are examples, or tokens where there are several to an example. One backward pass per batch gives the gradients of
all layers; nothing is kept but running sums.

The products of rows cost more than the pass, so they are taken on the smaller side of a layer and carried over: rows of
h_out that are divided by their lengths have the second moment W M W^T, with M that of h_in weighted by those lengths.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

Batch = Any
FUSED = "c_attn"  # of GPT-2: queries, keys and values one after the other; other fused layers deal them out by head
_PARTS = ("q", "k", "v")
_BLOCK = 64  # columns, at least


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
        return carried(self.W.T)

    @property
    def Z_out(self) -> Float[Tensor, "d_out d_out"]:
        return carried(self.W)


def layer_moments(
    model: nn.Module,
    loss: Callable[[Any, Batch], Float[Tensor, "*example"]],
    batches: Iterable[Batch],
    layers: Sequence[str] | None = None,
    *,
    normed: bool = True,
    keep: Callable[[Batch], Bool[Tensor, "*row"]] | None = None,
    zeros: bool = False,
) -> dict[str, LayerMoments]:
    """Second moments around every linear layer that the loss depends on, or around those named, over all batches.

    Args:
        loss: (model, batch) -> loss of every example, with a graph behind it; examples must not depend on each other.
        layers: Names as in `named_modules`; of GPT-2's fused queries, keys and values, with `.q`, `.k` or `.v` at the
            end. Other fused layers count as one.
        normed: Rows of states and of gradients are divided by their length, and their mean is subtracted, so that no
            outlier decides; rows of length 0 are left out. Else the raw moments, for which the identities above hold.
        keep: batch -> which of its rows count, shaped like the states without their last axis; padding should not.
        zeros: Keep layers whose states or gradients are zero on every row, with moments of 0, instead of refusing them:
            models whose blocks start as the identity have such layers at step 0.
    Raises:
        KeyError: No such linear layer.
        ValueError: No gradient reaches a layer that was named, or any layer; all its states or gradients are zero; or
            there is no batch.
    """
    linear = dict(_linear(model))
    if missing := [name for name in layers or () if name not in linear]:
        raise KeyError(f"{missing[0]!r} is no linear layer; there are {', '.join(linear)}")
    linear = {name: linear[name] for name in layers or linear}
    sums: dict[str, _Layer] = {}
    some = False
    owner = {id(module): name for name, (module, _) in reversed(linear.items())}  # adds what all parts of one share
    shared: dict[int, _Sum] = {}
    with _in_graph({id(m): m for m, _ in linear.values()}.values()) as seen, torch.no_grad():
        for batch in batches:
            some, grads = True, _gradients(model, loss, batch, seen)
            kept = None if keep is None else keep(batch).flatten().nonzero()[:, 0]
            for name, (module, part) in linear.items():
                for h, out, g, g_in in _rows(seen[id(module)], grads, kept):
                    if name not in sums:
                        into = shared.setdefault(id(module), _Sum(h.shape[1], normed))
                        sums[name] = _Layer(_weight(module)[part].detach(), into, normed)
                    bias = module.bias if module.bias is None else module.bias[part]
                    sums[name].add(h, out[:, part] if bias is None else out[:, part] - bias, g[:, part],
                                   g_in if part == slice(None) else None, own_input=owner[id(module)] == name)
    if unreached := [name for name in layers or () if name not in sums and some]:
        raise ValueError(f"no gradient reaches the layer {unreached[0]!r}: the loss does not depend on it; leave it "
                         "out with layers=[...]")
    if not sums:
        raise ValueError("there is nothing to measure: " + (
            "the loss depends on no linear layer" if some else "no batch was given"))
    return {name: each.moments(name, zeros) for name, each in sums.items()}


def _gradients(model: nn.Module, loss: Callable, batch: Batch, seen: dict) -> dict[int, Tensor | None]:
    """Gradient of the summed loss at every input and output that was seen, by its id."""
    for flows in seen.values():
        flows.clear()
    with torch.enable_grad():
        total = loss(model, batch).sum()
    tensors = [x for flows in seen.values() for flow in flows for x in flow if x.requires_grad]
    found = torch.autograd.grad(total, tensors, allow_unused=True) if tensors else ()
    return {id(x): g for x, g in zip(tensors, found, strict=True)}


def _rows(flows: Sequence[tuple[Tensor, Tensor]], grads: dict[int, Tensor | None], kept: Tensor | None
          ) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor | None]]:
    """(input, output, gradient at the output and, where it is known, at the input), one example or token a row, of
    every call of a layer; no moment knows the sign of a gradient."""
    for h, out in flows:
        if (g := grads[id(out)]) is not None:
            rows = [x.detach().flatten(0, -2) for x in (h, out, g, grads.get(id(h))) if x is not None]
            if kept is not None and len(kept) and kept[-1] >= len(rows[0]):
                raise ValueError(f"`keep` speaks of row {int(kept[-1])}, but a layer sees {len(rows[0])} rows; shape "
                                 "it like the states without their last axis")
            rows = rows if kept is None else [r[kept] for r in rows]
            states, outputs, g_out, *g_in = rows
            yield states, outputs, g_out, g_in[0] if g_in else None


class _Layer:
    """The four sums of a layer; those of the larger side that have an identity are kept on the smaller one."""

    def __init__(self, W: Float[Tensor, "d_out d_in"], into: "_Sum", normed: bool):
        self.W, self.normed = W, normed
        self.d_out, self.d_in = W.shape
        narrow = min(self.d_in, self.d_out)
        self.H_in, self.H_out = into, _Sum(narrow, normed)
        self.G_in, self.G_out = _Sum(narrow, normed), _Sum(self.d_out, normed)

    def add(self, h: Tensor, h_out: Tensor, g: Tensor, g_in: Tensor | None, own_input: bool) -> None:
        """`own_input`: whether no other part of a fused layer adds these states to the H_in that they share."""
        if own_input:
            self.H_in.add(h, h)
        self.G_out.add(g, g)
        if self.normed:
            g_in = g @ self.W if g_in is None else g_in
            self.H_out.add(h_out if self.d_out <= self.d_in else h, h_out)
            self.G_in.add(g_in if self.d_in <= self.d_out else g, g_in)

    def moments(self, name: str, zeros: bool) -> LayerMoments:
        W = self.W.double().cpu()
        H_in, G_out = self.H_in.moment(), self.G_out.moment()
        if self.normed:
            H_out = self.H_out.moment(None if self.d_out <= self.d_in else W)
            G_in = self.G_in.moment(None if self.d_in <= self.d_out else W.T)
        else:
            H_out, G_in = carried(W, H_in), carried(W.T, G_out)
        found = {"H_in": H_in, "H_out": H_out, "G_in": G_in, "G_out": G_out}
        if empty := [key for key, M in found.items() if not M.diagonal().any() and not zeros]:
            raise ValueError(f"{empty[0]} of {name} is zero on every row, so that nothing aligns with it; measure "
                             "where the loss still changes, or keep such layers with zeros=True")
        return LayerMoments(W, **found, n=self.H_in.rows)


class _Sum:
    """Running sum of rows and of their outer products, of rows divided by lengths where `normed`."""

    def __init__(self, d: int, normed: bool):
        self.normed, self.n, self.rows = normed, 0, 0
        self.first, self.second = torch.zeros(d, dtype=torch.float64), torch.zeros(d, d, dtype=torch.float64)

    def add(self, x: Float[Tensor, "row d"], measured: Float[Tensor, "row _"]) -> None:
        """Rows x, divided by the lengths of the rows `measured`: themselves, or what a layer makes of them."""
        self.rows += len(x)
        if self.normed:
            length = measured.norm(dim=1, keepdim=True)
            self.n += int((length > 0).sum())
            x = x * torch.where(length > 0, 1 / length, 0)
            self.first += x.sum(0).double().cpu()
        else:
            self.n += len(x)
        add_outer(self.second, x)

    def moment(self, W: Float[Tensor, "d_far d"] | None = None) -> Float[Tensor, "_ _"]:
        """Mean outer product, about the mean where `normed`; carried over by W."""
        mean = self.first / max(self.n, 1)
        found = mirrored(self.second) / max(self.n, 1)
        if self.normed:
            found -= torch.outer(mean, mean)
        return found if W is None else carried(W, found)


def add_outer(total: Float[Tensor, "d d"], x: Float[Tensor, "row d"]) -> None:
    """Adds x^T x where `mirrored` does not fill in: 5/8 of the work."""
    for start, end in _strips(x.shape[1]):
        total[start:end, start:] += (x[:, start:end].T @ x[:, start:]).cpu()


def carried(W: Float[Tensor, "d_far d"], M: Float[Tensor, "d d"] | None = None) -> Float[Tensor, "d_far d_far"]:
    """W M W^T of a symmetric M, of the identity unless given."""
    left, out = W if M is None else W @ M, W.new_empty(len(W), len(W))
    for start, end in _strips(len(W)):
        out[start:end, start:] = left[start:end] @ W[start:].T
    return mirrored(out)


def mirrored(total: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """`total` itself, what is below the blocks on the diagonal filled in from above them."""
    for start, end in _strips(len(total)):
        total[end:, start:end] = total[start:end, end:].T
    return total


def _strips(d: int) -> Iterator[tuple[int, int]]:
    block = max(_BLOCK, -(-d // 4))
    return ((start, min(start + block, d)) for start in range(0, d, block))


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
    """Inside, every call of a module leaves (input, output) under its id, in a graph even where weights are frozen. The
    input is a view of its own, so that its gradient is what this module alone sends back."""
    modules = list(modules)
    seen: dict[int, list[tuple[Tensor, Tensor]]] = {id(m): [] for m in modules}
    frozen = [m.weight for m in modules if not m.weight.requires_grad]
    hooks = [m.register_forward_pre_hook(lambda m, args: (args[0].view_as(args[0]), *args[1:])) for m in modules]
    hooks += [m.register_forward_hook(lambda m, args, out: seen[id(m)].append((args[0], out))) for m in modules]
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
        for weight in frozen:
            weight.requires_grad_(False)
