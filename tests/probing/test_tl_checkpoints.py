"""Old TransformerLens files: their numbers, against the arithmetic that the old format stood for."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from probing._models import ModelError, identify, load_model, random_init


def old_state(n_layers=2, d_model=24, n_heads=3, d_head=8, d_mlp=40, n_ctx=13, d_vocab=17, norm="LNPre", buffers=True,
              seed=0) -> dict[str, torch.Tensor]:
    """What `HookedTransformer.state_dict()` held: weights per head, (in, out) matrices, mask buffers."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator) * 0.3

    state = {"embed.W_E": draw(d_vocab, d_model), "pos_embed.W_pos": draw(n_ctx, d_model),
             "unembed.W_U": draw(d_model, d_vocab), "unembed.b_U": draw(d_vocab)}
    for i in range(n_layers):
        for name in "QKV":
            state[f"blocks.{i}.attn.W_{name}"] = draw(n_heads, d_model, d_head)
            state[f"blocks.{i}.attn.b_{name}"] = draw(n_heads, d_head)
        state |= {f"blocks.{i}.attn.W_O": draw(n_heads, d_head, d_model), f"blocks.{i}.attn.b_O": draw(d_model),
                  f"blocks.{i}.mlp.W_in": draw(d_model, d_mlp), f"blocks.{i}.mlp.b_in": draw(d_mlp),
                  f"blocks.{i}.mlp.W_out": draw(d_mlp, d_model), f"blocks.{i}.mlp.b_out": draw(d_model)}
        if buffers:
            state |= {f"blocks.{i}.attn.mask": torch.tril(torch.ones(n_ctx, n_ctx)).bool(),
                      f"blocks.{i}.attn.IGNORE": torch.tensor(-1e5)}
    if norm == "LN":
        for place in [f"blocks.{i}.ln{j}" for i in range(n_layers) for j in (1, 2)] + ["ln_final"]:
            state |= {f"{place}.w": 1 + draw(d_model), f"{place}.b": draw(d_model)}
    return state


def old_forward(state: dict[str, torch.Tensor], tokens: torch.Tensor, act=F.gelu) -> torch.Tensor:
    """HookedTransformer's forward pass written out: pre-norm, eps 1e-5, gelu by the error function."""
    def norm(x, place):
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return x * state[f"{place}.w"] + state[f"{place}.b"] if f"{place}.w" in state else x

    length = tokens.shape[1]
    x = state["embed.W_E"][tokens] + state["pos_embed.W_pos"][:length]
    future = torch.ones(length, length).triu(1).bool()
    for i in range(sum(key.endswith("W_Q") for key in state)):
        a = {key.rpartition(".")[2]: value for key, value in state.items() if key.startswith(f"blocks.{i}.attn.")}
        h = norm(x, f"blocks.{i}.ln1")
        q, k, v = (torch.einsum("btd,hde->bhte", h, a[f"W_{n}"]) + a[f"b_{n}"][:, None] for n in "QKV")
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        z = scores.masked_fill(future, -math.inf).softmax(-1) @ v
        x = x + torch.einsum("bhte,hed->btd", z, a["W_O"]) + a["b_O"]
        m = {key.rpartition(".")[2]: value for key, value in state.items() if key.startswith(f"blocks.{i}.mlp.")}
        if m:
            x = x + act(norm(x, f"blocks.{i}.ln2") @ m["W_in"] + m["b_in"]) @ m["W_out"] + m["b_out"]
    return norm(x, "ln_final") @ state["unembed.W_U"] + state.get("unembed.b_U", 0)


def write(state: dict[str, torch.Tensor], file: Path) -> Path:
    save_file(state, file) if file.suffix == ".safetensors" else torch.save(state, file)
    return file


def tokens_for(model):
    return torch.randint(model.cfg.d_vocab, (3, model.cfg.n_ctx), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize("norm", ["LNPre", "LN"])
@torch.inference_mode()
def test_an_old_state_dict_computes_what_its_format_meant(suffix, norm, tmp_path, no_network):
    state = old_state(norm=norm)
    model = load_model(write(state, tmp_path / f"model{suffix}"), device="cpu")
    assert (model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_head, model.cfg.d_mlp) == (2, 3, 8, 40)
    assert (model.cfg.n_ctx, model.cfg.d_vocab, model.cfg.normalization_type) == (13, 17, norm)
    torch.testing.assert_close(model(tokens_for(model)), old_forward(state, tokens_for(model)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [dict(n_heads=2, d_head=5), dict(n_layers=1, d_mlp=7), dict(buffers=False)])
@torch.inference_mode()
def test_the_shape_of_the_model_is_read_off_its_tensors(shape, tmp_path):
    state = old_state(**shape)
    model = load_model(write(state, tmp_path / "model.pth"))
    torch.testing.assert_close(model(tokens_for(model)), old_forward(state, tokens_for(model)), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_what_a_file_may_lack(tmp_path):
    """The unembedding's bias; the whole MLP of an attention-only model."""
    state = old_state()
    del state["unembed.b_U"]
    model = load_model(write(state, tmp_path / "no_bias.pth"))
    torch.testing.assert_close(model(tokens_for(model)), old_forward(state, tokens_for(model)), rtol=1e-4, atol=1e-4)
    state = {key: value for key, value in state.items() if ".mlp." not in key}
    model = load_model(write(state, tmp_path / "attention_only.pth"))
    torch.testing.assert_close(model(tokens_for(model)), old_forward(state, tokens_for(model)), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_what_tensors_cannot_tell_is_said_by_the_caller(tmp_path):
    state, file = old_state(), tmp_path / "model.pth"
    write(state, file)
    model = load_model(file, tl_config={"act_fn": "relu"})
    wanted = old_forward(state, tokens_for(model), act=F.relu)
    torch.testing.assert_close(model(tokens_for(model)), wanted, rtol=1e-4, atol=1e-4)
    assert identify(model).digest == identify(load_model(file)).digest, "the weights are the same"
    assert identify(model).config != identify(load_model(file)).config, "the model is not"


@torch.inference_mode()
def test_the_published_othello_gpt_format_loads(tmp_path):
    """8 layers, d_model 512, 8 heads, d_mlp 2048, 59 positions, 61 tokens, LNPre, as in synthetic_model.pth."""
    state = old_state(n_layers=8, d_model=512, n_heads=8, d_head=64, d_mlp=2048, n_ctx=59, d_vocab=61)
    state = {key: value * 0.1 if ".W_" in key else value for key, value in state.items()}
    model = load_model(write(state, tmp_path / "synthetic_model.pth"))
    identity = identify(model)
    assert (identity.n_layers, identity.d_model, identity.d_vocab, identity.n_ctx) == (8, 512, 61, 59)
    assert identity.revision.startswith("sha256:") and identity.attention == "native" and identity.causal
    tokens = tokens_for(model)[:2]
    torch.testing.assert_close(model(tokens), old_forward(state, tokens), rtol=1e-4, atol=1e-4)


def test_dtype_and_hooks_and_random_weights_work_as_for_any_model(tmp_path):
    model = load_model(write(old_state(), tmp_path / "model.pth"), dtype="bfloat16")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16} and not model.training
    _, cache = model.run_with_cache(tokens_for(model))
    assert cache["blocks.1.hook_resid_post"].shape == (3, 13, 24)
    fresh = random_init(model, 3)
    assert {p.dtype for p in fresh.parameters()} == {torch.bfloat16}
    assert identify(fresh).digest != identify(model).digest


class Evil:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_a_pickle_is_not_executed(tmp_path):
    torch.save({"embed.W_E": Evil(tmp_path / "executed")}, tmp_path / "evil.pth")
    with pytest.raises(ModelError, match=r"evil\.pth cannot be read as tensors alone \(weights_only=True\)"):
        load_model(tmp_path / "evil.pth")
    assert not (tmp_path / "executed").exists()


def test_a_file_before_the_zip_format_is_refused(tmp_path):
    torch.save(old_state(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(ModelError, match=r"old\.pth is damaged or no checkpoint of torch\.save \(they are zip"):
        load_model(tmp_path / "old.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file_is_named(tmp_path, suffix):
    file = write(old_state(), tmp_path / f"cut{suffix}")
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ModelError, match=rf"cut\{suffix} is damaged"):
        load_model(file)


def test_a_flipped_bit_in_the_weights_of_a_pth_file_is_found(tmp_path):
    file = write(old_state(), tmp_path / "flipped.pth")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(ModelError, match=r"flipped\.pth is damaged: the checksum of .* inside it is wrong"):
        load_model(file)


def without(*names):
    return {key: value for key, value in old_state().items() if key not in names}


@pytest.mark.parametrize("state, says", [
    (without("pos_embed.W_pos"), "lacks pos_embed.W_pos; it has embed.W_E"),
    (without("blocks.1.mlp.W_in"), "blocks.1.mlp.in.weight is missing"),
    (without("embed.W_E") | {"tok_emb.weight": torch.zeros(2, 2)}, "lacks embed.W_E"),
    ({k: value for k, value in old_state(n_layers=3).items() if ".1." not in k}, r"lacks blocks: it has \[0, 2\]"),
    (old_state() | {"blocks.0.attn.rotary_sin": torch.zeros(2)}, "rotary_sin"),
    (old_state() | {"blocks.1.attn.W_Q": torch.zeros(4, 24, 6)}, "has shape .*4, 24, 6.*expected .*3, 24, 8"),
    (old_state() | {"blocks.1.mlp.W_in": torch.zeros(24, 41)}, "contradicts itself: blocks.1.mlp.in.weight should"),
    ({"model": old_state()}, r"must hold a dictionary of tensors, it holds model \(dict\)"),
    (torch.zeros(2), "must hold a dictionary of tensors, it holds Tensor"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_a_state_dict_of_something_else_says_what_is_wrong(state, says, tmp_path):
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ModelError, match=rf"other\.pth .*{says}"):
        load_model(tmp_path / "other.pth")
