"""Counterfactual cases of the reference world: a statement whose truth is to be changed inside the model.

    <bos> ada does speak dutch . ben does play        what comes next: ben's instrument, if one trusts the document

The model finishes a second statement, which is about something else. After a true statement it should give the right
object a high probability, after a false one a low one; there is nothing else that the first statement says about it.
"""

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int
from numpy import ndarray

from .._pairs import PromptPairs
from .._positions import NAMED
from .._prompts import Counterfactuals
from ._labels import NEXT, TASK, begun
from ._world import (
    FACTS,
    FALSE,
    LENGTH,
    N_OBJECTS,
    OBJECT,
    PLACES,
    SUBJECT,
    SUBJECTS,
    TOPIC,
    TRUE,
    VERDICT,
    WORDS,
    Documents,
    documents,
    text,
)

KINDS = ("false_to_true", "true_to_false")
READOUTS = ("next", "verdict")
_SEEDS = 3  # other draws than those of `world`


def cases(kind: str = "false_to_true", n: int = 500, seed: int = 0, *, readout: str = "next",
          negation: float | int = 0.0) -> Counterfactuals:
    """Statements that are false and shall count as true, or the other way round, to be changed at `pos:object`.

    Args:
        readout: `next`, the object of a second statement: right after a true statement is the fact, after a false one
            any other object of the topic. `verdict`, for the model that learned it: the prompt ends with `verdict:`,
            and TRUE or FALSE is right.
        negation: Share of first statements that are negated.
    Returns:
        Counterfactuals with the scheme `truth` of `world`; `cases` also has `witness` (the prompt with a first
        statement of other truth and another content, as text), `statement`, `topic`, `negated`, and positions as
        `world`. A group is the person of the first statement, and lies in one half.
    """
    first, other, second = _made(kind, n, seed, readout, negation)
    tokens, witness = (np.concatenate([made.tokens, second], 1) for made in (first, other))
    before, after = _answers(kind, readout, second)
    return Counterfactuals(task=TASK, kind=f"{kind.replace('_', ' ')}, {readout}", scheme="truth",
                           tokens=torch.from_numpy(tokens), lengths=torch.full((n,), tokens.shape[1]),
                           cases=_table(kind, first, second).assign(prompt=np.arange(n), witness=text(witness)),
                           right_before=before, right_after=after)


def pairs(kind: str = "false_to_true", n: int = 200, seed: int = 0, *, readout: str = "next",
          negation: float | int = 0.0) -> PromptPairs:
    """The prompts of `cases` (clean) and their minimal twins (corrupted), in which the object of the first statement
    alone is another one, so that it is true instead of false, or the other way round."""
    first, _, second = _made(kind, n, seed, readout, negation)
    tokens = np.concatenate([first.tokens, second], 1)
    wrong = np.random.default_rng([_SEEDS, seed, 2]).integers(1, N_OBJECTS, n)
    right = FACTS[first.topic[:, 0], first.subject[:, 0]]
    said = np.where(first.said[:, 0] == right, (right + wrong) % N_OBJECTS, right)
    twin = tokens.copy()
    twin[:, PLACES["object"]] = OBJECT + N_OBJECTS * first.topic[:, 0] + said
    before, after = _answers(kind, readout, second)
    table = _table(kind, first, second).drop(columns=["target", "was", "becomes"])
    return PromptPairs(TASK, f"truth, {kind.replace('_', ' ')}", torch.from_numpy(tokens), torch.from_numpy(twin),
                       torch.full((n,), tokens.shape[1]), table, before, after)


def _made(kind: str, n: int, seed: int, readout: str, negation: float | int
          ) -> tuple[Documents, Documents, Int[ndarray, "case pos"]]:
    """First statements, those of the witnesses, and what follows on either."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, not {kind!r}")
    if readout not in READOUTS:
        raise ValueError(f"readout must be one of {READOUTS}, not {readout!r}")
    rng, true = np.random.default_rng([_SEEDS, seed, KINDS.index(kind)]), np.array([[kind == "true_to_false"]])
    first, other = (documents(n, rng, 1, negation=negation, true=t) for t in (true, ~true))
    subject = np.concatenate([first.subject, other.subject], 1)
    topic = np.concatenate([first.topic, other.topic], 1)
    return first, other, np.full((n, 1), VERDICT) if readout == "verdict" else begun(subject, topic, rng)


def _answers(kind: str, readout: str, second: Int[ndarray, "case pos"]
             ) -> tuple[Bool[ndarray, "case d_vocab"], Bool[ndarray, "case d_vocab"]]:
    """Right next tokens before and after the change."""
    row = np.arange(len(second))
    if_true, if_false = np.zeros((2, len(second), len(WORDS)), bool)
    if readout == "verdict":
        if_true[:, TRUE] = if_false[:, FALSE] = True
    else:
        topic, subject = second[:, 2] - TOPIC, second[:, 0] - SUBJECT
        if_true[row, OBJECT + N_OBJECTS * topic + FACTS[topic, subject]] = True
        if_false[row[:, None], OBJECT + N_OBJECTS * topic[:, None] + np.arange(N_OBJECTS)] = True
        if_false &= ~if_true
    return (if_false, if_true) if kind == "false_to_true" else (if_true, if_false)


def _table(kind: str, first: Documents, second: Int[ndarray, "case pos"]) -> pd.DataFrame:
    was = int(kind == "true_to_false")
    group = np.array(SUBJECTS, dtype=object)[first.subject[:, 0]]
    places = PLACES | (NEXT if second.shape[1] > 1 else {"verdict": LENGTH + 1})
    return pd.DataFrame({
        "target": "statement", "was": was, "becomes": 1 - was, "group": group,
        "split": np.where(np.isin(group, SUBJECTS[::2]), "choose", "report"),
        "topic": [WORDS[TOPIC + t] for t in first.topic[:, 0]], "negated": first.negated[:, 0],
        "statement": text(first.tokens[:, 1:]), **{f"{NAMED}{name}": pos for name, pos in places.items()}})
