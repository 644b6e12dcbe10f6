"""Statements of the reference world as labelled prompts."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from numpy import ndarray

from .._positions import NAMED
from .._prompts import LabelledPrompts, split_by_group
from ._world import DOES, FACTS, LENGTH, PLACES, SUBJECT, SUBJECTS, TOPIC, TOPICS, WORDS, documents, likely, text

TASK = "truthfulness"
CLASSES = {"truth": ("false", "true"), "polarity": ("negated", "affirmative"), "likely": ("unlikely", "likely")}
NEXT = {"next_subject": LENGTH + 1, "next_polarity": LENGTH + 2, "next_topic": LENGTH + 3}


def world(n: int = 2000, seed: int = 0, *, at: str = "object", negation: float | int = 0.0,
          topics: Sequence[str] = TOPICS, continued: bool = False) -> LabelledPrompts:
    """Statements of the reference world, one per prompt, half of them true: `<bos> ada does speak dutch .`

    Schemes, all with the one target `statement`: `truth`; `polarity`, where there are negated statements; and `likely`,
    what the object and the polarity alone say about the truth (`_world.likely`): the shortcut.

    A group is a person, so that no probe is tested on a person that it has seen; the column `topic` is there for
    leaving topics out. `prompts.at("period")` moves the examples to another of the places `subject`, `polarity`,
    `topic`, `object`, `period`, and, of continued prompts, `next_subject`, `next_polarity`, `next_topic`.

    Args:
        at: The place that is probed. At the object it is known for the first time whether the statement is true.
        negation: Share of negated statements, for models that know them.
        topics: Of `visit`, `speak`, `play` and `study`, those that statements are about.
        continued: Let the first words of a second statement, affirmative and about something else, follow.
    Raises:
        ValueError: An unknown topic or place, or a share outside 0 to 1.
    """
    if unknown := sorted(set(topics) - set(TOPICS)):
        raise ValueError(f"there is no topic {unknown[0]!r}; topics of the reference world are {', '.join(TOPICS)}")
    if not 0 <= negation <= 1:
        raise ValueError(f"negation is the share of negated statements, 0 to 1, not {negation}")
    places = PLACES | (NEXT if continued else {})
    if at not in places:
        raise ValueError(f"at must be one of {', '.join(places)}, not {at!r}")
    rng = np.random.default_rng([seed, 1])
    made = documents(n, rng, 1, eps=0.5, negation=negation, topics=tuple(TOPICS.index(t) for t in topics))
    tokens, topic, subject = made.tokens, made.topic[:, 0], made.subject[:, 0]
    if continued:
        tokens = np.concatenate([tokens, begun(made.subject, made.topic, rng)], 1)
    group = np.array(SUBJECTS, dtype=object)[subject]
    labels = {"truth": made.true[:, 0], "likely": likely(made)[:, 0], "polarity": ~made.negated[:, 0]}
    if negation in (0, 1):
        del labels["polarity"]  # nothing to fit
    examples = pd.DataFrame({
        "prompt": np.arange(n), "pos": places[at], "group": group, "split": split_by_group(group, seed),
        "topic": np.array(TOPICS, dtype=object)[topic], "statement": text(made.tokens[:, 1:]),
        **{f"{scheme}/statement": column.astype("int8") for scheme, column in labels.items()},
        **{f"{NAMED}{name}": pos for name, pos in places.items()}})
    return LabelledPrompts(task=TASK, tokens=torch.from_numpy(tokens), lengths=torch.full((n,), tokens.shape[1]),
                           examples=examples, classes={scheme: CLASSES[scheme] for scheme in labels},
                           shortcuts={"truth": ("likely",)}, vocabulary=WORDS, by=("topic", "target"))


def begun(subject: Int[ndarray, "prompt statement"], topic: Int[ndarray, "prompt statement"], rng: np.random.Generator
          ) -> Int[ndarray, "prompt 3"]:
    """The tokens `ben does play` of another statement, about none of these facts."""
    fact = rng.integers(0, FACTS.size, len(subject))
    while (taken := (fact[:, None] == topic * len(SUBJECTS) + subject).any(1)).any():
        fact[taken] = rng.integers(0, FACTS.size, int(taken.sum()))
    other_topic, other = np.divmod(fact, len(SUBJECTS))
    return np.stack([SUBJECT + other, np.full_like(other, DOES), TOPIC + other_topic], 1)
