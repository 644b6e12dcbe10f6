"""What a model says beside what it could say: answers chosen among those it drew, by their likelihood or by what a
probe reads of them.

Source: Orgad et al., arXiv:2410.02707.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray

from probing import LogisticProbe, Site, bootstrap_mean, extract, identify, results_frame
from tasks import LabelledPrompts
from tasks._study import Answering, Study

from ._error_types import TYPES
from ._report import Section, Table
from ._rows import cell, pick
from ._run import Run
from ._study_answers import N_DRAWS, Answers, answered
from ._study_changes import slug
from ._verdicts import best_probe

WAYS = {"right_drawn": "drawn", "right_first_choice": "likeliest of all", "right_most_frequent": "most frequent drawn",
        "right_by_likelihood": "likeliest drawn", "right_by_probe": "surest to be right, as the probe reads it"}
SHARE = "share_of_questions"
SAYS, KNOWS = {True: "says it", False: "does not say it"}, {True: "knows", False: "does not know"}


def choosing_stages(folder: Run, model: Any, study: Study, answers: Sequence[Answers], table: pd.DataFrame, seed: int
                    ) -> list[pd.DataFrame]:
    """Result rows: how often an answer is right that is drawn, that is likeliest, or that the probe picks among those
    drawn, of all test questions and by how the model errs; and how often it says and knows the right answer.

    Args:
        table: Rows of the readings, from which the best site is taken.
    """
    return [folder.stage(f"choosing-{slug(each.asked.name)}",
                         functools.partial(_chosen, model, study, each, table, seed))
            for each in answers if each.varied]


def _chosen(model: Any, study: Study, answers: Answers, table: pd.DataFrame, seed: int) -> pd.DataFrame:
    q, who = answers.questions, identify(model)
    test = np.flatnonzero((q.table["split"] == "test").to_numpy())
    right, groups = answers.right[test], q.table["group"].to_numpy()[test]
    best = best_probe(pick(table, positions=f"{answers.asked.name}-answer"), "right", "accuracy")
    row = np.arange(len(test))
    found: dict[tuple[str, str | None], ndarray] = {
        ("right_drawn", None): right.mean(1), ("right_first_choice", None): q.right[test, answers.first[test]],
        ("right_most_frequent", None): right[row, _commonest(answers.drawn[test])],
        ("right_by_likelihood", None): right[row, answers.log_p[test].argmax(1)]}
    for control, sure in _sure(model, study.task, answers, test, best, seed).items():
        found["right_by_probe", control] = right[row, sure.argmax(1)]
    types, rows = answers.types[test], []
    for subset in ("all", *(f"type={t}" for t in TYPES if t in types)):
        here = np.ones(len(test), bool) if subset == "all" else types == subset.removeprefix("type=")
        rows += [_mean(values[here], groups[here], seed, metric=metric, control=control, subset=subset)
                 for (metric, control), values in found.items()]
        if subset != "all":
            rows.append(_mean(here, groups, seed, metric=SHARE, subset=subset))
    says, knows = right[:, 0], found["right_by_probe", None]
    rows += [_mean((says == a) & (knows == b), groups, seed, metric=SHARE, subset=f"{known} and {said}")
             for a, said in SAYS.items() for b, known in KNOWS.items()]
    common = {"task": study.task, "model": who.name, "revision": who.revision, "model_hash": who.digest, "seed": seed,
              "data_hash": f"{answers.asked.name}, {len(q.table)} questions of seed {seed}", "split": "test",
              "positions": answers.asked.name}
    return results_frame([common | each for each in rows])


def _sure(model: Any, task: str, answers: Answers, test: Int[ndarray, " question"], best: pd.Series, seed: int
          ) -> dict[str | None, Float[ndarray, "question draw"]]:
    """How sure the best probe of right answers, and that of the model with random weights, are of every answer drawn to
    the test questions; fitted on what the model says to the others."""
    q, site = answers.questions, Site(best["stream"], int(best["layer"]))
    drawn = np.stack([np.repeat(test, N_DRAWS), answers.drawn[test].ravel()])
    (question, answer), back = np.unique(drawn, axis=1, return_inverse=True)
    tokens, lengths = answered(q, answer, question)
    every = LabelledPrompts(task, tokens, lengths, pd.DataFrame({
        "prompt": np.arange(len(lengths)), "pos": lengths.numpy() - 1, "split": "test",
        "group": q.table["group"].to_numpy()[question]}))
    said = answers.prompts(answers.drawn[:, 0])
    known, C = ~said.rows("test"), best["penalty"] if best["penalty"] == best["penalty"] else 1.0
    X, Z = (extract(model, prompts, [site], random_init=seed, cache=False) for prompts in (said, every))
    assert X.random_init is not None and Z.random_init is not None  # asked for above
    found = {}
    for control, x, z in ((None, X[site], Z[site]), ("random_init", X.random_init[site], Z.random_init[site])):
        probe = LogisticProbe(C=C, tol=1e-2).fit(np.asarray(x)[known], said.labels("right")[known, 0])
        found[control] = probe.decision_function(np.asarray(z))[back.ravel()].reshape(len(test), N_DRAWS)
    return found


def _commonest(drawn: Int[ndarray, "question draw"]) -> Int[ndarray, " question"]:
    """The draw whose token occurs most often."""
    return (drawn[:, :, None] == drawn[:, None]).sum(2).argmax(1)


def _mean(values: ndarray, groups: ndarray, seed: int, **columns) -> dict:
    value, low, high = bootstrap_mean(values.astype(float), groups, seed=seed)
    return columns | {"value": float(value), "ci_low": float(low), "ci_high": float(high), "n": len(values),
                      "n_groups": len(np.unique(groups))}


def answer_section(table: pd.DataFrame, asked: Answering) -> Section | None:
    """What is said, and what could be said by choosing among the answers drawn."""
    rows = pick(table, positions=asked.name, intervention=None)
    if rows.empty:
        return None
    of = {metric: pick(rows, metric=metric, control=None, subset="all").iloc[0] for metric in WAYS}
    probe, likely = of["right_by_probe"], of["right_by_likelihood"]
    words = ("more often than" if probe["ci_low"] > likely["ci_high"] else
             "less often than" if probe["ci_high"] < likely["ci_low"] else "no more often than")
    text = (f"To every question {N_DRAWS} answers are drawn. One drawn is right in {cell(of['right_drawn'])} of the "
            f"test questions; the one that the probe is surest of, among them, in {cell(probe)}: {words} the likeliest "
            f"one, which needs no probe ({cell(likely)}).")
    lines = []
    for subset in ("all", *(f"type={t}" for t in TYPES)):
        here = pick(rows, subset=subset)
        if here.empty:
            continue
        line = {"questions": subset.removeprefix("type=")}
        share = pick(here, metric=SHARE)
        line["share"] = cell(share.iloc[0]) if len(share) else ""
        line |= {words: cell(pick(here, metric=metric, control=None).iloc[0]) for metric, words in WAYS.items()}
        line["the probe, random weights"] = cell(pick(here, metric="right_by_probe", control="random_init").iloc[0])
        lines.append(line)
    both = pick(rows, metric=SHARE)
    both = both[both["subset"].str.contains(" and ", regex=False)]
    shares = pd.DataFrame([{"": said, **{known: cell(pick(both, subset=f"{known} and {said}").iloc[0])
                                         for known in KNOWS.values()}} for said in SAYS.values()])
    return Section(f"What it says and what it knows: {asked.words}", text, (), [
        Table("Right answers, by how the answer is chosen", pd.DataFrame(lines), f"Test questions, by what {N_DRAWS} "
              f"draws have in common. In brackets: 95 % interval, cluster bootstrap over {asked.groups}.", rows),
        Table("Says and knows", shares, "Says: the first answer drawn is right. Knows: so is the one that the probe "
              "picks among those drawn. Shares of the test questions.", both)])
