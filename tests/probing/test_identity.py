"""Two models share an identity exactly when they compute the same."""

import dataclasses
import json
import shutil

import pytest
import torch
import xxhash

from probing._identity import is_causal
from probing._models import identify, load_model


def test_the_digest_is_xxh3_over_every_tensor_in_order_of_name(othello_dir):
    model = load_model(othello_dir)
    tensors = {name.replace("._original_component", ""): t
               for name, t in [*model.named_parameters(), *model.named_buffers()]}
    digest = xxhash.xxh3_128()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].numpy().tobytes())
    assert identify(model).digest == digest.hexdigest()


def test_an_identity_is_plain_frozen_values(othello_dir):
    identity = identify(load_model(othello_dir))
    plain = identity.as_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert (plain["n_layers"], plain["d_model"], plain["d_vocab"], plain["n_ctx"]) == (2, 32, 61, 59)
    assert (plain["mode"], plain["dtype"], plain["attention"], plain["causal"]) == ("raw", "float32", "eager", True)
    pins = json.loads((othello_dir / "sha256.json").read_text())
    assert plain["revision"] == f"sha256:{pins['model.safetensors']}"
    with pytest.raises(dataclasses.FrozenInstanceError):
        identity.name = "another"


def test_where_a_model_lies_does_not_change_its_digest(othello_dir, tmp_path):
    here = identify(load_model(othello_dir))
    there = identify(load_model(shutil.copytree(othello_dir, tmp_path / "moved")))
    assert dataclasses.replace(there, name=here.name) == here and there.name != here.name


def test_one_changed_weight_changes_the_digest_although_it_is_cached(othello_dir):
    model = load_model(othello_dir)
    before = identify(model)
    assert identify(model) == before
    weight = model.blocks[1].mlp.out.weight
    weight[0, 0] += 1e-6
    changed = identify(model)
    assert changed.digest != before.digest
    assert dataclasses.replace(changed, digest=before.digest) == before


def test_mode_and_dtype_are_part_of_the_identity(othello_dir):
    raw, compat = load_model(othello_dir), load_model(othello_dir)
    compat.enable_compatibility_mode()
    digests = {identify(m).digest for m in (raw, compat, load_model(othello_dir, dtype=torch.bfloat16))}
    assert len(digests) == 3
    assert (identify(raw).mode, identify(compat).mode) == ("raw", "compat")


def test_what_the_weights_do_not_tell_is_in_the_config_digest(othello_dir, tmp_path):
    folder = shutil.copytree(othello_dir, tmp_path / "copy")
    (folder / "sha256.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"activation_function": "gelu_new"}))
    ours, theirs = identify(load_model(othello_dir)), identify(load_model(folder))
    assert ours.digest == theirs.digest and ours.config != theirs.config


def test_encoders_are_not_causal(encoder_dir, llama_dir):
    assert not is_causal(load_model(encoder_dir)) and is_causal(load_model(llama_dir))


def test_a_checkpoint_without_a_head_has_one_digest(bert_dir):
    assert identify(load_model(bert_dir)).digest == identify(load_model(bert_dir)).digest
