"""Rows of the leaderboard: one per task, model, label, place and probe, made from result rows and from nothing else.

What can be read stands beside what happens when it is written, each with what makes it honest. A probe's layer is
chosen on validation. `reads` is `yes` where its interval lies beyond that of every control, `no news` where it beats
chance but not the strongest shortcut or control, `no` elsewhere. Directions that are no probe's (the encoding model, an
eraser) have rows without a score.
"""

from collections.abc import Iterator, Mapping

import pandas as pd

from ._board_effects import ASIDE, Arm, arms_of, removed, written
from ._rows import control_name, pick, site_name
from ._verdicts import best_probe

TEXT = ("task", "model", "revision", "label", "place", "probe", "where", "metric", "shortcut_name", "control_name",
        "reads", "change", "edit", "edit_where", "effect_metric", "chosen", "enough", "dose_unit", "cost_on", "eraser",
        "erased_where", "erased_chosen", "used", "model_hash", "data_hash")
NUMBERS = ("depth", "score", "score_low", "score_high", "n", "n_groups", "shortcut", "shortcut_low", "shortcut_high",
           "control", "control_low", "control_high", "selectivity", "effect", "effect_low", "effect_high", "effect_n",
           "band", "band_low", "band_high", "n_edits", "at_dose", "dose", "effect_at_dose", "cost", "erased",
           "erased_low", "erased_high", "erased_band_low", "erased_band_high", "score_row", "effect_row")
METRICS = ("accuracy", "r2", "f1", "auroc", "spearman")  # what a probe is ranked by: the first that its label has
CHANCE = ("majority", "majority_by_position", "shuffled_labels", "best_of_layers_null")
_WHO = ["task", "model", "revision"]


def board_rows(table: pd.DataFrame, metadata: Mapping | None = None) -> pd.DataFrame:
    """One row per task, model, label, place and probe, with the columns TEXT and NUMBERS; what a table does not have is
    missing. Checkpoints of a training run (`step N`) are left out.

    Args:
        table: A results table that `probing.validate` accepts.
        metadata: Of the results. `changes` says what a change writes, where it is not called as the label is: change ->
            label, or change -> place -> [label, place of its reading]. `set_aside` says which way to write did best on
            the cases set aside: change -> place -> `VERB DIRECTION`, the best first.
    """
    table = table[~table["revision"].fillna("").str.startswith("step ")]
    table = table.astype(dict.fromkeys(table.columns[table.dtypes == "str"], object))  # of which rows are taken faster
    free = table[table["model"].isna()]  # controls that need no model hold for all
    lines = []
    for who, rows in table[table["model"].notna()].groupby(_WHO, sort=False, dropna=False):
        own = dict(zip(_WHO, (None if pd.isna(w) else w for w in who), strict=True))
        rows = pd.concat([rows, pick(free, task=own["task"])])
        lines += [own | line for line in _of_model(rows, metadata or {})]
    found = pd.DataFrame(lines, columns=[*TEXT, *NUMBERS])
    return found.astype(dict.fromkeys(TEXT, "str") | dict.fromkeys(NUMBERS, "float64"))


def _of_model(table: pd.DataFrame, metadata: Mapping) -> list[dict]:
    readings = list(_readings(table))
    done: dict[tuple[int, bool], list[tuple[Arm, dict]]] = {}
    for arm in arms_of(table):
        found = removed(arm) if arm.removes else written(arm)
        if found is not None:
            at = _home(arm, readings, metadata)
            if at is None:
                label, place = _written(arm, metadata)
                line = {"label": label, "place": place or None, "probe": arm.direction.partition(".")[0]}
                line |= {c: arm.rows[c].dropna().iloc[0] for c in ("model_hash", "data_hash")}
                readings.append(line)
                at = len(readings) - 1
            done.setdefault((at, arm.removes), []).append((arm, found))
    for (at, _), ways in done.items():
        readings[at] |= _one_of(ways, metadata)
    return readings


def _readings(table: pd.DataFrame) -> Iterator[dict]:
    rows = pick(table, intervention=None, subset="all")
    real = pick(rows, control=None, split=["test", "validation"])
    real = real[real["label"].notna() & real["probe"].notna()]
    for (label, place), of in real.groupby(["label", "positions"], sort=False, dropna=False):
        metric = next((m for m in METRICS if m in set(of["metric"])), None)
        if metric is None:
            continue
        beside = pick(rows, label=label, metric=metric, positions=None if pd.isna(place) else place)
        for probe in dict.fromkeys(pick(of, metric=metric, split="test")["probe"]):
            best = best_probe(pick(of, probe=probe), label, metric)
            ours = beside[(beside["probe"] == probe).fillna(False).astype(bool) | beside["probe"].isna()]
            yield {"label": label, "place": place, "probe": probe, **_scored(best, ours)}


def _scored(best: pd.Series, rows: pd.DataFrame) -> dict:
    """Columns of a probe at its layer.

    Args:
        rows: Scores of this probe, and of controls that have no probe, at all layers and of both splits.
    """
    same = pick(rows, split=best["split"])
    controls = same[same["control"].notna()]
    embedding = pick(same, control=None, stream="resid_pre", layer=0)
    controls = pd.concat([controls, embedding.assign(control="embedding")]).sort_values("value", ascending=False)
    shortcuts = controls[controls["control"].str.startswith("shortcut:")]
    chance = pick(controls, control=list(CHANCE))
    shuffled = pick(controls, control="shuffled_labels", stream=best["stream"], layer=best["layer"])
    beats = [bool((best["ci_low"] > _high(some)).all()) for some in (chance, controls)]
    found = {"where": site_name(best), "depth": float(best["layer"]), "metric": best["metric"], "n": best["n"],
             "n_groups": best["n_groups"], "score_row": best.name, "model_hash": best["model_hash"],
             "data_hash": best["data_hash"],
             "reads": ("no" if not beats[0] else "yes" if beats[1] else "no news") if len(controls) else None,
             "score": best["value"], "score_low": best["ci_low"], "score_high": best["ci_high"]}
    if best["stream"] == "resid_pre" and best["layer"] == 0:
        found["depth"] = -1.0
    if len(shuffled):
        found["selectivity"] = best["value"] - shuffled["value"].iloc[0]
    for name, rivals in (("shortcut", shortcuts), ("control", controls)):
        if len(rivals):
            first = rivals.iloc[0]
            found |= {name: first["value"], f"{name}_low": first["ci_low"], f"{name}_high": first["ci_high"],
                      f"{name}_name": control_name(first["control"])}
    return found


def _high(rows: pd.DataFrame) -> pd.Series:
    """The upper end of every interval; the value where a control has none."""
    return rows["ci_high"].where(rows["ci_high"].notna(), rows["value"])


def _home(arm: Arm, readings: list[dict], metadata: Mapping) -> int | None:
    """Which line an edit belongs to: that of the probe its direction comes from, of its label, and of its place where
    there are several; None where there is none."""
    probe = arm.direction.partition(".")[0]
    labels = {line["label"] for line in readings if "score" in line}
    label, place = _written(arm, metadata)
    for name in (label, *(labels if len(labels) == 1 else ())):
        lines = [i for i, line in enumerate(readings) if line["label"] == name and line["probe"] == probe]
        there = [i for i in lines if _as_name(readings[i]["place"]) == _as_name(place)]
        nowhere = [i for i in lines if _as_name(readings[i]["place"]) == "last" or _as_name(place) == "last"]
        if there or len(nowhere) == len(lines) == 1:
            return (there or lines)[0]
    return None


def _written(arm: Arm, metadata: Mapping) -> tuple[str, str]:
    """(label, place of its reading) that an edit writes."""
    said = _mapping(metadata, "changes").get(arm.label)
    if isinstance(said, str):
        return said, arm.positions
    there = said.get(arm.positions) if isinstance(said, Mapping) else None
    if isinstance(there, list) and len(there) == 2 and all(isinstance(v, str) for v in there):
        return there[0], there[1]
    return arm.label, arm.positions


def _one_of(ways: list[tuple[Arm, dict]], metadata: Mapping) -> dict:
    """The columns of the way that is shown: of each change the one that did best on the cases set aside, or, where that
    is not known, most here; of several changes the one that did most."""
    by, how = ("erased", "erased_chosen") if ways[0][0].removes else ("effect", "chosen")
    changes: dict[tuple[str, str], list[tuple[Arm, dict]]] = {}
    for arm, found in ways:
        changes.setdefault((arm.label, arm.positions), []).append((arm, found))
    shown = []
    for (label, place), some in changes.items():
        order = _mapping(_mapping(metadata, "set_aside"), label).get(place)
        named = [f"{arm.verb} {arm.direction}" for arm, _ in some]
        if isinstance(order, list) and set(named) <= {v for v in order if isinstance(v, str)}:
            found = min(zip(named, some, strict=True), key=lambda one: order.index(one[0]))[1][1]
            said = found[how]
        else:
            found = max((found for _, found in some), key=lambda found: found[by])
            said = found[how] if len(some) == 1 else f"the best of {len(some)} here" + (
                "" if found[how] == ASIDE else ", and its dose")
        shown.append(found | {how: said})
    best = max(shown, key=lambda found: found[by])
    if len(shown) > 1:
        best = best | {how: f"{best[how]}; the largest of {len(shown)} changes"}
    return best | ({"n_edits": len(ways)} if by == "effect" else {})


def _mapping(value: Mapping, key: str) -> Mapping:
    found = value.get(key)
    return found if isinstance(found, Mapping) else {}


def _as_name(place: object) -> str:
    return "last" if place is None or pd.isna(place) or place == "" else str(place).replace(" ", "_")
