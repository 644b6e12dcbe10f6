"""Does a model of the reference world trust a document as far as its statements deserve?"""

from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from ._labels import begun
from ._world import EPS, FACTS, N_OBJECTS, OBJECT, SUBJECT, SUBJECTS, TOPIC, bayes, documents

Model = Callable[[Tensor], Tensor]  # (prompt, pos) token ids -> (prompt, pos, d_vocab) logits
CONTEXTS = {"first": (), "after_true": (True,), "after_false": (False,), "after_3_true": (True,) * 3,
            "after_3_false": (False,) * 3}


def behaviour(model: Model, n: int = 500, seed: int = 0, *, negation: float | int = 0.0, eps: float = EPS,
              batch_size: int = 256) -> pd.DataFrame:
    """One row per statement to be finished, `<bos> ... ben does play`: the probability of the right object.

    `first` with nothing before it; `after_true` and `after_false` with one statement before it, `after_3_true` and
    `after_3_false` with three. For each there is `bayes_...`, what somebody knows who knows all facts and infers how
    truthful the document is; `trust` is after_true - after_false. A `group` is the person the statement is about.

    Args:
        negation: Share of negated statements among those before.
        eps: As in `documents`, for the Bayes values.
    """
    rng = np.random.default_rng([7, seed])
    end = begun(np.zeros((n, 0), int), np.zeros((n, 0), int), rng)
    out = pd.DataFrame({"group": np.array(SUBJECTS, dtype=object)[end[:, 0] - SUBJECT]})
    topic = end[:, 2] - TOPIC
    right = torch.from_numpy(OBJECT + N_OBJECTS * topic + FACTS[topic, end[:, 0] - SUBJECT])
    for name, true in CONTEXTS.items():
        told = np.tile(np.array(true, bool), (n, 1))
        before = documents(n, rng, len(true), negation=negation, true=told)
        tokens = torch.from_numpy(np.concatenate([before.tokens, end], 1))
        out[name] = _probability(model, tokens, right, batch_size)
        out[f"bayes_{name}"] = bayes(told, eps)
    return out.assign(trust=out["after_true"] - out["after_false"],
                      bayes_trust=out["bayes_after_true"] - out["bayes_after_false"])


@torch.inference_mode()
def _probability(model: Model, tokens: Int[Tensor, "prompt pos"], answer: Int[Tensor, " prompt"], batch_size: int
                 ) -> Float[ndarray, " prompt"]:
    """Probability of the answer as the next token."""
    parts = [model(t)[:, -1].float().softmax(-1).gather(1, a[:, None].to(t.device)).cpu()
             for t, a in zip(tokens.split(batch_size), answer.split(batch_size), strict=True)]
    return torch.cat(parts)[:, 0].double().numpy()
