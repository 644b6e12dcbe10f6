"""Does the share of the variance of states that a label explains say how much the model uses it? Both, side by side.

Explained: at every checkpoint, where the final probe reads (and where the edit acts), see
`probing.formation.variance_explained`; of a label with several targets the mean over them. Used: at the last checkpoint
what becomes of the answers when the study's own changes are written where the label is read, at the block and dose that
did most on the half of the cases set aside for choosing, beside directions drawn at random, of the same applied norm.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int
from numpy import ndarray

from probing import Site, extract, load_model
from probing.formation._explained import mean_share
from tasks import LabelledPrompts
from tasks._study import Change, Reading, Study

from ._formation_states import ROWS, first_groups
from ._ink import INK, MARKERS, MUTED, SERIES, Plot, name_lines, plot, words
from ._report import Exhibit, Section, Table
from ._rows import metric_name, number, pick, with_interval
from ._run import Run
from ._study_changes import SOLVED, Bench, Learned, Place, best_of, slug

BINS, N_BOOT = 8, 200
SAME = 1e-6  # states that differ by less are all equal, but for rounding
OF_LABELS = 3  # with an effect: fewer make no figure

Sites = Mapping[str, Site]


def explained_at(path: Path, readings: Sequence[Reading], prompts: Mapping[str, LabelledPrompts],
                 sites: Mapping[str, Sequence[Site]]) -> pd.DataFrame:
    """What every label explains at one checkpoint: one row per reading and site, with reading, stream, layer, value
    (mean over targets; missing where states are all equal), ci_low, ci_high (groups resampled), chance, targets and n.

    Numbers count as eight bins of equal size.
    """
    model, rows = load_model(path), []
    for reading in readings:
        read = prompts[reading.name]
        acts = extract(model, read, list(sites[reading.name]), cache=False, random_init=None)
        keep = first_groups(read.examples["group"].to_numpy(), ROWS)
        unit = np.unique(read.examples["group"].to_numpy()[keep], return_inverse=True)[1]
        labels = [codes_of(y, reading.label in read.classes) for y in read.labels(reading.label)[keep].T]
        labels = [y for y in labels if y.max() > 0]  # the corner of a maze has no passage to the outside
        chance = float(np.mean([y.max() for y in labels]) / (len(keep) - 1)) if labels else np.nan
        for site in sites[reading.name]:
            H = np.asarray(acts[site])[keep].astype(np.float64)
            H -= H.mean(0)
            found = dict.fromkeys(("value", "ci_low", "ci_high"), np.nan)
            if labels and np.abs(H).max() > SAME:
                found = mean_share(H, labels, unit, N_BOOT)
            rows.append({"reading": reading.name, "stream": site.stream, "layer": site.layer, **found,
                         "chance": chance, "targets": len(labels), "n": len(keep)})
    return pd.DataFrame(rows)


def codes_of(y: ndarray, classes: bool) -> Int[ndarray, " example"]:
    """Values numbered from 0; those of numbers are bins of equal size."""
    if not classes and len(np.unique(y)) > BINS:
        y = np.searchsorted(np.quantile(y, np.arange(1, BINS) / BINS), y, side="right")
    return np.unique(y, return_inverse=True)[1]


def written(study: Study, reading: str) -> list[tuple[Change, str]]:
    """The changes of a study that write a reading and nothing else, with the places where they do."""
    return [(change, place) for change in study.changes for place, parts in change.places.items()
            if [part.reading for part in parts] == [reading]]


def used_rows(folder: Run, path: Path, study: Study, readings: Sequence[Reading],
              prompts: Mapping[str, LabelledPrompts], seed: int) -> pd.DataFrame:
    """What writing every label does to the answers of the last checkpoint: one row per reading, change and place, see
    `effect_of`. A stage for each."""
    model = load_model(path)
    learned, tables = Learned(folder, model, study, prompts, seed), []
    for reading in readings:
        for change, place in written(study, reading.name):
            made = folder.stage(f"used-{slug(change.name)}-{slug(place)}", partial(
                effect_of, folder, model, change, place, learned, seed))
            tables.append(made.assign(reading=reading.name, change=change.name, words=change.words, place=place))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["reading", "change", "metric"])


def effect_of(folder: Run, model, change: Change, place: str, learned: Learned, seed: int) -> pd.DataFrame:
    """One row: what the change does written at one place, by the way, site and dose that did most on the cases set
    aside, on the others: stream, layer, intervention, probe, alpha, metric, null (unedited), value, ci_low, ci_high,
    random, random_low, random_high (95 % of directions drawn at random), told (of prompts that tell of the change), n.

    What counts is what the change is judged by; where that is its first choice, the share of the cases that the model
    solves whose first choice is right after the change. Where nothing can be measured `value` is missing, and `why`
    says why.
    """
    try:
        at = Place(Bench(folder, model, change, learned, seed, quick=True), place)
        best = min((best_of(at.scan(way), way, change.by) for way in at.ways), key=lambda chosen: chosen.rank)
        table = at.report(best.way, best.site, [best.alpha], best.alpha)
    except ValueError as error:  # states that never vary, a class that never occurs: one label of several
        return pd.DataFrame([{"metric": None, "value": np.nan, "why": str(error)}])
    flips = change.by in ("set_error", "flip_rate")
    rows = pick(table, metric="flip_rate" if flips else change.by, subset=SOLVED if flips else "all")
    if rows.empty:
        return pd.DataFrame([{"metric": None, "value": np.nan, "why": "no case is answered rightly unedited"}])
    by_control = rows.set_index(rows["control"].fillna("own"))
    own, band = by_control.loc["own"], by_control.loc["random_direction"]
    return pd.DataFrame([{
        "stream": best.site.stream, "layer": best.site.layer, "intervention": best.way.verb,
        "probe": best.way.direction, "alpha": best.alpha, "metric": own["metric"], "n": int(own["n"]),
        "null": by_control.loc["null", "value"], **own[["value", "ci_low", "ci_high"]],
        "random": band["value"], "random_low": band["ci_low"], "random_high": band["ci_high"],
        "told": by_control["value"].get("told", np.nan), "why": None}])


def used_section(readings: Sequence[Reading], explained: Mapping[int, pd.DataFrame], used: pd.DataFrame,
                 table: pd.DataFrame, sites: Sites) -> Section:
    """Explained, readable and used, side by side.

    Args:
        explained: Step -> `explained_at`.
        table: Results of the checkpoints.
        sites: Of the final probe of every reading.
    """
    both = beside({r.name: r.label for r in readings}, explained, used, sites)
    text = ["How much of the states a label explains, whether it can be read, and whether the answers rest on it are "
            "three questions. What is easy, frequent or learnt early explains much, whether it is used or not.",
            *(said(row) for _, row in both.iterrows())]
    exhibits = []
    if both[both["value"].notna()]["reading"].nunique() >= OF_LABELS and both["metric"].nunique() == 1:
        exhibits = [Exhibit("Explained against used", used_plot(both), PLOT, both)]
    return Section("What explains, what can be read, what is used", text, exhibits, [
        Table("Explained, readable, used", _shown(both, table, max(explained)), _CAPTION.format(
            n=int(both["examples"].max()), metric=" / ".join(map(metric_name, both["metric"].dropna().unique()))),
            both),
        Table("Share of variance explained, checkpoint by checkpoint", _by_step(explained, sites),
              "At the site of the final probe, mean over targets.",
              pd.concat([rows.assign(step=step) for step, rows in explained.items()], ignore_index=True))])


def beside(labels: Mapping[str, str], explained: Mapping[int, pd.DataFrame], used: pd.DataFrame, sites: Sites
           ) -> pd.DataFrame:
    """One row per reading and change of it (one for a reading without): `used_rows`, with `site` of the final probe,
    `explains` with its interval at step 0 (`_start`) and at the end (`_end`), `chance`, and `explains_there`, at the
    site of the edit.

    Args:
        labels: Of every reading.
    """
    rows = []
    for name, site in sites.items():
        ends = {end: _one(explained[step], name, site) for end, step in (("start", 0), ("end", max(explained)))}
        about = {"reading": name, "name": f"{labels[name]} ({name})", "site": str(site),
                 "chance": ends["end"]["chance"], "targets": int(ends["end"]["targets"]),
                 "examples": int(ends["end"]["n"])}
        about |= {f"explains{part}_{end}": row[column] for end, row in ends.items()
                  for part, column in (("", "value"), ("_low", "ci_low"), ("_high", "ci_high"))}
        mine = used[used["reading"] == name].to_dict("records") or [
            {"metric": None, "value": np.nan, "why": "the study changes nothing that is read here"}]
        for row in mine:
            there = np.nan
            if pd.notna(row["value"]):
                there = _one(explained[max(explained)], name, Site(row["stream"], int(row["layer"])))["value"]
            rows.append(row | about | {"explains_there": there})
    return pd.DataFrame(rows)


def edit_sites(sites: Sites, used: pd.DataFrame) -> dict[str, list[Site]]:
    """Reading -> the site of its final probe, and those where it was written."""
    found = {name: [site] for name, site in sites.items()}
    for _, row in (used[used["value"].notna()] if len(used) else used).iterrows():
        site = Site(row["stream"], int(row["layer"]))
        if site not in found[row["reading"]]:
            found[row["reading"]].append(site)
    return found


def said(row: pd.Series) -> str:
    """A sentence about one label and one change of it."""
    start, end = (number(row[f"explains_{which}"]) for which in ("start", "end"))
    text = (f"{row['name']} explains {end} of the variance of states at the end, at {row['site']}, "
            + ("where they are all equal at step 0" if start == "–" else f"and {start} at step 0"))
    if pd.isna(row["value"]):
        return f"{text}; what it is used for is not measured: {row['why']}."
    beyond = "beyond" if abs(row["value"] - row["null"]) > _band(row).max() else "not beyond"
    to = with_interval(row["value"], row["ci_low"], row["ci_high"])
    did = (f"changes {to} of the answers" if row["metric"] == "flip_rate" else
           f"takes {_metric(row)} from {number(row['null'])} to {to}")
    return (f"{text}. Written at {row['place']}, {row['stream']}.{row['layer']:.0f} ({row['change']}), it {did}, "
            f"{beyond} random directions.")


PLOT = ("One mark per label and change of it. Across: share of the variance of states that the label explains at the "
        "last checkpoint, where its final probe reads, mean over targets; whiskers 95 %, groups resampled. Up: what "
        "writing the change does to the answers, whiskers 95 %, cases resampled by group; grey: 95 % of directions "
        "drawn at random, of the same applied norm.")
_CAPTION = (
    "Explains: tr Cov(E[h | label]) / tr Cov(h) at step 0 and at the end, where the final probe reads, mean over "
    "targets, of up to {n:,} examples; numbers count as eight bins; by chance: (values - 1) / (n - 1). Can be read: "
    "test score of the final probe, and on shuffled labels. Is used: {metric}, unedited and with the change written "
    "(way, site and dose chosen on other cases; the site can be earlier than where a probe reads best). Random "
    "directions: 95 % of 20 of the same applied norm. Told: prompts that tell of the change. In brackets 95 %, groups "
    "resampled.")


def used_plot(both: pd.DataFrame) -> Plot:
    """Share explained against effect."""
    both = both[both["value"].notna()]
    figure, (ax,) = plot(both, 1, (6.1, 3.8))
    looks = {name: (SERIES[i % len(SERIES)], MARKERS[i % len(MARKERS)])
             for i, name in enumerate(dict.fromkeys(both["reading"]))}
    names = []
    for _, row in both.iterrows():
        colour, marker = looks[row["reading"]]
        x, y = row["explains_end"], row["value"] - row["null"]
        ax.vlines(x, row["random_low"] - row["null"], row["random_high"] - row["null"], color=MUTED, lw=5, alpha=0.4)
        ax.vlines(x, row["ci_low"] - row["null"], row["ci_high"] - row["null"], color=colour, lw=1.4, zorder=3)
        ax.hlines(y, row["explains_low_end"], row["explains_high_end"], color=colour, lw=1.4, zorder=3)
        ax.plot(x, y, marker, color=colour, ms=6, zorder=4)
        names.append((float(y), f"{row['name']}\n{row['change']}", colour))
    ax.axhline(0, color=INK, lw=0.8)
    ax.set_xlim(0, None)
    ax.set_xlabel("share of variance explained at the end")
    ax.set_ylabel(words(f"{_metric(both.iloc[0])}, edited less unedited"))
    name_lines(ax, names, gap=0.12)
    return figure


def _shown(both: pd.DataFrame, table: pd.DataFrame, last: int) -> pd.DataFrame:
    lines = []
    for _, row in both.iterrows():
        stream, layer = str(row["site"]).split(".")
        probe = pick(table, positions=row["reading"], revision=f"step {last}", split="test", stream=stream,
                     layer=int(layer), probe=[name for name in table["probe"].dropna().unique() if ":" not in name])
        score, shuffled = (pick(probe, control=control)["value"].iloc[0] for control in (None, "shuffled_labels"))
        line = {"label": row["name"], "explains": _explains(row), "by chance": number(row["chance"]),
                "can be read": f"{number(score)} (shuffled {number(shuffled)})"}
        if pd.isna(row["value"]):
            line |= {"is used": "not measured", "random directions": "–", "told": "–",
                     "where": f"read at {row['site']}; {row['why']}"}
        else:
            line |= {"is used": f"{number(row['null'])} to "
                                f"{with_interval(row['value'], row['ci_low'], row['ci_high'])}",
                     "random directions": f"{number(row['random_low'])} to {number(row['random_high'])}",
                     "told": number(row["told"]),
                     "where": f"read at {row['site']}; {row['change']} written at {row['place']}, {row['stream']}."
                              f"{row['layer']:.0f}, where it explains {number(row['explains_there'])}"}
        lines.append(line)
    return pd.DataFrame(lines)


def _by_step(explained: Mapping[int, pd.DataFrame], sites: Sites) -> pd.DataFrame:
    return pd.DataFrame([{"step": f"{step:,}"} | {name: _one(rows, name, site)["value"] for name, site in sites.items()}
                         for step, rows in explained.items()])


def _explains(row: pd.Series) -> str:
    start = "states all equal," if pd.isna(row["explains_start"]) else f"{number(row['explains_start'])} to"
    return f"{start} {with_interval(row['explains_end'], row['explains_low_end'], row['explains_high_end'])}"


def _band(row: pd.Series) -> ndarray:
    return np.abs(np.array([row["random_low"], row["random_high"]], float) - row["null"])


def _metric(row: pd.Series) -> str:
    return metric_name(row["metric"]).partition(" (")[0]


def _one(rows: pd.DataFrame, reading: str, site: Site) -> pd.Series:
    return pick(rows, reading=reading, stream=site.stream, layer=site.layer).iloc[0]
