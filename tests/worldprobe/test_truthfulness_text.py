"""The study of truthfulness on language models with their tokenizers, made here: statements in plain text, verdicts."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import transformers

from interventions import LastToken
from probing import load_model, read_results, validate
from tasks import reference_models
from tasks.truthfulness._asked import few_shot_cases, few_shot_prompts, few_shot_questions
from tasks.truthfulness._study_text import likelihood_rows
from tasks.truthfulness.study import study
from tests.tasks.tiny_tokenizers import tiny
from worldprobe._cli import main
from worldprobe._intervene_task import witnesses
from worldprobe._rows import pick

SHAPE = dict(num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=400, hidden_size=32,
             intermediate_size=48)
MODELS = {
    "gpt2": ("byte-level", lambda n: transformers.GPT2Config(vocab_size=n, n_positions=400, n_embd=32, n_layer=2,
                                                             n_head=4)),
    "llama": ("byte-fallback", lambda n: transformers.LlamaConfig(vocab_size=n + 3, num_key_value_heads=2, **SHAPE)),
    "neox": ("byte-level", lambda n: transformers.GPTNeoXConfig(vocab_size=n + 7, **SHAPE)),
    "bert": ("wordpiece", lambda n: transformers.BertConfig(vocab_size=n, **SHAPE)),
}


def directory(family, folder):
    """A model of the family with random weights and its tokenizer, as Hugging Face saves them."""
    kind, config = MODELS[family]
    tokenizer = tiny(kind)
    made = config(len(tokenizer))
    made.initializer_range = 0.2
    cls = transformers.AutoModelForMaskedLM if family == "bert" else transformers.AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(0)
        cls.from_config(made).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def towns(tmp_path_factory):
    """60 towns, each in Russia by a true statement and in another land by a false one."""
    file = tmp_path_factory.mktemp("towns") / "towns.csv"
    pd.DataFrame([{"statement": f"City{i} is in {land}.", "town": i, "label": int(land == "Russia")}
                  for i in range(60) for land in ("Russia", "Poland")]).to_csv(file, index=False)
    return file


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """30 towns with many false statements each, some of as many tokens as the true one for any tokenizer."""
    lands = ("Russia", "Poland", "Zürich", "Russie", "Krasnodar", "Stephen", "coordinates", "release", "far", "larger",
             "Beatles", "New York", "Al Ain", "Sao Paulo", "Lodz", "it", "Spanish")
    file = tmp_path_factory.mktemp("many") / "many.csv"
    pd.DataFrame([{"statement": f"The city of City{i} is in {land}.", "town": i, "label": int(land == "Russia")}
                  for i in range(30) for land in lands]).to_csv(file, index=False)
    return file


def run(command, family, towns, folder, *given):
    argv = [command, "truthfulness", "--model", str(directory(family, folder / "model")), "--out", str(folder / "run"),
            "--prompts", "90", "--quick"]
    for option in (f"data={towns}", "group=town", *given):
        argv += ["--with", option]
    return main(argv)


def test_verdicts_are_asked_for_and_what_changes_them_is_known(many, tmp_path):
    model = load_model(directory("neox", tmp_path), device="cpu")
    asked = study(model.tokenizer, data=str(many), group="town", shots=2, d_vocab=model.cfg.d_vocab)
    said = asked.behaviour.measure(model, 12, 0)
    assert len(said) == 12 and said["verdict_mass"].between(0, 1).all() and set(said["verdict"]) <= {0, 1}
    for change in asked.changes:
        cases = change.cases(10, 0)
        assert cases.right_before.shape == (10, model.cfg.d_vocab) and list(change.places)[-1] == "content and end"
        twins = witnesses(cases, ())
        logits = [LastToken(model, tokens, cases.lengths).logits() for tokens in (cases.tokens, twins)]
        assert twins.shape == cases.tokens.shape and not torch.allclose(*logits, atol=1e-3)
        for part in change.places["content and end"]:
            assert (part.before(cases) != part.after(cases)).all() and f"pos:{part.positions}" in cases.cases
    prompts, questions = asked.heads[0].load(20, 0), asked.answering[0].ask(20, 0)
    assert len(prompts) == len(questions.table) == 20 and questions.choices.shape[1] == model.cfg.d_vocab
    assert {r.name for r in asked.readings} == {"many-end", "many-content"} and not asked.notes


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_study_runs_on_other_families_and_says_what_it_leaves_out(family, towns, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDPROBE_CACHE", str(tmp_path / "cache"))
    code = run("reproduce", family, towns, tmp_path)
    table, _ = read_results(tmp_path / "run" / "results.parquet")
    validate(table)
    here = pick(table, positions="towns-end", label="truth", metric="accuracy", split="test", intervention=None)
    assert {"input_only", "random_init", "shuffled_labels", "majority"} <= set(here["control"].dropna())
    likelihood = pick(table, metric=["likelihood_accuracy", "likelihood_auc"])
    assert set(likelihood["control"].dropna()) == ({"random_init"} if family != "bert" else set())
    page = (tmp_path / "run" / "report.html").read_text()
    checks = json.loads((tmp_path / "run" / "checks.json").read_text())
    assert code == (0 if checks[0]["pass"] else 1) and len(checks) == 1
    assert "nothing is changed inside the model" in page
    assert ("is an encoder: it says no next token" in page) == (family == "bert")
    assert [p["what"] for p in checks[0]["parts"]] == ["above input only", "above random init"] + (
        ["above the likelihood of the statement"] if family != "bert" else [])


def test_few_shot_cases_have_their_minimal_twins_as_witnesses(many):
    how = dict(tokenizer=tiny("byte-level"), shots=2, group="town", d_vocab=500)
    for kind, truth in (("false_to_true", 0), ("true_to_false", 1)):
        cases = few_shot_cases(kind, many, 12, 0, **how)
        assert (cases.cases["was"] == truth).all() and cases.right_before.shape == (12, 500)
        assert (cases.right_before.sum(1) == 1).all() and not (cases.right_before & cases.right_after).any()
        for row, (length, witness) in enumerate(zip(cases.lengths.tolist(), cases.cases["witness"], strict=True)):
            own = cases.tokens[row, :length].numpy()
            differ = np.flatnonzero(own != np.array(witness))
            assert len(witness) == length and 0 < len(differ) and differ[-1] <= cases.cases["pos:content"][row]
    prompts, asked = (make(many, 24, 0, **how) for make in (few_shot_prompts, few_shot_questions))
    assert prompts.tokens.equal(asked.tokens) and (asked.choices.sum(1) == 2).all() and (asked.right.sum(1) == 1).all()
    assert len(np.unique(asked.right.argmax(1)[prompts.labels("truth")[:, 0] == 1])) == 1
    with pytest.raises(ValueError, match="kind must be one of"):
        few_shot_cases("true", many, 12, 0, **how)


def test_likelihood_is_that_of_hugging_face(towns, tmp_path):
    from tasks import truthfulness
    from tasks.truthfulness._study_text import _log_likelihood

    model = load_model(directory("gpt2", tmp_path), device="cpu")
    prompts = truthfulness.load(towns, model.tokenizer, group="town", n=40)
    net = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        each = [-float(net(row[None, :n], labels=row[None, :n]).loss)
                for row, n in zip(prompts.tokens, prompts.lengths, strict=True)]
    np.testing.assert_allclose(_log_likelihood(model, prompts), each, atol=1e-4)
    rows = likelihood_rows(lambda n, seed: prompts, model, 0).set_index("metric")
    assert (rows["ci_low"] <= rows["value"]).all() and (rows["value"] <= rows["ci_high"]).all()


@pytest.mark.parametrize(("given", "message"), [
    (["data=nowhere.csv"], "nowhere.csv is neither a file nor a data set"),
    (["group=village"], "lacks column(s) village"),
    (["shot=5"], "has no option 'shot' for --with; it takes data, group, judged, shots"),
])
def test_statements_that_cannot_be_used_stop_the_run_in_one_line(given, message, towns, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLDPROBE_CACHE", str(tmp_path / "cache"))
    more = [option for option in (f"data={towns}", "group=town") if not any(option.startswith(g[:5]) for g in given)]
    argv = ["run", "truthfulness", "--model", str(directory("gpt2", tmp_path / "model")), "--quick",
            "--out", str(tmp_path / "run")]
    for option in (*given, *more):
        argv += ["--with", option]
    capsys.readouterr()  # of writing the model
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert message in said and said.strip().splitlines()[-1].startswith("worldprobe: ") and "Traceback" not in said


def test_plain_text_wants_a_language_model_and_the_world_is_known_by_its_words(capsys, tmp_path):
    assert main(["run", "truthfulness", "--with", "data=cities", "--out", str(tmp_path)]) == 2
    assert "data=cities: statements in plain text need a language model" in capsys.readouterr().err
    tokenizer = transformers.AutoTokenizer.from_pretrained(reference_models()["truthfulness"])
    assert [r.name for r in study(tokenizer).readings] == ["object", "period"]
    assert any(r.name == "object-mixed" for r in study(tokenizer, model="truthfulness-negation").readings)
