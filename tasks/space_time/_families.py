"""Models of the world of places, to be compared with one another."""

import numpy as np
import pandas as pd
import torch

from .._families import Family, distinct
from .._prompts import LabelledPrompts, split_by_group
from ._world import PROMPT_LENGTH, entities, words

TASK = "space_time"


def questions(n: int, seed: int) -> LabelledPrompts:
    """Different questions about two places, read at the end of the second name, with the half of the plane that it
    lies in."""
    places = entities("place")
    rng = np.random.default_rng([seed, 3])
    first, second = np.divmod(rng.permutation(len(places) ** 2), len(places))
    first, second = first[first != second], second[first != second]
    asked = rng.choice([words().index(relation) for relation in ("distance", "direction")], len(first))
    tokens = np.concatenate([asked[:, None], places.tokens[first], places.tokens[second]], 1)
    group = places.table["entity"].to_numpy(object)[second]
    east = (places.table["x"].to_numpy()[second] > 0).astype("int8")
    examples = pd.DataFrame({"prompt": np.arange(len(tokens)), "pos": PROMPT_LENGTH - 1, "group": group,
                             "split": split_by_group(group, seed), "half/second": east})
    made = LabelledPrompts(task=TASK, tokens=torch.from_numpy(tokens), vocabulary=words(),
                           lengths=torch.full((len(tokens),), PROMPT_LENGTH), examples=examples,
                           classes={"half": ("west", "east")})
    return distinct(made, made.tokens, n, "half/second")


FAMILIES = (Family(TASK, TASK, (TASK, f"{TASK}-1", f"{TASK}-2"), (), questions, "half"),)
