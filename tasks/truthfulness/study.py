"""What the study of truthfulness asks: whether truth is a direction in the model, and whether its answers rest on it.

    worldprobe run truthfulness                                            # the small reference world
    worldprobe run truthfulness --model truthfulness-verdict               # the effect as it was published
    worldprobe run truthfulness --model gpt2 --with data=cities            # a language model and real statements
    worldprobe run truthfulness --model gpt2 --with shots=5                # with verdicts, and what changes them
    worldprobe run truthfulness --model gpt2 --with data=mine.csv

Sources: Marks & Tegmark, arXiv:2310.06824; Ravfogel et al., arXiv:2510.15804 (the world); Bürger et al.,
arXiv:2407.12831 (negation); Li et al., arXiv:2306.03341 (heads); Orgad et al., arXiv:2410.02707 (answers).
"""

from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .._prompts import Counterfactuals, LabelledPrompts
from .._study import Answering, Behaviour, Change, Heads, Measure, Part, Reading, Study, codes
from . import _study_checks, _study_measures, _study_pictures
from ._asked import at_verdict, facts, verdicts
from ._behaviour import CONTEXTS, behaviour
from ._cases import KINDS, cases
from ._labels import world
from ._study_text import PROBES, of_text
from ._world import EPS, WORDS, documents

_SEEDS = 3 << 32  # other documents than those of the trainer
PLACES = {"object": "the object, the last word of the statement", "period": "the full stop"}
_WORDS = {"after_true": "after a true statement", "after_false": "after a false statement",
          "after_3_true": "after three true ones", "after_3_false": "after three false ones",
          "first": "with nothing before it"}


def study(tokenizer=None, data: str | None = None, group: str | None = None, shots: int = 0, judged: str | None = None,
          model: str | None = None, d_vocab: int | None = None) -> Study:
    """The study of the reference world, or of a language model and statements in plain text.

    Args:
        tokenizer: Of the model to be studied. Without one, or with one that has the words of the reference world, it is
            that world.
        data: `cities` unless given: a name of `DATASETS`, or a CSV file of your own with columns statement and label.
        group: Column of your file that says what a statement is about.
        shots: Ask for verdicts after so many judged statements (the paper: 4 and 2), and change them.
        judged: The data set whose statements are judged: another one than `data`, as in the paper, unless that is a
            file of yours.
        model: The reference model that is studied, or that a model of yours was trained like: `truthfulness-1` and `-2`
            (other seeds), `truthfulness-verdict` (says TRUE or FALSE), `truthfulness-negation`,
            `truthfulness-independent`.
        d_vocab: Of the language model.
    Raises:
        ValueError: Statements in plain text without a language model.
    """
    if tokenizer is not None and not set(WORDS[1:]) <= set(tokenizer.get_vocab()):
        return of_text(tokenizer, data or "cities", group, shots, judged, d_vocab)
    text = {"data": data, "group": group, "shots": shots or None, "judged": judged}
    if given := [f"{name}={value}" for name, value in text.items() if value is not None]:
        raise ValueError(f"{', '.join(given)}: statements in plain text need a language model and its tokenizer; name "
                         "one with --model")
    return _of_the_world(model or "truthfulness")


def _of_the_world(model: str) -> Study:
    negation = model.endswith("-negation")
    readout = "verdict" if model.endswith("-verdict") else "next"
    readings = [Reading(place, "truth", f"whether a statement is true, from {words}", partial(_world, place, 0.0),
                        PROBES, n=3000, quick=3000, held_out=("topic",), components=place == "object", followed=True,
                        groups="people", transfer=(f"{place}-negated",) if negation else ())
                for place, words in PLACES.items()]
    if negation:
        readings += [Reading(f"{place}-{name}", "truth", f"whether {words} statement is true, from {where}",
                             partial(_world, place, share), (*PROBES, "ttpd") if name == "mixed" else PROBES, n=3000,
                             quick=3000, groups="people",
                             transfer=(place, f"{place}-negated") if name == "mixed" else (place,))
                     for place, where in PLACES.items()
                     for name, words, share in (("negated", "a negated", 1.0), ("mixed", "any", 0.5))]
    asked = "the right object is to follow" if readout == "next" else "the verdict is to follow"
    return Study(
        task="truthfulness", title="Whether the model {model} knows what is true, and uses it", model=model,
        question="The model has read documents whose statements tend to be true together or false together. Nothing "
                 "told it which are. Is the truth of a statement a direction in it all the same, at which tokens, and "
                 "does the model trust a document the more if a false statement is pushed along it?",
        behaviour=Behaviour(_trust, {"trust": "probability of the right object, after a true less after a false "
                                              "statement"} | {k: f"probability of the right object {_WORDS[k]}"
                                                              for k in CONTEXTS},
                            {"trust": "bayes_trust"} | {k: f"bayes_{k}" for k in CONTEXTS}, n=2000, quick=500,
                            items="statements"),
        readings=readings,
        changes=[Change(kind, f"a {kind.split('_')[0]} statement is to count as {kind.split('_')[-1]}; {asked}",
                        partial(_cases, kind, readout), {place: [Part(
                            place, place, partial(codes, targets=["statement"], column="was"),
                            partial(codes, targets=["statement"], column="becomes"))] for place in PLACES},
                        by="mass_after", n=800, quick=600, groups="people") for kind in KINDS],
        measures=[Measure("patching", "Where it is decided. Share of the probability of the right object that follows "
                          "when the stream of one token, after one block, is taken from the same prompt with another "
                          "object: a false statement becomes true.",
                          partial(_study_measures.patching_rows, readout=readout), _study_pictures.patching,
                          twin=False),
                  Measure("independent", "The control world, where statements are true independently of each other: by "
                          "how much the probability of the right object changes there when a false statement is "
                          "pushed along that model's own truth direction.",
                          _study_measures.independent_rows, twin=False)],
        heads=[Heads(kind, "truth", at_verdict if readout == "verdict" else _continued) for kind in KINDS],
        answering=[Answering("verdict", "whether a statement is true", verdicts, groups="people")
                   if readout == "verdict" else
                   Answering("fact", "which object belongs to a person", facts, groups="people")],
        contrasts={"truthfulness-independent": list(PLACES)},
        repeats=["truthfulness-1", "truthfulness-2"] if model == "truthfulness" else (), checks=_study_checks.CHECKS,
        pictures=_study_pictures.of_the_world, shows=_study_pictures.shows, draws=_study_pictures.examples,
        text=partial(_documents, 0.5 if negation else 0.0, 0.5 if model.endswith("-independent") else EPS))


def _world(place: str, negation: float | int, n: int, seed: int) -> LabelledPrompts:
    return world(n, seed, at=place, negation=negation)


def _documents(negation: float, eps: float, n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Documents as in training, every token but the first to be said."""
    tokens = torch.from_numpy(documents(n, np.random.default_rng([_SEEDS + seed]), eps=eps, negation=negation).tokens)
    return tokens[:, :-1], tokens[:, 1:], torch.ones_like(tokens[:, 1:], dtype=torch.bool)


def _continued(n: int, seed: int) -> LabelledPrompts:
    """Statements with the first words of another one behind them, read at the last."""
    return world(n, seed, at="next_topic", continued=True)


def _cases(kind: str, readout: str, n: int, seed: int) -> Counterfactuals:
    return cases(kind, n, seed, readout=readout)


def _trust(model, n: int, seed: int) -> pd.DataFrame:
    return behaviour(model, n, seed)
