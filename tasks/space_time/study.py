"""What the study of space and time asks: where things are and when they happened, and whether answers rest on it.

    worldprobe run space_time                                          # the small reference world
    worldprobe run space_time --model gpt2 --with data=world_place     # a language model and real names
    worldprobe run space_time --model gpt2 --with data=cities          # 243 of them that come along
    worldprobe run space_time --model gpt2 --with data=mine.csv --with name=town --with block=county
    worldprobe run space_time --model runs/mine                        # a model that was trained on the world

Source: Gurnee & Tegmark, arXiv:2310.02207; the reference world and its causal test are ours.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy import ndarray
from torch import Tensor

from .._prompts import LabelledPrompts
from .._study import Behaviour, Change, Measure, Part, Reading, Study
from . import _neurons, _study_checks, _study_pictures
from ._behaviour import behaviour
from ._cases import cases
from ._datasets import DATASETS, PLACE
from ._distance import Distance, great_circle_km, plane_distance, proximity_error, years_apart
from ._load import WORLD, load
from ._world import COORDINATES, RELATIONS, answer_tokens, answers, pairs_of, prompts_of, words

PUBLISHED = {"world_place": "coords", "us_place": "coords", "nyc_place": "where_nyc", "historical_figure": "when",
             "art": "release", "headline": "when_w_period", "cities": "coords"}  # as in the paper's main tables
BLOCKS = 20  # the largest ones are held out one by one, the others together
PROBES = ("ridge", "mlp_regression")  # the second shows whether a line is enough
N_NEURONS = 1000  # names on which neurons are looked for
_WORDS = {"distance": "how far two places are apart", "direction": "in which direction one place lies from another",
          "order": "which of two events was first", "gap": "how far two events are apart"}

_NEURONS = ("Space and time neurons. Rank correlation of single MLP neurons, before their non-linearity at the last "
            "token of the name, with a coordinate: found on one half of the names, reported on the other; and the same "
            "with shuffled coordinates.")
_MOVED = {"distance": "a place is moved, and its distances should follow",
          "direction": "a place is moved, and its directions should follow",
          "order": "an event is moved, and the order should follow",
          "gap": "an event is moved, and the gaps should follow"}


def study(tokenizer=None, data: str | None = None, file: str | None = None, name: str | None = None,
          target: str | None = None, block: str | None = None, model: str = "space_time") -> Study:
    """The study of the reference world, or with the tokenizer of a language model that of real names.

    Args:
        tokenizer: Of the model to be studied; without one, or with that of the reference world, it is asked about that.
        data: A name of `DATASETS` (`world_place`, unless given), or a CSV file of your own.
        file: Your copy of a published table.
        name, target, block: Columns of your CSV: the name, one column of dates or years (longitude and latitude unless
            given), and what is held out as blocks.
        model: The reference model that is studied unless another is named (`space_time-1`, `space_time-2`).
    Raises:
        ValueError: Real names are asked for, and there is no language model to read them.
    """
    given = dict(data=data, file=file, name=name, target=target, block=block)
    given = {k: str(v) for k, v in given.items() if v is not None and v != WORLD}
    if tokenizer is None or set(tokenizer.get_vocab()) >= set(words()):
        if given:
            raise ValueError(f"{', '.join(f'{k}={v}' for k, v in given.items())}: real names need a language model and "
                             "its tokenizer, this is the reference world; name one with --model")
        return _of_the_world(model)
    options = {k: v for k, v in given.items() if k not in ("data", "target")}
    return _of_names(tokenizer, given.get("data") or "world_place",
                     options | ({"targets": [target]} if target is not None else {}))


def _of_the_world(model: str) -> Study:
    relations = {r: about.scheme for r, about in RELATIONS.items()}
    both = [partial(load, prompt=relation) for relation in ("distance", "gap")]
    return Study(
        task="space_time", title="What the model {model} knows of where and when, and uses", model=model,
        question="The model has read answers to four kinds of questions about 200 places and 150 events: how far "
                 "apart, in which direction, in which order, how long between. It never saw a coordinate or a date, "
                 "and names tell nothing. Is there a map and a calendar in it all the same, and do its answers rest on "
                 "them?",
        behaviour=Behaviour(
            _answers, {"within_one": "answers within one bin"} | _WORDS,
            {"within_one": "chance"} | {r: f"{r}_chance" for r in RELATIONS}, n=4000, quick=1200, items="questions"),
        readings=[_reading("distance", "place", PROBES, transfer=("direction",), held_out=("block", "kind")),
                  _reading("direction", "place", ("ridge",), transfer=("distance",)),
                  _reading("gap", "time", PROBES, transfer=("order",), held_out=("block",)),
                  _reading("order", "time", ("ridge",), transfer=("gap",))],
        changes=[Change(f"moved-{relation}", _MOVED[relation], partial(_cases, relation),
                        {"name": [Part(relation, "entity", partial(_coordinates, scheme, "was"),
                                       partial(_coordinates, scheme, "becomes"))]},
                        n=400, quick=160, groups="places" if scheme == "place" else "events")
                 for relation, scheme in relations.items()],
        measures=[
            Measure("neurons", _NEURONS, partial(_on_all, _neurons.correlation_rows, both), _study_pictures.neurons),
            Measure("clamped", "Answers without the space and time neurons. Share of answers within one bin when the "
                    f"{_neurons.CLAMPED} neurons of the first layer that follow a coordinate most are held at their "
                    "mean. Control: as many other neurons of the layer.",
                    partial(_on_all, _neurons.clamping_rows, both), twin=False),
        ],
        repeats=["space_time-1", "space_time-2"] if model == "space_time" else (),
        checks=_study_checks.CHECKS, pictures=_study_pictures.of_the_world, shows=_study_pictures.shows,
        text=_questions,
        draws=partial(_study_pictures.examples, False))


def _reading(relation: str, scheme: str, probes: Sequence[str], **options) -> Reading:
    what = "places" if scheme == "place" else "events"
    words = "where every place is" if scheme == "place" else "when every event was"
    return Reading(relation, scheme, f"{words}, from the last token of its name in a question of {relation}",
                   partial(_world, relation), probes, n=200, quick=200, components=True, followed=True, groups=what,
                   scores=_scores(plane_distance, "map_error"), **options)


def _of_names(tokenizer, data: str, options: dict) -> Study:
    known = DATASETS.get(data)
    places = options.get("targets") is None and (known is None or known.targets == PLACE)
    scheme, distance, unit = ("place", great_circle_km, "km") if places else ("time", years_apart, "years")
    prompts = [PUBLISHED[data], "empty"] if known else ["empty"]
    held_out = ["block"] if known or "block" in options else []
    held_out += ["kind"] if known and known.kind else []

    def made(prompt: str, n: int, seed: int) -> LabelledPrompts:
        found = load(data, tokenizer, prompt=prompt, n=n, seed=seed, **options)
        return replace(found, examples=_largest(found.examples, held_out))

    return Study(
        task="space_time", title=f"What the model {{model}} knows of {Path(data).stem}",
        question="Can coordinates, or dates, be read linearly where the name ends, better than the name's block "
                 "(country, decade), its tokens and a model with random weights allow? Nothing is changed inside the "
                 "model here, so nothing here says that it uses what is read: a table of names asks no question whose "
                 "answer a place decides, and an encoder has no next token. The reference world has the causal test.",
        model="space_time",
        readings=[Reading(prompt, scheme, f"{'where' if places else 'when'} it is, prompt {prompt}",
                          partial(made, prompt), PROBES[: 1 if i else 2], n=5000, quick=800, groups="names",
                          held_out=held_out if not i else (), transfer=prompts[1:] if not i else (),
                          components=not i, scores=_scores(distance, f"error_{unit}"))
                  for i, prompt in enumerate(prompts)],
        measures=[Measure("neurons", _NEURONS, partial(
            _on_all, _neurons.correlation_rows, [partial(made, prompts[0], N_NEURONS, 0)]), _study_pictures.neurons)],
        checks=[partial(check, data, prompts[0], scheme) for check in _study_checks.OF_NAMES],
        pictures=partial(_study_pictures.of_names, prompts[0], distance, unit),
        draws=partial(_study_pictures.examples, True))


def _scores(distance: Distance, name: str) -> dict[str, Callable[[ndarray, ndarray], ndarray]]:
    return {"proximity_error": partial(proximity_error, distance=distance), name: distance}


def _largest(examples: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """All but the largest blocks and kinds as one, `elsewhere`."""
    for column in columns:
        top = examples[column].value_counts().index[:BLOCKS]
        examples = examples.assign(**{column: examples[column].where(examples[column].isin(top), "elsewhere")})
    return examples


def _world(relation: str, n: int, seed: int) -> LabelledPrompts:
    return load(prompt=relation, n=n, seed=seed)


def _cases(relation: str, n: int, seed: int):
    return cases(RELATIONS[relation].scheme, n, seed, relation=relation)


def _coordinates(scheme: str, when: str, made) -> ndarray:
    return made.cases[[f"{c}_{when}" for c in COORDINATES[scheme]]].to_numpy(float)


def _on_all(rows: Callable, prompts: Sequence[Callable[[], LabelledPrompts]], model, seed: int) -> pd.DataFrame:
    return rows(model, seed, [make() for make in prompts])


def _questions(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs that training never asked about; the answer alone is learnt."""
    rng, tokens, right = np.random.default_rng([seed, 2]), [], []
    for relation in RELATIONS:
        a, b = pairs_of(relation, reserved=True)
        rows = rng.permutation(len(a))[: -(-n // len(RELATIONS))]
        tokens.append(prompts_of(relation, a[rows], b[rows]))
        right.append(answer_tokens(relation)[answers(relation, a[rows], b[rows])])
    asked = torch.from_numpy(np.concatenate(tokens)[order := rng.permutation(sum(map(len, right)))])
    following = torch.full_like(asked, -1)
    following[:, -1] = torch.from_numpy(np.concatenate(right)[order])
    return asked, following, torch.ones_like(asked, dtype=torch.bool)


def _answers(model, n: int, seed: int) -> pd.DataFrame:
    """`within_one` of all questions, and in a column of its own for every relation."""
    rows = behaviour(model, max(1, n // len(RELATIONS)), seed)
    for relation in RELATIONS:
        here = rows["relation"] == relation
        rows[relation] = np.where(here, rows["within_one"], np.nan)
        rows[f"{relation}_chance"] = np.where(here, rows["chance"], np.nan)
    return rows
