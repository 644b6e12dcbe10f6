"""The report of a study: what it does, what can be read, how far that goes, what is changed, and when it appears."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from tasks._study import Picture, Reading

from ._cite import cited
from ._intervene_report import CHANCE
from ._report import Exhibit, Section, write_report
from ._rows import metric_name, pick, site_name
from ._sections import probe_section
from ._study import Done
from ._study_behaviour import behaviour_section
from ._study_change_report import change_numbers, change_section, change_verdicts
from ._study_choosing import answer_section
from ._study_dynamics import dynamics_section
from ._study_generalise import generalise_section
from ._study_heads import head_section, pushed
from ._study_items import items_section
from ._study_measures import measure_section
from ._study_readings import metric_of
from ._verdicts import Verdict, best_probe, probe_controls, ranked, reads


def write_study_report(done: Done, checks: Sequence[Mapping] | None = None) -> Path:
    """Write `report.html` into the run folder and return its path."""
    study, found, folder = done.study, done.found, done.folder
    table = found.table
    own = pick(table, model=found.model)
    own = pd.concat([own, table[table["model"].isna()]], ignore_index=True)  # baselines need no model
    words = {reading.words: reading_verdicts(of_reading(own, reading), reading) for reading in study.readings}
    words |= {f"{change.name}: {change.words}": change_verdicts(own, done.scans, change) for change in study.changes}
    changes = {change.name: change for change in study.changes}
    sections = [section for section in (
        behaviour_section(own, study),
        *(reading_section(done, own, reading) for reading in study.readings),
        contrast_section(table, done),
        *(replace(change_section(pick(own, label=change.name), done.scans, change), about=f"change:{change.name}")
          for change in study.changes),
        *(replace(head_section(own, done.scans, asked, changes[asked.change]),
                  about=f"change:{pushed(changes[asked.change])}") for asked in study.heads),
        *(answer_section(own, asked) for asked in study.answering),
        *(measure_section(own, measure, study) for measure in study.measures),
        dynamics_section(own, found.transitions, study),
        pictures_section(done), items_section(done)) if section is not None]
    about = folder.environment()
    run = {"command": shlex.join(about.pop("command")), "configuration": dict(found.config), **about,
           "citation": cited(table)}
    return write_report(folder.path / "report.html", title=study.title.format(model=found.model),
                        summary=[study.question, *study.notes], verdicts={k: v for k, v in words.items() if v},
                        numbers=numbers(own, done), checks=checks, sections=sections, run=run)


def of_reading(table: pd.DataFrame, reading: Reading) -> pd.DataFrame:
    """The rows of one reading of the model itself, without those of checkpoints."""
    rows = pick(table, positions=reading.name, intervention=None)
    return rows[~rows["revision"].fillna("").str.startswith("step ")]


def reading_verdicts(rows: pd.DataFrame, reading: Reading) -> list[Verdict]:
    """Reads, against every control; of a label that stands in the input, against chance."""
    metric = "accuracy" if (rows["metric"] == "accuracy").any() else "r2"
    return [reads(rows, reading.label, metric, CHANCE if reading.given else None)] if len(rows) else []


def numbers(table: pd.DataFrame, done: Done) -> pd.DataFrame:
    """The numbers to read first: behaviour, the best probe of every reading with its strongest control, the edits."""
    study, lines = done.study, []
    if study.behaviour is not None:
        for metric in list(study.behaviour.metrics)[:2]:
            row = pick(table, metric=metric, label=None, control=None, intervention=None, split="test")
            row = row[~row["revision"].fillna("").str.startswith("step ")]
            lines += [r | {"what": metric_name(metric)} for r in row.head(1).to_dict("records")]
    for reading in study.readings:
        metric, rows = metric_of(done.found.readings[reading.name].prompts, reading.label), of_reading(table, reading)
        best = best_probe(rows, reading.label, metric)
        lines.append(best.to_dict() | {"what": f"{reading.words}: {metric}, {best['probe']}, {site_name(best)}"})
        rivals = probe_controls(rows, best)
        if len(rivals):
            rival = ranked(rivals, metric).iloc[0]
            lines.append(rival.to_dict() | {"what": f"its strongest control, {rival['control']}"})
    for change in study.changes:
        lines += change_numbers(table, done.scans, change)
    frame = pd.DataFrame(lines)
    kept = [c for c in ("what", "value", "ci_low", "ci_high", "n", "n_groups") if c in frame]
    return frame[kept][frame["ci_low"].notna()] if len(frame) else frame


def reading_section(done: Done, table: pd.DataFrame, reading: Reading) -> Section:
    """Scores by layer with every control, and how far they go."""
    rows = of_reading(table, reading)
    metric = metric_of(done.found.readings[reading.name].prompts, reading.label)
    made = probe_section(rows, reading.label, heading=f"What can be read: {reading.words}", metric=metric,
                         subsets=reading.subsets, positions=reading.positions, groups=reading.groups)
    more = generalise_section(rows, reading, metric)
    return Section(made.heading, made.text, made.exhibits, made.tables, [more] if more else (),
                   about=f"reading:{reading.name}")


def contrast_section(table: pd.DataFrame, done: Done) -> Section | None:
    """The same readings from other models."""
    from ._report import Table
    from ._rows import cell

    lines = []
    by_name = {r.name: r for r in done.study.readings}
    for name, readings in done.study.contrasts.items():
        for reading in (by_name[r] for r in readings):
            metric = metric_of(done.found.readings[reading.name].prompts, reading.label)
            for model in (done.found.model, name):
                rows = of_reading(pick(table, model=model), reading)
                if len(pick(rows, label=reading.label, metric=metric, control=None, split="test")):
                    best = best_probe(rows, reading.label, metric)
                    lines.append({"model": model, "reading": reading.words, metric: cell(best),
                                  "probe": best["probe"], "where": site_name(best)})
    if not any(line["model"] != done.found.model for line in lines):
        return None
    shown = pd.DataFrame(lines).drop_duplicates()
    return Section("Other models", "The same prompts, read from models that were trained otherwise.", (),
                   [Table("Best probe of every model", shown, "Chosen on validation. In brackets: 95 % interval.")])


def pictures_section(done: Done) -> Section | None:
    """What the task draws."""
    if done.study.pictures is None:
        return None
    drawn: Sequence[Picture] = done.study.pictures(done.found)
    return Section("Pictures", (), [Exhibit(p.title, p.svg, p.caption) for p in drawn]) if drawn else None
