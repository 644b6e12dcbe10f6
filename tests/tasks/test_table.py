"""A table of one's own becomes labelled prompts, or says what it lacks."""

import numpy as np
import pandas as pd
import pytest
from tiny_tokenizers import FAMILIES, tiny

import tasks

CITIES = ["Krasnodar", "Lodz", "Paulo", "New York", "Zürich", "Paris"]
FRAME = pd.DataFrame({
    "text": [f"The city of {c} is in {'Russia' if k else 'Poland'}." for c in CITIES for k in (0, 1)],
    "city": [c for c in CITIES for _ in (0, 1)], "true": [k == 1 for _ in CITIES for k in (0, 1)],
    "lon": [float(len(c)) for c in CITIES for _ in (0, 1)], "guess": [False, True] * 6})


def test_rows_become_examples_and_a_group_stays_in_one_split():
    prompts = tasks.from_table(FRAME, tiny("byte-level"), labels=["true", "lon"], group="city",
                               shortcuts={"true": "guess"}, name="cities")
    assert (prompts.task, prompts.schemes) == ("cities", ["true", "lon", "guess"])
    assert prompts.classes == {"true": ("False", "True"), "guess": ("False", "True")}
    assert prompts.shortcuts == {"true": ("guess",)}
    assert prompts.labels("true")[:, 0].tolist() == FRAME["true"].astype(int).tolist()
    assert prompts.labels("lon")[:, 0].tolist() == FRAME["lon"].tolist()
    assert (prompts.examples["pos"].to_numpy() == prompts.lengths.numpy() - 1).all()
    assert (prompts.examples.groupby("group")["split"].nunique() == 1).all()
    assert prompts.examples["text"].tolist() == FRAME["text"].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_token_of_a_word_is_the_last_one_that_holds_it(family):
    tokenizer = tiny(family)
    prompts = tasks.from_table(FRAME, tokenizer, labels=["true"], group="city", at="city", bos=False)
    for row, (text, city) in enumerate(FRAME[["text", "city"]].itertuples(index=False)):
        upto = text[: text.index(city) + len(city)]
        plain = tokenizer(upto, add_special_tokens=False)["input_ids"]
        pos = int(prompts.examples["pos"].iat[row])
        if family != "word-level" and plain == prompts.tokens[row, : len(plain)].tolist():
            assert pos == len(plain) - 1
        assert pos < prompts.lengths[row] - 1


def test_a_file_is_read_and_its_splits_are_kept(tmp_path):
    split = ["train"] * 6 + ["validation"] * 2 + ["test"] * 4
    FRAME.assign(split=split, label=["None", "NA"] * 6).to_csv(tmp_path / "mine.csv", index=False)
    prompts = tasks.from_table(tmp_path / "mine.csv", tiny("wordpiece"), group="city")
    assert prompts.task == "mine" and prompts.examples["split"].tolist() == split
    assert prompts.classes == {"label": ("NA", "None")}  # words, not missing values
    special = prompts.tokens[np.arange(12), prompts.lengths.numpy() - 1]
    assert len(set(special.tolist())) == 1 and (prompts.examples["pos"] == prompts.lengths.numpy() - 2).all()  # [SEP]


@pytest.mark.parametrize("change, options, words", [
    ({}, {}, "no column 'label'.*it has text, city"),
    ({}, {"labels": ["true"], "group": "town"}, "no column 'town'"),
    ({"true": 1}, {"labels": ["true"]}, "1 different value"),
    ({"true": range(12)}, {"labels": ["true"]}, r"astype\(float\)"),
    ({"text": ["", *FRAME["text"][1:]]}, {"labels": ["true"]}, "text is empty in 1 row.*row 0"),
    ({"true": [None, *FRAME["true"][1:]]}, {"labels": ["true"]}, "true is empty in 1 row"),
    ({"split": ["train", "test"] * 6}, {"labels": ["true"], "group": "city"}, "'Krasnodar' lies in more than one"),
    ({"split": "dev"}, {"labels": ["true"]}, "split holds 'dev'"),
    ({"word": "moon"}, {"labels": ["true"], "at": "word"}, "row 0: 'moon'"),
    ({"guess": "maybe"}, {"labels": ["true"], "shortcuts": {"true": "guess"}}, "'maybe', which 'true' never is"),
    ({}, {"labels": ["true"], "shortcuts": {"lon": "guess"}}, "'lon', which is no label"),
    ({}, {"labels": ["true"], "context": 3}, "longer than the context of 3"),
])
def test_what_is_wrong_with_a_table_is_said(change, options, words):
    with pytest.raises(ValueError, match=words):
        tasks.from_table(FRAME.assign(**change), tiny("byte-level"), **options)


def test_a_column_of_texts_called_prompt_is_shown_as_text():
    prompts = tasks.from_table(FRAME.rename(columns={"text": "prompt"}), tiny("byte-level"), text="prompt",
                               labels=["true"], group="city")
    assert "The city of Krasnodar is in Poland." in repr(prompts) and len(prompts.tokens) == 12


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match="nowhere.csv"):
        tasks.from_table("nowhere.csv", tiny("byte-level"))
