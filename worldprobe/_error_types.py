"""How a model errs: what many answers to one question, drawn from its own probabilities, have in common."""

import numpy as np
from jaxtyping import Bool, Int, Shaped
from numpy import ndarray

TYPES = ("always right", "mostly right", "mostly one wrong, right at times", "mostly one wrong", "two competing",
         "many answers", "no type")


def error_types(drawn: Int[ndarray, "question draw"], right: Bool[ndarray, "question draw"]
                ) -> Shaped[ndarray, " question"]:
    """One of `TYPES` per question, of K draws each:

    - right in at least K/2: `always right` if in all, else `mostly right`;
    - the same wrong answer in at least K/2: `mostly one wrong, right at times` if the right one occurs, else `mostly
      one wrong`;
    - `two competing`: the right answer and the commonest wrong one both more than K/6 times, at most K/6 apart;
    - `many answers`: at least K/3 different wrong ones, or K/3 - 1 where the right one occurs;
    - `no type` otherwise.

    Source: Orgad et al., arXiv:2410.02707, with their thresholds; their further type, refusals, is not told apart from
        wrong answers here.
    """
    k = drawn.shape[1]
    correct = right.sum(1)
    wrong = [np.unique(row[~ok], return_counts=True)[1] for row, ok in zip(drawn, right, strict=True)]
    top, different = (np.array([f(counts) if len(counts) else 0 for counts in wrong]) for f in (np.max, len))
    rules = [correct == k, correct >= k / 2, (top >= k / 2) & (correct > 0), top >= k / 2,
             (abs(correct - top) <= k / 6) & (np.minimum(correct, top) > k / 6),
             different >= k / 3 - (correct > 0)]
    return np.select(rules, TYPES[:-1], TYPES[-1]).astype(object)
