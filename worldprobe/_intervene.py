"""`worldprobe intervene TASK`: does the model use what can be read from its states, is it enough, and at what price.

For every label of a task: probes are fitted at every layer; every edit is tried at every layer and dose on one half of
the cases, and reported with all its controls on the other; the feature is erased layer by layer; whole activations are
patched position by position; and a learned subspace is held against the probes. Every part is a stage of the run
folder, so that the same command again continues a run that was stopped.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from interventions import Dose, PatchRun, activation_patching, best_dose
from probing import Site, check_fits, check_numerics, identify, load_model, results_frame, write_results
from probing._identity import is_causal
from probing._progress import Progress
from tasks import LabelledPrompts

from ._intervene_arms import Method, erasers, methods, readers, suitable
from ._intervene_bench import N_RANDOM, Bench
from ._intervene_erasers import seconds as seconds_to_erase
from ._intervene_probes import learn
from ._intervene_task import Claim, Single, claims, default_model, load_prompts, patching_pairs, single, task_module
from ._run import Run, open_run

FULL: dict[str, Any] = {"prompts": 1000, "n_cases": 500, "refits": 4, "steps": 240}
QUICK: dict[str, Any] = {"prompts": 400, "n_cases": 200, "refits": 1, "steps": 120}
PATCHING = ("denoise", "noise")
LEAST_GROUPS = 2  # to choose on and to report on


def run(out: str | Path, task: str, model: str | None = None, *, labels: Sequence[str] | None = None,
        edits: Sequence[str] | None = None, directions: Sequence[str] | None = None, prompts: int | None = None,
        n_cases: int | None = None, options: Mapping[str, Any] | None = None, target: str | None = None,
        windows: bool = False, price: float | int | None = None, seed: int = 0, quick: bool = False,
        log: Callable[[str], None] = print) -> Path:
    """The whole study; returns the path of the report. The same call again continues where it stopped.

    Args:
        task: A task with counterfactual cases, see `worldprobe._intervene_task`.
        model: A reference model, a directory or a Hub id; by default the task's own reference model.
        labels: Of those that the task has cases for; by default all.
        edits, directions: Names in `worldprobe._intervene_arms`: VERBS and POSSIBLE.
        prompts, n_cases: How many to learn directions from, and to edit.
        options: Given to the task's `load` and `cases`.
        target: Which target of a label that has several the readout-mediator report is about; by default the one
            with the most cases.
        windows: Edit every window of layers together, not only single layers.
        price: Side effect, in nats, at which edits are compared; by default the median edit's largest. Nothing is
            computed again for another price.
        quick: Fewer prompts, cases, directions and doses.
    """
    from ._intervene_report import write_intervene_report

    _check_price(price)
    return write_intervene_report(study(out, task, model, labels=labels, edits=edits, directions=directions,
                                        prompts=prompts, n_cases=n_cases, options=options, target=target,
                                        windows=windows, seed=seed, quick=quick, log=log), price)


def plan(task: str, model: str | None = None, *, labels: Sequence[str] | None = None,
         edits: Sequence[str] | None = None, directions: Sequence[str] | None = None, prompts: int | None = None,
         n_cases: int | None = None, options: Mapping[str, Any] | None = None, target: str | None = None,
         windows: bool = False, price: float | int | None = None, seed: int = 0, quick: bool = False) -> str:
    """What `run` would do, before any work: stages, arms, bytes on disk, memory and time."""
    _check_price(price)
    settings, module = _settings(quick, prompts, n_cases), task_module(task)
    bridge = load_model(model or default_model(task))
    few = load_prompts(module, 16, seed, options or {})
    _check_model(bridge, task)
    check_fits(bridge, few)
    names = [claim.label for claim in claims(module, few, labels, 16, seed, options)]
    chosen, layers, d = _methods(edits, directions, quick, few, names), bridge.cfg.n_layers, bridge.cfg.d_model
    places = layers * (layers + 1) // 2 if windows else layers
    doses = sum(len(m.doses(quick)) for m in chosen)
    arms = len(names) * (doses * places + sum(
        (layers if m.removes else len(m.doses(quick))) * (N_RANDOM + 5) for m in chosen))
    forwards = arms * settings["n_cases"] / 2
    examples = settings["prompts"] * len(few) / int(few.examples["prompt"].nunique())
    parameters = sum(p.numel() for p in bridge.parameters())
    fitting = sum(seconds_to_erase(erasers(chosen), len(few.targets(name)), layers, d) for name in names)
    seconds = forwards * (2 * parameters / 2e10 + 2e-5) + 20 * len(names) + fitting
    where, edits = "windows" if windows else "layers", ", ".join(m.name for m in chosen)
    return (f"task {task}, model {identify(bridge).name}: {layers} layers, d_model {d}; labels: {', '.join(names)}\n"
            f"{len(chosen)} edits ({edits}) at {places} {where}, "
            f"{_n_stages(len(names), layers, len(chosen))} stages\n"
            f"{settings['prompts']} prompts, about {examples:,.0f} examples; {settings['n_cases']} cases a label, "
            f"{arms:,} arms, {forwards:,.0f} last tokens\n"
            f"activations on disk: {2 * examples * layers * d * 4 / 1e6:,.1f} MB; memory: about "
            f"{(1e9 + 4 * parameters + 12 * examples * d * 4) / 1e9:.1f} GB\n"
            f"time: roughly {max(1, round(seconds / 60))} minutes on one core, {math.ceil(fitting / 60)} of them for "
            f"fitting erasers ({', '.join(erasers(chosen)) or 'none'}; at most "
            f"{max(len(few.targets(name)) for name in names)} targets at {layers} layers)")


@dataclass(frozen=True)
class Study:
    """What the report is made from.

    Attributes:
        table: All result rows, with their controls; `scans`: the rows that layers and doses were chosen from.
        chosen: Label -> name of a method -> where and how much, as chosen.
        sites, singles: Label -> the layer and the target of the readout-mediator report.
    """

    folder: Run
    claims: Sequence[Claim]
    methods: Sequence[Method]
    table: pd.DataFrame
    scans: pd.DataFrame
    chosen: Mapping[str, Mapping[str, Dose]]
    sites: Mapping[str, Site]
    singles: Mapping[str, Single | None]
    config: Mapping[str, Any]


def study(out: str | Path, task: str, model: str | None, *, labels, edits, directions, prompts, n_cases, options,
          target: str | None, windows: bool, seed: int, quick: bool, log: Callable[[str], None]) -> Study:
    """All stages of the run; writes `results.parquet`."""
    settings, module, options = _settings(quick, prompts, n_cases), task_module(task), dict(options or {})
    methods(edits, directions, quick)  # wrong names are told before anything is loaded
    bridge = load_model(model or default_model(task))
    _check_model(bridge, task)
    who, data = identify(bridge), load_prompts(module, settings["prompts"], seed, options)
    check_fits(bridge, data)
    asked = claims(module, data, labels, settings["n_cases"], seed, options)
    for claim in asked:
        _check_cases(claim)
    chosen = _methods(edits, directions, quick, data, [c.label for c in asked])
    singles = {c.label: single(module, data, c, target, seed, options) for c in asked}
    config = {"command": "intervene", "task": task, "model": who.name, "labels": [c.label for c in asked],
              "edits": [m.name for m in chosen], "options": options, "target": target, "windows": windows, "seed": seed,
              "quick": quick, **settings}
    folder = open_run(out, config, fingerprints={"model": who.digest}, log=log)
    folder.log(f"model {who.name}, {bridge.cfg.n_layers} layers, d_model {bridge.cfg.d_model}; labels: "
               + ", ".join(f"{c.label} ({c.cases.kind}, {len(c.cases)} cases)" for c in asked))
    check_numerics(bridge, data.tokens[:8], data.lengths[:8])
    with _counted(folder, _n_stages(len(asked), bridge.cfg.n_layers, len(chosen))) as stage:
        weights, tables = learn(folder, stage, bridge, data, asked, readers(chosen), erasers(chosen), seed)
        every = {c.label: Bench(bridge, data, c, singles[c.label], weights[c.label], seed, quick) for c in asked}
        scans, doses, sites = [], {}, {}
        for label, bench in every.items():
            others = {name: b.handles for name, b in every.items() if name != label}
            found = {m.name: stage(f"{label}-scan-{m.name}", functools.partial(bench.scan, m, windows)) for m in chosen}
            doses[label] = {m.name: _chosen(found[m.name], m) for m in chosen}
            scans += found.values()
            for m in chosen:
                tables.append(stage(f"{label}-report-{m.name}", functools.partial(
                    bench.report, m, doses[label][m.name], others)))
                folder.log(f"{label}, {m.verb} {m.direction}: {_headline(tables[-1], doses[label][m.name])}")
            sites[label] = bench.place(pd.concat(found.values()), tables)
            for name, make in bench.extras(sites[label], settings, others).items():
                tables.append(stage(f"{label}-{name}", make))
        patched = functools.cache(lambda: PatchRun(bridge, patching_pairs(
            module, data, asked, settings["n_cases"], seed, options)))
        for verb in PATCHING:
            tables.append(stage(f"patching-{verb}", lambda verb=verb: activation_patching(
                patched(), patched().given, directions=[verb], n_random=N_RANDOM, seed=seed)))
    table = results_frame(pd.concat(tables, ignore_index=True).to_dict("records"))
    table = table.drop_duplicates(ignore_index=True)  # the unedited runs, which both directions of patching name
    write_results(table, folder.path / "results.parquet", {
        "config": config, **folder.environment(),
        "set_aside": {label: _ranked(chosen, found) for label, found in doses.items()}})
    return Study(folder, asked, chosen, table, pd.concat(scans, ignore_index=True), doses, sites, singles,
                 config)


def _methods(edits: Sequence[str] | None, directions: Sequence[str] | None, quick: bool, prompts: LabelledPrompts,
             labels: Sequence[str]) -> list[Method]:
    """The methods of a run. Without names, those that these labels have what it takes for."""
    found = methods(edits, directions, quick)
    fitting = suitable(found, prompts, labels)
    if edits and len(fitting) < len(found):
        raise ValueError(f"splince keeps what is known of another label while it erases one, and {labels[0]} has none "
                         "beside it; leave it out of --edits")
    return fitting


def _check_model(bridge: Any, task: str) -> None:
    if not is_causal(bridge):
        name = identify(bridge).name
        raise ValueError(f"{name} is an encoder: it says no next token, so there are no answers that an edit could "
                         f"change. Take a decoder; what can be read from {name} says worldprobe run {task}")


def _check_cases(claim: Claim) -> None:
    """Layers and doses are chosen on one half of the cases and reported on the other, by groups."""
    groups = claim.cases.cases.groupby("split")["group"].nunique()
    if len(groups) < 2 or groups.min() < LEAST_GROUPS:
        halves = ", ".join(f"{n} to {split}" for split, n in groups.items())
        raise ValueError(f"{claim.label} has {len(claim.cases)} cases in too few groups ({halves}; it takes "
                         f"{LEAST_GROUPS} of each); give more with --n-cases")


def _check_price(price: float | int | None) -> None:
    if price is not None and not 0 < price < math.inf:
        raise ValueError(f"a price to compare edits at is a number of nats above 0, not {price:g}")


def _settings(quick: bool, prompts: int | None, n_cases: int | None) -> dict[str, Any]:
    given = {"prompts": prompts, "n_cases": n_cases}
    return {**(QUICK if quick else FULL), **{k: v for k, v in given.items() if v is not None}}


def _n_stages(n_labels: int, n_layers: int, n_methods: int) -> int:
    return 1 + 2 * n_layers + n_labels * (2 * n_methods + 2) + len(PATCHING)


@contextmanager
def _counted(folder: Run, total: int) -> Iterator[Callable]:
    """`folder.stage`, with a bar."""
    with Progress("stages", total) as advance:

        def stage(name: str, make: Callable[[], Any]) -> Any:
            result = folder.stage(name, make)
            advance(1)
            return result

        yield stage


def _chosen(scan: pd.DataFrame, m: Method) -> Dose:
    """Where and how much, from the cases set aside: what writes best, or what an erasure breaks most."""
    if not m.removes:
        return best_dose(scan)
    return best_dose(scan.assign(value=-scan["value"]))


def _ranked(chosen: Sequence[Method], doses: Mapping[str, Dose]) -> dict[str, list[str]]:
    """Place -> ways to write as `VERB DIRECTION`, the best on the cases set aside first, for the leaderboard."""
    writing = sorted((m for m in chosen if not m.removes), key=lambda m: doses[m.name].value)
    return {"last": [f"{m.verb} {m.direction}" for m in writing]} if writing else {}


def _headline(table: pd.DataFrame, dose: Dose) -> str:
    same = (table["layer"] == dose.layer) & (table["layer_end"] == dose.layer_end) & (table["metric"] == "set_error")
    own = table[same & table["control"].isna() & (table["alpha"] == dose.alpha)].iloc[0]
    null = table[same & (table["control"] == "null")].iloc[0]
    return (f"layers {dose.layer}-{dose.layer_end}, dose {dose.alpha:g}: error {own['value']:.3f} "
            f"[{own['ci_low']:.3f}, {own['ci_high']:.3f}], without an edit {null['value']:.3f}")
