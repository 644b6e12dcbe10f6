"""Loading: the same numbers as plain Hugging Face, from anywhere, without a network."""

import shutil
import sys
import warnings

import huggingface_hub.constants
import pytest
import torch
import transformers
from transformer_lens.model_bridge import TransformerBridge

import tasks
from probing._models import ModelError, identify, load_model, random_init
from tasks.othello._tokens import words


def tokens_for(model, n=3, length=11, seed=0):
    return torch.randint(1, model.cfg.d_vocab, (n, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("which", ["othello_dir", "gpt2_dir", "llama_dir", "neox_dir"])
@torch.inference_mode()
def test_a_local_directory_gives_the_logits_of_plain_hugging_face(which, request, no_network):
    folder = request.getfixturevalue(which)
    model = load_model(folder, device="cpu")
    assert isinstance(model, TransformerBridge) and not model.training
    assert not any(p.requires_grad for p in model.parameters())
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    tokens = tokens_for(model)
    torch.testing.assert_close(model(tokens), plain(tokens).logits, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_every_layer_of_a_real_encoder_equals_plain_hugging_face(bert_dir, no_network):
    model = load_model(bert_dir, device="cpu")
    plain = transformers.BertModel.from_pretrained(bert_dir, attn_implementation="eager").eval()
    text = transformers.AutoTokenizer.from_pretrained(bert_dir)(
        ["Paris is the capital of France.", "The moon"], padding=True, return_tensors="pt")
    wanted = plain(**text, output_hidden_states=True).hidden_states
    real = text["attention_mask"].bool()
    seen = {}
    hooks = [(f"blocks.{i}.hook_resid_post", lambda x, hook, i=i: seen.__setitem__(i, x)) for i in range(6)]
    with model.hooks(fwd_hooks=hooks):
        logits = model(text["input_ids"], attention_mask=text["attention_mask"])
    assert sorted(seen) == list(range(6))
    for layer in range(6):
        torch.testing.assert_close(seen[layer][real], wanted[layer + 1][real], rtol=1e-5, atol=1e-5)
    assert not logits.any(), "the checkpoint has no head: transformers would have drawn one at random"


def test_a_directory_without_tokenizer_files_has_no_tokenizer(gpt2_dir, llama_dir):
    for folder in (gpt2_dir, llama_dir):
        model = load_model(folder)
        assert model.tokenizer is None
        assert model.cfg.d_vocab == 40


def test_text_becomes_the_tasks_tokens_and_nothing_is_put_in_front(othello_dir):
    model = load_model(othello_dir)
    ids = [words(8).index(word) for word in ("c4", "c3", "d3")]
    assert model.to_tokens("c4 c3 d3").tolist() == [ids]
    assert len(model.tokenizer) == model.cfg.d_vocab == 61
    assert model.tokenizer.eos_token is None and model.tokenizer.bos_token is None
    model(model.to_tokens(["c4 c3 d3", "d3"]))


def test_an_encoder_keeps_the_special_tokens_of_its_own_tokenizer(bert_dir):
    model = load_model(bert_dir)
    ids = transformers.AutoTokenizer.from_pretrained(bert_dir)("Paris")["input_ids"]
    assert model.to_tokens("Paris").tolist() == [ids]
    assert len(model.tokenizer) == model.cfg.d_vocab


@pytest.mark.parametrize("spelled", [torch.bfloat16, "bfloat16", "torch.bfloat16"])
def test_dtype_is_a_torch_dtype_or_its_name(othello_dir, spelled):
    model = load_model(othello_dir, dtype=spelled)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert identify(model).dtype == "bfloat16"


@pytest.mark.parametrize("wrong", ["int8", "float", "float31", torch.int64])
def test_other_dtypes_are_refused(othello_dir, wrong):
    if wrong == "float":  # an alias of float32 in torch
        assert load_model(othello_dir, dtype=wrong).cfg.dtype == torch.float32
        return
    with pytest.raises(ValueError, match="dtype must be float64, float32, bfloat16 or float16"):
        load_model(othello_dir, dtype=wrong)


def test_auto_takes_the_best_device_there_is(othello_dir):
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert next(load_model(othello_dir).parameters()).device.type == best


@pytest.mark.parametrize("wrong", ["gpu", "xpu", "cuda:99x"])
def test_a_device_that_is_not_there_is_named_with_those_that_are(othello_dir, wrong):
    with pytest.raises(ValueError, match=rf"device '{wrong}' is not on this machine, which has .*cpu"):
        load_model(othello_dir, device=wrong)


def test_device_map_places_the_model(gpt2_dir):
    model = load_model(gpt2_dir, device_map="cpu")
    torch.testing.assert_close(model(tokens_for(model)), load_model(gpt2_dir, device="cpu")(tokens_for(model)))


def test_a_reference_model_is_found_by_its_name_first(othello_dir, monkeypatch, tmp_path, no_network):
    monkeypatch.setattr(tasks, "reference_models", lambda: {"othello": othello_dir})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "othello").mkdir()
    assert load_model("othello").cfg.model_name == "othello"
    with pytest.raises(ModelError, match="othello is no model directory: it has no config.json, it holds nothing"):
        load_model("./othello")


def test_a_hub_id_comes_from_the_cache_without_a_network(gpt2_dir, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--acme--tiny"
    shutil.copytree(gpt2_dir, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    model = load_model("acme/tiny")
    assert (identify(model).name, identify(model).revision) == ("acme/tiny", commit)
    with pytest.raises(ModelError, match="no model 'acme/tinny'.*acme/tinny is not in the local cache"):
        load_model("acme/tinny")


def test_loading_says_nothing_and_unpickles_nothing(othello_dir, capfd):
    unpickled, watching = [], [True]

    def watch(event, arguments):
        if watching and event == "pickle.find_class":
            unpickled.append(arguments)

    sys.addaudithook(watch)  # stays for the life of the process, asleep after this test
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        random_init(load_model(othello_dir))
    watching.clear()
    assert not unpickled
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("which", ["othello_dir", "llama_dir", "encoder_dir"])
@torch.inference_mode()
def test_random_weights_are_the_same_architecture_drawn_afresh(which, request):
    model = load_model(request.getfixturevalue(which), device="cpu")
    before, state = identify(model), torch.random.get_rng_state()
    fresh, again, other = random_init(model, 1), random_init(model, 1), random_init(model, 2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert identify(model) == before, "the model it was made from is untouched"
    digests = [identify(m).digest for m in (model, fresh, again, other)]
    assert digests[1] == digests[2] and len(set(digests)) == 3
    ours, theirs = identify(fresh), identify(model)
    for field in ("architecture", "dtype", "n_layers", "d_model", "d_vocab", "n_ctx", "attention", "causal", "mode"):
        assert getattr(ours, field) == getattr(theirs, field)
    assert ours.revision is None and "random weights, seed 1" in ours.name
    weight = fresh.state_dict()["blocks.0.attn.q.weight"]
    assert float(weight.std()) == pytest.approx(fresh.original_model.config.initializer_range, rel=0.2)
    assert not fresh.training and not any(p.requires_grad for p in fresh.parameters())
    tokens = tokens_for(model, length=5)
    assert not torch.allclose(fresh(tokens), model(tokens))
    torch.testing.assert_close(fresh(tokens), again(tokens), rtol=0, atol=0)


def test_random_weights_of_a_native_model_keep_shape_and_dtype():
    config = dict(n_layers=2, d_model=16, d_head=4, n_heads=4, n_ctx=9, d_vocab=11, d_mlp=24, act_fn="gelu",
                  normalization_type="LNPre", seed=5)
    native = TransformerBridge.boot_native(config)
    fresh = random_init(native, 1)
    assert identify(fresh).digest == identify(random_init(native, 1)).digest != identify(native).digest
    assert {k: v.shape for k, v in fresh.state_dict().items()} == {k: v.shape for k, v in native.state_dict().items()}
    assert fresh.cfg.d_mlp == 24


def test_random_weights_follow_compatibility_mode(othello_dir):
    model = load_model(othello_dir)
    model.enable_compatibility_mode()
    assert identify(random_init(model)).mode == "compat"
