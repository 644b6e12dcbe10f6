"""The bytes of a shard, as safetensors lays them out, with one copy of the activations instead of three."""

import json
import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor

_NAMES = {torch.int64: "I64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}  # widest first

Pieces = Sequence[Shaped[Tensor, "_ *width"]]


def shard_bytes(tensors: Mapping[str, Pieces], metadata: Mapping[str, str]) -> bytearray:
    """Exactly `safetensors.torch.save` of each name's pieces, one below the other.

    That is 8 bytes with the length of a JSON header, the header padded to a multiple of 8, and the tensors, those of
    the widest dtype first and then by name.
    """
    header, places, end = {"__metadata__": dict(metadata)}, [], 0
    for name in sorted(tensors, key=lambda name: (list(_NAMES).index(tensors[name][0].dtype), name)):
        first, n_rows = tensors[name][0], sum(len(piece) for piece in tensors[name])
        shape = [n_rows, *first.shape[1:]]
        start, end = end, end + math.prod(shape) * first.itemsize
        header[name] = {"dtype": _NAMES[first.dtype], "shape": shape, "data_offsets": [start, end]}
        places.append((name, shape, slice(start, end)))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = bytearray(8 + len(text) + end)
    data[: 8 + len(text)] = len(text).to_bytes(8, "little") + text
    whole = torch.frombuffer(data, dtype=torch.uint8)[8 + len(text) :]
    for name, shape, place in places:
        torch.cat(list(tensors[name]), out=whole[place].view(tensors[name][0].dtype).view(shape))
    return data
