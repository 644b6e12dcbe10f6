"""Questions of the reference world: what is right is a fact, and verdicts are asked at the end."""

import numpy as np
import pytest

from tasks._study import Questions
from tasks.truthfulness._asked import at_verdict, facts, verdicts
from tasks.truthfulness._world import FACTS, FALSE, OBJECTS, SUBJECTS, TOPICS, TRUE, WORDS


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
