"""What a model is asked: facts of the reference world, verdicts there and on statements in plain text."""

import numpy as np
import pandas as pd
import pytest
from tiny_tokenizers import tiny

from tasks._study import Questions
from tasks.truthfulness._asked import at_verdict, facts, few_shot_cases, few_shot_prompts, few_shot_questions, verdicts
from tasks.truthfulness._world import FACTS, FALSE, OBJECTS, SUBJECTS, TOPICS, TRUE, WORDS
from tasks.truthfulness.study import study


@pytest.mark.parametrize("negation", [0, 0.5])
def test_questions_break_off_before_the_object_that_is_a_fact(negation):
    asked = facts(400, 1, negation=negation)
    seen = set()
    for row, n in enumerate(asked.lengths.tolist()):
        words = [WORDS[t] for t in asked.tokens[row, :n]]
        person, does, topic = words[-3:]
        assert words[0] == "<bos>" and does == "does" and n == 1 + 5 * asked.table["told"][row] + 3
        assert (words.count("doesn't") == 0) | (negation > 0) and words.count(".") == asked.table["told"][row]
        fact = OBJECTS[topic][FACTS[TOPICS.index(topic), SUBJECTS.index(person)]]
        assert asked.right[row].sum() == 1 and WORDS[asked.right[row].argmax()] == fact
        assert asked.table["group"][row] == person and (asked.tokens[row, n:] == 0).all()
        seen.add(n)
    assert seen == {4, 9, 14, 19}
    assert (asked.table.groupby("group")["split"].nunique() == 1).all()


def test_a_verdict_is_true_or_false_and_right_of_what_is_true():
    asked, known = verdicts(200, 3), at_verdict(200, 3)
    assert (asked.choices.sum(1) == 2).all() and (asked.right <= asked.choices).all()
    said = asked.right.argmax(1)
    np.testing.assert_array_equal(said == TRUE, known.labels("truth")[:, 0] == 1)
    assert set(said) == {TRUE, FALSE}
    assert (known.examples["pos"] == known.lengths.numpy() - 1).all()
    assert {WORDS[t] for t in known.tokens[:, -1]} == {"verdict:"}


def test_questions_need_an_answer():
    asked = facts(5, 0)
    with pytest.raises(ValueError, match="question 0 has no right answer"):
        Questions(asked.tokens, asked.lengths, asked.table, np.zeros_like(asked.right))
    with pytest.raises(ValueError, match=r"the table of questions lacks \['split'\]"):
        Questions(asked.tokens, asked.lengths, asked.table.drop(columns="split"), asked.right)


@pytest.fixture(scope="module")
def towns(tmp_path_factory):
    """30 towns with many false statements each, some of as many tokens as the true one."""
    lands = ("Russia", "Poland", "Zürich", "Russie", "Krasnodar", "Stephen", "coordinates", "release", "far", "larger",
             "Beatles", "New York", "Al Ain", "Sao Paulo", "Lodz", "it", "Spanish")
    file = tmp_path_factory.mktemp("towns") / "towns.csv"
    pd.DataFrame([{"statement": f"The city of City{i} is in {land}.", "town": i, "label": int(land == "Russia")}
                  for i in range(30) for land in lands]).to_csv(file, index=False)
    return file


def test_few_shot_cases_have_their_minimal_twins_as_witnesses(towns):
    how = dict(tokenizer=tiny("byte-level"), shots=2, group="town", d_vocab=500)
    for kind, truth in (("false_to_true", 0), ("true_to_false", 1)):
        cases = few_shot_cases(kind, towns, 12, 0, **how)
        assert (cases.cases["was"] == truth).all() and cases.right_before.shape == (12, 500)
        assert (cases.right_before.sum(1) == 1).all() and not (cases.right_before & cases.right_after).any()
        for row, (length, witness) in enumerate(zip(cases.lengths.tolist(), cases.cases["witness"], strict=True)):
            differ = np.flatnonzero(cases.tokens[row, :length].numpy() != np.array(witness))
            assert len(witness) == length and 0 < len(differ) and differ[-1] <= cases.cases["pos:content"][row]
    prompts, asked = (make(towns, 24, 0, **how) for make in (few_shot_prompts, few_shot_questions))
    assert prompts.tokens.equal(asked.tokens) and (asked.choices.sum(1) == 2).all() and (asked.right.sum(1) == 1).all()
    assert len(np.unique(asked.right.argmax(1)[prompts.labels("truth")[:, 0] == 1])) == 1
    with pytest.raises(ValueError, match="kind must be one of"):
        few_shot_cases("true", towns, 12, 0, **how)


def test_with_shots_the_study_of_plain_text_asks_for_verdicts_and_changes_them(towns):
    asked = study(tiny("byte-level"), data=str(towns), group="town", shots=2, d_vocab=500)
    assert [r.name for r in asked.readings] == ["towns-end", "towns-content"] and not asked.notes
    for change in asked.changes:
        cases = change.cases(10, 0)
        for part in change.places["content and end"]:
            assert (part.before(cases) != part.after(cases)).all() and f"pos:{part.positions}" in cases.cases
    assert len(asked.heads[0].load(20, 0)) == len(asked.answering[0].ask(20, 0).table) == 20
    without = study(tiny("byte-level"))
    assert "--with shots=5 asks for verdicts" in without.notes[0] and not without.changes
    assert [r.name for r in without.readings][-2:] == ["cities+neg_cities-end", "likely-end"]


def test_plain_text_wants_a_language_model():
    with pytest.raises(ValueError, match="data=cities: statements in plain text need a language model and its tokeni"):
        study(data="cities")
