"""`worldprobe run TASK` and `worldprobe reproduce TASK` for a task that says what its study asks (`tasks._study`).

Every part is a stage of the run folder, so that the same command again continues: what the model does untouched; what
probes read from it, with all their controls; how far that generalises; what becomes of its answers when the fact is
changed inside it; other measures; and when all of this appears in training.
"""

import importlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

import tasks
from probing import check_fits, check_numerics, identify, load_model, results_frame, write_results
from probing._identity import is_causal
from probing._results import KEY
from tasks import LabelledPrompts
from tasks._study import Found, Study

from ._cli import no_such
from ._run import Run, open_run
from ._samples import samples_of, write_samples
from ._study_answers import answer_stages, with_answers
from ._study_behaviour import behaviour_rows
from ._study_changes import N_RANDOM, change_stages
from ._study_choosing import choosing_stages
from ._study_dynamics import dynamics_stages
from ._study_generalise import generalise_stages
from ._study_heads import head_stages
from ._study_measures import measure_stages
from ._study_metadata import board_metadata
from ._study_readings import reading_stages

ARMS = (600, 250)  # of a whole and of a quick study, per place: scans, and doses with their controls


@dataclass(frozen=True)
class Done:
    """A study that was run, for its report."""

    folder: Run
    study: Study
    found: Found
    scans: pd.DataFrame


def run(out: str | Path, task: str, model: str | None = None, *, prompts: int | None = None,
        n_cases: int | None = None, options: Mapping[str, Any] | None = None, seed: int = 0, quick: bool = False,
        log: Callable[[str], None] = print) -> Path:
    """The whole study; returns the path of the report. The same call again continues where it stopped.

    Args:
        task: A task with a study, see `studies`.
        model: A reference model, a directory or a Hub id; by default the one that the study names.
        prompts, n_cases: For every reading and every change, instead of their own numbers.
        options: Of the study: a size, a data set of the user's.
        quick: The small numbers of the study: minutes.
    """
    from ._study_report import write_study_report

    return write_study_report(carry_out(out, task, model, prompts=prompts, n_cases=n_cases, options=options, seed=seed,
                                        quick=quick, log=log))


def reproduce(out: str | Path, task: str, model: str | None = None, *, prompts: int | None = None,
              n_cases: int | None = None, options: Mapping[str, Any] | None = None, seed: int = 0,
              quick: bool = False, log: Callable[[str], None] = print) -> Path:
    """The published results beside ours: runs the whole study, writes `checks.json` and the report, returns the former.

    Every check is measured in that run. Where the study names repeats and no `model` is given, they are studied as
    well, each in a folder of its own name with a report of its own, and stand as parts of every check. Arguments as in
    `run`.
    """
    from tasks._files import write_whole

    from ._study_report import write_study_report

    def one(path: Path, name: str | None) -> Done:
        done = carry_out(path, task, name, prompts=prompts, n_cases=n_cases, options=options, seed=seed, quick=quick,
                         log=log)
        if not done.study.checks:
            raise ValueError(f"{task} has no published results to compare with; use worldprobe run {task}")
        return done

    first = one(Path(out), model)
    checks = checks_of(first)
    for name in first.study.repeats if model is None else ():
        again = one(Path(out) / name, name)
        own = checks_of(again)
        write_study_report(again, checks=own)
        checks = with_repeat(checks, own, name)
    path = first.folder.path / "checks.json"
    write_whole(path, (json.dumps(checks, indent=1) + "\n").encode())
    write_study_report(first, checks=checks)
    return path


def with_repeat(checks: Sequence[Mapping], repeat: Sequence[Mapping], name: str) -> list[dict]:
    """The checks, with those of a repeat as parts of them; one that the repeat has no rows for (it ships without
    checkpoints) stays as it is, and the log of the repeat names it."""
    others = {c["id"]: c for c in repeat}
    found = []
    for own in checks:
        same = {k: v for k, v in others.get(own["id"], {}).items() if k not in ("id", "parts")}
        parts = [*own.get("parts", ()), *([same | {"what": f"the same of {name}"}] if same else [])]
        found.append({**own, "pass": own["pass"] and same.get("pass", True)} | ({"parts": parts} if parts else {}))
    return found


def plan(task: str, model: str | None = None, *, prompts: int | None = None, n_cases: int | None = None,
         options: Mapping[str, Any] | None = None, seed: int = 0, quick: bool = False) -> str:
    """What `run` would do, before any work: stages, fits, arms, bytes on disk, memory and time."""
    study, bridge = study_of(task, model, options)
    study = sized(study, prompts, n_cases, quick)
    layers, d = bridge.cfg.n_layers, bridge.cfg.d_model
    lines, seconds, disk, most = [f"model {identify(bridge).name}: {layers + 1} sites, d_model {d}"], 30.0, 0.0, 0.0
    parameters = sum(p.numel() for p in bridge.parameters())
    for r in study.readings:
        few = r.load(min(r.n, 40), seed)
        examples = r.n * len(few) / int(few.examples["prompt"].nunique())
        targets, tokens = len(few.targets(r.label)), r.n * float(few.lengths.double().mean())
        disk += 2 * examples * (layers + 1) * d * 4
        most = max(most, 12 * examples * d * 4)
        seconds += 4 * tokens * parameters / 2e10 + len(r.probes) * (layers + 1) * (1 + examples * targets * 3e-5)
        lines.append(f"reading {r.name}: {r.n:,} prompts, about {examples:,.0f} examples, {targets} targets of "
                     f"{r.label}; {', '.join(r.probes)}")
    for c in study.changes:
        few_cases, n_places = c.cases(min(c.n, 8), seed), len(c.places)
        arms = (ARMS[quick] + 2 * (layers + 1) * (N_RANDOM + 4)) * n_places
        tokens = float(few_cases.lengths.double().mean())
        seconds += arms * c.n / 2 * tokens / 2 * 2 * parameters / 2e10
        lines.append(f"change {c.name}: {c.n:,} cases at {', '.join(c.places)}; about {arms:,} arms")
    if study.measures:
        lines.append(f"measures: {', '.join(m.name for m in study.measures)}")
    return "\n".join([*lines, f"activations on disk: {disk / 1e6:,.0f} MB; memory: about "
                              f"{(1e9 + 4 * parameters + most) / 1e9:.1f} GB",
                      f"time: roughly {max(1, round(seconds / 60))} minutes on one core"])


def studies() -> list[str]:
    """Tasks that say what their study asks; one that cannot be imported is left out, and speaks when it is run."""
    found = []
    for name in tasks.available():
        with suppress(Exception):
            found += [name] if _maker(name) is not None else []
    return found


def _maker(task: str) -> Callable[..., Study] | None:
    """The function `study` of a task: in its module of that name, or in its one file."""
    try:
        found = importlib.import_module(f"tasks.{task}.study")
    except ModuleNotFoundError as error:
        if error.name != f"tasks.{task}.study":
            raise
        found = importlib.import_module(f"tasks.{task}")
    return getattr(found, "study", None)


def study_of(task: str, model: str | None, options: Mapping[str, Any] | None = None) -> tuple[Study, Any]:
    """The study of a task, and the model.

    A study whose function takes a `tokenizer` (and the size `d_vocab` of the vocabulary) is given that of a model which
    is not a reference model: its prompts are then natural text. One that takes a `model` is given the name of a
    reference model. Of an encoder, what wants a next token is left out, with a note.

    Raises:
        ValueError: No such study, or it does not take one of the options.
    """
    make = _maker(task) if task in tasks.available() else None
    if make is None:
        raise ValueError(no_such("task with a study", task, studies()))
    parameters = set(inspect.signature(make).parameters)
    taken, given = parameters - {"tokenizer", "d_vocab", "model"}, dict(options or {})
    if "model" in given:
        raise ValueError(f"--with model={given['model']}: name the model with --model {given['model']}")
    if unknown := sorted(set(given) - taken):
        raise ValueError(f"{task} has no option {unknown[0]!r} for --with; it takes "
                         f"{', '.join(sorted(taken)) or 'none'}")
    if model is None:
        study = make(**given)
        return study, load_model(study.model)
    bridge = load_model(model)
    if model in tasks.reference_models():
        given |= {"model": model} if "model" in parameters else {}
    else:
        of_model = {"tokenizer": bridge.tokenizer, "d_vocab": bridge.cfg.d_vocab}
        given |= {name: value for name, value in of_model.items() if name in parameters}
    study = make(**given)
    return (study if is_causal(bridge) else without_next_token(study, identify(bridge).name)), bridge


def without_next_token(study: Study, name: str) -> Study:
    """The study of an encoder, whose every token has seen the ones after it."""
    note = (f"{name} is an encoder: it says no next token, so there is no behaviour to measure, nothing to change in "
            "its answers and no answer of its own. What follows says what can be read from it, not what it uses.")
    return replace(study, behaviour=None, changes=(), heads=(), answering=(), notes=[*study.notes, note],
                   measures=[m for m in study.measures if not m.next_tokens])


def sized(study: Study, prompts: int | None, n_cases: int | None, quick: bool) -> Study:
    """The study with `n` as it is to be run."""
    behaviour = study.behaviour
    if behaviour is not None and quick:
        behaviour = replace(behaviour, n=behaviour.quick)
    return replace(
        study, behaviour=behaviour,
        readings=[replace(r, n=prompts or (r.quick if quick else r.n)) for r in study.readings],
        changes=[replace(c, n=n_cases or (c.quick if quick else c.n)) for c in study.changes])


def carry_out(out: str | Path, task: str, model: str | None, *, prompts: int | None, n_cases: int | None,
              options: Mapping[str, Any] | None, seed: int, quick: bool, log: Callable[[str], None]) -> Done:
    """All stages of the run; writes `results.parquet`."""
    study, bridge = study_of(task, model, options)
    study, who = sized(study, prompts, n_cases, quick), identify(bridge)
    config = {"task": task, "model": who.name, "options": {k: str(v) for k, v in (options or {}).items()},
              "prompts": prompts, "n_cases": n_cases, "seed": seed, "quick": quick}
    data: dict[str, LabelledPrompts] = {r.name: r.load(r.n, seed) for r in study.readings}
    for read in data.values():
        check_fits(bridge, read)  # before there is a folder that belongs to this configuration
    folder = open_run(out, config, fingerprints={"model": who.digest}, log=log)
    folder.log(f"model {who.name}, {bridge.cfg.n_layers} layers, d_model {bridge.cfg.d_model}")
    for name, read in data.items():
        folder.log(f"reading {name}: {len(read.lengths):,} prompts, {len(read):,} examples")
    if data:
        first = next(iter(data.values()))
        check_numerics(bridge, first.tokens[:8], first.lengths[:8])
    tables: list[pd.DataFrame] = []
    if study.behaviour is not None:
        tables.append(folder.stage("behaviour", lambda: behaviour_rows(bridge, study, seed)))
        folder.log(_headline(tables[0], next(iter(study.behaviour.metrics))))
    answers = answer_stages(folder, bridge, study, seed, quick)
    study, data = with_answers(study, data, answers)
    read_tables, readings = reading_stages(folder, bridge, study, data, seed)
    tables += read_tables
    tables += generalise_stages(folder, bridge, study, data, read_tables, seed)
    changed, scans, changes = change_stages(folder, bridge, study, data, seed, quick)
    tables += changed
    pushed, head_scans = head_stages(folder, bridge, study, seed, quick)
    tables += pushed
    scans = pd.concat([scans, head_scans], ignore_index=True)
    tables += choosing_stages(folder, bridge, study, answers, pd.concat([pd.DataFrame(), *read_tables]), seed)
    tables += measure_stages(folder, bridge, study, seed)
    followed, transitions = dynamics_stages(folder, study, model_directory(bridge, model or study.model), data, seed,
                                            quick)
    tables += followed
    table = results_frame([row for table in tables if len(table) for row in table.to_dict("records")])
    table = table.drop_duplicates([*KEY, "value"], ignore_index=True)  # several ways to edit share their null
    if len(table):
        path = write_results(table, folder.path / "results.parquet", {
            "config": config, **folder.environment(), **board_metadata(study, scans)})
    found = Found(who.name, table, transitions, bridge, config, readings, changes)
    if len(table):
        write_samples(path, list(samples_of(study, found, table)))
    if study.shows is not None:
        log(study.shows(found))
    return Done(folder, study, found, scans)


def model_directory(bridge: Any, name: str) -> Path:
    """The directory of a reference model or of a local one; where there is none, a path that does not exist."""
    return tasks.reference_models().get(name, Path(name))


def checks_of(done: Done) -> list[dict]:
    """All checks in their order; those that the run has no rows for are left out, and named in the log."""
    found = []
    for number, make in enumerate(done.study.checks, 1):
        try:
            found.append({"id": number, **make(done.found)})
        except LookupError as error:
            done.folder.log(f"check {number} ({make.__name__}) left out: {error.args[0] if error.args else error}")
    return found


def _headline(table: pd.DataFrame, metric: str) -> str:
    row = table[(table["metric"] == metric) & table["control"].isna()].iloc[0]
    return f"{metric}: {row['value']:.4f} [{row['ci_low']:.4f}, {row['ci_high']:.4f}]"
