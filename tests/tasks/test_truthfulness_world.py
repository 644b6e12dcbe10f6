"""The co-occurrence world: what its documents and cases say, what can be known, and that its models know it."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import tasks
from tasks import truthfulness
from tasks._training import load_gpt2
from tasks.truthfulness import train
from tasks.truthfulness._world import (
    EPS,
    FACTS,
    LENGTH,
    OBJECTS,
    PLACES,
    STATEMENTS,
    SUBJECTS,
    TOPICS,
    WORDS,
    likely,
    next_tokens,
)

SEEDS = ("truthfulness", "truthfulness-1", "truthfulness-2")


def _is_true(statement: str) -> bool:
    subject, polarity, topic, said, stop = statement.split()
    assert stop == "." and said in OBJECTS[topic]
    fact = OBJECTS[topic][FACTS[TOPICS.index(topic), SUBJECTS.index(subject)]]
    return (said == fact) == (polarity == "does")


def test_every_word_is_one_token_and_the_objects_of_topics_are_apart():
    assert len(set(WORDS)) == len(WORDS) and len(SUBJECTS) == 48
    assert [len(words) for words in OBJECTS.values()] == [16] * 4


def test_statements_of_a_document_tend_to_be_true_together():
    made = truthfulness.documents(20_000, np.random.default_rng(0), negation=0.5)
    first = [" ".join(WORDS[t] for t in row[1 : 1 + LENGTH]) for row in made.tokens[:300]]
    assert [_is_true(s) for s in first] == made.true[:300, 0].tolist()
    agree = (made.true[:, 0] == made.true[:, 2]).mean()
    assert agree == pytest.approx((1 - EPS) ** 2 + EPS**2, abs=0.01)
    assert made.true.mean() == pytest.approx(0.5, abs=0.01) and made.negated.mean() == pytest.approx(0.5, abs=0.01)
    alone = truthfulness.documents(20_000, np.random.default_rng(0), eps=0.5)
    assert (alone.true[:, 0] == alone.true[:, 2]).mean() == pytest.approx(0.5, abs=0.015)


def test_bayes_values_are_those_of_the_card_and_of_counting():
    assert truthfulness.bayes(np.array([[True], [False]])) == pytest.approx([0.745, 0.255])
    assert truthfulness.bayes(np.array([[True] * 3, [False] * 3])) == pytest.approx([0.846, 0.154], abs=1e-3)
    made = truthfulness.documents(100_000, np.random.default_rng(1))
    for told in ((True, True), (True, False), (False, False)):
        same = (made.true[:, :2] == told).all(1)
        assert made.true[same, 2].mean() == pytest.approx(truthfulness.bayes(np.array([told]))[0], abs=0.015)


def test_the_distribution_of_the_next_token_is_what_documents_are_drawn_from():
    made = truthfulness.documents(10_000, np.random.default_rng(2), 2, negation=0.5)
    expected, tokens = next_tokens(made), made.tokens[:, 1:]
    assert expected.shape == (10_000, 2 * LENGTH, len(WORDS)) and expected.sum(-1) == pytest.approx(1)
    said = np.take_along_axis(expected, tokens[..., None], -1)[..., 0]
    assert (said > 0).all()
    own = made.said == FACTS[made.topic, made.subject]
    told = said[:, PLACES["object"] - 1 + LENGTH] * np.where(own[:, 1], 1, 15)  # of the right object, or of all others
    p_right = np.where(own[:, 1], told, 1 - told)
    for p in np.unique(p_right.round(6)):
        here = p_right.round(6) == p
        assert own[here, 1].mean() == pytest.approx(p, abs=0.03)


def test_prompts_are_labelled_by_what_they_say():
    prompts = truthfulness.load(n=600, negation=0.5, continued=True)
    assert prompts.task == "truthfulness" and prompts.vocabulary == WORDS
    table = prompts.examples
    assert [_is_true(s) for s in table["statement"]] == (prompts.labels("truth")[:, 0] == 1).tolist()
    assert (table["statement"].str.contains("doesn't") == (prompts.labels("polarity")[:, 0] == 0)).all()
    words = {name: [WORDS[t] for t in prompts.tokens[torch.arange(600), torch.from_numpy(
        table[f"pos:{name}"].to_numpy(copy=True))]] for name in ("subject", "object", "period", "next_topic")}
    assert words["subject"] == table["group"].tolist() and set(words["period"]) == {"."}
    assert words["object"] == table["statement"].str.split().str[3].tolist() and set(words["next_topic"]) == set(TOPICS)
    assert 0.45 < prompts.labels("truth").mean() < 0.55
    assert set(truthfulness.load(n=100, topics=["play"]).examples["topic"]) == {"play"}
    assert truthfulness.load(n=100).schemes == ["truth", "likely"]


def test_the_shortcut_is_the_best_guess_from_the_object_alone():
    made = truthfulness.documents(100_000, np.random.default_rng(3), 1, negation=0.5)
    guess, true = likely(made)[:, 0], made.true[:, 0]
    key = (made.topic * 16 + made.said)[:, 0] * 2 + made.negated[:, 0]
    for k in np.unique(key):
        share = true[key == k].mean()
        assert abs(share - 0.5) < 0.05 or guess[key == k][0] == (share > 0.5)
    assert 0.58 < (guess == true).mean() < 0.65


@pytest.mark.parametrize("kind", ["false_to_true", "true_to_false"])
@pytest.mark.parametrize("negation", [0, 0.5])
def test_cases_have_a_witness_of_other_truth_and_minimal_twins(kind, negation):
    cases = truthfulness.cases(kind, n=80, negation=negation)
    was = kind == "true_to_false"
    assert [_is_true(s) for s in cases.cases["statement"]] == [was] * 80
    for row in cases.cases.itertuples():
        own = " ".join(WORDS[t] for t in cases.tokens[row.prompt])
        assert own.startswith(f"<bos> {row.statement}") and own.split()[6:] == row.witness.split()[6:]
        assert _is_true(" ".join(row.witness.split()[1:6])) is not was and row.witness.split()[7] == "does"
        right = cases.right_before[row.prompt] if was else cases.right_after[row.prompt]
        (answer,) = np.flatnonzero(right)
        assert _is_true(f"{own.split(maxsplit=6)[6]} {WORDS[answer]} .")
    assert set(cases.right_before.sum(1).tolist()) == {1 if was else 15}
    assert not (cases.right_before & cases.right_after).any()
    assert (cases.cases.groupby("group")["split"].nunique() == 1).all()
    pairs = truthfulness.pairs(kind, n=80, negation=negation)
    assert pairs.clean.equal(cases.tokens) and ((pairs.clean != pairs.corrupted).sum(1) == 1).all()
    assert (pairs.clean != pairs.corrupted)[:, PLACES["object"]].all()
    twins = [" ".join(WORDS[t] for t in row[1:6]) for row in pairs.corrupted]
    assert [_is_true(s) for s in twins] == [not was] * 80


def test_verdicts_are_asked_at_the_end():
    cases = truthfulness.cases(n=5, readout="verdict")
    assert all(w.endswith(". verdict:") for w in cases.cases["witness"])
    assert [WORDS[t] for t in np.flatnonzero(cases.right_after[0] | cases.right_before[0])] == ["FALSE", "TRUE"]


def test_bad_requests():
    with pytest.raises(ValueError, match="there is no topic 'sing'; topics .* are visit, speak, play, study"):
        truthfulness.load(topics=["sing"])
    with pytest.raises(ValueError, match="negation is the share of negated statements, 0 to 1, not 2"):
        truthfulness.load(negation=2)
    with pytest.raises(ValueError, match="at must be one of subject, .*, not 'next_topic'"):
        truthfulness.load(at="next_topic")
    with pytest.raises(ValueError, match="kind must be one of .*, not 'flip'"):
        truthfulness.cases("flip")
    with pytest.raises(ValueError, match="readout must be one of .*, not 'last'"):
        truthfulness.pairs(readout="last")
    with pytest.raises(ValueError, match="negation: for the reference world only, and cities is plain text"):
        truthfulness.load("cities", negation=0.5)
    with pytest.raises(ValueError, match="cities is plain text: give the tokenizer of the model"):
        truthfulness.load("cities")


@pytest.mark.parametrize("name", SEEDS)
def test_reference_models_trust_documents_as_far_as_a_bayesian_would(name):
    model = AutoModelForCausalLM.from_pretrained(tasks.reference_models()[name]).eval()
    rows = truthfulness.behaviour(lambda tokens: model(tokens).logits, n=400)
    for context in ("after_true", "after_false", "after_3_true", "after_3_false"):
        assert rows[context].mean() == pytest.approx(rows[f"bayes_{context}"].iloc[0], abs=0.03)


@pytest.mark.parametrize("name", SEEDS)
def test_a_probe_of_the_truth_goes_from_topics_to_topics_and_its_direction_makes_a_false_statement_count(name):
    model, cases = load_gpt2(tasks.reference_models()[name]), truthfulness.cases("false_to_true", n=300)
    witness = torch.tensor([[WORDS.index(w) for w in text.split()] for text in cases.cases["witness"]])
    was, told = (_right(model, cases, x) for x in (cases.tokens, witness))

    def share(place, v=None):
        """Of being told, that adding `v` does, or taking the state of the witness."""
        source = None if v is not None else _after_first_block(model, witness)
        return (_right(model, cases, cases.tokens, place, v, source) - was) / (told - was)

    place, other = sorted(("object", "period"), key=share, reverse=True)  # which of them differs from seed to seed
    assert share(place) >= 0.95 and abs(share(other)) < 0.1
    prompts = truthfulness.load(n=4000, at=place)
    true = torch.from_numpy(prompts.labels("truth")[:, 0] == 1)
    known = torch.from_numpy(prompts.examples["topic"].isin(["visit", "speak"]).to_numpy(copy=True))
    X = _after_first_block(model, prompts.tokens)[:, PLACES[place]]
    means = [X[known & side].mean(0) for side in (true, ~true)]
    side = (X - (means[0] + means[1]) / 2) @ (means[0] - means[1]) > 0
    assert (side == true)[~known].float().mean() >= 0.95
    v = X[true].mean(0) - X[~true].mean(0)
    rng = torch.Generator().manual_seed(0)
    random = [share(place, u / u.norm() * v.norm()) for u in torch.randn(20, 64, generator=rng)]
    assert share(place, v) >= 0.6 and share(place, v) >= 3 * np.mean(random)


@torch.inference_mode()
def _after_first_block(model, tokens):
    seen = []
    model(tokens, lambda layer, x: (seen.append(x.clone()), x)[1])
    return seen[0]


@torch.inference_mode()
def _right(model, cases, tokens, place="object", add=None, source=None) -> float:
    """Mean probability of what is right after the change; `add` goes to the stream of one token after the first block,
    `source` in its place."""
    def edit(layer: int, x):
        if layer == 0 and add is not None:
            x[:, PLACES[place]] += add
        if layer == 0 and source is not None:
            x[:, PLACES[place]] = source[:, PLACES[place]]
        return x

    p = model(tokens, edit)[:, -1].softmax(-1).numpy()
    return float((p * cases.right_after).sum(1).mean())


def test_where_statements_are_independent_nothing_is_read_and_nothing_is_trusted():
    model = load_gpt2(tasks.reference_models()["truthfulness-independent"])
    with torch.inference_mode():
        rows = truthfulness.behaviour(model, n=400, eps=0.5)
    for context in ("after_true", "after_false", "after_3_true", "after_3_false"):
        assert rows[context].mean() == pytest.approx(0.5, abs=0.03)


def test_the_model_of_negation_trusts_negated_statements_and_holds_truth_by_polarity():
    model = load_gpt2(tasks.reference_models()["truthfulness-negation"])
    with torch.inference_mode():
        rows = truthfulness.behaviour(model, n=400, negation=1)
    assert rows["after_true"].mean() == pytest.approx(0.745, abs=0.03)
    assert rows["after_false"].mean() == pytest.approx(0.255, abs=0.03)
    X, true = {}, {}
    for name, negation in (("affirmative", 0), ("negated", 1)):
        prompts = truthfulness.load(n=2000, negation=negation)
        X[name] = _after_first_block(model, prompts.tokens)[:, PLACES["object"]]
        true[name] = torch.from_numpy(prompts.labels("truth")[:, 0] == 1)
    means = [X["affirmative"][side].mean(0) for side in (true["affirmative"], ~true["affirmative"])]
    said = {name: (x - (means[0] + means[1]) / 2) @ (means[0] - means[1]) > 0 for name, x in X.items()}
    assert (said["affirmative"] == true["affirmative"]).float().mean() >= 0.95
    assert (said["negated"] == true["negated"]).float().mean() <= 0.1  # below chance: what it reads is another thing


def test_the_model_of_verdicts_says_true_of_true_statements_and_follows_a_patch():
    model = load_gpt2(tasks.reference_models()["truthfulness-verdict"])
    for kind in ("false_to_true", "true_to_false"):
        cases = truthfulness.cases(kind, n=300, readout="verdict")
        witness = torch.tensor([[WORDS.index(w) for w in text.split()] for text in cases.cases["witness"]])
        was, told = (_right(model, cases, x) for x in (cases.tokens, witness))
        assert was < 0.1 < 0.9 < told
        source = _after_first_block(model, witness)
        moved = max(_right(model, cases, cases.tokens, p, None, source) for p in ("object", "period"))
        assert (moved - was) / (told - was) >= 0.9


@pytest.mark.parametrize("options", [["--independent"], ["--negation", "--checkpoints"], ["--target", "sampled"]])
def test_training_resumes_bit_for_bit_and_writes_a_hugging_face_directory(tmp_path, options, monkeypatch):
    monkeypatch.setattr(train, "HELD_OUT", 20)
    once, twice = tmp_path / "once", tmp_path / "twice"
    train.main(["--out", str(once), "--steps", "4", "--every", "2", *options])
    monkeypatch.setattr(train, "token_loss", _dies_at(3, train.token_loss))
    with pytest.raises(KeyboardInterrupt):
        train.main(["--out", str(twice), "--steps", "4", "--every", "2", *options])
    monkeypatch.undo()
    monkeypatch.setattr(train, "HELD_OUT", 20)
    train.main(["--out", str(twice), "--steps", "4", "--every", "2", *options])
    assert (once / "model.safetensors").read_bytes() == (twice / "model.safetensors").read_bytes()
    tokenizer, model = AutoTokenizer.from_pretrained(once), AutoModelForCausalLM.from_pretrained(once)
    ids = torch.tensor([tokenizer("<bos> ada does speak dutch .", add_special_tokens=False)["input_ids"]])
    assert [WORDS[i] for i in ids[0]] == ["<bos>", "ada", "does", "speak", "dutch", "."]
    torch.testing.assert_close(load_gpt2(once)(ids), model(ids).logits)
    assert "Held-out metrics" in (once / "README.md").read_text()
    assert (once / "checkpoints" / "step-000000" / "model.safetensors").exists() == ("--checkpoints" in options)


def _dies_at(last: int, make):
    def made(*args, **options):
        loss = make(*args, **options)

        def loss_at(model, step: int):
            if step == last:
                raise KeyboardInterrupt
            return loss(model, step)

        return loss_at

    return made


def test_a_verdict_is_learned_by_a_copy(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "HELD_OUT", 20)
    base = tasks.reference_models()["truthfulness"]
    train.main(["--out", str(tmp_path), "--steps", "2", "--verdict", str(base)])
    assert not torch.equal(load_gpt2(tmp_path).unembed.weight, load_gpt2(base).unembed.weight)
    assert "Right\nverdicts about the 16 other people" in (tmp_path / "README.md").read_text()
    assert len(WORDS) == load_gpt2(tmp_path).shape["d_vocab"] and STATEMENTS * LENGTH + 1 == 21
