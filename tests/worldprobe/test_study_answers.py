"""What a model says and what its states tell of it: error types by hand, draws, chosen answers about facts."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probing import load_model, validate
from tasks._study import Answering, Study
from tasks.truthfulness._asked import facts
from worldprobe._error_types import TYPES, error_types
from worldprobe._rows import pick
from worldprobe._run import open_run
from worldprobe._study_answers import N_DRAWS, answer_stages, answered, draw, nearest, stump, with_answers
from worldprobe._study_choosing import answer_section, choosing_stages
from worldprobe._study_readings import reading_stages


def typed(*counts: int, right: int = 0, k: int = 30) -> str:
    """The type of k draws: `right` right ones, and wrong ones so often each."""
    drawn = np.repeat(np.arange(len(counts) + 1), [right, *counts])
    assert len(drawn) == k
    return error_types(drawn[None], (drawn == 0)[None] & (right > 0))[0]


@pytest.mark.parametrize(("kind", "right", "wrong"), [
    ("always right", 30, ()), ("mostly right", 15, (15,)), ("mostly right", 29, (1,)),
    ("mostly one wrong, right at times", 1, (29,)), ("mostly one wrong, right at times", 14, (16,)),
    ("mostly one wrong", 0, (15, 15)), ("two competing", 10, (14, 6)), ("two competing", 11, (6, 6, 7)),
    ("many answers", 3, (3,) * 9), ("many answers", 0, (3,) * 10), ("no type", 0, (10, 10, 10)),
    ("no type", 4, (8, 9, 9))])
def test_types_of_errors_are_those_of_the_published_thresholds(kind, right, wrong):
    assert typed(*wrong, right=right) == kind


@given(st.lists(st.integers(0, 12), min_size=30, max_size=30))
def test_every_question_has_one_type_whatever_the_order_of_its_draws(tokens):
    drawn = np.array(tokens)[None]
    (kind,) = error_types(drawn, drawn == 0)
    assert kind in TYPES and error_types(drawn[:, ::-1], (drawn == 0)[:, ::-1])[0] == kind
    correct, wrong = (drawn == 0).sum(), np.bincount(drawn[drawn > 0], minlength=2).max()
    assert (kind == "always right") == (correct == 30) and (kind == "mostly right") == (15 <= correct < 30)
    assert kind.startswith("mostly one wrong") == (wrong >= 15 > correct)


def test_a_stump_is_the_best_threshold_and_the_nearest_mean_is_nearest():
    rng = np.random.default_rng(0)
    score, train = rng.normal(size=200), np.arange(200) < 150
    label = (score + rng.normal(size=200) > 0.3).astype("int8")
    said = stump(score, label, train)
    best = max(((score[train] > cut) == label[train]).mean() for cut in [-np.inf, *score[train]])
    assert (said == label)[train].mean() == best and set(np.diff(said[np.argsort(score)])) <= {0, 1}
    np.testing.assert_array_equal(nearest(np.array([0.0, 1.0, 0.4, 0.6]), np.array([0, 1, 1, 0]),
                                          np.array([True, True, False, False])), [0, 1, 0, 1])


@pytest.fixture(scope="module")
def model():
    return load_model("truthfulness", device="cpu")


def test_answers_are_drawn_from_the_models_own_probabilities(model):
    asked = facts(40, 0)
    kept = draw(model, asked, seed=3)
    assert kept["drawn"].shape == (40, N_DRAWS)
    with torch.inference_mode():
        logits = model(asked.tokens)[torch.arange(40), asked.lengths - 1].float()
    log_p = logits.log_softmax(-1)
    np.testing.assert_allclose(kept["log_p"], log_p.gather(1, torch.from_numpy(kept["drawn"])), atol=1e-4)
    np.testing.assert_array_equal(kept["first"], log_p.argmax(1))
    np.testing.assert_allclose(kept["entropy"], torch.distributions.Categorical(logits=logits).entropy(), atol=1e-4)
    for name, again in draw(model, asked, seed=3).items():
        np.testing.assert_array_equal(again, kept[name])
    two = np.zeros_like(asked.right)
    two[:, [60, 61]] = True
    assert set(draw(model, replace(asked, choices=two), seed=0)["drawn"].ravel()) <= {60, 61}


def test_an_answer_stands_behind_its_question(model):
    asked = facts(30, 0)
    tokens, lengths = answered(asked, np.arange(10) + 3, np.arange(10, 20))
    for row in range(10):
        n = int(asked.lengths[10 + row])
        assert tokens[row, :n].equal(asked.tokens[10 + row, :n]) and int(tokens[row, n]) == row + 3
        assert int(lengths[row]) == n + 1


@pytest.fixture(scope="module")
def done(model, tmp_path_factory):
    """(study, its rows) of what the model says of facts, small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLDPROBE_CACHE", str(tmp_path_factory.mktemp("cache")))
        folder = open_run(tmp_path_factory.mktemp("answers") / "run", {}, fingerprints={}, log=lambda text: None)
        study = Study("truthfulness", "", "", "truthfulness", answering=[Answering("fact", "facts", facts, quick=500)])
        answers = answer_stages(folder, model, study, seed=0, quick=True)
        study, data = with_answers(study, {}, answers)
        tables, _ = reading_stages(folder, model, study, data, seed=0)
        read = pd.concat(tables, ignore_index=True)
        (chosen,) = choosing_stages(folder, model, study, answers, read, seed=0)
    return study, answers[0], read, chosen


def test_whether_an_answer_is_right_is_read_beside_its_likelihood_and_every_control(done):
    study, answers, read, chosen = done
    assert [r.name for r in study.readings] == ["fact-before", "fact-answer", "fact-type"]
    validate(read)
    for reading, shortcut in (("fact-before", "likelihood"), ("fact-answer", "likelihood"), ("fact-type", "entropy")):
        controls = set(pick(read, positions=reading)["control"].dropna())
        assert {f"shortcut:{shortcut}", "random_init", "shuffled_labels", "input_only", "majority"} <= controls
    test = pick(read, positions="fact-answer", metric="accuracy", split="test", subset="all")
    assert pick(test, control=None)["value"].max() > 0.85 > pick(test, control="random_init")["value"].max() + 0.1
    assert answers.right.mean() < 0.7  # it trusts a document as far as it should, and says what it does not know


def test_what_is_chosen_by_likelihood_or_probe_is_right_more_often_than_what_is_drawn(done):
    study, answers, _, chosen = done
    validate(chosen)
    of = {m: pick(chosen, metric=m, control=None, subset="all").iloc[0] for m in (
        "right_drawn", "right_by_probe", "right_by_likelihood", "right_first_choice")}
    test = (answers.questions.table["split"] == "test").to_numpy()
    assert of["right_drawn"]["value"] == pytest.approx(answers.right[test].mean())
    assert of["right_by_probe"]["ci_low"] > of["right_drawn"]["ci_high"]
    assert of["right_by_likelihood"]["value"] >= of["right_drawn"]["value"]
    shares = pick(chosen, metric="share_of_questions", control=None)
    by_type = shares["subset"].str.startswith("type=")
    assert shares[by_type]["value"].sum() == pytest.approx(1) == shares[~by_type]["value"].sum()
    section = answer_section(chosen, study.answering[0])
    assert [t.title for t in section.tables] == ["Right answers, by how the answer is chosen", "Says and knows"]
    assert "which needs no probe" in section.text


def test_nothing_is_read_of_answers_that_are_all_wrong(model, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDPROBE_CACHE", str(tmp_path))
    said = []
    folder = open_run(tmp_path / "run", {}, fingerprints={}, log=said.append)

    def hopeless(n, seed):
        asked = facts(n, seed)
        return replace(asked, right=np.arange(asked.right.shape[1]) == np.zeros((n, 1), int))

    study = Study("truthfulness", "", "", "truthfulness", answering=[Answering("fact", "facts", hopeless, quick=60)])
    answers = answer_stages(folder, model, study, seed=0, quick=True)
    assert with_answers(study, {}, answers)[0].readings == [] and "nothing is read of them" in "".join(said)
    assert choosing_stages(folder, model, study, answers, pd.DataFrame(), seed=0) == []
