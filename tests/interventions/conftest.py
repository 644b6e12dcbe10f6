"""Small models with random weights of every family, and cases built by hand."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from probing._models import load_model
from tasks._prompts import Counterfactuals

D_MODEL, D_VOCAB, N_CTX, N_LAYERS = 24, 30, 20, 3


def _config(family: str):
    import transformers

    small = dict(vocab_size=D_VOCAB, bos_token_id=1, eos_token_id=1)
    wide = dict(hidden_size=D_MODEL, intermediate_size=48, num_hidden_layers=N_LAYERS, num_attention_heads=4,
                max_position_embeddings=N_CTX, **small)
    if family == "gpt2":
        return transformers.GPT2Config(n_layer=N_LAYERS, n_embd=D_MODEL, n_head=4, n_positions=N_CTX, **small)
    if family == "llama":
        return transformers.LlamaConfig(num_key_value_heads=2, **wide)
    if family == "mistral":  # a sliding window of 4 tokens
        return transformers.MistralConfig(num_key_value_heads=2, sliding_window=4, **wide)
    if family == "bert":
        return transformers.BertConfig(**wide)
    return transformers.GPTNeoXConfig(use_parallel_residual=True, rotary_pct=0.5, **wide)


def _directory(family: str, path):
    """A Hugging Face directory with a word-level tokenizer and weights large enough to matter."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    torch.manual_seed(0)
    model = (AutoModelForMaskedLM if family == "bert" else AutoModelForCausalLM).from_config(_config(family))
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2:
                p.normal_(std=0.25)
    model.save_pretrained(path)
    words = {f"w{i}": i for i in range(D_VOCAB)}
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
                 "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
                 "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"}}
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    special = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "w0", "bos_token": "w1", "eos_token": "w1"}
    (path / "tokenizer_config.json").write_text(json.dumps(special))
    return path


FAMILIES = ("gpt2", "llama", "neox", "mistral", "native")


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """family -> model, loaded once."""
    loaded = {}

    def get(family: str):
        if family not in loaded:
            if family == "native":
                config = TransformerBridgeConfig(
                    n_layers=N_LAYERS, d_model=D_MODEL, n_ctx=N_CTX, d_head=6, n_heads=4, d_vocab=D_VOCAB, d_mlp=48,
                    act_fn="gelu", normalization_type="LN", architecture=None, seed=0)
                loaded[family] = TransformerBridge.boot_native(config)
            else:
                loaded[family] = load_model(_directory(family, tmp_path_factory.mktemp(family)), device="cpu")
        return loaded[family]

    return get


@pytest.fixture(params=FAMILIES)
def model(request, models):
    return models(request.param)


@pytest.fixture(scope="session")
def gpt2(models):
    return models("gpt2")


@pytest.fixture(scope="session")
def cases():
    return make_cases(12)


def make_cases(n: int, seed: int = 0) -> Counterfactuals:
    """Random prompts of 1 to 12 tokens, one target of four each; the answers are random sets of 3 tokens."""
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    lengths = torch.randint(1, 13, (n,), generator=generator)
    tokens = torch.randint(1, D_VOCAB, (n, 12), generator=generator)
    tokens[torch.arange(12) >= lengths[:, None]] = 0
    right = [np.zeros((n, D_VOCAB), bool) for _ in range(2)]
    for answers in right:
        for row in answers:
            row[rng.choice(np.arange(1, D_VOCAB), 3, replace=False)] = True
    table = pd.DataFrame({
        "prompt": np.arange(n), "target": [f"t{i % 4}" for i in range(n)], "was": 0, "becomes": 2,
        "group": np.arange(n) // 2, "split": np.where(np.arange(n) // 2 % 2, "report", "choose"),
    })
    return Counterfactuals(task="toy", kind="flip, random", scheme="state", tokens=tokens, lengths=lengths, cases=table,
                           right_before=right[0], right_after=right[1])


@pytest.fixture
def random():
    """Reproducible tensors: random(3, 4)."""
    generator = torch.Generator().manual_seed(1)
    return lambda *shape, **kw: torch.randn(*shape, generator=generator, **kw)
