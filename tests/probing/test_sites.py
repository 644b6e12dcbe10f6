"""Names of places, and what is at them: heads, neurons, pooled spans."""

from dataclasses import replace

import pytest
import torch

from probing._extract import extract
from probing._forward import _inner
from probing._models import load_model
from probing._sites import STREAMS, Site, residual_sites
from tests.probing.ragged import assert_same_rows, one_by_one, prompts_of

FOLDERS = ["gpt2_dir", "llama_dir", "neox_dir", "encoder_dir"]


def test_a_site_is_read_back_from_its_name():
    sites = [Site(stream, layer) for stream in STREAMS for layer in (0, 12)] + [Site("z", 3, head=h) for h in (0, 11)]
    assert [Site.parse(str(site)) for site in sites] == sites
    assert str(Site("z", 3, head=5)) == "z.3.5" and Site.parse("z.3.5").head == 5
    assert len({str(site) for site in sites}) == len(set(sites)) == len(sites)
    assert max(Site("z", 3, 0), Site("z", 3), Site("z", 3, 5)) == Site("z", 3, 5) and Site("z", 3) < Site("z", 3, 0)


@pytest.mark.parametrize("text", ["resid_post", "z.3.5.1", "z.-1", "z.3.", "z.²", "", "."])
def test_other_names_are_refused(text):
    with pytest.raises(ValueError, match=r"reads like 'resid_post\.3' .* or 'z\.3\.5'"):
        Site.parse(text)


def test_unknown_streams_and_heads_where_there_are_none_are_refused():
    with pytest.raises(ValueError, match="no stream 'mlp_pots'; did you mean mlp_post"):
        Site("mlp_pots", 0)
    with pytest.raises(ValueError, match=r"attn_out has no heads, head=2 came; .*Site\('z', 1, head=2\)"):
        Site("attn_out", 1, head=2)


@pytest.mark.parametrize("folder", FOLDERS)
def test_heads_are_slices_of_z_and_each_road_has_the_widths_of_the_model(folder, request):
    model, prompts = load_model(request.getfixturevalue(folder), device="cpu"), prompts_of()
    heads = [Site("z", 1, head=h) for h in range(4)]
    acts = extract(model, prompts, [Site("z", 1), *heads, Site("mlp_post", 0)], cache=False, random_init=None)
    assert torch.equal(torch.cat([acts[head] for head in heads], dim=1), acts[Site("z", 1)])
    assert acts.identity["plan"]["widths"] == [32, 8, 8, 8, 8, model.cfg.d_mlp]
    assert_same_rows(acts, one_by_one(model, prompts, acts.sites))


@pytest.mark.parametrize("folder", ["gpt2_dir", "llama_dir", "neox_dir"])
def test_heads_and_neurons_are_what_the_output_matrices_read(folder, request):
    """attn_out = W_O z + b, mlp_out = W_out mlp_post + b; a post-norm encoder has more between them."""
    model, halves = load_model(request.getfixturevalue(folder), device="cpu"), ["z", "attn_out", "mlp_post", "mlp_out"]
    acts = extract(model, prompts_of(), [Site(s, 1) for s in halves], cache=False, random_init=None)
    z, attn_out, neurons, mlp_out = acts.values()
    block = model.blocks[1]
    torch.testing.assert_close(_inner(block.attn.o)(z), attn_out)
    torch.testing.assert_close(_inner(block.mlp.out)(neurons), mlp_out)


def test_a_head_that_is_not_there_is_answered_with_the_last_one(llama_dir):
    model = load_model(llama_dir, device="cpu")
    with pytest.raises(ValueError, match=r"no site z\.0\.4: its heads are 0 to 3; nearest: z\.0\.3, or z\.0 for all"):
        extract(model, prompts_of(), [Site("z", 0, head=4)], cache=False)
    with pytest.raises(ValueError, match=r"no site mlp_post\.9: its layers are 0 to 2; nearest: mlp_post\.2"):
        extract(model, prompts_of(), [Site("mlp_post", 9)], cache=False)


@pytest.mark.parametrize("pool", ["mean", "max"])
@pytest.mark.parametrize("folder", FOLDERS)
def test_pooled_rows_equal_each_prompt_alone(folder, pool, request):
    model, prompts = load_model(request.getfixturevalue(folder), device="cpu"), prompts_of()
    sites = [*residual_sites(2), Site("z", 1, head=2), Site("mlp_post", 1)]
    whole = extract(model, prompts, sites, pool=pool, cache=False, random_init=None)
    assert_same_rows(whole, one_by_one(model, prompts, sites, pool))
    spans = replace(prompts, examples=prompts.examples.assign(start=prompts.examples["pos"] // 3))
    some = extract(model, spans, sites, pool=pool, cache=False, batch_size=3, random_init=None)
    assert_same_rows(some, one_by_one(model, spans, sites, pool))
    assert some.identity["prompts"]["examples"] != whole.identity["prompts"]["examples"]


def test_pooling_is_in_float32_and_part_of_the_identity(gpt2_dir):
    model, prompts = load_model(gpt2_dir, device="cpu", dtype="bfloat16"), prompts_of()
    plain, mean = (extract(model, prompts, cache=False, pool=pool, random_init=None) for pool in (None, "mean"))
    assert plain.identity["pool"] is None and mean.identity["pool"] == "mean"
    site = Site("resid_post", 1)
    assert torch.equal(plain[site], plain[site].bfloat16().float())
    assert not torch.equal(mean[site], mean[site].bfloat16().float())


def test_a_span_that_is_none_and_a_pool_that_is_not_known_are_refused(gpt2_dir):
    model, prompts = load_model(gpt2_dir, device="cpu"), prompts_of()
    wrong = replace(prompts, examples=prompts.examples.assign(start=prompts.examples["pos"] + 1))
    with pytest.raises(ValueError, match=r"example 0 pools the tokens from start \d+ to pos \d+; 0 <= start <= pos"):
        extract(model, wrong, pool="mean", cache=False)
    extract(model, wrong, cache=False, random_init=None)  # without pooling, `start` is a column like any other
    with pytest.raises((ValueError, TypeError), match="pool"):
        extract(model, prompts, pool="median", cache=False)
