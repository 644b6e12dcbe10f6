"""Does a model know its world? Its answers about pairs that training never asked about."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from numpy import ndarray
from torch import Tensor

from ._world import RELATIONS, answers, close_answers, entities, known, pairs_of, prompts_of, words

Model = Callable[[Tensor], Tensor]  # (prompt, pos) token ids -> (prompt, pos, d_vocab) logits


def behaviour(model: Model, n: int | None = 1000, seed: int = 0, *, reserved: bool = True, batch_size: int = 512,
              ) -> pd.DataFrame:
    """One row per question: `relation`, `a` and `b` (names), `group` (the two, in either order), `right` and `said`
    (the right answer and the most likely word), `exact` and `within_one` (whether they agree, or lie one bin apart;
    the answers of `order` must agree), and `chance`, the share of all questions of the relation for which the best
    fixed answer is within one bin. Means over rows are the rates.

    Args:
        n: Questions per relation; all that there are, unless given.
        reserved: Ask about the pairs that no training prompt asks about, else about the others.
    """
    asked = []
    for relation in RELATIONS:
        a, b = pairs_of(relation, reserved)
        if n is not None:
            chosen = np.sort(np.random.default_rng([seed, 1]).permutation(len(a))[:n])
            a, b = a[chosen], b[chosen]
        asked.append(_asked(model, relation, a, b, batch_size))
    return pd.concat(asked, ignore_index=True)


def _asked(model: Model, relation: str, a: Int[ndarray, " pair"], b: Int[ndarray, " pair"], batch_size: int,
           ) -> pd.DataFrame:
    names, vocabulary = entities(known(relation).scheme).table["entity"].to_numpy(), np.array(words())
    right = answers(relation, a, b)
    said = _said(model, torch.from_numpy(prompts_of(relation, a, b)), batch_size)
    low, high = np.minimum(a, b), np.maximum(a, b)
    told = np.array(known(relation).answers)[right]
    return pd.DataFrame({
        "relation": relation, "a": names[a], "b": names[b], "group": names[low] + ", " + names[high],
        "right": told, "said": vocabulary[said], "exact": vocabulary[said] == told,
        "within_one": close_answers(relation, right)[np.arange(len(a)), said], "chance": chance(relation)})


@cache
def chance(relation: str) -> float:
    """Share of all questions of a relation for which the best fixed answer is within one bin."""
    every = [close_answers(relation, answers(relation, *pairs_of(relation, reserved))) for reserved in (True, False)]
    return float(np.concatenate(every).mean(0).max())


@torch.inference_mode()
def _said(model: Model, tokens: Int[Tensor, "prompt pos"], batch_size: int) -> Int[ndarray, " prompt"]:
    """The most likely token after each prompt."""
    return torch.cat([model(part)[:, -1].argmax(-1).cpu() for part in tokens.split(batch_size)]).numpy()
