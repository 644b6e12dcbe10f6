"""The end of a sweep: the rows of its cells, in the order of the plan, as one results table and one report.

The table depends on the cells alone: not on the executor, the number of workers, or how often they were killed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from probing import Site, results_frame, write_results
from probing._probe_site import SiteResult, best_of_layers_rows
from probing._results import KEY, MIN_DRAWS, _typed
from probing._sweep import correct_p_values

from ._report import Section, Table, write_report
from ._rows import pick, site_name, with_interval
from ._run import RunError, code_digest, versions
from ._sections import probe_section
from ._sweep_cells import DRAW
from ._sweep_folder import SweepFolder
from ._verdicts import best_probe, reads

CITATION = "worldprobe contributors (2026). worldprobe: linear probing and causal intervention for transformers."
FIGURES = 12  # readings that get figures of their own; all are in the table
_CELL = ["task", "model", "reading", "label", "seed"]


def collect(folder: SweepFolder, cells: pd.DataFrame, correction: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(results table, cells that are in it): all finished cells with their controls.

    A probe without its majorities or without its input-only control is kept back, and so is an effect: neither may
    stand alone.

    Raises:
        RunError: A file is damaged, or one model was read with different weights.
    """
    there = cells[cells["cell"].isin(folder.done())]
    based = _members(there[there["kind"] == "baseline"], _CELL)
    held = _members(there[there["kind"] == "input_only"], [*_CELL, "probe"])
    kept = there[[(key := tuple(row[:5])) in based and (row[6] in ("baseline", "input_only") or (*key, row[5]) in held)
                  for row in there[[*_CELL, "probe", "kind"]].itertuples(index=False)]]
    frames = {cell: folder.read(cell) for cell in kept["cell"]}
    tables = [results_frame([])]
    for _, group in kept.groupby(_CELL, sort=False, dropna=False):
        tables += [frames[cell] for cell in group["cell"]]
        tables.append(_best_of_layers(cells, group, frames))
    table = pd.concat(tables, ignore_index=True)
    if DRAW in table:
        table = table[table[DRAW].isna()].drop(columns=DRAW)
    table = _typed(table.reset_index(drop=True), fill=True)
    _check_weights(table)
    return correct_p_values(table.drop_duplicates(KEY, ignore_index=True), correction), kept  # cells share their null


def _members(cells: pd.DataFrame, columns: Sequence[str]) -> set[tuple]:
    return set(cells[list(columns)].itertuples(index=False, name=None))


def _best_of_layers(plan: pd.DataFrame, group: pd.DataFrame, frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """What choosing a layer alone achieves, for the probes of one reading all of whose sites are there."""
    rows: list[dict] = []
    seed = int(group["seed"].iloc[0])
    of_plan = plan[(plan[_CELL] == group[_CELL].iloc[0]).all(axis=1)] if len(group) else plan
    for probe, cells in group[group["kind"] == "probe"].groupby("probe", sort=False):
        due = (of_plan["kind"] == "probe") & (of_plan["probe"] == probe)
        if len(cells) < due.sum() or frames[cells["cell"].iloc[0]].get(DRAW, pd.Series([0])).max() < MIN_DRAWS - 1:
            continue  # a layer is missing, or so few draws say nothing
        results = []
        for cell in cells["cell"]:
            frame = frames[cell]
            draws = frame[frame[DRAW].notna()] if DRAW in frame else frame[:0]
            for (stream, layer), at in draws.groupby(["stream", "layer"], sort=False):
                values = at.pivot(index=DRAW, columns="split", values="value")[["validation", "test"]].to_numpy(float)
                key = str(at["label"].iloc[0]), str(probe)
                head = {"label": key[0], "metric": at["metric"].iloc[0]}
                results.append(SiteResult(Site(str(stream), int(layer)), [head], {}, {}, {key: values}))
        same = {c: frames[cells["cell"].iloc[0]][c].iloc[0] for c in (
            "task", "model", "revision", "model_hash", "data_hash", "positions")
            if c in frames[cells["cell"].iloc[0]]}
        rows += [same | row for row in best_of_layers_rows(results, seed)]
    return results_frame(rows)


def _check_weights(table: pd.DataFrame) -> None:
    hashes = table.groupby("model")["model_hash"].nunique()
    if (several := hashes.index[hashes > 1]).size:
        raise RunError(f"{several[0]} was read with {hashes[several[0]]} different weights: its files changed while "
                       "the sweep ran. Start it again with --fresh")


def metadata(settings: Mapping[str, Any], cells: pd.DataFrame) -> dict[str, Any]:
    """What describes the whole table, whoever computed it and where."""
    config = {k: v for k, v in settings.items() if k not in ("cache", "retries", "device_map")}
    return {"config": config, "versions": versions(), "code": code_digest(), "cells": len(cells),
            "command": command_of(settings)}


def command_of(settings: Mapping[str, Any]) -> list[str]:
    """The command line, without what changes no number."""
    words = ["worldprobe", "sweep", ",".join(settings["tasks"]), "--out", "DIR"]
    for name, flag in (("models", "model"), ("labels", "labels"), ("probes", "probes"), ("layers", "layers"),
                       ("seeds", "seeds"), ("doses", "doses")):
        if settings[name]:
            text = ",".join(map(str, settings[name]))
            words += [f"--{flag}={text}"] if text.startswith("-") else [f"--{flag}", text]
    for name in ("block", "prompts", "shuffles", "cases", "dtype"):
        if settings[name] is not None:
            words += [f"--{name}", str(settings[name])]
    for key, value in settings["options"].items():
        words += ["--with", f"{key}={value}"]
    return words + (["--quick"] if settings["quick"] else [])


def write(folder: SweepFolder, settings: Mapping[str, Any], cells: pd.DataFrame) -> Path | None:
    """Writes `results.parquet` and `report.html`; returns the latter, None where no cell can be shown."""
    table, kept = collect(folder, cells, settings["correction"])
    if table.empty:
        return None
    about = metadata(settings, kept)
    if len(kept) < len(cells):
        about["missing"] = len(cells) - len(kept)
    write_results(table, folder.path / "results.parquet", about)
    return write_report(
        folder.path / "report.html", title=f"Sweep of {', '.join(settings['tasks'])}", summary=_summary(kept, cells),
        verdicts=_verdicts(table), sections=_sections(table),
        run={"command": " ".join(about["command"]), "configuration": about["config"], "versions": about["versions"],
             "citation": CITATION})


def _summary(kept: pd.DataFrame, cells: pd.DataFrame) -> list[str]:
    probes = kept[kept["kind"] == "probe"]
    counts = ", ".join(f"{n} {what}{'s' * (n != 1)}" for what in ("task", "model", "label", "probe", "seed")
                       if (n := probes[what].nunique()))
    said = [f"{len(kept):,} cells: {counts}. A seed draws the prompts, their split, the shuffled labels and the random "
            "weights anew."]
    if missing := len(cells) - len(kept):
        said.append(f"{missing:,} cells are missing: they failed, or a control of theirs did.")
    return said


def _readings(table: pd.DataFrame) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """(task, model, label, place) -> rows of its probes and controls."""
    found, rows = [], pick(table, intervention=None)
    for key, of in rows.groupby(["task", "model", "label", "positions"], sort=False, dropna=False):
        names = dict(zip(("task", "model", "label", "place"), (None if pd.isna(k) else k for k in key), strict=True))
        found.append((names, of))
    return found


def _metric(rows: pd.DataFrame) -> str:
    return "accuracy" if (rows["metric"] == "accuracy").any() else "r2"


def _named(names: Mapping[str, Any]) -> str:
    place = "" if names["place"] in (None, names["label"]) else f", {names['place']}"
    return f"{names['label']}{place} in {names['model']}"


def _first_seed(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["seed"] == rows["seed"].iloc[0]]


def _verdicts(table: pd.DataFrame) -> dict[str, list]:
    found = {}
    for names, rows in _readings(table)[:FIGURES]:
        one = _first_seed(rows)
        if len(pick(one, control=None, split="test", metric=_metric(one))):
            found[_named(names)] = [reads(one, names["label"], _metric(one))]
    return found


def _sections(table: pd.DataFrame) -> list[Section]:
    readings = _readings(table)
    sections = [Section("All readings", (
        "Every probe at the layer that was best on validation, for each seed apart; its score on test is the mean over "
        "seeds, with the lowest and the highest. In brackets: the 95 % interval of the first seed."), (),
        [Table("Best layer of every probe", _telling(pd.DataFrame([line for names, rows in readings
                                                                  for line in _lines(names, rows)])))])]
    if len(effects := _effects(table)):
        sections.append(Section("What the model does with it", (
            "What writing along the direction of each probe does at the dose that takes one class mean to the other, "
            "beside 5 % to 95 % of random directions of equal norm."), (), [Table("Effects at dose 1", effects)]))
    for names, rows in readings[:FIGURES]:
        one = _first_seed(rows)
        if len(pick(one, control=None, split="test", subset="all", metric=_metric(one))):
            seeds = f", seed {one['seed'].iloc[0]}" if rows["seed"].nunique() > 1 else ""
            sections.append(probe_section(one, names["label"], heading=f"{_named(names)}{seeds}", metric=_metric(one)))
    if len(readings) > FIGURES:
        sections.append(Section("Other readings", f"{len(readings) - FIGURES} more readings have no figure here; they "
                                "are in the table above, and in results.parquet."))
    return sections


def _lines(names: Mapping[str, Any], rows: pd.DataFrame) -> list[dict]:
    metric, lines = _metric(rows), []
    for probe in pick(rows, control=None, split="test", subset="all")["probe"].dropna().unique():
        mine = rows[(rows["probe"] == probe).fillna(False).astype(bool) | rows["probe"].isna()]
        seeds = [of for _, of in mine.groupby("seed", sort=False)]
        best = [best_probe(of, names["label"], metric) for of in seeds if len(pick(of, control=None, split="test"))]
        scores = np.array([row["value"] for row in best])
        rivals = [pick(of, split="test", subset="all", metric=metric) for of in seeds]
        rival = pd.concat(rivals)
        rival = rival[rival["control"].notna()].groupby("control", sort=False)["value"].mean()
        lines.append({"task": names["task"], "model": names["model"], "label": names["label"],
                      "place": names["place"], "probe": probe, "metric": metric,
                      "at": ", ".join(dict.fromkeys(site_name(r) for r in best)),
                      "score": with_interval(float(scores.mean()), best[0]["ci_low"], best[0]["ci_high"]),
                      "of seeds": f"{scores.min():.3f} to {scores.max():.3f} ({len(scores)})",
                      "strongest control": f"{rival.idxmax()} {rival.max():.3f}" if len(rival) else None})
    return lines


def _effects(table: pd.DataFrame) -> pd.DataFrame:
    rows = table[table["intervention"].notna() & (table["subset"] == "all") & (table["alpha"] == 1.0)]
    metric = "log_odds" if (rows["metric"] == "log_odds").any() else "kl"
    rows = pick(rows, metric=metric, split="report")
    lines = []
    keys = ["task", "model", "label", "probe", "stream", "layer", "seed"]
    band = pick(rows, control="random_direction").set_index(keys)
    for row in pick(rows, control=None).to_dict("records"):
        around = band.loc[[tuple(row[k] for k in keys)]].iloc[0]
        lines.append({**{k: row[k] for k in keys if k not in ("stream", "layer")}, "at": site_name(row),
                      "metric": metric, "effect": with_interval(row["value"], row["ci_low"], row["ci_high"]),
                      "random directions": with_interval(around["value"], around["ci_low"], around["ci_high"])})
    return _telling(pd.DataFrame(lines))


def _telling(table: pd.DataFrame) -> pd.DataFrame:
    """Without the columns of names that say the same in every row, or what the label says."""
    alike = [c for c in ("task", "metric", "seed") if c in table and table[c].nunique() == 1]
    if "place" in table and (table["place"].isna() | (table["place"] == table["label"])).all():
        alike.append("place")
    return table.drop(columns=alike)
