"""Memory for what is read, in huge pages where the system has them."""

import contextlib
import math
import mmap
from collections.abc import Sequence

import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

_HUGE = 2 << 20
_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE of Linux 5.14, which mmap does not name


def room(shape: Sequence[int], dtype: torch.dtype) -> Shaped[Tensor, "..."]:
    """Zeros of this shape on the CPU, to be filled once.

    Touching fresh memory in pages of 4 KiB costs three times what copying activations into it does; a page of 2 MiB
    is touched once, and all at once is three times faster than one after the other in between other work. Systems
    without huge pages give ordinary ones.
    """
    return room_bytes(math.prod(shape) * dtype.itemsize).view(dtype).view(*shape)


def room_bytes(n: int) -> UInt8[Tensor, " byte"]:
    if not n:
        return torch.empty(0, dtype=torch.uint8)
    whole = -(-n // _HUGE) * _HUGE if n >= _HUGE else n  # the kernel aligns what is a multiple of a huge page
    pages = mmap.mmap(-1, whole, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        for advice in (mmap.MADV_HUGEPAGE, _POPULATE_WRITE):
            with contextlib.suppress(OSError):  # a kernel built without huge pages, or older
                pages.madvise(advice)
    return torch.frombuffer(pages, dtype=torch.uint8)[:n]  # which keeps the pages alive
