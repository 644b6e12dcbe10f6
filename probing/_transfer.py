"""How far a reading goes: to blocks that were held out, to other prompts, from topic to topic, in few components.

A probe of one site, chosen beforehand, is fitted again on part of the rows and scored on another part, beside the same
controls that a sweep has: majority, shortcuts of the task, shuffled labels, the input alone, and a randomly initialised
model, each fitted and scored on the same parts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Shaped
from numpy import ndarray
from sklearn.base import BaseEstimator
from torch import Tensor

from tasks import LabelledPrompts

from ._controls import _majority, _shortcut, surface_features
from ._fitting import Candidates, candidates, fit_and_choose
from ._question import Question
from ._results import results_frame
from ._score import Guess, score
from ._sites import Site
from ._splits import splits_of
from ._statistics import bootstrap_mean
from ._sweep import identity_columns

Acts = Mapping[Site, Tensor]
Scores = Mapping[str, Callable[[ndarray, ndarray], ndarray]]  # name -> (truth, answer), each (row, target) -> (row,)
Features = Mapping[str | None, Float[ndarray, "example feature"]]


def scores(acts: Acts, prompts: LabelledPrompts, label: str, probe: BaseEstimator | Candidates, site: Site, *,
           name: str | None = None, extra: Scores, seed: int = 0) -> pd.DataFrame:
    """Scores of the user's own on the test rows: `extra` maps names to functions of truth and answer, (row, target)
    each, that give (row,) numbers, whose mean is reported."""
    asked, X = _question(acts, prompts, label), _features(acts, prompts, label, site)
    rows = _rows(asked, _arms(asked, X, candidates(probe), seed), site, _name(probe, name), seed, extra)
    return _frame(acts, prompts, [row for row in rows if row["metric"] in extra])


def held_out(acts: Acts, prompts: LabelledPrompts, label: str, column: str, probe: BaseEstimator | Candidates,
             site: Site, *, name: str | None = None, extra: Scores | None = None, seed: int = 0) -> pd.DataFrame:
    """Every block of `column` (country, decade, topic) is left out of training in turn, and read by the probe that
    never saw it. Rows of subset `COLUMN held out` pool the test rows of all blocks, each read by its own probe;
    `COLUMN=VALUE held out` are those of one block, and `COLUMN=VALUE` the same rows read by the probe of all blocks.
    Examples without a block (None, NaN, an empty text) stay in training, and are not scored in the pooled rows.

    Raises:
        KeyError: No such column.
        ValueError: A single block, or one without which a class is missing.
    """
    block = _blocks(prompts, column)
    asked, X, choices = _question(acts, prompts, label), _features(acts, prompts, label, site), candidates(probe)
    whole = _arms(asked, X, choices, seed)
    pooled: dict[str | None, Guess] = {}
    parts: list[dict] = []
    named = _name(probe, name)
    in_one = asked.splits["test"] & (block != "")
    for value in _values(block):
        there = block == value
        if not (asked.splits["test"] & there).any():
            continue
        apart = _apart(asked, ~there, there)
        found = _arms(apart, X, choices, seed)
        for control, (question, guess) in found.items():
            pooled[control] = _filled(pooled.get(control), guess, there)
            own = replace(question, splits=apart.splits)
            parts += _rows(own, {control: (own, guess)}, site, named, seed, extra, f"{column}={value} held out")
            asked_whole, guess_whole = whole[control]
            beside = replace(asked_whole, splits={**asked.splits, "test": apart.splits["test"]})
            parts += _rows(beside, {control: (beside, guess_whole)}, site, named, seed, extra, f"{column}={value}")
    together = {c: (replace(whole[c][0], splits={**asked.splits, "test": in_one}), g) for c, g in pooled.items()}
    rows = _rows(asked, together, site, named, seed, extra, f"{column} held out")
    return _frame(acts, prompts, rows + parts)


def answers_apart(acts: Acts, prompts: LabelledPrompts, label: str, column: str, probe: BaseEstimator | Candidates,
                  site: Site) -> Float[ndarray, "example target"]:
    """What is read of every test row by the probe that never saw its block of `column`, as in `held_out`; NaN for the
    other rows, and for those without a block."""
    block = _blocks(prompts, column)
    asked, X, choices = _question(acts, prompts, label), np.asarray(acts[site]), candidates(probe)
    out = np.full(asked.Y.shape, np.nan)
    for value in _values(block):
        test = asked.splits["test"] & (block == value)
        if test.any():
            apart = _apart(asked, block != value, block == value)
            (fit,) = fit_and_choose(choices, X, [apart])
            out[test] = _whole(apart, fit.guess).answer[test]
    return out


def transfer(acts: Acts, prompts: LabelledPrompts, to_acts: Acts, to_prompts: LabelledPrompts, label: str,
             probe: BaseEstimator | Candidates, site: Site, to: str, *, name: str | None = None,
             extra: Scores | None = None, seed: int = 0) -> pd.DataFrame:
    """The probe fitted on the first prompts, scored on the test rows of others, whose groups it was not fitted on
    either. Subset `to TO`; `to TO, centred` after the mean of each set of prompts (train rows) was taken from its own
    states.

    Raises:
        ValueError: The targets differ, or no test row of the other prompts is left.
    """
    if prompts.targets(label) != to_prompts.targets(label):
        raise ValueError(f"{label} has the targets {prompts.targets(label)} in one set of prompts and "
                         f"{to_prompts.targets(label)} in the other; transfer wants the same")
    here, there = _question(acts, prompts, label), _question(to_acts, to_prompts, label)
    seen = np.unique(here.groups[here.held & ~here.splits["test"] | here.train])
    fresh = there.splits["test"] & ~np.isin(there.groups, seen)
    if not fresh.any():
        raise ValueError(f"every test group of {to!r} was fitted on; split both sets of prompts by the same groups")
    asked = _joined(here, there, fresh)
    X, Z = _features(acts, prompts, label, site), _features(to_acts, to_prompts, label, site)
    known = {c: x for c, x in X.items() if c in Z and (c != "input_only" or x.shape[1] == Z[c].shape[1])}
    if "input_only" not in known:
        both = _surface(prompts, to_prompts, here.train)
        known, Z = known | {"input_only": both[0]}, {**Z, "input_only": both[1]}
    rows = []
    for words in ("", ", centred"):
        def moved(x: ndarray, q: Question, control: str | None, centre=bool(words)) -> ndarray:
            return x - x[q.train].mean(0) if centre and not _is_shortcut(control) else x

        joined = {c: np.concatenate([moved(x, here, c), moved(Z[c], there, c)]) for c, x in known.items()}
        rows += _rows(asked, _arms(asked, joined, candidates(probe), seed), site, _name(probe, name), seed, extra,
                      f"to {to}{words}")
    return _frame(acts, prompts, rows)


def transfer_matrix(acts: Acts, prompts: LabelledPrompts, label: str, column: str, probe: BaseEstimator | Candidates,
                    site: Site, *, name: str | None = None, seed: int = 0) -> pd.DataFrame:
    """A probe fitted on every block of `column` and scored on the test rows of every block: subset `A to B`."""
    block = _blocks(prompts, column)
    asked, X, choices = _question(acts, prompts, label), _features(acts, prompts, label, site), candidates(probe)
    rows = []
    for source in _values(block):
        fits = _arms(_apart(asked, block == source, np.ones(len(block), bool)), X, choices, seed)
        for target in _values(block):
            test = asked.splits["test"] & (block == target)
            if test.any():
                arms = {c: (replace(q, splits={**q.splits, "test": test}), g) for c, (q, g) in fits.items()}
                rows += _rows(asked, arms, site, _name(probe, name), seed, None, f"{source} to {target}")
    return _frame(acts, prompts, rows)


def in_components(acts: Acts, prompts: LabelledPrompts, label: str, probe: BaseEstimator | Candidates, site: Site,
                  n_components: Sequence[int] | None = None, *, name: str | None = None, extra: Scores | None = None,
                  seed: int = 0) -> pd.DataFrame:
    """The probe fitted on the first k principal components of the training states: subset `K components`. k is 1, 2,
    4, ... and all of them unless given. Source: Gurnee & Tegmark, arXiv:2310.02207 (PCA-k probes)."""
    asked, X = _question(acts, prompts, label), _features(acts, prompts, label, site)
    width = X[None].shape[1]
    asked_for = n_components or [*(2**i for i in range(int(np.log2(width)) + 1) if 2**i < width), width]
    turned = {c: x if _is_shortcut(c) else _components(x, asked.train) for c, x in X.items()}
    rows = []
    for k in asked_for:
        cut = {c: x if _is_shortcut(c) else x[:, :k] for c, x in turned.items()}
        rows += _rows(asked, _arms(asked, cut, candidates(probe), seed), site, _name(probe, name), seed, extra,
                      f"{k} components")
    return _frame(acts, prompts, rows)


def _question(acts: Acts, prompts: LabelledPrompts, label: str) -> Question:
    return Question.of(prompts, label, splits_of(acts, prompts))


def _features(acts: Acts, prompts: LabelledPrompts, label: str, site: Site) -> dict[str | None, ndarray]:
    """What is read: the states (key None), those of the model with random weights, and the input alone; and what each
    shortcut of the task says."""
    found: dict[str | None, ndarray] = {None: np.asarray(acts[site])}
    if (random := getattr(acts, "random_init", None)) is not None:
        found["random_init"] = np.asarray(random[site])
    found["input_only"] = surface_features(prompts, splits_of(acts, prompts)["train"])
    return found | {f"shortcut:{name}": prompts.labels(name) for name in prompts.shortcuts.get(label, ())}


def _is_shortcut(control: str | None) -> bool:
    return control is not None and control.startswith("shortcut:")


def _surface(prompts: LabelledPrompts, other: LabelledPrompts, train: ndarray) -> tuple[ndarray, ndarray]:
    """The input alone of two sets of prompts, in the same features: those of the first's training rows."""
    width = max(prompts.tokens.shape[1], other.tokens.shape[1])
    tokens = [np.pad(p.tokens.numpy(), ((0, 0), (0, width - p.tokens.shape[1]))) for p in (prompts, other)]
    shift = len(prompts.lengths)
    moved = other.examples.assign(prompt=other.examples["prompt"] + shift)
    columns = [c for c in prompts.examples if c in moved]
    both = replace(prompts, tokens=torch.from_numpy(np.concatenate(tokens)),
                   lengths=torch.cat([prompts.lengths, other.lengths]), subsets={},
                   examples=pd.concat([prompts.examples[columns], moved[columns]], ignore_index=True))
    features = surface_features(both, np.concatenate([train, np.zeros(len(moved), bool)]))
    return features[: len(train)], features[len(train):]


def _blocks(prompts: LabelledPrompts, column: str) -> ndarray:
    if column not in prompts.examples:
        raise KeyError(f"the prompts of {prompts.task} have no column {column!r} to hold out by; they have "
                       f"{', '.join(c for c in prompts.examples if '/' not in c)}")
    block = prompts.examples[column].fillna("").astype(str).to_numpy()
    if len(values := _values(block)) < 2:
        raise ValueError(f"{column} is {', '.join(map(repr, values)) or 'missing'} in every example; holding it out "
                         "leaves nothing to fit")
    return block


def _values(block: ndarray) -> list[str]:
    """The blocks; examples without one are in none."""
    return sorted(set(block) - {""})


def _apart(asked: Question, fit: Bool[ndarray, " example"], test: Bool[ndarray, " example"]) -> Question:
    """The question with training and validation rows among `fit` and test rows among `test`."""
    splits = {"train": asked.splits["train"] & fit, "validation": asked.splits["validation"] & fit,
              "test": asked.splits["test"] & test}
    if not splits["validation"].any():  # a block whose groups are all in other splits
        splits["validation"] = splits["train"]
    if asked.n_classes and len(np.unique(asked.Y[splits["train"]])) < 2:
        raise ValueError(f"one class of {asked.label} alone is left in train; take blocks that hold both")
    return replace(asked, splits=splits)


def _joined(here: Question, there: Question, test: Bool[ndarray, " example"]) -> Question:
    """Fitted and chosen on the rows of one question, scored on rows of another."""
    none, nothing = np.zeros(len(there.Y), bool), np.zeros(len(here.Y), bool)
    splits = {s: np.concatenate([here.splits[s], none]) for s in ("train", "validation")}
    return replace(here, Y=np.concatenate([here.Y, there.Y]), groups=np.concatenate([here.groups, there.groups]),
                   where=np.concatenate([here.where, there.where]), subsets={},
                   beside={name: np.concatenate([codes, np.zeros(len(there.Y), codes.dtype)])  # only fitting asks
                           for name, codes in here.beside.items()},
                   splits=splits | {"test": np.concatenate([nothing, test])})


def _arms(asked: Question, X: Features, choices: Candidates, seed: int) -> dict[str | None, tuple[Question, Guess]]:
    """Control -> (what was asked, what was said): the probe itself (None) and every control."""
    (drawn,) = asked.shuffled(1, seed)
    own, mixed = fit_and_choose(choices, X[None], [asked, drawn])
    found: dict[str | None, tuple[Question, Guess]] = {
        None: (asked, own.guess), "shuffled_labels": (drawn, mixed.guess), "majority": (asked, _majority(asked))}
    for control in (c for c in X if c is not None):
        found[control] = asked, (_shortcut(asked, X[control].astype(asked.Y.dtype)) if _is_shortcut(control) else
                                 fit_and_choose(choices, X[control], [asked])[0].guess)
    return {control: (q, _whole(q, guess)) for control, (q, guess) in found.items()}


def _whole(asked: Question, guess: Guess) -> Guess:
    """Answers for every example, also where only the held-out ones were given."""
    if len(guess.answer) == len(asked.Y):
        return guess

    def spread(part: Shaped[ndarray, "held *more"]) -> ndarray:
        out = np.zeros((len(asked.Y), *part.shape[1:]), part.dtype)
        out[asked.held] = part
        return out

    return Guess(spread(guess.answer), None if guess.p is None else spread(guess.p))


def _filled(into: Guess | None, guess: Guess, where: Bool[ndarray, " example"]) -> Guess:
    """`into` with the answers of `guess` where asked for."""
    if into is None:
        return guess
    p = None if guess.p is None or into.p is None else np.where(where[:, None, None], guess.p, into.p)
    return Guess(np.where(where[:, None], guess.answer, into.answer), p)


def _rows(asked: Question, arms: Mapping[str | None, tuple[Question, Guess]], site: Site, name: str, seed: int,
          extra: Scores | None, subset: str = "all") -> list[dict]:
    """Test rows of every arm, under one name of subset."""
    rows = []
    for control, (question, guess) in arms.items():
        model = {"stream": site.stream, "layer": site.layer, "layer_end": site.layer,
                 "head": getattr(site, "head", None)} if control not in ("majority", "input_only") and not _is_shortcut(
                     control) else {}
        base = {"control": control, **model} | ({} if control == "majority" or _is_shortcut(control) else
                                                {"probe": name})
        test = question.splits["test"]
        found = [row for row in score(question, guess, seed) if row["split"] == "test" and row["subset"] == "all"]
        for metric, of in (extra or {}).items():
            groups = question.groups[test]
            value, low, high = bootstrap_mean(of(question.Y[test], guess.answer[test]), groups, seed=seed)
            found.append({"label": asked.label, "split": "test", "metric": metric, "value": float(value),
                          "ci_low": float(low), "ci_high": float(high), "n": int(test.sum()),
                          "n_groups": len(np.unique(groups)), "seed": seed})
        rows += [base | row | {"subset": subset} for row in found]
    return rows


def _components(X: Float[ndarray, "example feature"], train: Bool[ndarray, " example"]) -> ndarray:
    """Coordinates along the principal components of the training rows, largest first."""
    centred = (X - X[train].mean(0)).astype(np.float64)
    _, turn = np.linalg.eigh(centred[train].T @ centred[train])
    return centred @ turn[:, ::-1]


def _name(probe: BaseEstimator | Candidates, name: str | None) -> str:
    return name or type(candidates(probe)[0]).__name__.removesuffix("Probe").lower()


def _frame(acts: Any, prompts: LabelledPrompts, rows: Sequence[Mapping]) -> pd.DataFrame:
    return results_frame([{**identity_columns(acts), "task": prompts.task, **row} for row in rows])

