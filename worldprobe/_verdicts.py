"""The three words of a report, derived from result rows and from nothing else.

    reads       a probe on the model's states beats every control and shortcut
    is used     removing the feature hurts more than removing random directions does (necessity); where both were run,
                more than random subspaces of its rank removed, and than the mean of equally long random pushes
    is enough   writing the feature changes the answers, and random directions do not (sufficiency)

"Above" and "below" mean that 95 % intervals do not overlap; against random directions, that the interval stays
outside their 5-95 % band. A word without its rows is `not tested`; a failed test is a result and is stated as one.
"""

from collections.abc import Collection
from dataclasses import dataclass

import pandas as pd

from worldprobe._rows import cell, control_name, lower_is_better, metric_name, number, pick, require, site_name

NONLINEAR = ("mlp",)  # how the names of probes start that, like edits along them, are shown and carry no verdict
NECESSITY = ("ablate", "mean_ablate", "zero_ablate", "project_out", "resample", "leace", "inlp", "rlace",
             "splince")  # other edits write


@dataclass(frozen=True)
class Verdict:
    """One word of the report.

    Attributes:
        word: `reads`, `is used` or `is enough`.
        state: `yes`, `no`, `partly` (some of the edits) or `not tested`.
        because: The numbers with their intervals; one line for each edit.
    """

    word: str
    state: str
    because: str


def verdicts(
    table: pd.DataFrame, label: str | None = None, metric: str = "accuracy", effect_metric: str = "set_error"
) -> list[Verdict]:
    """The three words in their order, for one label of the table."""
    return [reads(table, label, metric), used(table, effect_metric), enough(table, effect_metric)]


def only_label(table: pd.DataFrame) -> str:
    """The one label that was probed; a ValueError when there are several to choose from."""
    labels = list(table.loc[table["intervention"].isna(), "label"].dropna().unique())
    if len(labels) != 1:
        raise ValueError(f"name one label, the table has {len(labels)}: {', '.join(map(str, labels))}")
    return labels[0]


def ranked(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Rows from the best value to the worst; ties keep their order."""
    return rows.sort_values("value", ascending=lower_is_better(metric), kind="stable")


def best_probe(table: pd.DataFrame, label: str, metric: str = "accuracy", subset: str = "all") -> pd.Series:
    """The row (split test) of the linear probe and layer that scored best on validation.

    Where no validation rows exist the choice is made on the rows of the test split itself. A non-linear probe is
    taken only where there is no other.
    """
    real = pick(table, label=label, metric=metric, subset=subset, control=None, intervention=None)
    linear = real[~_nonlinear(real)]
    real = linear if len(linear) else real
    scored = require(pick(real, split="test"), table, f"probes of {label!r} on the test split with metric {metric!r}",
                     "label", "metric", "split")
    for _, choice in ranked(pick(real, split="validation"), metric).iterrows():
        if len(row := pick(scored, **{k: choice[k] for k in ("probe", "stream", "layer")})):
            return row.iloc[0]
    return ranked(scored, metric).iloc[0]


def probe_controls(table: pd.DataFrame, best: pd.Series) -> pd.DataFrame:
    """Every control of a probe row, at any layer and with any linear probe, and the same probe on the embedding.

    The last is given the control name `embedding`. A non-linear probe is held against the controls of its own kind.
    """
    rows = pick(table, intervention=None, **{c: best[c] for c in ("label", "metric", "subset", "split")})
    kind = (rows["probe"] == best["probe"]).fillna(False).astype(bool) | ~_nonlinear(rows)
    controls = rows[rows["control"].notna() & kind]
    embedding = pick(rows, control=None, probe=best["probe"], stream="resid_pre", layer=0)
    return pd.concat([controls, embedding.assign(control="embedding")])


def reads(table: pd.DataFrame, label: str | None = None, metric: str = "accuracy",
          against: Collection[str] | None = None) -> Verdict:
    """`yes` when the best probe's interval lies beyond the interval of its strongest control, at any layer.

    Args:
        against: Only these controls, where the question is whether the states hold the label at all, not whether the
            model inferred it; the sentence then names those of the others that read it as well, or else the strongest.
    """
    if pick(table, intervention=None, control=None, metric=metric).empty:
        return Verdict("reads", "not tested", f"There are no probe rows with metric {metric}.")
    label = label or only_label(table)
    best = best_probe(table, label, metric)
    at = f"The {best['probe']} probe of {label} at {site_name(best)} scores {cell(best)}"
    controls = probe_controls(table, best)
    asked = controls["control"].notna() if against is None else controls["control"].isin(list(against))
    controls, rest = controls[asked], controls[~asked]
    if controls.empty:
        return Verdict("reads", "not tested", f"{at}, but no control was run beside it.")
    rival, up = ranked(controls, metric).iloc[0], not lower_is_better(metric)
    beats = _beyond(best, rival, up)
    side = "better than" if beats else "not clearly better than"
    also = [row for _, group in rest.groupby("control", sort=False)
            if not _beyond(best, row := ranked(group, metric).iloc[0], up)]
    named = [f"{_rival_name(r)} ({cell(r)})" for r in also]
    too = f" It can be read as well from {' and '.join(named)}." if also and beats else ""
    if beats and not also and len(rest):
        other = ranked(rest, metric).iloc[0]
        too = f" {_rival_name(other).capitalize()} gets {cell(other)}."
    strongest = "its strongest control" if against is None else "chance"
    return Verdict("reads", "yes" if beats else "no",
                   f"{at}, {side} {strongest}, {_rival_name(rival)}: {cell(rival)}.{too}")


def standing(table: pd.DataFrame, best: pd.Series, metric: str) -> str:
    """Every control of a probe row at its strongest layer, as one sentence or two: what the probe clearly beats, and
    what it does not."""
    above, level = list[str](), list[str]()
    for _, rows in probe_controls(table, best).groupby("control", sort=False):
        rival = ranked(rows, metric).iloc[0]
        said = above if _beyond(best, rival, not lower_is_better(metric)) else level
        said.append(f"{_rival_name(rival)} ({number(rival['value'])})")
    parts = [f"Clearly better than {', '.join(above)}."] if above else []
    return " ".join([*parts, f"Not clearly better than {', '.join(level)}."] if level else parts)


def interventions_of(table: pd.DataFrame, necessity: bool) -> list[str]:
    """The edits of the table that remove (necessity) or that write (sufficiency)."""
    verbs = table["intervention"].dropna().unique()
    return [v for v in verbs if (v in NECESSITY) == necessity]


def chosen_edit(table: pd.DataFrame, intervention: str, metric: str = "set_error") -> pd.Series:
    """The row (split report) of the edit that did best on the cases set aside for choosing.

    Probe, layers and dose come from split `choose`; where that split has no rows, the choice is made on the
    reported cases themselves. A removing edit is chosen for the damage it does.
    """
    real = pick(table, intervention=intervention, metric=metric, control=None, subset="all")
    scored = require(pick(real, split="report"), table, f"edits {intervention!r} on split 'report', metric {metric!r}",
                     "intervention", "metric", "split")
    best_first = ranked if intervention not in NECESSITY else lambda rows, m: ranked(rows, m)[::-1]
    for _, choice in best_first(pick(real, split="choose"), metric).iterrows():
        if len(row := _same_edit(scored, choice)):
            return row.iloc[0]
    return best_first(scored, metric).iloc[0]


def effect_controls(table: pd.DataFrame, edit: pd.Series) -> pd.DataFrame:
    """The control rows of an edit: of its layers, dose and probe where they were run there, else wherever they were."""
    same = {c: edit[c] for c in ("intervention", "metric", "subset", "split")}
    rows = pick(table, **same)
    rows = rows[rows["control"].notna()]
    kept = []
    for _, group in rows.groupby("control", sort=False):
        for column in ("layer", "layer_end", "alpha", "probe"):
            here = _same_edit(group, edit, (column,))
            group = here if len(here) else group
        kept.append(group)
    return pd.concat(kept) if kept else rows


def enough(table: pd.DataFrame, metric: str = "set_error") -> Verdict:
    """`yes` when writing the feature moves the metric beyond doing nothing and beyond the random directions."""
    return _effect_verdict(table, "is enough", metric, necessity=False)


def used(table: pd.DataFrame, metric: str = "set_error") -> Verdict:
    """`yes` when removing the feature hurts more than doing nothing and more than removing random directions."""
    return _effect_verdict(table, "is used", metric, necessity=True)


def _effect_verdict(table: pd.DataFrame, word: str, metric: str, necessity: bool) -> Verdict:
    found, shown = [], []
    for verb in interventions_of(table, necessity):
        if len(rows := pick(table, intervention=verb, metric=metric, control=None, split="report", subset="all")):
            own = rows[rows["probe"].notna()]
            (shown if len(own) and _nonlinear(own).all() else found).append(_one_edit(table, verb, metric, necessity))
    found, shown = (found, shown) if found else (shown, [])
    if not found:
        what = "removes the feature" if necessity else "writes the feature"
        does = "needs" if necessity else "acts on"
        return Verdict(word, "not tested", f"No edit that {what} was run with the metric {metric}, so nothing here "
                                           f"says whether the model {does} what the probe reads.")
    states = {state for state, _ in found}
    state = states.pop() if len(states) == 1 else "partly"
    return Verdict(word, state, "\n".join(sentence for _, sentence in [*found, *shown]))


def _one_edit(table: pd.DataFrame, verb: str, metric: str, necessity: bool) -> tuple[str, str]:
    edit = chosen_edit(table, verb, metric)
    controls = effect_controls(table, edit)
    idle, push = pick(controls, control="clean" if necessity else "null"), pick(controls, control="random_direction")
    removed = pick(controls, control="random_subspace") if necessity else push[:0]
    band, chance = (removed, "random subspaces") if len(removed) else (push, "random directions")
    up = lower_is_better(metric) == necessity  # a removing edit is meant to raise an error, a writing one to lower it
    dose = "" if pd.isna(edit["alpha"]) else f", dose {edit['alpha']:g}"
    measure = metric_name(metric).partition(" (")[0]
    did = f"{verb[:1].upper()}{verb[1:].replace('_', ' ')} at {site_name(edit)}{dose}: {measure} {cell(edit)}"
    if idle.empty or band.empty:
        lacking = " and ".join(n for n, rows in (("row without an edit", idle), ("random band", band)) if rows.empty)
        return "not tested", f"{did}, but there is no {lacking} to hold it against."
    idle, band = idle.iloc[0], ranked(band, metric).iloc[-1 if up else 0]
    holds = [_beyond(edit, rival, up) for rival in (idle, band)]
    if len(removed) and len(push):
        holds[1] &= bool(edit["value"] > ranked(push, metric).iloc[-1]["value"])
    against = (f"{cell(idle)} without an edit and {number(band['value'])} for {chance} "
               f"(5–95 % band {number(band['ci_low'])} to {number(band['ci_high'])})")
    if all(holds):
        return "yes", f"{did}, against {against}."
    near = " and ".join(n for n, ok in zip(("doing nothing", chance), holds, strict=True) if not ok)
    return "no", f"{did}, which is not clearly beyond {near} ({against})."


def _beyond(row: pd.Series, rival: pd.Series, up: bool) -> bool:
    """Whether the interval of a row lies wholly on the better side of another's; False when one is missing."""
    return bool(row["ci_low"] > rival["ci_high"] if up else row["ci_high"] < rival["ci_low"])


def _same_edit(rows: pd.DataFrame, edit: pd.Series, columns=("probe", "layer", "layer_end", "alpha", "unit")):
    return pick(rows, **{c: None if pd.isna(edit[c]) else edit[c] for c in columns})


def _nonlinear(rows: pd.DataFrame) -> pd.Series:
    return rows["probe"].astype("string").str.startswith(NONLINEAR).fillna(False).astype(bool)


def _rival_name(row: pd.Series) -> str:
    name = control_name(row["control"])
    return name if pd.isna(row["layer"]) or row["control"] == "embedding" else f"{name} at {site_name(row)}"
