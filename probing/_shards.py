"""The bytes of a shard, as safetensors lays them out, with one copy of the activations instead of three."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from ._room import room_bytes

_NAMES = {torch.int64: "I64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}  # widest first

Pieces = Sequence[Shaped[Tensor, "_ *width"]]


def shard_bytes(tensors: Mapping[str, Pieces], metadata: Mapping[str, str]) -> memoryview:
    """Exactly `safetensors.torch.save` of each name's pieces, one below the other.

    That is 8 bytes with the length of a JSON header, the header padded to a multiple of 8, and the tensors, those of
    the widest dtype first and then by name.
    """
    places: dict[str, dict[str, Any]] = {}
    end = 0
    for name in sorted(tensors, key=lambda name: (list(_NAMES).index(tensors[name][0].dtype), name)):
        first, n_rows = tensors[name][0], sum(len(piece) for piece in tensors[name])
        shape = [n_rows, *first.shape[1:]]
        start, end = end, end + math.prod(shape) * first.itemsize
        places[name] = {"dtype": _NAMES[first.dtype], "shape": shape, "data_offsets": [start, end]}
    header = json.dumps({"__metadata__": dict(metadata), **places}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    data, begin = room_bytes(8 + len(header) + end), 8 + len(header)
    data[:begin] = torch.frombuffer(bytearray(len(header).to_bytes(8, "little") + header), dtype=torch.uint8)
    for name, place in places.items():
        start, end = place["data_offsets"]
        into = data[begin + start : begin + end].view(tensors[name][0].dtype).view(place["shape"])
        torch.cat(list(tensors[name]), out=into)
    return memoryview(data.numpy())
