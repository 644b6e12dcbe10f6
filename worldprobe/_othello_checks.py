"""The published results on Othello beside ours: one object per check, every figure measured in the run.

A check is an object with `id, what, paper, ours, ci_low, ci_high, pass_mark, pass`. Some checks need more than one
figure: `parts` holds them in the same form, and the check passes when all of them do. An interval of a difference of
two rows is the conservative one: the ends of the two intervals that are farthest apart.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from interventions import best_dose
from probing import bootstrap_mean
from tasks import othello
from tasks._data import DataUnavailable
from tasks._files import write_whole

from ._othello import Study

GAMES = 6000  # for check 1, which needs no model: the majority is still rising with 2,000
Interval = tuple[float, float, float]


def write_checks(study: Study) -> Path:
    """Write `checks.json` into the run folder and return its path."""
    path = study.folder.path / "checks.json"
    write_whole(path, (json.dumps(checks(study), indent=1) + "\n").encode())
    return path


def checks(study: Study) -> list[dict]:
    """All checks in their order; those that the run has no rows for are left out, and named by `id` in the log."""
    makers = (engine, benchmark, legality, linear_probe, relative_and_absolute, random_init, depth, mlp, flipped,
              flip, erase, controls, several_layers, specificity)
    found = []
    for number, make in enumerate(makers, 1):
        try:
            found.append({"id": number, **make(study)})
        except (LookupError, DataUnavailable) as error:
            study.folder.log(f"check {number} left out: {error}")
    return found


def check(what: str, paper, ours: Sequence, pass_mark: str, passed: bool, parts: Sequence[dict] = ()) -> dict:
    value, low, high = (None if v is None else float(v) for v in (*ours, None, None)[:3])
    own = {"what": what, "paper": paper, "ours": value, "ci_low": low, "ci_high": high, "pass_mark": pass_mark,
           "pass": bool(passed and all(p["pass"] for p in parts))}
    return own | ({"parts": list(parts)} if parts else {})


def rows(study: Study, **where) -> pd.DataFrame:
    """Rows of the results that agree with `where` (None: missing); a LookupError when there are none."""
    where = {"control": None, "subset": "all", **where}
    keep = np.ones(len(study.table), bool)
    for column, value in where.items():
        same = study.table[column].isna() if value is None else (study.table[column] == value).fillna(False)
        keep &= same.to_numpy(bool)
    if not keep.any():
        raise LookupError(f"no rows with {where}")
    return study.table[keep]


def interval(row) -> Interval:
    return float(row["value"]), float(row["ci_low"]), float(row["ci_high"])


def difference(a: Interval, b: Interval) -> Interval:
    return a[0] - b[0], a[1] - b[2], a[2] - b[1]


def at(study: Study, best, **where) -> Interval:
    """Accuracy on test at the site of `best`."""
    where = {"metric": "accuracy", "split": "test", "stream": best["stream"], "layer": best["layer"], **where}
    return interval(rows(study, **where).iloc[0])


def best_linear(study: Study, label: str = "mine_theirs", metric: str = "accuracy") -> pd.Series:
    """The test row of the linear probe and layer that are best on validation."""
    held = rows(study, label=label, metric=metric, split="validation", intervention=None)
    held = held[held["probe"].isin(["logistic", "logistic_no_bias"])]
    top = held.loc[held["value"].idxmax()]
    return rows(study, label=label, metric=metric, split="test", probe=top["probe"], stream=top["stream"],
                layer=top["layer"]).iloc[0]


def engine(study: Study) -> dict:
    if study.config["size"] != 8:
        raise LookupError("the published baselines are those of the 8x8 board")
    prompts = othello.load(GAMES, study.config["seed"])
    test = prompts.rows("test")
    truth, groups = prompts.labels("mine_theirs")[test], prompts.examples["group"].to_numpy()[test]
    guesses = othello.baseline_predictions(prompts)
    score = {name: bootstrap_mean((guess == truth).mean(1), groups) for name, guess in guesses.items()}
    majority, empty = score["majority"], score["always_empty"]
    return check("accuracy of the majority per ply and square (no model)", 0.618, majority, "0.618 +- 0.005",
                 abs(majority[0] - 0.618) <= 0.005,
                 [check("always empty", 0.4705, empty, "0.469 +- 0.003", abs(empty[0] - 0.469) <= 0.003),
                  check("exact occupancy, majority colour", None, score["occupancy"], "none", True),
                  check("discs never flip", None, score["no_flip"], "none", True)])


def benchmark(study: Study) -> dict:
    """Exact figures: no interval applies to a fixed file."""
    flips, erased = othello.cases("published", "flip"), othello.cases("published", "erase")
    moved = float((flips.right_before != flips.right_after).sum(1).mean())
    null = {name: float(othello.ideal_null(cases).mean()) for name, cases in (("flip", flips), ("erase", erased))}
    return check("published cases: mean change of the legal set, squares", 2.12, (moved,), "2.118 exact",
                 round(moved, 3) == 2.118,
                 [check("cases", 1000, (len(flips),), "1001 exact", len(flips) == 1001),
                  check("ideal null error, flip", 2.723, (null["flip"],), "2.808 exact",
                        round(null["flip"], 3) == 2.808),
                  check("ideal null error, erase", 2.73, (null["erase"],), "2.740 exact",
                        round(null["erase"], 3) == 2.740)])


def legality(study: Study) -> dict:
    own = interval(rows(study, metric="legal_top1").iloc[0])
    twin = interval(rows(study, metric="legal_top1", control="random_init").iloc[0])
    return check("strict top-1 legality, held-out games", 0.9999, own, ">= 0.95", own[0] >= 0.95,
                 [check("randomly initialised model", 0.0671, twin, "<= 0.15", twin[0] <= 0.15)])


def linear_probe(study: Study) -> dict:
    best = best_linear(study)
    over = difference(interval(best), interval(rows(study, label="mine_theirs", metric="accuracy", split="test",
                                                    control="shortcut:no_flip").iloc[0]))
    return check(f"linear mine/theirs probe, {best['probe']}, {best['stream']} {best['layer']}", 0.996, interval(best),
                 ">= 0.92", best["value"] >= 0.92,
                 [check("points over the no-flip shortcut", None, over, ">= 0.10", over[0] >= 0.10)])


def relative_and_absolute(study: Study) -> dict:
    best = best_linear(study)
    absolute = at(study, best, label="black_white", probe="logistic")
    gap = difference(at(study, best, label="mine_theirs", probe="logistic"), absolute)
    return check("relative minus absolute labels, linear, same layer", 0.248, gap, ">= 0.12", gap[0] >= 0.12,
                 [check("absolute labels", 0.748, absolute, "0.74 to 0.80", 0.74 <= absolute[0] <= 0.80)])


def random_init(study: Study) -> dict:
    best = best_linear(study)
    twin = at(study, best, label="mine_theirs", probe=best["probe"], control="random_init")
    gap = difference(interval(best), twin)
    return check("trained minus randomly initialised model, same probe", None, gap, ">= 0.12", gap[0] >= 0.12,
                 [check("accuracy on the randomly initialised model", None, twin, "none", True)])


def depth(study: Study) -> dict:
    curve = rows(study, label="mine_theirs", metric="accuracy", split="test", probe="logistic", stream="resid_post",
                 intervention=None).sort_values("layer")
    values = curve["value"].to_numpy()
    first_half = values[: len(values) // 2 + 1]
    best = int(values.argmax())
    return check("layer of the best linear probe (from 0)", 6, (best,), "not the first; rising over the first half",
                 best > 0 and (np.diff(first_half) > 0).all(),
                 [check(f"accuracy after block {layer}", None, interval(row), "none", True)
                  for layer, (_, row) in enumerate(curve.iterrows())])


def mlp(study: Study) -> dict:
    layers = rows(study, label="black_white", probe="mlp", metric="accuracy", split="validation")
    best = layers.loc[layers["value"].idxmax()]
    gaps = {label: difference(at(study, best, label=label, probe="mlp"), at(study, best, label=label, probe="logistic"))
            for label in ("black_white", "mine_theirs")}
    absolute, relative = gaps["black_white"], gaps["mine_theirs"]
    return check(f"MLP minus linear on absolute labels, layer {best['layer']}", 0.226, absolute, ">= 0.08",
                 absolute[0] >= 0.08,
                 [check("the same on relative labels", None, relative, "<= 0.02", relative[0] <= 0.02)])


def flipped(study: Study) -> dict:
    best = best_linear(study, "flipped", "f1")
    return check(f"flipped-disc probe, F1, {best['stream']} {best['layer']}", 0.971, interval(best), ">= 0.80",
                 best["value"] >= 0.80)


def chosen(study: Study, edit: str):
    """(probe, dose) of the method that did best on the half for choosing."""
    scans = [s for s in study.scans if (s["intervention"] == edit).any()]
    dose, scan = min(((best_dose(s), s) for s in scans), key=lambda pair: pair[0].value)
    return str(scan["probe"].dropna().iloc[0]), dose


def edited(study: Study, edit: str, metric: str, control: str | None = None, within: int | None = None) -> Interval:
    probe, dose = chosen(study, edit)
    if within is not None:
        scan = next(s for s in study.scans if (s["intervention"] == edit).any() and (s["probe"] == probe).any())
        dose = best_dose(scan, within=within)
    level = control in ("null", "clean", "ideal_null")
    where = {} if level else {"alpha": dose.alpha}
    return interval(rows(study, intervention=edit, probe=probe, metric=metric, split="report", control=control,
                         layer=dose.layer, layer_end=dose.layer_end, **where).iloc[0])


def edit_check(study: Study, edit: str, paper: str, mark: float) -> dict:
    probe, dose = chosen(study, edit)
    ratio = edited(study, edit, "error_ratio")
    null, clean, after = (edited(study, edit, "set_error", c) for c in ("null", "clean", None))
    return check(f"{edit}: edited error / null error ({probe}, layers {dose.layer}-{dose.layer_end})", paper, ratio,
                 f"<= {mark}", ratio[0] <= mark,
                 [check("null error", None, null, "none", True), check("edited error", None, after, "none", True),
                  check("clean error (no edit, old answers)", None, clean, "none", True)])


def flip(study: Study) -> dict:
    return edit_check(study, "flip", "0.10 / 2.723", 0.5)


def erase(study: Study) -> dict:
    return edit_check(study, "erase", "0.02 / 2.73", 0.4)


def controls(study: Study) -> dict:
    arms = {name: edited(study, "flip", "error_ratio", name)
            for name in ("random_direction", "other_target", "other_label")}
    parts = [check(f"{name}, error / null error", None, value, ">= 0.85", value[0] >= 0.85)
             for name, value in arms.items()]
    return check("flip controls of equal norm: the smallest error / null error", None,
                 min(arms.values()), ">= 0.85", True, parts)


def several_layers(study: Study) -> dict:
    """Windows are compared on the cases for reporting, the last two layers on those for choosing (all ran there)."""
    probe, dose = chosen(study, "flip")
    window, single = edited(study, "flip", "set_error"), edited(study, "flip", "set_error", within=1)
    scan = next(s for s in study.scans if (s["intervention"] == "flip").any() and (s["probe"] == probe).any())
    n_layers = study.model.cfg.n_layers
    late = scan[scan["control"].isna() & (scan["layer"] >= n_layers - 2)]["value"].min()
    gain = difference(single, window)
    return check(f"best single layer minus layers {dose.layer}-{dose.layer_end}, set error", None, gain,
                 "> 0, and the last two layers alone are worse", gain[0] > 0,
                 [check("best error with the last two layers alone, minus the best of all (half for choosing)", None,
                        (late - dose.value,), "> 0", late > dose.value)])


def specificity(study: Study) -> dict:
    probe, dose = chosen(study, "flip")
    last = study.model.cfg.n_layers - 1
    means = {}
    for metric in ("specificity_target", "specificity_others"):  # rows of the layers that were read again
        found = rows(study, intervention="flip", probe=probe, split="report", metric=metric)
        later = found[(found["layer"] > dose.layer_end) | (found["layer"] == last)]
        means[metric] = tuple(later[["value", "ci_low", "ci_high"]].astype(float).mean())
    target, others = means["specificity_target"], means["specificity_others"]
    return check("flip: the edited square reads as the new state, mean of the later layers", None, target, ">= 0.80",
                 target[0] >= 0.80, [check("other squares whose reading changed", None, others, "<= 0.03",
                                           others[0] <= 0.03)])
