"""Questions with answers, probed at the exact answer; and few-shot prompts whose twins differ in one stretch."""

import numpy as np
import pandas as pd
import pytest
from tiny_tokenizers import FAMILIES, WithoutOffsets, tiny

from tasks import truthfulness

PLACES = ("Zürich", "Krasnodar", "New York City", "Łódź", "Al Ain City", "It")


@pytest.fixture
def listed(tmp_path):
    """40 questions in the columns of TruthfulQA.csv."""
    rows = [{"Type": "Adversarial", "Question": f"Where is {i}?", "Best Answer": f"{i} is in {PLACES[i % 6]}.",
             "Correct Answers": f"{i} is in {PLACES[i % 6]}.; in {PLACES[i % 6]}",
             "Incorrect Answers": f"{i} is far.; {i} is in {PLACES[i % 6]}.; ", "Source": ""} for i in range(40)]
    return _csv(tmp_path / "TruthfulQA.csv", rows)


@pytest.fixture
def answered(tmp_path):
    """60 answers with the part of each that makes it right or wrong."""
    rows = [{"question": f"The city of {i // 2}?", "label": i % 2, "exact_answer": PLACES[i % 6],
             "answer": f"It is {PLACES[i % 6]}, I mean the city of {PLACES[i % 6]} in Russia."} for i in range(60)]
    return _csv(tmp_path / "mine.csv", rows)


def _csv(file, rows):
    pd.DataFrame(rows).to_csv(file, index=False)
    return file


def test_a_table_in_the_format_of_truthful_qa_becomes_one_prompt_per_answer(listed):
    prompts = truthfulness.questions(listed, tiny("byte-level"))
    assert prompts.task == "truthfulness-TruthfulQA" and len(prompts) == 120
    table = prompts.examples
    assert table.groupby("group")["truth/statement"].agg(["size", "sum"]).eq([3, 2]).all(axis=None)
    assert (table.groupby("group")["split"].nunique() == 1).all()
    first = table[table["question"] == "Where is 0?"]
    assert first["answer"].tolist() == ["0 is in Zürich.", "in Zürich", "0 is far."]
    assert first["exact_answer"].tolist() == ["0 is in Zürich", "in Zürich", "0 is far"]
    few = truthfulness.questions(listed, tiny("byte-level"), n=20, seed=3)
    assert few.examples["group"].nunique() == 20 and len(few) == 60


@pytest.mark.parametrize(("family", "offsets"), [*((f, True) for f in FAMILIES), *(
    (f, False) for f in FAMILIES if f != "byte-level")])  # a byte-level one splits letters, and needs its offsets
def test_the_tokens_from_first_to_last_spell_the_exact_answer(answered, family, offsets):
    tokenizer = tiny(family) if offsets else WithoutOffsets(tiny(family))
    prompts = truthfulness.questions(answered, tokenizer)
    reference = truthfulness.questions(answered, tiny(family))
    assert prompts.examples.equals(reference.examples) and prompts.tokens.equal(reference.tokens)
    for row, e in prompts.examples.iterrows():
        ids = prompts.tokens[e["prompt"], e["pos:answer_first"] : e["pos:answer_last"] + 1]
        if family == "word-level":  # knows only some of the words
            assert len(ids) == len(e["exact_answer"].split()) + e["exact_answer"].count(".")
            continue
        said = tiny(family).decode(ids, skip_special_tokens=False)
        plain = tiny(family)(e["exact_answer"], add_special_tokens=False)["input_ids"]
        wanted = tiny(family).decode(plain, skip_special_tokens=False)
        assert _squeezed(wanted) in _squeezed(said), row
        assert len(_squeezed(said)) <= len(_squeezed(wanted)) + 2  # a token may hold the comma or the full stop, too
        assert e["pos:before_answer"] == e["pos:answer_first"] - 1 and e["pos:end"] == int(prompts.lengths[row]) - (
            2 if family in ("wordpiece", "byt5") else 1)
        assert e["pos:answer_last"] < e["pos:end"]  # the last mention, which is not the end of the prompt


def _squeezed(text: str) -> str:
    return text.replace(" ", "").replace("▁", "").replace("##", "").lower()


@pytest.mark.parametrize(("columns", "message"), [
    ({"question": ["a?"]}, "lacks column.s. answer, label, it has question; wanted question, answer, label, or"),
    ({"question": ["a?", ""], "answer": ["b", "c"], "label": [1, 0]}, "row 1 has an empty question"),
    ({"question": ["a?"], "answer": [" "], "label": [1]}, "row 0 has an empty answer"),
    ({"question": ["a?"], "answer": ["b"], "label": ["maybe"]}, "label must be 1 .true. or 0 .false., row 0 has"),
    ({"question": ["a?"], "answer": ["b"], "label": [1], "exact_answer": ["x"]},
     "the exact answer 'x' of row 0 is not part of the answer 'b'"),
    ({"question": [*"abcd"], "answer": [*"abcd"], "label": [1] * 4}, r"truth must be 1 and 0 in every split, .* \[1\]"),
])
def test_a_table_that_is_no_table_of_answers(tmp_path, columns, message):
    with pytest.raises(ValueError, match=message):
        truthfulness.questions(_csv(tmp_path / "bad.csv", columns), tiny("byte-level"))


def test_bad_requests(listed):
    with pytest.raises(FileNotFoundError, match="there is no file none.csv; wanted a CSV with columns question, best"):
        truthfulness.questions("none.csv", tiny("byte-level"))
    with pytest.raises(ValueError, match="at must be one of .*'answer_first'.*, not 'answer'"):
        truthfulness.questions(listed, tiny("byte-level"), at="answer")
    with pytest.raises(ValueError, match="a template has {question}, and {answer} once, not 'Q'"):
        truthfulness.questions(listed, tiny("byte-level"), template="Q")
    with pytest.raises(ValueError, match="longer than the context of 5 tokens, and nothing is truncated"):
        truthfulness.questions(listed, tiny("byte-level"), context=5)
    with pytest.raises(ValueError, match="use tasks.truthfulness.questions"):
        truthfulness.load(listed, tiny("byte-level"))


@pytest.fixture
def cities(tmp_path):
    lands = ("Russia", "Poland", "Zürich", "Russie", "Krasnodar", "Stephen", "coordinates", "release", "far", "larger",
             "Beatles", "New York", "Al Ain", "Sao Paulo", "Lodz", "it", "Spanish")
    return _csv(tmp_path / "towns.csv", [{"statement": f"The city of City{i} is in {land}.", "town": i,
                                          "label": int(land == "Russia")} for i in range(30) for land in lands])


@pytest.mark.parametrize("family", FAMILIES)
def test_few_shot_twins_differ_in_one_stretch_and_ask_for_a_verdict(cities, family):
    tokenizer = tiny(family)
    made = truthfulness.few_shot_pairs(cities, tokenizer, shots=4, n=12, group="town", verdicts=(" far", " is"))
    assert len(made) == 12 and made.task == "truthfulness-towns" and made.label == "truth"
    assert made.cases["group"].nunique() == 12 and set(made.cases["split"]) == {"choose", "report"}
    assert (made.right_clean.sum(1) == 1).all() and not (made.right_clean & made.right_corrupted).any()
    for row in range(12):
        n = int(made.lengths[row])
        clean, corrupted = made.clean[row, :n], made.corrupted[row, :n]
        differ = np.flatnonzero((clean != corrupted).numpy())
        assert differ[-1] == made.cases["pos:changed"][row] <= made.cases["pos:content"][row]
        assert made.cases["pos:content"][row] <= made.cases["pos:end"][row] < n
        assert made.clean[row, : differ[0]].equal(made.corrupted[row, : differ[0]])
    if family == "byte-level":
        text = tokenizer.decode(made.clean[0, : int(made.lengths[0])])
        shots = text.removeprefix("<|endoftext|>").split("\n")
        assert len(shots) == 5 and shots[-1].rstrip().endswith("Russia. This statement is:")
        assert sorted(s.rsplit(" ", 1)[1] for s in shots[:-1]) == ["far", "far", "is", "is"]
        assert all(s.endswith("is") == ("Russia" in s) for s in shots[:-1])


def test_few_shot_prompts_that_cannot_be_made(cities, tmp_path):
    with pytest.raises(ValueError, match="a true and a false statement about only 30 things; 40 shots and a case need"):
        truthfulness.few_shot_pairs(cities, tiny("byte-level"), shots=40, group="town")
    with pytest.raises(ValueError, match="'TRUE' and 'TRUE' are the same to this tokenizer, or one begins with"):
        truthfulness.few_shot_pairs(cities, tiny("byte-level"), group="town", verdicts=("TRUE", "TRUE"))
    uneven = _csv(tmp_path / "uneven.csv", [{"statement": f"City{i} is {place}.", "label": side, "town": i} for i in
                                            range(20) for side, place in enumerate(("far from Russia", "Russia"))])
    with pytest.raises(ValueError, match="none of the 15 true statements .* has a false twin of as many tokens"):
        truthfulness.few_shot_pairs(uneven, tiny("byte-level"), group="town")
