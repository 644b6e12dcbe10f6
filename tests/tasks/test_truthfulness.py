"""Statements, their truth, and the token in which they end."""

import os

import numpy as np
import pandas as pd
import pytest
from tiny_tokenizers import FAMILIES, tiny

import tasks
from tasks import truthfulness

REAL = pytest.mark.skipif("WORLDPROBE_DATA" not in os.environ, reason="needs the published files in WORLDPROBE_DATA")
COUNTS = {"cities": (748, 748), "neg_cities": (748, 748), "sp_en_trans": (177, 177), "neg_sp_en_trans": (177, 177),
          "larger_than": (990, 990), "smaller_than": (990, 990), "common_claim_true_false": (2225, 2225),
          "cities_cities_conj": (750, 748), "cities_cities_disj": (748, 750), "likely": (4796, 4878)}


@pytest.fixture
def statements(tmp_path):
    """60 cities, each with a true and a false statement."""
    rows = [(f"The city of City{i} is in {land}.", int(land == "Russia")) for i in range(60)
            for land in ("Russia", "Poland")]
    return _csv(tmp_path / "towns.csv", statement=[r[0] for r in rows], label=[r[1] for r in rows])


def _csv(file, **columns):
    pd.DataFrame(columns).to_csv(file, index=False)
    return file


@pytest.mark.parametrize("family", FAMILIES)
def test_examples_are_probed_at_the_full_stop_or_at_the_last_word(statements, family):
    tokenizer = tiny(family)
    prompts = truthfulness.load(statements, tokenizer)
    assert prompts.task == "truthfulness-towns" and len(prompts) == 120
    closing = 1 if family in ("wordpiece", "byt5") else 0  # [SEP], </s>
    assert (prompts.examples["pos"] == prompts.lengths.numpy() - 1 - closing).all()
    at_end, at_word = (_tokens_at(tokenizer, p) for p in (prompts, prompts.at("content")))
    assert all(t.endswith(".") for t in at_end)
    assert all(t.strip(" #.") and "Russia Poland".lower().find(t.strip(" #.").lower()) >= 0 for t in at_word)
    assert truthfulness.load(statements, tokenizer, at="content").examples["pos"].equals(
        prompts.at("content").examples["pos"])


def _tokens_at(tokenizer, prompts) -> set[str]:
    ids = prompts.tokens[np.arange(len(prompts)), prompts.examples["pos"].to_numpy().copy()]
    return {tokenizer.decode([int(i)]) for i in ids.unique()}


def test_a_quotation_mark_and_a_missing_full_stop(tmp_path):
    texts = ["The Spanish word 'con' means 'to speak'.", "con means speak . ", "speak (con)", "speak!"] * 30
    file = _csv(tmp_path / "x.csv", statement=[f"{i} {t}" for i, t in enumerate(texts)], label=np.arange(120) // 4 % 2)
    prompts = truthfulness.load(file, tiny("word-level"))
    tokens = [prompts.at(p).examples["pos"].tolist()[:4] for p in ("end", "content")]
    words = [tiny("word-level")(t).tokens() for t in prompts.examples["statement"][:4]]
    assert [w[p] for w, p in zip(words, tokens[0], strict=True)] == ["'.", ".", "[UNK]", "!"]
    assert tokens[0][1] == 4 and [p < q for p, q in zip(tokens[1], tokens[0], strict=True)] == [True] * 4


def test_a_statement_and_its_negation_stay_together_and_a_column_can_group(tmp_path):
    plain = [f"City{i} is in Russia." for i in range(60)]
    negated = [p.replace("is in", "is not in") for p in plain]
    file = _csv(tmp_path / "pairs.csv", statement=plain + negated, label=[1] * 60 + [0] * 60,
                topic=[*"abcdefghij"] * 12, polarity=[1] * 60 + [0] * 60)
    prompts = truthfulness.load(file, tiny("byte-level"))
    assert prompts.examples["group"].nunique() == 60
    assert (prompts.examples["split"][:60].to_numpy() == prompts.examples["split"][60:].to_numpy()).all()
    assert prompts.labels("polarity")[:, 0].tolist() == [1] * 60 + [0] * 60 == prompts.labels("truth")[:, 0].tolist()
    by_topic = truthfulness.load(file, tiny("byte-level"), group="topic").examples
    assert set(by_topic["group"]) == set("abcdefghij") and (by_topic.groupby("group")["split"].nunique() == 1).all()


def test_n_takes_statements_and_the_seed_chooses_them(statements):
    few, other = (truthfulness.load(statements, tiny("byte-level"), n=80, seed=s).examples["row"] for s in (1, 2))
    assert len(few) == 80 and few.is_monotonic_increasing and few.tolist() != other.tolist()


@pytest.mark.parametrize(("columns", "message"), [
    (dict(text=["a."], label=[1]), "lacks column.s. statement, it has text, label"),
    (dict(statement=["a."] * 2, label=[1, 2]), "label must be 1 .true. or 0 .false., row 1 has '2'; correct or drop"),
    (dict(statement=["a.", ""], label=[1, 0]), "row 1 has an empty statement"),
    (dict(statement=[], label=[]), "has no rows"),
    (dict(statement=[*"abcdefgh"], label=[1] * 8), r"truth must be 1 and 0 in every split, the train rows have \[1\]"),
])
def test_a_table_that_is_no_table_of_statements(tmp_path, columns, message):
    with pytest.raises(ValueError, match=message):
        truthfulness.load(_csv(tmp_path / "bad.csv", **columns), tiny("byte-level"))


def test_bad_requests(statements):
    with pytest.raises(FileNotFoundError, match="town.csv is neither a file nor a data set; give a CSV .* or one of"):
        truthfulness.load("town.csv", tiny("byte-level"))
    with pytest.raises(ValueError, match="prompts are longer than the context of 9 tokens, and nothing is truncated"):
        truthfulness.load(statements, tiny("byte-level"), context=9)
    with pytest.raises(ValueError, match="at must be one of .'end', 'content'., not 'last'"):
        truthfulness.load(statements, tiny("byte-level"), at="last")
    with pytest.raises(ValueError, match="straddling must be 'drop' or 'keep', not 'no'"):
        truthfulness.load(statements, tiny("byte-level"), straddling="no")


@REAL
@pytest.mark.parametrize("name", COUNTS)
def test_the_published_files_have_the_rows_and_the_balance_of_the_paper(name):
    prompts = truthfulness.load(name, tiny("byte-level"), straddling="keep")
    true, false = COUNTS[name]
    assert np.bincount(prompts.labels("likely" if name == "likely" else "truth")[:, 0]).tolist() == [false, true]
    assert (prompts.examples.groupby("group")["split"].nunique() == 1).all()
    stop = prompts.examples["statement"].str.rstrip().str.endswith(".").to_numpy().copy()
    at = prompts.tokens[np.arange(len(prompts)), prompts.examples["pos"].to_numpy().copy()]
    assert all(tiny("byte-level").decode([int(t)]).endswith(".") for t in at[stop].unique())
    assert stop.all() or name == "likely"


@REAL
def test_a_set_and_its_negations_share_their_splits_whether_loaded_together_or_apart():
    both = truthfulness.load(["cities", "neg_cities"], tiny("byte-level")).examples
    apart = pd.concat([truthfulness.load(name, tiny("byte-level")).examples for name in ("cities", "neg_cities")])
    assert "polarity/statement" in both and "polarity/statement" not in apart
    assert len(both) == 2992 and both["split"].tolist() == apart["split"].tolist()
    assert (both.groupby("group").size() == 4).all()
    assert both.groupby("group")["truth/statement"].sum().eq(2).all()
    words = truthfulness.load(["sp_en_trans", "neg_sp_en_trans"], tiny("byte-level")).examples
    assert words["group"].nunique() == 344 and (words.groupby("group")["split"].nunique() == 1).all()


@REAL
@pytest.mark.parametrize("name", ["larger_than", "cities_cities_conj"])
def test_nothing_that_statements_are_about_lies_in_two_splits_unless_asked_for(name):
    prompts = truthfulness.load(name, tiny("byte-level"))
    about = prompts.examples.assign(about=prompts.examples["group"].str.split(" & ")).explode("about")
    assert (about.groupby("about")["split"].nunique() == 1).all()
    assert 0.4 < len(prompts) / sum(COUNTS[name]) < 0.7
    if name == "cities_cities_conj":
        truth, first, second = (prompts.labels(s)[:, 0] for s in ("truth", "first_part", "second_part"))
        assert (truth == (first & second)).all() and prompts.shortcuts == {"truth": ("first_part", "second_part")}


@REAL
def test_likely_is_not_truth():
    prompts = truthfulness.load("likely", tiny("byte-level"), n=500)
    assert prompts.schemes == ["likely", "log_likelihood"] and (prompts.labels("log_likelihood") <= 0).all()
    assert "log_likelihood" not in prompts.classes
    with pytest.raises(ValueError, match="labelled by likelihood and the others by truth; load it by itself"):
        truthfulness.load(["cities", "likely"], tiny("byte-level"))


def test_the_task_is_found_by_its_name(statements):
    assert tasks.load("truthfulness", dataset=statements, tokenizer=tiny("byte-level")).task == "truthfulness-towns"
