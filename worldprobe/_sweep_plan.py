"""What a sweep computes: a table of cells, each small, deterministic and knowing nothing of the others.

    probe        one probe of one label at one block of sites, with shuffled labels and the randomly initialised model
    input_only   the same probe on the input alone
    baseline     majorities and shortcuts of one label
    effect       what writing along that probe's direction does to the next token, with every control

The id of a cell is a hash of everything that determines its numbers, so that a finished cell is found again by any
later sweep in the same folder: with more seeds, other probes, another order. Cells that read the same activations are
a group; groups are cut into units of minutes, which is what a worker takes.
"""

import hashlib
import importlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import tasks
from probing import Site, residual_sites
from probing._fitting import Candidates, candidates, suits
from probing._model_files import Source, find
from probing._question import Question
from probing._store_files import canonical
from tasks._study import Reading

from ._cli import no_such
from ._intervene_task import default_model
from ._run import versions
from ._study import _maker
from ._study_readings import PROBES

FORMAT = 1
KINDS = ("baseline", "input_only", "probe", "effect")
UNIT_SECONDS = 120.0  # of a unit; a killed worker loses one cell, and the next one loads model and prompts again
PROMPTS = 2000  # of a task that has no study to say how many
EMBEDDING = "embed"
_NUMBERS = ("options", "shuffles", "doses", "cases", "dtype", "device", "device_map")  # settings that change them


@dataclass(frozen=True)
class Model:
    """A model as its files describe it; no weight is loaded."""

    name: str
    source: Source
    n_layers: int
    d_model: int
    d_vocab: int
    parameters: int


@dataclass(frozen=True)
class Asked:
    """One reading of a task as one model is asked it, and its size by a few of its prompts.

    Attributes:
        load: Index of the loader of its prompts: readings with the same one share activations.
        n: Prompts.
        examples, tokens: Of `n` prompts, about.
        n_classes: 0 for numbers.
        probes: Names of those that suit the label.
    """

    reading: Reading
    load: int
    n: int
    examples: float
    tokens: float
    targets: int
    n_classes: int
    probes: tuple[str, ...]


def describe_model(name: str) -> Model:
    """Sizes of a model, from its configuration and the headers of its weights.

    Raises:
        ModelError: There is no such model, or it is damaged.
    """
    source = find(name)
    if source.kind == "state_dict":
        from probing import load_model

        cfg = (loaded := load_model(name)).cfg
        return Model(name, source, cfg.n_layers, cfg.d_model, cfg.d_vocab, sum(p.numel() for p in loaded.parameters()))
    from probing._huggingface import _config

    config = _config(source.path)
    config = getattr(config, "text_config", config)
    return Model(name, source, config.num_hidden_layers, config.hidden_size, config.vocab_size,
                 _parameters(source.path))


def _parameters(folder: Path) -> int:
    from probing._model_files import weight_files

    from ._cli import _n_parameters

    files = weight_files(folder)
    if any(file.suffix == ".bin" for file in files):
        return sum(file.stat().st_size for file in files) // 4
    return sum(map(_n_parameters, files))


def readings_of(task: str, model: str | None, options: Mapping[str, Any], tokenizer: Any = None,
                d_vocab: int | None = None) -> list[Reading]:
    """What is read of a task: the readings of its study, or every label of its prompts where it has none (whose name
    is then empty).

    Args:
        tokenizer, d_vocab: Of a model that is not a reference model.
    Raises:
        ValueError: No such task, or an option that it does not take.
    """
    if task not in tasks.available():
        raise ValueError(no_such("task", task, tasks.available()))
    make = _maker(task)
    call = make or importlib.import_module(f"tasks.{task}").load
    taken, given = set(inspect.signature(call).parameters), dict(options)
    reserved = {"tokenizer", "d_vocab", "n", "seed"}
    if unknown := sorted(set(given) - (taken - reserved)):
        raise ValueError(f"--with takes options of the task, {', '.join(sorted(taken - reserved)) or 'here none'}; not "
                         f"{', '.join(unknown)}")
    if model is not None and model in tasks.reference_models():
        given |= {"model": model} if make and "model" in taken else {}
    else:
        given |= {k: v for k, v in {"tokenizer": tokenizer, "d_vocab": d_vocab}.items() if k in taken and v is not None}
    if make is not None:
        return list(make(**given).readings)
    load = partial(_load, task, given)
    few = load(40, 0)
    predictions = {s for names in few.shortcuts.values() for s in names}
    return [Reading("", label, label, load, ("logistic",) if few.classes.get(label) else ("ridge",), n=PROMPTS,
                    quick=PROMPTS // 5) for label in few.schemes if label not in predictions]


def _load(task: str, options: Mapping[str, Any], n: int, seed: int):
    return tasks.load(task, n=n, seed=seed, **options)


def probe_named(name: str) -> Candidates:
    """The candidates of a probe: a name that studies know, or `module:name` of an estimator (or several) or of what
    makes one.

    Raises:
        ValueError: There is none.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        if name not in PROBES:
            raise ValueError(no_such("probe", name, PROBES) + "; name one of your own as MODULE:NAME")
        return candidates(PROBES[name])
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"no probe {name!r}: {error}; it is a module that Python can import, a colon, and a name in "
                         "it") from error
    return candidates(found() if callable(found) else found)


def sites_of(layers: Sequence[str] | None, n_layers: int, model: str) -> list[Site]:
    """The sites of a selection of layers: `embed`, `3`, `-1`, `2-5`; all residual sites where none is given.

    Raises:
        ValueError: It is no layer, or not one of this model.
    """
    if layers is None:
        return residual_sites(n_layers)
    found: list[Site] = []
    for text in layers:
        first, dash, last = text.partition("-") if not text.startswith("-") else (text, "", "")
        if text == EMBEDDING:
            found.append(Site("resid_pre", 0))
            continue
        try:
            low, high = int(first), int(last if dash else first)
        except ValueError:
            raise ValueError(f"{text!r} is no layer; say {EMBEDDING}, 3, -1 or 2-5, with commas between them") from None
        low, high = low + n_layers * (low < 0), high + n_layers * (high < 0)
        if not 0 <= low <= high < n_layers:
            raise ValueError(f"{model} has layers 0 to {n_layers - 1} and {EMBEDDING}, not {text}")
        found += [Site("resid_post", layer) for layer in range(low, high + 1)]
    return sorted(set(found), key=lambda s: (s.stream != "resid_pre", s.layer))


def asked_of(task: str, model: Model, settings: Mapping[str, Any]) -> list[Asked]:
    """The readings of a task that the settings select, with their sizes.

    Raises:
        ValueError: No such label, or no probe that suits one.
    """
    tokenizer = None
    if model.name not in tasks.reference_models() and model.source.kind == "directory":
        from probing._huggingface import read_tokenizer

        tokenizer = read_tokenizer(model.source.path)
    readings = readings_of(task, model.name, settings["options"], tokenizer, model.d_vocab)
    loads: list[Any] = []
    found, wanted = [], settings["labels"]
    for reading in readings:
        if reading.load not in loads:
            loads.append(reading.load)
        if wanted is None or {reading.name, reading.label} & set(wanted):
            n = settings["prompts"] or (reading.quick if settings["quick"] else reading.n)
            found.append(_asked(reading, loads.index(reading.load), n, settings))
    known = dict.fromkeys(x for r in readings for x in (r.label, r.name) if x)
    if missing := [label for label in wanted or () if label not in known]:
        raise ValueError(no_such(f"label of {task}", missing[0], known))
    return found


def _asked(reading: Reading, load: int, n: int, settings: Mapping[str, Any]) -> Asked:
    few = reading.load(min(n, 40), settings["seeds"][0])
    prompts = int(few.examples["prompt"].nunique())
    question = Question.of(few, reading.label, {})
    names = settings["probes"] or reading.probes
    suiting = tuple(name for name in names if suits(probe_named(name)[0], question))
    if not suiting:
        kind = "classes: it needs a classifier, such as logistic" if question.n_classes else \
            "numbers: it needs a regressor, such as ridge"
        raise ValueError(f"no probe for {reading.label!r}, a label of {kind}; --probes names {', '.join(names)}")
    return Asked(reading, load, n, n * len(few) / prompts, n * float(few.lengths.double().mean()),
                 len(few.targets(reading.label)), question.n_classes, suiting)


def plan_cells(settings: Mapping[str, Any]) -> pd.DataFrame:
    """One row per cell, in the order of the results: id, kind, task, model, reading, label, probe, sites, seed,
    prompts, load, group, unit; what its cost depends on (examples, tokens, targets, classes, d_model, parameters);
    and its seconds by the rough law that cuts units (`_sweep_cost.guess`).

    Raises:
        ValueError: The settings name something that is not there.
    """
    rows: list[dict] = []
    known: dict[str, Model] = {}
    for task in settings["tasks"]:
        for name in settings["models"] or [default_model(task)]:
            if name not in known:
                known[name] = describe_model(name)
            model = known[name]
            asked = asked_of(task, model, settings)
            rows += [row for seed in settings["seeds"] for row in _cells(task, model, asked, seed, settings)]
    if not rows:
        raise ValueError("there is nothing to sweep: no label of these tasks was selected")
    cells = pd.DataFrame(rows)
    if (twice := cells["cell"].duplicated()).any():
        raise ValueError(f"{cells['model'][twice].iloc[0]} is named twice, or two models have the same weights; name "
                         "each once")
    return cells.assign(unit=_units(cells))


def _cells(task: str, model: Model, asked: Sequence[Asked], seed: int, settings: Mapping[str, Any]) -> Iterator[dict]:
    from ._sweep_cost import guess

    sites = sites_of(settings["layers"], model.n_layers, model.name)
    for load in dict.fromkeys(a.load for a in asked):
        base = {"task": task, "model": model.name, "seed": seed, "load": load,
                "group": f"{task} {model.name} {load} {seed}"}
        for a in (a for a in asked if a.load == load):
            for kind, probe, block in _kinds(a, sites, settings):
                row = base | {"kind": kind, "reading": a.reading.name, "label": a.reading.label, "probe": probe,
                              "sites": " ".join(map(str, block)), "prompts": a.n}
                size = {"examples": a.examples, "tokens": a.tokens, "targets": a.targets, "classes": a.n_classes,
                        "d_model": model.d_model, "parameters": model.parameters}
                yield {"cell": _id(row, model, settings), **row, **size, "seconds": guess(row | size, settings)}


def _kinds(a: Asked, sites: Sequence[Site], settings: Mapping[str, Any]) -> Iterator[tuple[str, str, Sequence[Site]]]:
    size = settings["block"]
    blocks = [sites[i:i + size] for i in range(0, len(sites), size)]
    yield "baseline", "", ()
    for probe in a.probes:
        yield "input_only", probe, ()
    for block in blocks:
        for probe in a.probes:
            yield "probe", probe, block
    if settings["doses"]:
        for site in sites:
            for probe in a.probes:
                if all(hasattr(type(choice), "write") for choice in probe_named(probe)):
                    yield "effect", probe, (site,)


def _id(row: Mapping[str, Any], model: Model, settings: Mapping[str, Any]) -> str:
    """First 16 hex digits of the sha256 of what determines the numbers of a cell."""
    about = {k: v for k, v in row.items() if k not in ("group", "load")}
    whole = {**about, "format": FORMAT, "revision": model.source.revision, "estimator": _estimator(row["probe"]),
             "settings": {k: settings[k] for k in _NUMBERS}, "versions": _versions()}
    return hashlib.sha256(canonical(whole).encode()).hexdigest()[:16]


@cache
def _estimator(probe: str) -> str | None:
    return repr(probe_named(probe)) if probe else None


_versions = cache(versions)


def _units(cells: pd.DataFrame) -> pd.Series:
    """Name of the unit of every cell: runs of cells of one group, each of about `UNIT_SECONDS`.

    A unit is named by its cells, so that the same plan always has the same units.
    """
    part = (cells.groupby("group", sort=False)["seconds"].cumsum() // UNIT_SECONDS).astype(int)
    names = cells["cell"].groupby([cells["group"], part], sort=False).transform(
        lambda ids: hashlib.sha256(" ".join(ids).encode()).hexdigest()[:12])
    return names


def in_turn(cells: pd.DataFrame) -> list[str]:
    """Units in the order in which they are taken: the first of every group, then the second ones, so that workers do
    not wait for one another's activations."""
    units = cells.drop_duplicates("unit")
    turn = units.groupby("group", sort=False).cumcount()
    return units["unit"].iloc[np.argsort(turn, kind="stable")].tolist()
