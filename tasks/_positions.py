"""Where in a prompt an example is probed: the last token, each token, a named place, or any place of your own."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Int
from numpy import ndarray
from torch import Tensor

NAMED = "pos:"  # `pos:entity` is the column of examples that `at("entity")` reads
Where = str | Callable[[Tensor], int] | Sequence[int] | ndarray


def place(tokens: Int[Tensor, "prompt pos"], lengths: Int[Tensor, " prompt"], examples: pd.DataFrame,
          where: Where) -> tuple[Int[ndarray, " row"], Int[ndarray, " row"]]:
    """Rows of `examples` to keep, in order and perhaps repeated, and their new positions."""
    prompt = examples["prompt"].to_numpy()
    n_tokens = lengths.numpy()[prompt]
    rows = np.arange(len(examples))
    if isinstance(where, str) and where == "last":
        pos = n_tokens - 1
        if examples["prompt"].duplicated().any():  # labels belong to positions: choose those that are there
            rows = np.flatnonzero(examples["pos"].to_numpy() == pos)
            if lacking := sorted(set(prompt) - set(prompt[rows])):
                raise ValueError(f"prompt {lacking[0]} has several examples and none at its last token, position "
                                 f"{lengths[lacking[0]] - 1}: their labels belong to other positions; keep one example "
                                 "per prompt to move it")
        return rows, pos[rows]
    if isinstance(where, str) and where == "each":
        _whole(examples, "each token")
        rows = np.repeat(rows, n_tokens)
        return rows, np.concatenate([np.arange(n) for n in n_tokens]) if len(rows) else rows
    if callable(where):
        _whole(examples, "the place a function gives")
        name, pos = "given by the function", [where(tokens[p, :n]) for p, n in zip(prompt, n_tokens, strict=True)]
    elif isinstance(where, str):
        name, pos = f"{NAMED}{where}", _named(examples, where)
    else:
        name, pos = "given", list(where)
        if len(pos) != len(examples):
            raise ValueError(f"{len(pos)} positions came for {len(examples)} examples; give one each, in their order")
    return rows, _existing(pos, prompt, n_tokens, name)


def _whole(examples: pd.DataFrame, what: str) -> None:
    """A prompt with several examples is labelled position by position; moving them would mix the labels up."""
    if (twice := examples["prompt"].duplicated()).any():
        prompt = examples["prompt"].to_numpy()[twice.to_numpy()][0]
        raise ValueError(f"prompt {prompt} has several examples, whose labels belong to their positions, and cannot be "
                         f"probed at {what}; keep one example per prompt, or give one position per example")


def _named(examples: pd.DataFrame, name: str) -> list:
    if f"{NAMED}{name}" not in examples:
        known = ["last", "each", *(c.removeprefix(NAMED) for c in examples if c.startswith(NAMED))]
        raise KeyError(f"there is no position {name!r}, but {', '.join(known)}; to name one, add an integer column "
                       f"{NAMED}{name} to the examples")
    return examples[f"{NAMED}{name}"].tolist()


def _existing(pos: list, prompt: ndarray, n_tokens: ndarray, name: str) -> Int[ndarray, " row"]:
    for p, k, n in zip(pos, prompt, n_tokens, strict=True):
        if pd.isna(p) or p != int(p) or not 0 <= p < n:
            raise ValueError(f"position {p} ({name}) of prompt {k} does not exist, its {n} tokens are 0 to {n - 1}: "
                             "correct it, or drop the example")
    return np.array(pos, dtype=np.int64)
