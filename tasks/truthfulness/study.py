"""What the study of truthfulness asks: whether truth is a direction in the model, and whether its answers rest on it.

    worldprobe run truthfulness                                            # the small reference world
    worldprobe run truthfulness --model truthfulness-verdict               # the effect as it was published
    worldprobe run truthfulness --model gpt2 --with data=cities            # a language model and real statements
    worldprobe run truthfulness --model gpt2 --with data=mine.csv

Sources: Marks & Tegmark, arXiv:2310.06824; Ravfogel et al., arXiv:2510.15804 (the world).
"""

from functools import partial

import pandas as pd

from .._prompts import Counterfactuals, LabelledPrompts
from .._study import Behaviour, Change, Measure, Part, Reading, Study, codes
from . import _study_checks, _study_measures, _study_pictures
from ._behaviour import CONTEXTS, behaviour
from ._cases import KINDS, cases
from ._datasets import DATASETS
from ._labels import world
from ._load import load

PLACES = {"object": "the object, the last word of the statement", "period": "the full stop"}
PROBES = ("mass_mean", "logistic", "lda")
OPPOSITES = {"cities": ("neg_cities",), "sp_en_trans": ("neg_sp_en_trans",), "larger_than": ("smaller_than",)}
_WORDS = {"after_true": "after a true statement", "after_false": "after a false statement",
          "after_3_true": "after three true ones", "after_3_false": "after three false ones",
          "first": "with nothing before it"}


def study(tokenizer=None, data: str = "cities", group: str | None = None, model: str = "truthfulness") -> Study:
    """The study of the reference world, or with a tokenizer that of statements in plain text.

    Args:
        tokenizer: Of the language model to be studied; without one, the reference world.
        data: A name of `DATASETS`, or a CSV file of your own with columns statement and label.
        group: Column of your file that says what a statement is about.
        model: The reference model that is studied unless another is named: `truthfulness-1` and `-2` (other seeds),
            `truthfulness-verdict` (says TRUE or FALSE), `truthfulness-negation`, `truthfulness-independent`.
    """
    return _of_the_world(model) if tokenizer is None else _of_text(tokenizer, data, group)


def _of_the_world(model: str) -> Study:
    negation = model.endswith("-negation")
    readout = "verdict" if model.endswith("-verdict") else "next"
    readings = [Reading(place, "truth", f"whether a statement is true, from {words}", partial(_world, place, 0.0),
                        PROBES, n=3000, quick=3000, held_out=("topic",), components=place == "object", followed=True,
                        groups="people", transfer=(f"{place}-negated",) if negation else ())
                for place, words in PLACES.items()]
    if negation:
        readings += [Reading(f"{place}-{name}", "truth", f"whether {words} statement is true, from {where}",
                             partial(_world, place, share), PROBES, n=3000, quick=3000, groups="people",
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
        contrasts={"truthfulness-independent": list(PLACES)},
        repeats=["truthfulness-1", "truthfulness-2"] if model == "truthfulness" else (), checks=_study_checks.CHECKS,
        pictures=_study_pictures.of_the_world, shows=_study_pictures.shows)


def _of_text(tokenizer, data: str, group: str | None) -> Study:
    sets = [data, *OPPOSITES.get(data, ())] if data in DATASETS else [data]
    names = [str(s).rpartition("/")[2].removesuffix(".csv") for s in sets]
    readings = []
    for at, words in (("end", "the full stop"), ("content", "the last word")):
        for name, one in zip(names, sets, strict=True):
            scheme = "likely" if one == "likely" else "truth"
            others = tuple(f"{other}-{at}" for other in names if other != name)
            readings.append(Reading(f"{name}-{at}", scheme, f"whether a statement of {name} is true, from {words}",
                                    partial(_text, one, tokenizer, at, group), (*PROBES, "logistic_no_bias"), n=2000,
                                    quick=500, transfer=others, components=at == "end" and one == data,
                                    groups="subjects"))
    return Study(task="truthfulness", title=f"Whether the model {{model}} knows what is true: {', '.join(names)}",
                 question="Can the truth of a statement be read linearly where it ends, better than its words and a "
                          "model with random weights allow, and is it the same direction for the opposite statements?",
                 model="truthfulness", readings=readings, checks=[partial(c, f"{names[0]}-end", data)
                                                                  for c in _study_checks.OF_TEXT],
                 pictures=partial(_study_pictures.of_text, f"{names[0]}-end"))


def _world(place: str, negation: float | int, n: int, seed: int) -> LabelledPrompts:
    return world(n, seed, at=place, negation=negation)


def _text(data: str, tokenizer, at: str, group: str | None, n: int, seed: int) -> LabelledPrompts:
    return load(data, tokenizer, n=n, seed=seed, at=at, group=group)


def _cases(kind: str, readout: str, n: int, seed: int) -> Counterfactuals:
    return cases(kind, n, seed, readout=readout)


def _trust(model, n: int, seed: int) -> pd.DataFrame:
    return behaviour(model, n, seed)
