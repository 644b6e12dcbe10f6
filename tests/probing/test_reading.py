"""Batches as they come from the model: what `extract` keeps, and nothing is kept."""

import pytest
import torch

from probing._extract import extract
from probing._models import load_model
from probing._reading import read_batches
from probing._sites import Site
from tests.probing.ragged import prompts_of


@pytest.mark.parametrize("batch_size", [1, 3, None])
@pytest.mark.parametrize("folder", ["gpt2_dir", "encoder_dir"])
def test_streamed_batches_are_the_rows_that_extract_keeps(folder, batch_size, request):
    model, prompts = load_model(request.getfixturevalue(folder), device="cpu"), prompts_of()
    acts = extract(model, prompts, cache=False, batch_size=batch_size, random_init=None)
    seen = []
    for batch, kept in read_batches(model, prompts, batch_size=batch_size):
        assert tuple(kept) == acts.sites
        assert all(torch.equal(x, acts[site][batch.rows]) for site, x in kept.items())
        seen.append(batch.rows)
    assert torch.cat(seen).sort().values.tolist() == list(range(len(prompts)))


def test_what_cannot_be_read_is_refused_at_the_call(gpt2_dir):
    model, prompts = load_model(gpt2_dir, device="cpu"), prompts_of()
    with pytest.raises(ValueError, match=r"no site resid_post\.3"):
        read_batches(model, prompts, [Site("resid_post", 3)])
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        read_batches(model, prompts, batch_size=0)


def test_progress_counts_prompts_and_an_activation_that_is_not_finite_stops_the_stream(llama_dir):
    model, prompts = load_model(llama_dir, device="cpu"), prompts_of((20, 19, 18, 17, 16, 15, 14), 39, share=1)
    calls = []
    for _ in read_batches(model, prompts, batch_size=3, progress=lambda *n: calls.append(n)):
        pass
    assert calls == [(3, 7), (6, 7), (7, 7)]
    model.embed.original_component.weight.data[39] = float("inf")
    prompts.tokens[3, 5] = 39
    with pytest.raises(ValueError, match=r"resid_pre\.0 at prompt 3, position 5 is not finite.*wider dtype"):
        list(read_batches(model, prompts, batch_size=3))


@pytest.mark.parametrize("device_map", [{"": "cpu"}, {"transformer": "cpu", "lm_head": "cpu"}])
def test_a_model_that_a_device_map_has_placed_is_read_the_same(gpt2_dir, device_map):
    prompts = prompts_of()
    whole, placed = (extract(load_model(gpt2_dir, **how), prompts, cache=False, random_init=None)
                     for how in ({"device": "cpu"}, {"device_map": device_map}))
    assert placed.identity == whole.identity
    assert all(torch.equal(placed[site], whole[site]) for site in whole)
