"""Bad input: each gives one ModelError that names the file and says what to do."""

import json
import shutil
import stat

import huggingface_hub.constants
import pytest
import torch
import transformers

import tasks
from probing._models import ModelError, identify, load_model


@pytest.fixture
def copy(othello_dir, tmp_path):
    return shutil.copytree(othello_dir, tmp_path / "copy")


def flip(file, offset):
    data = bytearray(file.read_bytes())
    data[offset] ^= 0x01
    file.write_bytes(data)


def unpin(folder):
    (folder / "sha256.json").unlink()
    return folder


def test_a_truncated_weight_file_is_named(copy):
    file = unpin(copy) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"copy/model\.safetensors is damaged \(\d+ bytes\).*Restore"):
        load_model(copy)


def test_a_flipped_bit_in_the_header_never_gives_another_model_in_silence(copy):
    file, whole = unpin(copy) / "model.safetensors", identify(load_model(copy)).digest
    data, refused = file.read_bytes(), 0
    end = 8 + int.from_bytes(data[:8], "little")
    for offset in [0, 1, 7, *range(8, end, end // 16)]:
        flip(file, offset)
        try:
            assert identify(load_model(copy)).digest == whole, offset  # it hit the file's own comment field
        except ModelError as error:
            assert "model.safetensors" in str(error)
            refused += 1
        file.write_bytes(data)
    assert refused >= 14


def test_a_flipped_bit_in_the_name_of_a_tensor_is_an_error(copy):
    """A flipped bit in a tensor's name leaves a valid file, and transformers would draw that tensor at random."""
    file = unpin(copy) / "model.safetensors"
    offset = file.read_bytes().index(b"transformer.h.1.mlp.c_fc.weight") + len("transformer.h.1.mlp.c")
    flip(file, offset)
    with pytest.raises(ModelError, match=r"lacks transformer\.h\.1\.mlp\.c_fc\.weight and has transformer\.h\.1\.mlp"):
        load_model(copy)


@pytest.mark.parametrize("name, offset", [("model.safetensors", -1), ("model.safetensors", -5000), ("config.json", 40),
                                          ("tokenizer.json", 300)])
def test_one_flipped_bit_in_a_pinned_directory_is_found_and_the_file_named(copy, name, offset):
    flip(copy / name, offset)
    with pytest.raises(ModelError, match=rf"copy/{name} is damaged or was changed: by sha256\.json .*Restore"):
        load_model(copy)


def test_a_missing_pinned_file_is_named(copy):
    (copy / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"copy/tokenizer\.json is missing"):
        load_model(copy)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_damaged_pins_are_named(copy, text):
    (copy / "sha256.json").write_text(text)
    with pytest.raises(ModelError, match=r"copy/sha256\.json is damaged"):
        load_model(copy)


def test_shipped_reference_models_are_pinned_and_readable():
    for name, folder in tasks.reference_models().items():
        pins = json.loads((folder / "sha256.json").read_text())
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= pins.keys(), name
        load_model(name)


def test_a_trained_model_is_readable_for_everyone(othello_dir):
    for name in ("model.safetensors", "config.json", "tokenizer.json", "sha256.json"):
        assert stat.S_IMODE((othello_dir / name).stat().st_mode) == 0o644


def test_an_encoder_that_lacks_weights_of_its_body_is_refused(tmp_path):
    config = transformers.BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                                     intermediate_size=16, max_position_embeddings=12)
    body = transformers.BertModel(config)
    state = {key: value for key, value in body.state_dict().items() if "layer.1.output.dense" not in key}
    body.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ModelError, match=r"it lacks bert\.encoder\.layer\.1\.output\.dense\.bias, bert\."):
        load_model(tmp_path)


def test_a_config_of_another_shape_is_refused(copy):
    config = json.loads((unpin(copy) / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"vocab_size": 62}))
    with pytest.raises(ModelError, match="the weights in .*copy do not load: .*config.json does not describe it"):
        load_model(copy)


@pytest.mark.parametrize("text", ["{", '{"model_type": "nope"}', "{}"])
def test_a_damaged_config_is_named(copy, text):
    (unpin(copy) / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"copy/config\.json cannot be read as a Hugging Face configuration"):
        load_model(copy)


def test_an_architecture_that_transformer_lens_lacks_is_named(copy):
    (unpin(copy) / "config.json").write_text('{"model_type": "xlnet", "architectures": ["XLNetLMHeadModel"]}')
    with pytest.raises(ModelError, match=r"holds a xlnet model \(XLNetLMHeadModel\), which transformer-lens does not"):
        load_model(copy)


def test_an_encoder_decoder_is_refused(tmp_path):
    config = transformers.T5Config(vocab_size=20, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=4,
                                   decoder_start_token_id=0)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no single stack of blocks"):
        load_model(tmp_path)


def test_a_damaged_tokenizer_is_named(copy):
    (unpin(copy) / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(ModelError, match=r"the tokenizer in .*copy \(tokenizer\.json\) cannot be read"):
        load_model(copy)


def test_a_directory_without_weights_or_config_says_what_it_holds(copy, tmp_path):
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="copy has no weights: wanted model.safetensors, it holds config.json, "):
        load_model(copy)
    with pytest.raises(ModelError, match=r"has no config\.json, it holds copy\. Did you mean .*/copy\?"):
        load_model(tmp_path)
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="has no config.json, it holds nothing"):
        load_model(empty)


def test_a_path_that_does_not_exist_names_its_neighbours(copy):
    with pytest.raises(ModelError, match=r"there is no model at .*/copi: did you mean copy\? .* holds copy$"):
        load_model(copy.parent / "copi")
    with pytest.raises(ModelError, match=r"there is no model at .*model\.pth"):
        load_model(str(copy / "model.pth"))


def test_a_file_of_another_kind_is_refused(copy):
    with pytest.raises(ModelError, match=r"config\.json is no model: wanted a directory .*\.pth, \.pt, \.safetensors"):
        load_model(copy / "config.json")


@pytest.mark.parametrize("wrong", ["othelo", "Othello", "othello-8x8"])
def test_an_unknown_name_is_answered_with_the_nearest_reference_models(wrong, othello_dir, monkeypatch, no_network):
    monkeypatch.setattr(tasks, "reference_models", lambda: {"othello": othello_dir, "othello-6x6": othello_dir})
    with pytest.raises(ModelError, match=rf"no model '{wrong}': did you mean othello.*Reference models: othello, "):
        load_model(wrong)


@pytest.mark.parametrize("wrong", ["zebra", "a/b/c", "spaces in it", ""])
def test_a_name_like_nothing_lists_what_a_model_can_be(wrong, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="Reference models: .*a directory in Hugging Face format, a Hub id such as"):
        load_model(wrong)


def test_sharded_weights_load_and_a_lost_shard_is_noticed(gpt2_dir, tmp_path):
    plain = transformers.GPT2LMHeadModel.from_pretrained(gpt2_dir)
    plain.save_pretrained(tmp_path, max_shard_size="40KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    tokens = torch.arange(10)[None]
    with torch.inference_mode():
        torch.testing.assert_close(load_model(tmp_path)(tokens), load_model(gpt2_dir)(tokens))
    shards[1].unlink()
    with pytest.raises(ModelError, match="the weights in .* do not load"):
        load_model(tmp_path)
