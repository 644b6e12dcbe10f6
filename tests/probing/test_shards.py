"""The bytes of a shard are those that safetensors itself writes."""

import pytest
import torch
from safetensors.torch import load, save

from probing._shards import shard_bytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sizes", [(5, 3, 9), (1,), (0, 4), (0,)])
def test_pieces_are_laid_out_as_safetensors_lays_out_the_whole(dtype, sizes):
    pieces = {f"resid_post.{i}": [torch.randn(n, 3 + i).to(dtype) for n in sizes] for i in range(12)}
    pieces["rows"] = [torch.arange(n) for n in sizes]
    whole, about = {name: torch.cat(x) for name, x in pieces.items()}, {"worldprobe": '{"shard":3,"store":"ab"}'}
    data = shard_bytes(pieces, about)
    assert data == save(whole, metadata=about)
    assert all(torch.equal(x, whole[name]) for name, x in load(bytes(data)).items())
