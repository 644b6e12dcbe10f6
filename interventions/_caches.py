"""Key/value caches as values: shared, widened for several arms, cut to some cases; the first is never touched."""

import copy
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class _WithSlot(DynamicLayer):
    """Keys and values with room for one more token, which every forward pass writes anew: nothing is copied."""

    def __init__(self, layer: DynamicLayer, n: int):
        super().__init__()
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, True
        self.keys, self.values = (F.pad(t, (0, 0, 0, 1)).repeat(n, 1, 1, 1) for t in (layer.keys, layer.values))

    def update(self, key_states, value_states, *args, **kwargs):
        self.keys[:, :, -1:], self.values[:, :, -1:] = key_states, value_states
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.keys.shape[-2] - 1


def widen(prefix: DynamicCache, n: int, start: int = 0) -> DynamicCache:
    """The prefix `n` times along the batch, to be followed by one more token, any number of times. Layers below `start`
    are not run, and stay as they are."""
    wide = map_cache(prefix)
    for i, layer in enumerate(wide.layers[start:], start):
        if type(layer) is DynamicLayer and layer.is_initialized:
            wide.layers[i] = _WithSlot(layer, n)
        elif layer.is_initialized:
            layer.keys, layer.values = (t.repeat(n, 1, 1, 1) for t in (layer.keys, layer.values))
    return wide


def map_cache(cache: DynamicCache, change: Callable[[Tensor], Tensor] | None = None) -> DynamicCache:
    """A cache of its own that grows without touching the first (layers replace their tensors, they never write into
    them), with `change` applied to keys and values."""
    new = copy.copy(cache)
    new.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in new.layers:
        if change is not None and layer.is_initialized:
            layer.keys, layer.values = change(layer.keys), change(layer.values)
    return new


def take_rows(tensor: Tensor, places: Tensor) -> Tensor:
    return tensor[places.to(tensor.device)]


def first_rows(tensor: Tensor, n: int) -> Tensor:
    return tensor[:n]


def tile(tensor: Tensor, n: int) -> Tensor:
    return tensor.repeat(n, 1, 1, 1)


def n_bytes(cache: DynamicCache | None) -> int:
    layers = [] if cache is None else [layer for layer in cache.layers if layer.is_initialized]
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
