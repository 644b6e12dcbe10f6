"""Counterfactual cases: a question about two entities, the first of which is to be somewhere else, or some other time.

The prompt asks about a and b. What is to become right inside the model is the answer about a' and b, and the witness is
the prompt that says so: it has a' in place of a, at the same tokens.
"""

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int, Shaped
from numpy import ndarray

from .._pairs import PromptPairs
from .._positions import NAMED
from .._prompts import Counterfactuals
from ._world import (
    COORDINATES,
    PROMPT_LENGTH,
    RELATIONS,
    answers,
    bins_apart,
    close_answers,
    entities,
    is_reserved,
    known,
    prompts_of,
    words,
)

POSITIONS = {"first": 1, "entity": 2, "answer": PROMPT_LENGTH - 1}  # first and last token of the first name, end
_SEEDS = 3 << 32  # other questions than those of the trainer and of `behaviour`
_FAR = 2  # answers before and after lie farther apart than so many bins


def cases(scheme: str = "place", n: int = 500, seed: int = 0, *, relation: str | None = None) -> Counterfactuals:
    """Questions whose first entity a is to move to where (or when) another one, a', is.

    Every answer must change by more than two bins (of `order`: it turns round, and b is more than two bins of `gap`
    away from both), so that no answer is within one bin of the right one both before and after. No pair (a, b) was
    asked about in training.

    Returns:
        Counterfactuals with the answers within one bin as right ones. `was` and `becomes` are 0 and 1, here and there;
        where that is, in all coordinates, say the columns `COORDINATE_was` and `COORDINATE_becomes`. `cases` also has
        `relation`, `entity` and `becomes_entity` (names of a and a'), `other` (b), `witness` (text; words of the
        vocabulary), and positions `pos:first` and `pos:entity` (first and last token of a) and `pos:answer`. Cases
        about the same a form one `group`.
    Args:
        scheme: `place` or `time`.
        relation: One of `RELATIONS` with this scheme; all in turn, unless given.
    Source: the causal test is ours.
    """
    chosen = [r for r, about in RELATIONS.items() if about.scheme == scheme] if relation is None else [relation]
    if not chosen or any(known(r).scheme != scheme for r in chosen):
        raise ValueError(f"no relation {relation or ''!r} with the scheme {scheme!r}; there are "
                         + ", ".join(f"{r} ({about.scheme})" for r, about in RELATIONS.items()))
    parts = [_made(r, len(range(i, n, len(chosen))), seed) for i, r in enumerate(chosen)]
    table = pd.concat([part[0] for part in parts], ignore_index=True)
    tokens, before, after = (np.concatenate([part[i] for part in parts]) for i in (1, 2, 3))
    table.insert(0, "prompt", np.arange(n))
    table["split"] = _halves(table["group"].to_numpy())
    return Counterfactuals(task="space_time", kind=f"{scheme} moved", scheme=scheme, tokens=torch.from_numpy(tokens),
                           lengths=torch.full((n,), PROMPT_LENGTH), cases=table, right_before=before, right_after=after)


def pairs(scheme: str = "place", n: int = 200, seed: int = 0, *, relation: str | None = None) -> PromptPairs:
    """The prompts of `cases` (clean) and their witnesses (corrupted), which differ in the first name."""
    made, code = cases(scheme, n, seed, relation=relation), {word: i for i, word in enumerate(words())}
    witness = torch.tensor([[code[word] for word in text.split()] for text in made.cases["witness"]])
    kept = ["group", "split", *(f"{NAMED}{name}" for name in POSITIONS)]
    return PromptPairs(made.task, made.kind, made.tokens, witness, made.lengths, made.cases[kept], made.right_before,
                       made.right_after)


def _made(relation: str, n: int, seed: int) -> tuple[pd.DataFrame, ndarray, ndarray, ndarray]:
    """The table of the cases of one relation, their tokens, and the right answers before and after."""
    scheme = known(relation).scheme
    of = entities(scheme).table
    a, b, to = _triples(relation, n, np.random.default_rng([_SEEDS + seed, list(RELATIONS).index(relation)]))
    names, vocabulary = of["entity"].to_numpy(), np.array(words(), object)
    table = pd.DataFrame({"target": COORDINATES[scheme][0], "was": 0, "becomes": 1, "group": names[a],
                          "relation": relation, "entity": names[a], "becomes_entity": names[to], "other": names[b],
                          "witness": [" ".join(vocabulary[row]) for row in prompts_of(relation, to, b)]})
    for coordinate in COORDINATES[scheme]:
        value = of[coordinate].to_numpy()
        table[f"{coordinate}_was"], table[f"{coordinate}_becomes"] = value[a], value[to]
    for name, pos in POSITIONS.items():
        table[f"{NAMED}{name}"] = pos
    before, after = (close_answers(relation, answers(relation, x, b)) for x in (a, to))
    return table, prompts_of(relation, a, b), before, after


def _triples(relation: str, n: int, rng: np.random.Generator) -> tuple[Int[ndarray, " case"], ...]:
    """Random a, b and a' as `cases` wants them."""
    size = len(entities(known(relation).scheme))
    for most in (64 * n + 1000, 1024 * n):
        a, b, to = rng.integers(0, size, (3, most))
        before, after = answers(relation, a, b), answers(relation, to, b)
        far = bins_apart(relation, before, after) > _FAR
        if relation == "order":
            far = (before != after) & (answers("gap", a, b) > _FAR) & (answers("gap", to, b) > _FAR)
        kept = np.flatnonzero(far & is_reserved(relation, a, b) & (a != b) & (to != b))[:n]
        if len(kept) == n:
            break
    else:
        raise ValueError(f"found only {len(kept)} of {n} cases about {relation}; ask for fewer")
    return a[kept], b[kept], to[kept]


def _halves(group: Shaped[ndarray, " case"]) -> Shaped[ndarray, " case"]:
    """`choose` or `report`: every other group."""
    return np.where(np.isin(group, np.unique(group)[::2]), "choose", "report")
