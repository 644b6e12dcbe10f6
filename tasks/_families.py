"""Reference models that are kin: seeds of one task, and the same words put to other tasks.

A task that ships some says so in its module `_families`, as `FAMILIES`; `families` finds them. Whoever compares models
needs to know no more of a task than this.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ._prompts import LabelledPrompts


@dataclass(frozen=True)
class Family:
    """Reference models of one world.

    Attributes:
        task: Whose models these are.
        name: The task, and where its prompts are read if there are several such places.
        seeds: Of one task, from other initial weights and other data.
        tasks: Trained on another task in the same words, from the initial weights of the first seed.
        prompts: (rows, seed) -> so many different prompts, read at their last token; any few of them that follow one
            another have both classes of the label in about the share of all.
        label: What a probe reads there, in two classes.
        rows: Of one measurement; there are different prompts for three.
    """

    task: str
    name: str
    seeds: tuple[str, ...]
    tasks: tuple[str, ...]
    prompts: Callable[[int, int], LabelledPrompts]
    label: str
    rows: int = 1000


def families() -> list[Family]:
    """Of all tasks, in the order of their names."""
    from . import available

    found: list[Family] = []
    for task in available():
        name = f"{__package__}.{task}._families"
        try:
            found += importlib.import_module(name).FAMILIES
        except ModuleNotFoundError as error:
            if error.name not in (name, name.removesuffix("._families")):
                raise
    return found


def distinct(made: LabelledPrompts, tokens: Int[Tensor, "prompt pos"], n: int, label: str,
             balanced: bool = False) -> LabelledPrompts:
    """The first `n` prompts that differ, with one label (`scheme/target`), read at their last token.

    Args:
        tokens: Of the prompts, cut to one length.
        balanced: Take the two classes in turn.
    Raises:
        ValueError: There are fewer.
    """
    first = np.sort(np.unique(tokens.numpy(), axis=0, return_index=True)[1])
    if balanced:
        codes = made.examples[label].to_numpy()[first]
        sides = [first[codes == code] for code in (0, 1)]
        first = np.stack([side[:min(map(len, sides))] for side in sides], 1).ravel()
    if len(first) < n:
        raise ValueError(f"there are {len(first)} different prompts, not {n}; take fewer rows")
    rows, width = first[:n], tokens.shape[1]
    examples = made.examples.iloc[rows][["group", "split", label]].reset_index(drop=True)
    scheme = label.partition("/")[0]
    return LabelledPrompts(task=made.task, tokens=tokens[rows], lengths=torch.full((n,), width),
                           examples=examples.assign(prompt=np.arange(n), pos=width - 1), vocabulary=made.vocabulary,
                           classes={scheme: made.classes[scheme]})
