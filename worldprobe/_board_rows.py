"""Rows of the leaderboard: one per task, model, label, place and probe, made from result rows and from nothing else.

What can be read stands beside what happens when it is written, each with what makes it honest. A probe's layer is
chosen on validation. `reads` is `yes` where its interval lies beyond that of every control, `no news` where it beats
chance but not the strongest shortcut or control, `no` elsewhere. Directions that are no probe's (the encoding model, an
eraser) have rows without a score.
"""

from collections.abc import Iterator, Mapping

import pandas as pd

from ._board_effects import Arm, arms_of, removed, written
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


def board_rows(table: pd.DataFrame, changes: Mapping[str, str] | None = None) -> pd.DataFrame:
    """One row per task, model, label, place and probe, with the columns TEXT and NUMBERS; what a table does not have is
    missing. Checkpoints of a training run (`step N`) are left out.

    Args:
        table: A results table that `probing.validate` accepts.
        changes: Name of a change that edits make -> label of the readings that it writes, where the two differ.
    """
    table = table[~table["revision"].fillna("").str.startswith("step ")]
    free = table[table["model"].isna()]  # controls that need no model hold for all
    lines = []
    for who, rows in table[table["model"].notna()].groupby(_WHO, sort=False, dropna=False):
        own = dict(zip(_WHO, (None if pd.isna(w) else w for w in who), strict=True))
        rows = pd.concat([rows, pick(free, task=own["task"])])
        lines += [own | line for line in _of_model(rows, changes or {})]
    found = pd.DataFrame(lines, columns=[*TEXT, *NUMBERS])
    return found.astype(dict.fromkeys(TEXT, "str") | dict.fromkeys(NUMBERS, "float64"))


def _of_model(table: pd.DataFrame, changes: Mapping[str, str]) -> list[dict]:
    readings = list(_readings(table))
    for arm in arms_of(table):
        found = removed(arm) if arm.removes else written(arm)
        if found is not None:
            line = _home(arm, readings, changes)
            if line is None:
                line = {"label": arm.label, "place": arm.positions or None, "probe": arm.direction.partition(".")[0]}
                line |= {c: arm.rows[c].dropna().iloc[0] for c in ("model_hash", "data_hash")}
                readings.append(line)
            _put(line, found)
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


def _home(arm: Arm, readings: list[dict], changes: Mapping[str, str]) -> dict | None:
    """The line of the probe that an edit's direction comes from: of its label, and of its place where there are
    several; None where there is none."""
    probe = arm.direction.partition(".")[0]
    probed = {line["label"] for line in readings if "score" in line}
    only = probed.pop() if len(probed) == 1 else None
    for label in (arm.label, changes.get(arm.label), only):
        lines = [line for line in readings if line["label"] == label and line["probe"] == probe]
        there = [line for line in lines if _as_name(line["place"]) == _as_name(arm.positions)]
        if there or len(lines) == 1:
            return (there or lines)[0]
    return None


def _as_name(place: object) -> str:
    return "last" if place is None or pd.isna(place) else str(place).replace(" ", "_")


def _put(line: dict, found: dict) -> None:
    """Adds what an edit did, where it did more than those before it."""
    by = "erased" if "erased" in found else "effect"
    if by == "effect":
        found["n_edits"] = line.get("n_edits", 0) + 1
        line["n_edits"] = found["n_edits"]
    if not (line.get(by, float("-inf")) >= found[by]):
        line |= {c: None for c in line if c.startswith(("dose", "effect_at")) and by == "effect"} | found
