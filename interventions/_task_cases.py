"""Cases of a label, from what its task offers or, where that is nothing, from the labelled prompts themselves."""

import importlib
import inspect
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

import tasks
from tasks._prompts import Counterfactuals, LabelledPrompts

Answers = tuple[Sequence[int], Sequence[int]]


def task_cases(prompts: LabelledPrompts, label: str, n: int = 500, seed: int = 0) -> Counterfactuals | None:
    """Counterfactual cases of a label, of the world that the prompts are from; None where their task has none. They are
    drawn with `seed` + 1.

    A label on which no answer depends is tested against the answers of another one with the same prompts, if there is
    one: nothing could be seen in answers that stay as they are.
    """
    world, _, size = prompts.task.partition("-")
    make = getattr(importlib.import_module(f"tasks.{world}"), "cases", None) if world in tasks.available() else None
    if make is None:
        return None
    taken = set(inspect.signature(make).parameters)
    options = {"size": int(size.partition("x")[0])} if size and "size" in taken else {}

    def of(scheme: str) -> Counterfactuals | None:
        found = make(n=n, seed=seed + 1, **options, **({"scheme": scheme} if "scheme" in taken else {}))
        return found if found.scheme == scheme and found.task == prompts.task else None

    cases = of(label)
    if cases is None or _changes(cases) or "scheme" not in taken:
        return cases
    for other in filter(None, (of(scheme) for scheme in prompts.classes if scheme != label)):
        if _changes(other) and torch.equal(other.tokens, cases.tokens):
            return replace(cases, right_after=other.right_after, kind=f"{cases.kind}, answers of {other.scheme}")
    return cases


def prompt_cases(prompts: LabelledPrompts, label: str, d_vocab: int, answers: Answers | None = None, n: int = 500,
                 seed: int = 0) -> Counterfactuals:
    """Test examples of labelled prompts as cases, each cut after the probed token: of two classes the other one is
    written, of more the next, of numbers more of it.

    Args:
        answers: Token ids that are right for class 0 and for class 1; without them no answer is right, and only what
            needs none (`kl`, `entropy`, `flip_rate`) can be measured.
    Raises:
        ValueError: Answers for a label that has not two classes; no test example.
    """
    target, rng = prompts.targets(label)[0], np.random.default_rng(seed)
    rows = np.sort(rng.permutation(np.flatnonzero(prompts.rows("test")))[:n])
    classes = prompts.classes.get(label, ())
    if answers is not None and len(classes) != 2:
        raise ValueError(f"answers are for labels of 2 classes, {label!r} has {len(classes)}; leave them out, or make "
                         "tasks.Counterfactuals")
    if not len(rows):
        raise ValueError("there is no test example to edit; see tasks.split_by_group")
    examples, was = prompts.examples.iloc[rows], prompts.labels(label)[rows, 0]
    right = np.zeros((2, d_vocab), bool)
    for code, tokens in enumerate(answers or ()):
        right[code, list(tokens)] = True
    becomes = (was + 1) % len(classes) if classes else was
    before, after = (right[codes] if answers else np.zeros((len(rows), d_vocab), bool) for codes in (was, becomes))
    prompt = torch.as_tensor(examples["prompt"].to_numpy(copy=True))
    table = pd.DataFrame({"prompt": np.arange(len(rows)), "target": target, "was": was, "becomes": becomes,
                          "group": examples["group"].to_numpy(), "split": "report"})
    return Counterfactuals(prompts.task, "labelled prompts", label, prompts.tokens[prompt],
                           torch.as_tensor(examples["pos"].to_numpy() + 1), table, before, after)


def twins(cases: Counterfactuals, prompts: LabelledPrompts, seed: int = 0) -> Int[Tensor, "case pos"] | None:
    """Per case another prompt of equal length in which the label holds what it is to become: its `witness`, or the
    corrupted prompts of the task's own pairs where their clean ones are these cases; None where there is none."""
    prompt = torch.as_tensor(cases.cases["prompt"].to_numpy(copy=True))
    tokens, world = cases.tokens[prompt], prompts.task.partition("-")[0]
    if "witness" in cases.cases and prompts.vocabulary and cases.cases["witness"].notna().all():
        code, found = {word: i for i, word in enumerate(prompts.vocabulary)}, torch.zeros_like(tokens)
        texts = [text.split() for text in cases.cases["witness"]]
        if [len(words) for words in texts] != cases.lengths[prompt].tolist():
            return None
        for row, words in enumerate(texts):
            found[row, : len(words)] = torch.tensor([code[word] for word in words])
        return found
    pairs = getattr(importlib.import_module(f"tasks.{world}"), "pairs", None) if world in tasks.available() else None
    if pairs is None or {"n", "seed"} - set(inspect.signature(pairs).parameters):
        return None
    made = pairs(n=len(cases), seed=seed + 1)
    return made.corrupted if torch.equal(made.clean, tokens) else None


def class_difference(acts: Float[Tensor, "example width"], codes: Int[ndarray, "example target"], names: Sequence[str],
                     cases: Counterfactuals) -> Float[Tensor, "case width"]:
    """What the mean of the class that every case gets has more of than that of the class it had, its own target's.

    Raises:
        ValueError: A class never occurs among the examples.
    """
    column, means = {name: i for i, name in enumerate(names)}, dict[tuple[int, int], Tensor]()
    table = cases.cases

    def mean(target: int, code: int) -> Tensor:
        if (target, code) not in means:
            rows = torch.as_tensor(codes[:, target] == code)
            if not rows.any():
                raise ValueError(f"no reference example has class {code} of {names[target]!r}; give more prompts")
            means[target, code] = acts[rows].double().mean(0)
        return means[target, code]

    wanted = [(column[t], int(a), int(b)) for t, a, b in zip(table["target"], table["was"], table["becomes"],
                                                            strict=True)]
    return torch.stack([mean(t, b) - mean(t, a) for t, a, b in wanted]).float()


def _changes(cases: Counterfactuals) -> bool:
    return bool((cases.right_before != cases.right_after).any())
