"""Prompts at whose last token a model has an answer to give: about a fact, or a verdict on a statement."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from numpy import ndarray

from .._pairs import PromptPairs
from .._positions import NAMED
from .._prompts import Counterfactuals, LabelledPrompts, split_by_group
from .._study import Questions
from ._cases import KINDS
from ._few_shot import few_shot_pairs
from ._labels import begun, world
from ._load import CLASSES
from ._world import (
    FACTS,
    FALSE,
    LENGTH,
    N_OBJECTS,
    OBJECT,
    PAD,
    STATEMENTS,
    SUBJECT,
    SUBJECTS,
    TOPIC,
    TRUE,
    VERDICT,
    WORDS,
    documents,
)


def facts(n: int, seed: int, *, negation: float | int = 0.0) -> Questions:
    """Documents of the reference world that break off before an object, after 0 to 3 statements: which one is a fact?
    A group is the person asked about."""
    rng = np.random.default_rng([9, seed])
    made, told = documents(n, rng, STATEMENTS - 1, negation=negation), rng.integers(0, STATEMENTS, n)
    end = begun(made.subject, made.topic, rng)
    tokens = np.full((n, made.tokens.shape[1] + end.shape[1]), PAD)
    for k in range(STATEMENTS):
        here, length = told == k, 1 + LENGTH * k
        tokens[here, :length] = made.tokens[here, :length]
        tokens[here, length : length + end.shape[1]] = end[here]
    topic, subject = end[:, 2] - TOPIC, end[:, 0] - SUBJECT
    right = np.arange(len(WORDS)) == (OBJECT + N_OBJECTS * topic + FACTS[topic, subject])[:, None]
    person = np.array(SUBJECTS, dtype=object)[subject]
    table = pd.DataFrame({"group": person, "split": split_by_group(person, seed), "told": told})
    return Questions(torch.from_numpy(tokens), torch.from_numpy(1 + LENGTH * told + end.shape[1]), table, right,
                     vocabulary=WORDS)


def verdicts(n: int, seed: int, *, negation: float | int = 0.0) -> Questions:
    """Statements of the reference world that are to be judged, TRUE or FALSE. A group is the person of a statement."""
    known = at_verdict(n, seed, negation=negation)
    return _judged(known, np.arange(len(WORDS)) == np.where(known.labels("truth") == 1, TRUE, FALSE),
                   np.broadcast_to(np.isin(np.arange(len(WORDS)), (TRUE, FALSE)), (n, len(WORDS))))


def at_verdict(n: int, seed: int, *, negation: float | int = 0.0) -> LabelledPrompts:
    """Statements of the reference world with `verdict:` behind them, read there."""
    known = world(n, seed, negation=negation)
    tokens = torch.cat([known.tokens, torch.full((n, 1), VERDICT)], 1)
    return replace(known, tokens=tokens, lengths=known.lengths + 1,
                   examples=known.examples.assign(pos=LENGTH + 1))


def few_shot_cases(kind: str, dataset: str | Path, n: int, seed: int, **options) -> Counterfactuals:
    """Statements in plain text that are false and shall be judged true, or the other way round, after some that were
    judged: those of `few_shot_pairs`, which takes `options` (`tokenizer=...` and more). The witness of each is its
    minimal twin, as token ids."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, not {kind!r}")
    pairs = few_shot_pairs(dataset, n=n, seed=seed, **options)
    true, was = (pairs.clean, pairs.right_clean), (pairs.corrupted, pairs.right_corrupted)
    (own, before), (other, after) = (was, true) if kind == "false_to_true" else (true, was)
    witness = [tuple(row[:length].tolist()) for row, length in zip(other, pairs.lengths, strict=True)]
    code = int(kind == "true_to_false")
    table = pairs.cases.assign(prompt=np.arange(len(pairs)), target="statement", was=code, becomes=1 - code,
                               witness=pd.Series(witness, dtype=object))
    return Counterfactuals(task=pairs.task, kind=f"{kind.replace('_', ' ')}, few-shot verdict", scheme="truth",
                           tokens=own, lengths=pairs.lengths, cases=table, right_before=before, right_after=after)


def few_shot_prompts(dataset: str | Path, n: int, seed: int, **options) -> LabelledPrompts:
    """The prompts of `few_shot_pairs`, true and false ones, read at their last token: the scheme `truth`."""
    pairs = few_shot_pairs(dataset, n=max(3, n // 2), seed=seed, **options)
    return _both(pairs, seed)


def few_shot_questions(dataset: str | Path, n: int, seed: int, **options) -> Questions:
    """The same as questions: TRUE or FALSE?"""
    pairs = few_shot_pairs(dataset, n=max(3, n // 2), seed=seed, **options)
    right = np.concatenate([pairs.right_clean, pairs.right_corrupted])
    return _judged(_both(pairs, seed), right, right | np.concatenate([pairs.right_corrupted, pairs.right_clean]))


def _both(pairs: PromptPairs, seed: int) -> LabelledPrompts:
    group = np.tile(pairs.cases["group"].to_numpy(), 2)
    lengths = torch.cat([pairs.lengths, pairs.lengths])
    places = {c: np.tile(pairs.cases[c].to_numpy(), 2) for c in pairs.cases if c.startswith(NAMED)}
    table = pd.DataFrame({"prompt": np.arange(len(group)), "pos": lengths.numpy() - 1, "group": group,
                          "split": split_by_group(group, seed), **places,
                          "truth/statement": np.repeat([1, 0], len(pairs)).astype("int8")})
    return LabelledPrompts(task=pairs.task, tokens=torch.cat([pairs.clean, pairs.corrupted]), lengths=lengths,
                           examples=table, classes={"truth": CLASSES["truth"]})


def _judged(known: LabelledPrompts, right: Bool[ndarray, "prompt d_vocab"], choices: Bool[ndarray, "prompt d_vocab"]
            ) -> Questions:
    return Questions(known.tokens, known.lengths, known.examples[["group", "split"]], right, choices, known.vocabulary)
