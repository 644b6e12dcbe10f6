"""The study of real names on language models of four families, made here with their tokenizers."""

import numpy as np
import pandas as pd
import pytest
import torch
import transformers

from probing import extract, load_model, residual_sites
from tasks import reference_models, space_time
from tasks.space_time import _neurons as neurons
from tasks.space_time.study import study
from tests.tasks.tiny_tokenizers import tiny
from worldprobe._cli import main

SHAPE = dict(num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64, hidden_size=32,
             intermediate_size=48)
MODELS = {  # family -> tokenizer, configuration, and where the first layer of an MLP is in Hugging Face's modules
    "gpt2": ("byte-level", lambda n: transformers.GPT2Config(vocab_size=n, n_positions=64, n_embd=32, n_layer=2,
                                                             n_head=4), "transformer.h.{}.mlp.c_fc"),
    "llama": ("byte-fallback", lambda n: transformers.LlamaConfig(vocab_size=n, num_key_value_heads=2, **SHAPE),
              "model.layers.{}.mlp.gate_proj"),
    "neox": ("byte-level", lambda n: transformers.GPTNeoXConfig(vocab_size=n, **SHAPE),
             "gpt_neox.layers.{}.mlp.dense_h_to_4h"),
    "bert": ("wordpiece", lambda n: transformers.BertConfig(vocab_size=n, **SHAPE),
             "bert.encoder.layer.{}.intermediate.dense"),
}


@pytest.fixture(scope="module")
def towns(tmp_path_factory):
    """60 towns in 3 lands whose names begin with the land."""
    rng, i = np.random.default_rng(0), np.arange(60)
    land, file = i % 3, tmp_path_factory.mktemp("towns") / "towns.csv"
    said = np.array(["Krasnodar", "Lodz", "Al Ain"])[land]
    pd.DataFrame({"town": [f"{a} City {'of New York ' * (k % 2)}{k}" for k, a in zip(i, said, strict=True)],
                  "land": said, "longitude": 60 * land - 50 + rng.normal(0, 8, 60),
                  "latitude": 20 * land - 30 + rng.normal(0, 8, 60)}).to_csv(file, index=False)
    return file


def directory(family, folder):
    """A model of the family with random weights and its tokenizer, as Hugging Face saves them."""
    kind, config, _ = MODELS[family]
    tokenizer = tiny(kind)
    made = config(len(tokenizer))
    made.initializer_range = 0.2
    cls = transformers.AutoModelForMaskedLM if family == "bert" else transformers.AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = cls.from_config(made).eval()
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return net


@pytest.mark.parametrize("family", MODELS)
def test_neurons_and_states_at_the_end_of_a_name_are_those_of_hugging_face(family, towns, tmp_path):
    net = directory(family, tmp_path)
    model = load_model(tmp_path)
    prompts = space_time.load(towns, model.tokenizer, name="town", block="land", prompt="Where is {} now?", n=9)
    acts = extract(model, prompts, residual_sites(2), random_init=None, cache=False)
    read = neurons.preactivations(model, prompts)
    assert read.shape == (2, 9, 4 * 32 if family == "gpt2" else 48) and prompts.lengths.unique().numel() > 1
    seen = {}
    for layer in range(2):
        net.get_submodule(MODELS[family][2].format(layer)).register_forward_hook(
            lambda module, args, out, layer=layer: seen.update({layer: out}))
    for i, (row, n) in enumerate(zip(prompts.examples.itertuples(), prompts.lengths, strict=True)):
        with torch.inference_mode():
            states = net(prompts.tokens[i : i + 1, :n], output_hidden_states=True).hidden_states
        for layer in range(2):
            np.testing.assert_allclose(read[layer, i], seen[layer].reshape(1, n, -1)[0, row.pos], atol=2e-4)
        first = next(site for site in acts if (site.stream, site.layer) == ("resid_post", 0))
        np.testing.assert_allclose(np.asarray(acts[first])[i], states[1][0, row.pos], atol=2e-4)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    directory("llama", folder)
    return folder


@pytest.mark.parametrize(("given", "message"), [
    (["--with", "data=world_place"], "data=world_place: real names need a language model and its tokenizer"),
    (["--with", "target=year"], "target=year: real names need a language model"),
    (["--with", "dates=1"], "has no option 'dates' for --with; it takes block, data, file, name, target"),
])
def test_real_names_want_a_language_model(given, message, capsys, tmp_path):
    assert main(["run", "space_time", *given, "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("given", "message"), [
    (["data=nowhere.csv"], "nowhere.csv is neither a file nor a data set"),
    (["block=country"], "lacks column(s) country"),
    (["name=village"], "lacks column(s) village"),
    (["target=latitude", "data=headline"], "the file of headline is not in the public copy"),
])
def test_a_table_that_cannot_be_used_stops_the_run_in_one_line(given, message, llama, towns, tmp_path, capsys):
    given = [*given, *(f"{k}={v}" for k, v in {"data": towns, "name": "town"}.items()
                       if not any(g.startswith(f"{k}=") for g in given))]
    code = main(["run", "space_time", "--model", str(llama), "--out", str(tmp_path / "run"),
                 *(part for g in given for part in ("--with", g))])
    assert code == 2 and message in capsys.readouterr().err.splitlines()[-1]


def test_a_model_that_was_trained_on_the_world_is_asked_about_the_world():
    tokenizer = transformers.AutoTokenizer.from_pretrained(reference_models()["space_time"])
    assert [r.name for r in study(tokenizer).readings] == ["distance", "direction", "gap", "order"]
    with pytest.raises(ValueError, match="data=art: real names need"):
        study(tokenizer, data="art")
