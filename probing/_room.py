"""Memory for what is read, in huge pages where the system has them."""

import math
import mmap
from collections.abc import Sequence

import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor


def room(shape: Sequence[int], dtype: torch.dtype) -> Shaped[Tensor, "..."]:
    """Zeros of this shape on the CPU, to be filled once.

    Touching fresh memory in pages of 4 KiB costs three times what copying activations into it does; a page of 2 MiB
    is touched once. Systems without huge pages give ordinary ones.
    """
    return room_bytes(math.prod(shape) * dtype.itemsize).view(dtype).view(*shape)


def room_bytes(n: int) -> UInt8[Tensor, " byte"]:
    if not n:
        return torch.empty(0, dtype=torch.uint8)
    pages = mmap.mmap(-1, n, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            pages.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            pass  # a kernel built without them
    return torch.frombuffer(pages, dtype=torch.uint8)  # which keeps the pages alive
