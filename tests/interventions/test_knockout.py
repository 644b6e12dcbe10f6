"""Knocking out heads and neurons: what must not change, what must be equal, and the algebra of clamping."""

from dataclasses import replace

import pytest
import torch

from interventions import At, Sequences, clamp, donors, knock_out, percentiles, position_means
from probing._sites import Site

HEADS = [Site("z", 1, head=head) for head in range(4)]


@pytest.fixture
def run(gpt2, cases):
    return Sequences.of(gpt2, cases)


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox"])
def test_a_head_whose_output_matrix_is_zero_can_be_knocked_out(models, cases, family):
    model, run = models(family), Sequences.of(models(family), cases)
    weight = model.blocks[1].attn.o.original_component.weight
    reads = (slice(12, 18), slice(None)) if family == "gpt2" else (slice(None), slice(12, 18))  # Conv1D is (in, out)
    was, clean = weight.clone(), run.logits()
    try:
        with torch.no_grad():
            weight[reads] = 0
        arms = [{}, *(knock_out([head]) for head in HEADS)]
        without, *out = run.logits_many(arms)
    finally:
        with torch.no_grad():
            weight.copy_(was)
    torch.testing.assert_close(out[2], without, atol=1e-5, rtol=1e-5)
    assert not any(torch.allclose(out[head], without, atol=1e-3) for head in (0, 1, 3))
    torch.testing.assert_close(run.logits(knock_out([HEADS[2]])), without, atol=1e-5, rtol=1e-5)
    assert torch.equal(run.logits(), clean)


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox"])  # in BERT attn_out is after the sum and its norm
def test_knocking_out_all_heads_is_mean_ablating_attention(models, cases, family):
    run, attention = Sequences.of(models(family), cases), Site("attn_out", 1)
    means = position_means(run, [*HEADS, Site("z", 1), attention])
    every_head, at_once, written = (run.logits(knock_out(sites, mean=means))
                                    for sites in (HEADS, [Site("z", 1)], [attention]))
    torch.testing.assert_close(every_head, written, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(at_once, written, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(written, run.logits(), atol=1e-3)
    assert not torch.allclose(written, run.logits(knock_out(HEADS)), atol=1e-3)


def test_means_are_over_the_prompts_that_have_the_position(run, cases):
    site = Site("mlp_post", 0)
    acts, means = run.read([site])[site], position_means(run, [site])[site]
    for pos in range(len(means)):
        torch.testing.assert_close(means[pos], acts[cases.lengths > pos, pos].mean(0))


def test_a_knocked_out_neuron_reads_what_it_was_set_to_and_its_neighbours_stay(run, cases):
    site, units = Site("mlp_post", 1), [3, 40]
    acts = run.read([site])[site]
    real = torch.arange(12) < cases.lengths[:, None]
    top = percentiles(run, site, units)
    torch.testing.assert_close(top, torch.quantile(acts[real][:, units], 0.99, dim=0))
    means = position_means(run, [site])
    for arm, wanted in ((knock_out([site], units=units), torch.zeros(2)),
                        ({site: At(clamp(top, units))}, top),
                        (knock_out([site], units=units, mean=means), means[site][real.nonzero()[:, 1]][:, units])):
        after = run.read([site], arm)[site]
        assert torch.equal(after[real][:, units], wanted.expand(int(real.sum()), 2))
        rest = [unit for unit in range(96) if unit not in units]
        assert torch.equal(after[..., rest], acts[..., rest])


def test_resampling_puts_in_what_another_prompt_has_there(cases, gpt2):
    lengths = cases.lengths.clone()
    lengths[:2] = 12
    run = Sequences.of(gpt2, replace(cases, lengths=lengths, tokens=cases.tokens.clamp_min(1)))
    other, acts = donors(lengths, seed=3), run.read(HEADS)
    assert (lengths[other] >= lengths).all() and (other != torch.arange(12)).all()
    after = run.read(HEADS, knock_out(HEADS, resample={head: x[other] for head, x in acts.items()}))
    real = torch.arange(12) < lengths[:, None]
    for head in HEADS:
        assert torch.equal(after[head][real], acts[head][other][real])
    same = run.logits(knock_out(HEADS, resample=acts))
    torch.testing.assert_close(same, run.logits(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("call", "message"), [
    (lambda run: clamp(torch.ones(3), [1, 2]), "3 columns for 2 units"),
    (lambda run: clamp(0.0, [1, 1]), "each once"),
    (lambda run: run.logits(knock_out([Site("mlp_post", 1)], units=[96])), "unit 96 is not among the 96"),
    (lambda run: run.logits(knock_out([Site("z", 1, head=4)])), "its heads are 0 to 3"),
    (lambda run: knock_out(HEADS, mean={}), "nothing to put in at z.1.0"),
    (lambda run: knock_out(HEADS, mean={}, resample={}), "not both"),
    (lambda run: run.logits(knock_out(HEADS[:1], mean={HEADS[0]: torch.ones(4, 6)})), "constants for 4 positions"),
    (lambda run: run.logits(knock_out(HEADS[:1], mean={HEADS[0]: torch.ones(12, 5)})), "5 wide, z.1.0 of this model"),
    (lambda run: donors(torch.tensor([3, 2, 2])), "case 0 alone has 3 tokens"),
])
def test_an_impossible_knockout_is_refused(run, call, message):
    with pytest.raises(ValueError, match=message):
        call(run)
