"""Reading a model: the rows are the model's own activations, however they were batched, stored or interrupted."""

import random

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from probing._activations import Activations
from probing._extract import extract
from probing._forward import bridge_reader, choose_reader, plain_reader
from probing._guards import available_sites
from probing._models import load_model, random_init
from probing._plan import plan_batches
from probing._sites import Site, residual_sites
from probing._store import StoreError
from tests.probing.ragged import assert_same_rows, one_by_one, prompts_of


@pytest.fixture(scope="module")
def gpt2(gpt2_dir):
    return load_model(gpt2_dir, device="cpu")


def last_token(acts):
    return acts[:, -1].clone()


# --- the numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("folder", "road"), [("gpt2_dir", "plain sdpa"), ("llama_dir", "plain sdpa"),
                                              ("neox_dir", "plain sdpa"), ("bert_dir", "plain sdpa")])
def test_every_site_of_a_ragged_batch_equals_each_prompt_alone(folder, road, request):
    model, prompts = load_model(request.getfixturevalue(folder), device="cpu"), prompts_of()
    sites = available_sites(model)
    want = one_by_one(model, prompts, sites)
    for batch_size in (1, 3, None):
        acts = extract(model, prompts, sites, cache=False, batch_size=batch_size, random_init=None)
        assert acts.identity["forward"]["road"] == road
        assert {site.stream for site in acts} >= {"resid_pre", "resid_post", "attn_out", "mlp_out", "z", "mlp_post"}
        assert_same_rows(acts, want)


def test_rows_of_a_batch_equal_run_with_cache_bit_for_bit_through_the_bridge(gpt2):
    prompts = prompts_of((20,) * 4)
    prompt, pos = (torch.tensor(prompts.examples[c].to_numpy()) for c in ("prompt", "pos"))
    sites = available_sites(gpt2)
    with torch.no_grad():
        _, cache = gpt2.run_with_cache(prompts.tokens)
    batch, = plan_batches(prompts, causal=True)
    kept = bridge_reader(gpt2, sites).read({"input_ids": prompts.tokens[batch.prompts]}, batch.take("cpu"))
    for site in sites:
        assert torch.equal(kept[site], cache[site.hook][prompt, pos].flatten(1)[batch.rows])


def test_a_native_model_is_read_through_the_bridge():
    torch.manual_seed(0)
    model = TransformerBridge.boot_native(dict(d_model=32, n_layers=2, n_heads=4, d_head=8, d_mlp=64, d_vocab=40,
                                               n_ctx=24, act_fn="gelu", normalization_type="LN", seed=0))
    prompts = prompts_of()
    acts = extract(model.eval(), prompts, cache=False)
    assert acts.identity["forward"]["road"] == "bridge"
    assert_same_rows(acts, one_by_one(model, prompts, residual_sites(2)))


def test_folded_weights_are_read_as_transformer_lens_runs_them(gpt2_dir):
    model = load_model(gpt2_dir, device="cpu")
    raw = extract(model, prompts_of(), cache=False, random_init=None)
    model.enable_compatibility_mode()
    folded = extract(model, prompts_of(), cache=False, random_init=None)
    assert_same_rows(folded, one_by_one(model, prompts_of(), residual_sites(3)))
    assert (raw[Site("resid_post", 2)] - folded[Site("resid_post", 2)]).abs().max() > 1e-2
    assert raw.identity["model"]["mode"] == "raw" and folded.identity["model"]["mode"] == "compat"


def test_the_plain_road_is_not_taken_when_the_bridge_computes_something_else(gpt2_dir):
    """Here the bridge is edited at one hook; its Hugging Face modules know nothing of that."""
    model, sites = load_model(gpt2_dir, device="cpu"), residual_sites(3)
    where = {"input_ids": prompts_of((20,) * 4).tokens}, last_token
    assert choose_reader(model, sites, *where)[0].road == "plain sdpa"
    with model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", lambda acts, hook: acts + 1e-3 * acts.roll(1, -1))]):
        assert choose_reader(model, sites, *where)[0].road == "bridge"


@pytest.mark.parametrize("make", [bridge_reader, lambda model, sites: plain_reader(model, sites, "sdpa")])
def test_nothing_above_the_last_site_is_run_and_the_model_is_left_as_it_was(gpt2_dir, make):
    model = load_model(gpt2_dir, device="cpu")
    tokens = prompts_of((20,) * 4).tokens
    before = model(tokens)
    reader = make(model, [Site("resid_post", 0), Site("resid_pre", 0), Site("mlp_out", 1)])
    where = {"input_ids": tokens}, last_token
    reader.read(*where)
    assert torch.equal(model(tokens), before)
    assert not any(point.has_hooks("fwd", including_permanent=False) for point in model.hook_dict.values())
    broken = torch.nn.Parameter(torch.zeros(3), requires_grad=False)  # running these would raise: the shape is wrong
    model.blocks[2].original_component.ln_1.original_component.weight = broken
    model.unembed.original_component.weight = broken
    assert len(make(model, reader.sites).read(*where)) == 3
    with pytest.raises(RuntimeError):
        make(model, [Site("resid_post", 2)]).read(*where)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_narrower_dtype_is_the_rounded_float32(gpt2, dtype):
    wide, narrow = (extract(gpt2, prompts_of(), cache=False, random_init=None, dtype=d) for d in ("float32", dtype))
    for site in wide:
        assert torch.equal(narrow[site], wide[site].to(getattr(torch, dtype)))


def test_the_control_is_the_same_architecture_with_random_weights(gpt2, tmp_path):
    prompts = prompts_of()
    acts = extract(gpt2, prompts, cache=tmp_path, random_init=7)
    assert_same_rows(acts.random_init, one_by_one(random_init(gpt2, 7), prompts, acts.sites))
    assert not torch.allclose(acts.random_init[acts.sites[-1]], acts[acts.sites[-1]])
    assert extract(gpt2, prompts, cache=tmp_path, random_init=None).random_init is None
    assert extract(gpt2, prompts, cache=tmp_path, random_init=8).random_init.path != acts.random_init.path


def test_other_weights_of_the_same_architecture_share_the_control(gpt2, gpt2_dir, tmp_path):
    other = load_model(gpt2_dir, device="cpu")
    other.embed.original_component.weight.data[5] += 1
    acts, others = (extract(model, prompts_of(), cache=tmp_path) for model in (gpt2, other))
    assert acts.path != others.path and acts.random_init.path == others.random_init.path


# --- what cannot be read ---------------------------------------------------------------------------------------------


def test_parallel_blocks_have_no_stream_between_attention_and_mlp(neox_dir):
    with pytest.raises(ValueError, match=r"no site resid_mid\.1.*resid_post\.1"):
        extract(load_model(neox_dir, device="cpu"), prompts_of(), [Site("resid_mid", 1)], cache=False)


@pytest.mark.parametrize(("value", "dtype", "message"), [
    (float("inf"), "float32", r"resid_pre\.0 at prompt 3, position \d is not finite.*wider dtype"),
    (1e6, "float16", r"resid_pre\.0 at prompt 3, position \d reaches .*too large for float16; keep dtype='bfloat16'"),
])
def test_an_activation_that_is_not_finite_stops_the_run_with_its_place(llama_dir, tmp_path, value, dtype, message):
    model, prompts = load_model(llama_dir, device="cpu"), prompts_of((20, 19, 18, 17, 16, 15, 14), 39, share=1)
    prompts.tokens[3, 5] = 39
    model.embed.original_component.weight.data[39] = value
    with pytest.raises(ValueError, match=message):
        extract(model, prompts, cache=tmp_path, dtype=dtype, batch_size=3)
    assert not list(tmp_path.glob("*/shard*"))


def test_arguments_that_make_no_sense_are_refused_before_any_work(gpt2, gpt2_dir):
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, float16, not 'int8'"):
        extract(gpt2, prompts_of(), cache=False, dtype="int8")
    with pytest.raises(ValueError, match="no sites"):
        extract(gpt2, prompts_of(), [], cache=False)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        extract(gpt2, prompts_of(), cache=False, batch_size=0)
    with pytest.raises(ValueError, match="no examples"):
        extract(gpt2, prompts_of(share=0), cache=False)
    model = load_model(gpt2_dir, device="cpu")
    model.add_hook("blocks.1.hook_resid_post", lambda acts, hook: acts * 0)
    with pytest.raises(ValueError, match=r"hooks are attached to the model at blocks\.1.*reset_hooks"):
        extract(model, prompts_of(), cache=False)
    model.reset_hooks()
    model.train()
    with pytest.raises(ValueError, match=r"training mode.*model\.eval\(\)"):
        extract(model, prompts_of(), cache=False)


def test_asking_for_a_site_that_was_not_read_names_the_nearest(gpt2):
    acts = extract(gpt2, prompts_of(), cache=False, random_init=None)
    with pytest.raises(KeyError, match=r"no activations of resid_mid\.1; nearest: .*resid_post\.1"):
        acts[Site("resid_mid", 1)]


# --- the store -------------------------------------------------------------------------------------------------------


def test_the_mapping_tells_what_it_holds_and_opens_without_the_model(gpt2, tmp_path):
    prompts = prompts_of()
    acts = extract(gpt2, prompts, cache=tmp_path)
    assert list(acts) == list(acts.sites) == residual_sites(3) and len(acts) == 4
    assert (acts.n_examples, acts.d_model) == (len(prompts), 32)
    assert acts[acts.sites[0]].shape == (len(prompts), 32)
    assert Site("resid_post", 2) in acts and Site("attn_out", 2) not in acts
    assert all(part in repr(acts) for part in ("4 sites", "resid_pre.0", f"{len(prompts)} examples", str(acts.path)))
    again = Activations.open(acts.path)
    assert again.identity == acts.identity and again.random_init.identity == acts.random_init.identity
    in_memory = extract(gpt2, prompts, cache=False)
    for site in acts:
        assert torch.equal(again[site], in_memory[site])
        assert torch.equal(again.random_init[site], in_memory.random_init[site])


def contents(cache):
    return {p.relative_to(cache): p.read_bytes() for p in sorted(cache.glob("*/*"))}


MANY = prompts_of((9, 4, 12) * 14, seed=3)  # one prompt per batch: three shards


@pytest.fixture(scope="module")
def uninterrupted(gpt2, tmp_path_factory):
    cache = tmp_path_factory.mktemp("uninterrupted")
    extract(gpt2, MANY, cache=cache, batch_size=1)
    assert sum(path.suffix == ".safetensors" for path in contents(cache)) == 6
    return contents(cache)


@pytest.mark.parametrize("seed", range(2))
def test_a_run_interrupted_anywhere_continues_to_the_same_bytes(gpt2, tmp_path, uninterrupted, seed):
    finished = 0
    for stop in random.Random(seed).sample(range(1, 84), 4):

        def report(done, total, stop=stop):
            if done >= stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            extract(gpt2, MANY, cache=tmp_path, batch_size=1, progress=report)
        finished, before = len(list(tmp_path.glob("*/shard*.json"))), finished
        assert finished >= before
    calls = []
    extract(gpt2, MANY, cache=tmp_path, batch_size=1, progress=lambda *n: calls.append(n))
    assert calls[-1] == (84, 84) and calls == sorted(calls)
    assert contents(tmp_path) == uninterrupted


def test_a_finished_store_is_opened_not_written(gpt2, tmp_path):
    calls = []
    first = extract(gpt2, MANY, cache=tmp_path, batch_size=1)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    again = extract(gpt2, MANY, cache=tmp_path, batch_size=1, progress=lambda *n: calls.append(n))
    assert again.path == first.path and calls == [(42, 84), (84, 84)]
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


def test_damage_is_an_error_not_a_second_run(gpt2, tmp_path):
    acts = extract(gpt2, MANY, cache=tmp_path, batch_size=1, random_init=None)
    shard = acts.path / "shard-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    again = extract(gpt2, MANY, cache=tmp_path, batch_size=1, random_init=None)
    with pytest.raises(StoreError, match=r"shard-00001\.safetensors is damaged"):
        again[again.sites[0]]
    (acts.path / "shard-00001.json").unlink()
    extract(gpt2, MANY, cache=tmp_path, batch_size=1, random_init=None)[acts.sites[0]]
