"""Every field of a store's identity, changed one at a time: a new store, and a message that names the field.

Where a user can change a field alone, the test does what the user does; the others (versions, device, the sizes of an
architecture) are changed in the identity itself.
"""

import inspect
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from probing import _extract, _forward, _plan
from probing._activations import control_identity
from probing._extract import extract
from probing._models import load_model
from probing._sites import Site
from probing._store_files import StoreFiles, explain_difference, flat, store_name
from tasks import LabelledPrompts


def some_prompts(n: int = 8) -> LabelledPrompts:
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 9, n)
    tokens = rng.integers(1, 40, (n, 8)) * (np.arange(8) < lengths[:, None])
    examples = pd.DataFrame({"prompt": np.arange(n).repeat(2), "pos": np.tile([0, 2], n), "split": "train",
                             "group": np.arange(n).repeat(2).astype(str)})
    return LabelledPrompts(task="fields", tokens=torch.from_numpy(tokens), lengths=torch.from_numpy(lengths),
                           examples=examples)


@pytest.fixture(scope="module")
def before(gpt2_dir, tmp_path_factory):
    """A store with its control, the model and prompts it came from, and its cache."""
    model, prompts, cache = load_model(gpt2_dir, device="cpu"), some_prompts(), tmp_path_factory.mktemp("cache")
    return extract(model, prompts, cache=cache, batch_size=2), model, prompts, cache


def changed_weight(model, folder, prompts):
    copy = Path(shutil.copytree(folder, folder.parent / "changed"))
    tensors = load_file(copy / "model.safetensors")
    tensors["transformer.h.1.mlp.c_fc.weight"][0, 0] += 1e-6
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    return load_model(copy, device="cpu"), prompts, {}


def another_activation_function(model, folder, prompts):
    copy = Path(shutil.copytree(folder, folder.parent / "another"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"activation_function": "relu"}))
    return load_model(copy, device="cpu"), prompts, {}


def compatibility_mode(model, folder, prompts):
    model = load_model(folder, device="cpu")
    model.enable_compatibility_mode()
    return model, prompts, {}


def other_attention(model, folder, prompts):
    model = load_model(folder, device="cpu")
    model.original_model.config._attn_implementation = "sdpa"
    return model, prompts, {}


def half_precision(model, folder, prompts):
    return load_model(folder, device="cpu", dtype="bfloat16"), prompts, {}


def fewer_examples(model, folder, prompts):
    return model, replace(prompts, examples=prompts.examples[:-1]), {}


CHANGES = {
    "model.digest": changed_weight,
    "model.config": another_activation_function,
    "model.mode": compatibility_mode,
    "model.attention": other_attention,
    "model.dtype": half_precision,
    "prompts.tokens": lambda m, f, p: (m, replace(p, tokens=p.tokens + (p.tokens == p.tokens[0, 0]).long()), {}),
    "prompts.lengths": lambda m, f, p: (m, replace(p, lengths=p.lengths.clamp_min(6)), {}),
    "prompts.examples": lambda m, f, p: (m, replace(p, examples=p.examples[::-1]), {}),
    "prompts.vocabulary": lambda m, f, p: (m, replace(p, vocabulary=tuple(map(str, range(40)))), {}),
    "sites": lambda m, f, p: (m, p, {"sites": [Site("resid_post", i) for i in (0, 1, 2, 0)]}),
    "dtype": lambda m, f, p: (m, p, {"dtype": "bfloat16"}),
    "pool": lambda m, f, p: (m, p, {"pool": "mean"}),
    "plan.batches": lambda m, f, p: (m, p, {"batch_size": 3}),
    "plan.n_examples": fewer_examples,
    "plan.widths": lambda m, f, p: (m, p, {"sites": [Site("resid_pre", 0), Site("mlp_post", 1)]}),
}
ALONE = {"model.digest", "model.config", "model.attention", "prompts.tokens", "prompts.lengths", "prompts.examples",
         "prompts.vocabulary", "dtype", "pool"}  # the others move a second field: half precision the digest


@pytest.mark.parametrize("field", CHANGES)
def test_a_change_by_the_user_makes_a_new_store_and_is_named(before, gpt2_dir, field, capsys):
    acts, model, prompts, cache = before
    if field not in flat(acts.identity):
        pytest.skip(f"identities have no {field}")
    model, prompts, how = CHANGES[field](model, gpt2_dir, prompts)
    second = extract(model, prompts, cache=cache, random_init=None, **{"batch_size": 2, **how})
    said = capsys.readouterr().err
    assert second.path != acts.path
    was, now = flat(acts.identity), flat(second.identity)
    moved = {name for name in was.keys() | now.keys() if was.get(name) != now.get(name)}
    assert field in moved and (moved == {field} or field not in ALONE)
    named = said.partition("the nearest one differs in ")[2].splitlines()[0].split(", ")
    assert set(named) == moved, said
    shutil.rmtree(second.path)


def test_another_plan_of_shards_is_another_store(before, monkeypatch, capsys):
    acts, model, prompts, cache = before
    monkeypatch.setattr(_plan, "SHARD_BATCHES", 2)
    second = extract(model, prompts, cache=cache, batch_size=2, random_init=None)
    assert second.path != acts.path and "plan.n_shards, plan.shards" in capsys.readouterr().err
    shutil.rmtree(second.path)


def test_another_seed_of_the_control_is_another_control(before):
    acts, model, prompts, cache = before
    second = extract(model, prompts, cache=cache, batch_size=2, random_init=1)
    assert second.path == acts.path and second.random_init.path != acts.random_init.path
    fields = explain_difference(control_identity(acts.identity, 2), cache, lambda other: other["random_init"] == 0)
    assert fields == ["random_init"]
    site = acts.sites[-1]
    assert not torch.equal(second.random_init[site], acts.random_init[site])


def test_a_new_version_of_a_library_is_a_new_store(before, monkeypatch, capsys):
    acts, model, prompts, cache = before
    monkeypatch.setattr(_extract, "_versions", lambda: {**acts.identity["versions"], "transformers": "99.0"})
    second = extract(model, prompts, cache=cache, batch_size=2, random_init=None)
    assert second.path != acts.path
    assert "the nearest one differs in versions.transformers\n" in capsys.readouterr().err
    shutil.rmtree(second.path)


def test_every_field_changed_alone_is_another_identity_and_is_named(before):
    acts, _, _, cache = before
    fields = flat(acts.identity)
    assert len(fields) >= 20
    names = {store_name(acts.identity)}
    for field, value in fields.items():
        changed = with_field(acts.identity, field, changed_value(value))
        assert explain_difference(changed, cache, lambda other: other["random_init"] is None) == [field]
        assert not StoreFiles.at(changed, cache).path.exists()
        names.add(store_name(changed))
    assert len(names) == len(fields) + 1


def with_field(identity, field, value):
    first, _, rest = field.partition(".")
    return {**identity, first: with_field(identity[first], rest, value) if rest else value}


def changed_value(value):
    match value:
        case None:
            return 7
        case bool():
            return not value
        case int():
            return value + 1
        case list():
            return value[:-1]
        case _:
            return f"{value}x"


def test_unchanged_everything_is_used_again_without_a_forward_pass(before, monkeypatch):
    """Only the choice of the road runs the model, on three prompts: as often for a finished store as for a new one."""
    acts, model, prompts, cache = before
    ran, real = [], _forward.Reader.read

    def read(self, inputs, *args):
        ran.append(tuple(inputs["input_ids"].shape))
        return real(self, inputs, *args)

    monkeypatch.setattr(_forward.Reader, "read", read)
    files = {file: file.stat().st_mtime_ns for file in acts.path.parent.rglob("*")}
    again = extract(model, prompts, cache=cache, batch_size=2)
    road = len(ran)
    assert again.path == acts.path and again.random_init.path == acts.random_init.path
    assert {file: file.stat().st_mtime_ns for file in acts.path.parent.rglob("*")} == files
    extract(model, prompts, cache=False, batch_size=2)
    batches = 2 * 4  # eight prompts by two, and the control
    assert len(ran) == 2 * road + batches and road <= 3


def test_the_prompts_other_columns_and_names_do_not_matter(before, gpt2_dir):
    """Labels, splits, groups, the task's name and where the model lies change no activation."""
    acts, _, prompts, cache = before
    copy = Path(shutil.copytree(gpt2_dir, gpt2_dir.parent / "elsewhere"))
    examples = prompts.examples.assign(split="test", group="one", label=1.5)
    renamed = replace(prompts, task="renamed", examples=examples)
    assert extract(load_model(copy, device="cpu"), renamed, cache=cache, batch_size=2).path == acts.path


def test_what_extract_takes_is_in_the_identity():
    """A parameter that is added to extract() and changes a number must be added to the identity as well."""
    known = {"model", "prompts", "sites", "pool", "cache", "batch_size", "dtype", "random_init", "progress"}
    assert set(inspect.signature(extract).parameters) <= known, "decide whether it is part of the identity, and test it"
