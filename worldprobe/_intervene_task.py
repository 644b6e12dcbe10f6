"""What a task offers to be intervened on: prompts to learn directions from, and cases with one fact to change.

A task can be intervened on when its module has `cases(..., n, seed) -> Counterfactuals` beside `load(n, seed)`, with
defaults for all else, and the `scheme` of the cases is a label of the prompts. Where `cases` takes a `scheme`, every
label has cases of its own. Where the cases have a column `witness`, another prompt of equal length in which the label
holds what it is to become, in words of the vocabulary, activations can be patched from there.
"""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

import tasks
from probing._sweep import readable_labels
from tasks import Counterfactuals, LabelledPrompts
from tasks._pairs import PromptPairs, nearest_pairs

from ._cli import no_such

ENOUGH = 40  # cases of one target, half of them to learn a subspace from


@dataclass(frozen=True)
class Claim:
    """That the answers follow a label, and the cases that test it.

    Attributes:
        cases: With `right_after` as the claim has it.
        borrowed: The label whose answers these are, where no answer depends on this one; None where it has its own.
    """

    label: str
    cases: Counterfactuals
    borrowed: str | None = None


def task_module(name: str) -> ModuleType:
    """The module of a task that offers cases.

    Raises:
        ValueError: There is no such task, or it offers none.
    """
    if name not in tasks.available():
        raise ValueError(no_such("task", name, tasks.available()))
    module = importlib.import_module(f"tasks.{name}")
    if not hasattr(module, "cases"):
        offering = [t for t in tasks.available() if hasattr(importlib.import_module(f"tasks.{t}"), "cases")]
        raise ValueError(f"the task {name} has no cases to intervene on; these have: {', '.join(offering)}")
    return module


def default_model(task: str) -> str:
    """The reference model of a task: the one of its name, or the first."""
    own = [name for name, folder in tasks.reference_models().items() if folder.parent.parent.name == task]
    if not own:
        raise ValueError(f"no reference model of {task} ships; name a model with --model")
    return task if task in own else own[0]


def load_prompts(task: ModuleType, n: int, seed: int, options: Mapping[str, Any]) -> LabelledPrompts:
    """Labelled prompts; of `options` those that `load` takes.

    Raises:
        ValueError: An option that neither `load` nor `cases` takes.
    """
    known = {function: set(inspect.signature(getattr(task, function)).parameters) for function in ("load", "cases")}
    reserved = {"n", "games", "seed", "scheme"}
    if unknown := set(options) - (known["load"] | known["cases"]) | set(options) & reserved:
        free = sorted((known["load"] | known["cases"]) - reserved)
        raise ValueError(f"--with takes options of the task, {', '.join(free) or 'here none'}; not "
                         f"{', '.join(sorted(unknown))}")
    return task.load(n=n, seed=seed, **{k: v for k, v in options.items() if k in known["load"]})


def claims(task: ModuleType, prompts: LabelledPrompts, labels: Sequence[str] | None = None, n: int | None = None,
           seed: int = 0, options: Mapping[str, Any] | None = None) -> list[Claim]:
    """A claim per label, of `labels` where they are named. The cases are drawn with `seed` + 1: they are never the
    prompts that directions were learned from.

    A label on which no answer depends is tested against the answers of a label that has the same prompts: nothing
    could be seen if it were tested against answers that stay as they are.

    Raises:
        ValueError: No such label, or no answer that could tell.
    """
    taken = set(inspect.signature(task.cases).parameters)
    given = {k: v for k, v in (options or {}).items() if k in taken} | ({} if n is None else {"n": n})
    schemes = [s for s in readable_labels(prompts) if prompts.classes.get(s)] if "scheme" in taken else [None]
    made = [task.cases(seed=seed + 1, **given, **({} if s is None else {"scheme": s})) for s in schemes]
    found = {cases.scheme: cases for cases in made}
    if missing := [label for label in found if label not in prompts.classes]:
        raise ValueError(f"the cases change {missing[0]!r}, which is no label of the prompts; these have classes: "
                         f"{', '.join(prompts.classes)}")
    if wrong := [label for label in labels or () if label not in found]:
        raise ValueError(no_such("label with cases", wrong[0], found))
    return [_claim(label, found) for label in labels or found]


def _claim(label: str, found: Mapping[str, Counterfactuals]) -> Claim:
    cases = found[label]
    if _changes(cases):
        return Claim(label, cases)
    for name, other in found.items():
        if _changes(other) and torch.equal(other.tokens, cases.tokens) and len(other) == len(cases):
            return Claim(label, replace(cases, right_after=other.right_after), borrowed=name)
    raise ValueError(f"no answer depends on {label}, and no other label with the same prompts has answers to test it "
                     "against; leave it out with --labels")


def _changes(cases: Counterfactuals) -> bool:
    return bool((cases.right_before != cases.right_after).any())


@dataclass(frozen=True)
class Single:
    """The cases of a label that change one of its targets.

    Attributes:
        target: Its name; `number`: its place among the targets of the prompts.
        label: What the rows about it are labelled: `end`, `mine_theirs/e6`.
        asked: Whether it was named, and not the one with the most cases.
    """

    target: str
    number: int
    label: str
    cases: Counterfactuals
    asked: bool = False


def single(task: ModuleType, prompts: LabelledPrompts, claim: Claim, target: str | None, seed: int,
           options: Mapping[str, Any]) -> Single | None:
    """Of a label with one target all cases; of one with several those of `target`, or of the target that has the most,
    among as many cases as the task makes unasked. None where that one has fewer than `ENOUGH`.

    Raises:
        ValueError: No case changes `target`, or too few do.
    """
    names = prompts.targets(claim.label)
    if target is not None and target not in names:
        raise ValueError(no_such(f"target of {claim.label}", target, names))
    if len(names) == 1:
        return Single(names[0], 0, claim.label, claim.cases, target is not None)
    if claim.borrowed:
        return None
    taken = inspect.signature(task.cases).parameters
    given = {k: v for k, v in {**options, "scheme": claim.label}.items() if k in taken}
    cases = task.cases(seed=seed + 1, **given)
    count = cases.cases["target"].value_counts()
    chosen = target or min(count.index, key=lambda name: (-count[name], name))
    if (n := int(count.get(chosen, 0))) < ENOUGH:
        if target is None:
            return None
        raise ValueError(f"{n} cases change {target}, wanted {ENOUGH} or more to learn its subspace from; name another "
                         f"target ({', '.join(count.index[:4])} have most)")
    inside = np.flatnonzero(cases.cases["target"] == chosen)
    kept = replace(cases, cases=cases.cases.iloc[inside].reset_index(drop=True),
                   right_before=cases.right_before[inside], right_after=cases.right_after[inside])
    return Single(chosen, names.index(chosen), f"{claim.label}/{chosen}", kept, target is not None)


def witnesses(cases: Counterfactuals, vocabulary: Sequence[str]) -> Int[Tensor, "case pos"] | None:
    """Token ids of the prompt that each case has beside its own, right-padded; None where some case has none.

    A witness is text in words of the vocabulary, or, of natural text, a tuple of token ids.

    Raises:
        ValueError: A witness has a word that is not in the vocabulary, or another length than its case.
    """
    if "witness" not in cases.cases or cases.cases["witness"].isna().any():
        return None
    as_ids = all(isinstance(witness, tuple) for witness in cases.cases["witness"])
    if not (vocabulary or as_ids):
        return None
    code = {word: i for i, word in enumerate(vocabulary)}
    prompt = cases.cases["prompt"].to_numpy(copy=True)
    lengths = cases.lengths.numpy()[prompt]
    tokens = np.zeros((len(cases), cases.tokens.shape[1]), np.int64)
    for row, (text, length) in enumerate(zip(cases.cases["witness"], lengths, strict=True)):
        if as_ids:
            if len(text) != length:
                raise ValueError(f"the witness of case {row} has {len(text)} tokens, wanted {length}; look at the "
                                 f"cases of {cases.task}")
            tokens[row, :length] = text
            continue
        words = text.split()
        if len(words) != length or not set(words) <= set(code):
            raise ValueError(f"the witness of case {row} is {text!r}, wanted {length} words of the vocabulary; look at "
                             f"the cases of {cases.task}")
        tokens[row, :length] = [code[word] for word in words]
    return torch.from_numpy(tokens)


def patching_pairs(task: ModuleType, prompts: LabelledPrompts, asked: Sequence[Claim], n: int, seed: int,
                   options: Mapping[str, Any]) -> PromptPairs:
    """Prompts with a twin of equal length and other answers: the task's own `pairs`, else the cases with their
    witnesses, else the cases with the case that is most like each. Pairs in which no answer is right for one prompt
    alone are left out: they could not show a difference."""
    pairs = _pairs(task, prompts, asked, n, seed, options)
    clean, corrupted = pairs.right_clean, pairs.right_corrupted
    return pairs.select((clean & ~corrupted).any(1) & (corrupted & ~clean).any(1))


def _pairs(task: ModuleType, prompts: LabelledPrompts, asked: Sequence[Claim], n: int, seed: int,
           options: Mapping[str, Any]) -> PromptPairs:
    if hasattr(task, "pairs"):
        taken = inspect.signature(task.pairs).parameters
        return task.pairs(n=n, seed=seed + 1, **{k: v for k, v in options.items() if k in taken})
    for cases in (claim.cases for claim in asked if claim.borrowed is None):
        if (twins := witnesses(cases, prompts.vocabulary)) is not None:
            prompt = torch.as_tensor(cases.cases["prompt"].to_numpy(copy=True))
            return PromptPairs(cases.task, cases.scheme, cases.tokens[prompt], twins, cases.lengths[prompt],
                               cases.cases[["group", "split"]], cases.right_before, cases.right_after)
    return nearest_pairs(asked[0].cases)
