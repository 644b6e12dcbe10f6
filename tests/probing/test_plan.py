"""The plan: every example once, longest prompts first, and pieces that hold the same rows in the same order."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probing._plan import plan_batches, plan_shards, sample_batch
from tests.probing.ragged import prompts_of


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=40), share=st.floats(0.1, 1),
       size=st.one_of(st.none(), st.integers(1, 9)), causal=st.booleans(), seed=st.integers(0, 99))
def test_every_example_is_read_once_from_its_own_token(lengths, share, size, causal, seed):
    prompts = prompts_of(tuple(lengths), share=max(share, 1 / sum(lengths)), seed=seed)
    if not len(prompts):
        return
    batches = plan_batches(prompts, causal, size)
    assert torch.cat([b.rows for b in batches]).sort().values.tolist() == list(range(len(prompts)))
    widths = [b.width for b in batches]
    assert widths == sorted(widths, reverse=True)
    for batch in batches:
        assert size is None or len(batch.prompts) <= size
        assert size is not None or len(batch.prompts) == 1 or len(batch.prompts) * batch.width <= 2048
        examples = prompts.examples.iloc[batch.rows.numpy()]
        assert batch.prompts[batch.prompt].tolist() == examples["prompt"].tolist()
        assert batch.pos.tolist() == examples["pos"].tolist() and int(batch.pos.max()) < batch.width
        tokens = batch.inputs(prompts, causal, "cpu")["input_ids"]
        picked = batch.take("cpu")(tokens[..., None].float())[:, 0]
        assert picked.tolist() == prompts.tokens.numpy()[examples["prompt"], examples["pos"]].tolist()


@pytest.mark.parametrize("times", [0, 1, 2, 3, 10])
@pytest.mark.parametrize("pool", [None, "mean"])
def test_halves_hold_the_same_rows_in_the_same_order(times, pool):
    prompts = prompts_of((20, 7, 12, 20, 5, 9, 3), share=0.7)
    batch, = plan_batches(prompts, causal=True, pool=pool)
    pieces = list(batch.halved(times))
    assert len(pieces) == {0: 1, 1: 2, 2: 4}.get(times, 7)
    acts = torch.randn(len(batch.prompts), batch.width, 4)
    first = np.cumsum([0, *(len(piece.prompts) for piece in pieces)])
    parts = [piece.take("cpu")(acts[a:b]) for piece, a, b in zip(pieces, first[:-1], first[1:], strict=True)]
    assert torch.equal(torch.cat([piece.rows for piece in pieces]), batch.rows)
    torch.testing.assert_close(torch.cat(parts), batch.take("cpu")(acts))


def test_shards_are_consecutive_batches_up_to_a_size():
    batches = plan_batches(prompts_of((9,) * 100, share=1), True, batch_size=1)
    assert [len(s) for s in plan_shards(batches, 4)] == [16] * 6 + [4]
    assert [len(s) for s in plan_shards(batches, 4 << 20)] == [1] * 100
    assert [b for s in plan_shards(batches, 4) for b in s] == batches


def test_the_sample_holds_the_longest_and_the_shortest_prompt_padded_alike():
    prompts = prompts_of((20, 7, 12, 20, 5, 9, 3), share=1)
    few = sample_batch(plan_batches(prompts, True, batch_size=2), prompts)
    assert few.width == 20 and prompts.lengths[few.prompts].tolist() == [20, 9, 3]
    assert len(few.rows) == 32
