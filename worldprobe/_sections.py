"""Sections of a report made from a results table: what was probed, and what the edits did."""

from collections.abc import Sequence

import pandas as pd

from worldprobe import _plots
from worldprobe._report import Exhibit, Section, Table
from worldprobe._rows import cell, control_name, depth, metric_name, pick, site_name
from worldprobe._verdicts import (
    best_probe,
    chosen_edit,
    effect_controls,
    interventions_of,
    probe_controls,
    ranked,
    standing,
)

INTERVAL = "{where}: 95 % interval, percentile bootstrap over {groups}."
BAND = "Grey band: 5th to 95th percentile of {n} random directions of equal norm."
NO_EFFECTS = ("No intervention was run, so nothing here says whether the model uses what the probes read: "
              "a feature that can be decoded may be causally inert.")


def probe_section(
    table: pd.DataFrame,
    label: str,
    *,
    heading: str = "What the states encode",
    text: str | Sequence[str] = (),
    against: str | None = None,
    positions: str | None = None,
    subsets: Sequence[str] = (),
    metric: str = "accuracy",
    groups: str = "groups",
    more: Sequence[Exhibit] = (),
) -> Section:
    """Score by layer with every control, as figure and table, for one label.

    Args:
        against: Another label scheme, shown beside this one for linear and non-linear probes.
        positions: Word before the `=` of the by-position subsets (`ply`, for `ply=12`), if there are any.
        subsets: Subsets with a score of their own in the tables, besides `all`; absent ones are left out.
        groups: What a group is called (games, cities), for the captions.
        more: Exhibits of the task itself, appended.
    """
    rows = pick(table, label=label, metric=metric, split="test", intervention=None)
    if pick(rows, control=None, subset="all").empty:
        return Section(heading, [f"No probe of {label} was scored on the test split with the metric {metric}."])
    held = [s for s in ("all", *subsets) if len(pick(rows, subset=s, control=None))]
    interval = INTERVAL.format(where="Whiskers and bands", groups=groups)
    exhibits = [Exhibit(f"{_short(metric)} by layer, {label}", _plots.accuracy_by_layer(table, label, metric),
                        f"Solid: probes on the test split. Dashed: controls, each named at its end. "
                        f"{_counts(pick(rows, subset='all'), groups)} {interval}")]
    if against and len(pick(table, label=against, metric=metric, split="test", control=None, subset="all")):
        exhibits.append(Exhibit(
            f"{against} and {label}, linear and non-linear",
            _plots.absolute_vs_relative(table, (against, label), metric=metric),
            f"Two ways to name the same state, each read by the best linear probe (solid) and by an MLP (dashed). "
            f"{_counts(pick(rows, subset='all'), groups)} {interval}"))
    placed = rows[rows["subset"].str.startswith(f"{positions}=").fillna(False).astype(bool)]
    if positions and len(placed):
        exhibits.append(Exhibit(
            f"{_short(metric)} by {positions}", _plots.accuracy_by_position(table, label, positions, metric),
            f"The best probe (solid) and the controls (dashed), by {positions}. {_counts(placed, groups)} {interval}"))
    interval = INTERVAL.format(where="In brackets", groups=groups)
    tables = [_layer_table(rows, label, metric, s, interval) for s in held]
    return Section(heading, text or _probe_text(table, label, metric), [*exhibits, *more],
                   [_control_table(table, label, metric, held, interval), *tables], about=f"label:{label}")


def effect_section(
    table: pd.DataFrame,
    *,
    heading: str = "What the model does with it",
    text: str | Sequence[str] = (),
    metric: str = "set_error",
    groups: str = "groups",
    more: Sequence[Exhibit] = (),
) -> Section:
    """The edits with every control: dose-response, windows of layers and specificity, each where it was measured."""
    verbs = [v for necessity in (False, True) for v in interventions_of(table, necessity)
             if len(pick(table, intervention=v, metric=metric, control=None, split="report", subset="all"))]
    if not verbs:
        return Section(heading, [NO_EFFECTS])
    parts = []
    for verb in verbs:
        edit, controls = _edit(table, verb, metric)
        parts.append(Section(verb, (), _effect_exhibits(table, edit, controls, metric, groups)))
    text = text or ("Layers and dose were chosen on one half of the cases and are reported on the other. "
                    "An edit counts only beyond doing nothing and beyond random directions of the same length.")
    return Section(heading, text, more, [_effect_table(table, verbs, metric, groups)], parts)


def headline(
    table: pd.DataFrame, label: str, metric: str = "accuracy", effect_metric: str = "set_error"
) -> pd.DataFrame:
    """The numbers to read first, for `write_report(numbers=...)`: what the model can do, the best probe and its
    controls, the chosen edits. Numbers without an interval are left out.
    """
    found = []
    ability = pick(table, label=None, probe=None, intervention=None, subset="all", split="test")
    for _, row in ability.iterrows():
        of = "" if pd.isna(row["control"]) else f", control: {control_name(row['control'])}"
        found.append(row.to_dict() | {"what": f"{metric_name(row['metric'])}{of}"})
    if len(pick(table, label=label, metric=metric, split="test", control=None, intervention=None, subset="all")):
        best = best_probe(table, label, metric)
        found.append(best.to_dict() | {"what": f"{metric} of the {best['probe']} probe, {label}, {site_name(best)}"})
        for _, group in probe_controls(table, best).groupby("control", sort=False):
            row = ranked(group, metric).iloc[0]
            found.append(row.to_dict() | {"what": f"{metric}, control: {control_name(row['control'])}"})
    for verb in [*interventions_of(table, False), *interventions_of(table, True)]:
        if len(pick(table, intervention=verb, metric=effect_metric, control=None, split="report", subset="all")):
            edit, controls = _edit(table, verb, effect_metric)
            words = f"{verb}, {site_name(edit)}: {metric_name(effect_metric)}"
            found.append(edit.to_dict() | {"what": f"{words} after the edit"})
            same = {c: edit[c] for c in ("intervention", "split", "subset", "probe", "layer", "layer_end", "alpha")}
            for _, row in pick(table, metric="error_ratio", control=None, **same)[:1].iterrows():
                found.append(row.to_dict() | {"what": f"{verb}: {metric_name('error_ratio')}"})
            for control in ("null", "clean"):
                for _, row in pick(controls, control=control)[:1].iterrows():
                    what = f"{verb}, {control_name(control)}: {metric_name(effect_metric)}"
                    found.append(row.to_dict() | {"what": what})
    rows = pd.DataFrame(found, columns=["what", "value", "ci_low", "ci_high", "n", "n_groups"])
    return rows[rows["ci_low"].notna() & rows["ci_high"].notna()]


def _edit(table: pd.DataFrame, verb: str, metric: str) -> tuple[pd.Series, pd.DataFrame]:
    edit = chosen_edit(table, verb, metric)
    return edit, effect_controls(table, edit)


def _effect_exhibits(table, edit, controls, metric, groups) -> list[Exhibit]:
    verb = edit["intervention"]
    real = pick(table, intervention=verb, metric=metric, control=None, subset="all")
    band = pick(controls, control="random_direction")
    draws = f" {BAND.format(n=band['n'].iloc[0])}" if len(band) else ""
    doses = pick(real, layer=edit["layer"], layer_end=edit["layer_end"], unit=edit["unit"])
    interval = INTERVAL.format(where="Whiskers and bands", groups=groups)
    exhibits = []
    reported = pick(doses, split="report")["alpha"].nunique() > 1
    aside = f" on the cases {'kept for reporting' if reported else 'set aside for choosing'}; ringed: the chosen edit."
    if doses["alpha"].nunique() > 1:
        exhibits.append(Exhibit(
            f"{verb}: dose and response", _plots.dose_response(table, verb, metric),
            f"Edits at {site_name(edit)}{aside} {_counts(pick(real, split='report'), groups)} {interval}{draws}"))
    if len(real[["layer", "layer_end"]].drop_duplicates()) > 2:
        exhibits.append(Exhibit(
            f"{verb}: layers edited together", _plots.window_heatmap(table, verb, metric),
            f"{_capital(metric_name(metric))}, at the best dose of every window of layers; framed: the chosen window. "
            f"The intervals are in the data. {_counts(real, groups)}"))
    for pattern, title, draw, words in (
        ("^specificity", "what the layers read afterwards", _plots.specificity_by_layer,
         "After the chosen edit the probes read the stream again, layer by layer."),
        (r"_step\d+$", "the steps that follow", _plots.steps_after,
         "The model goes on by itself after the edit; each step is judged as if the change had been real."),
    ):
        found = table[table["metric"].str.contains(pattern).fillna(False).astype(bool)]
        found = pick(found, intervention=verb, split="report")
        if len(pick(found, control=None)):
            caption = f"{words} {_counts(found, groups)} {interval}"
            exhibits.append(Exhibit(f"{verb}: {title}", draw(table, verb), caption))
    return exhibits


def _layer_table(rows: pd.DataFrame, label: str, metric: str, subset: str, interval: str) -> Table:
    """Probes and layered controls in columns, layers in rows."""
    here = pick(rows, subset=subset)
    here = here[here["layer"].notna()]
    each = [row for _, row in here.iterrows()]
    names = [r["probe"] if pd.isna(r["control"]) else f"{control_name(r['control'])} ({r['probe']})" for r in each]
    here = here.assign(depth=depth(here), site=[site_name(r) for r in each], text=[cell(r) for r in each], column=names)
    here = here.sort_values("depth", kind="stable").drop_duplicates(["site", "column"])
    wide = here.pivot(index=["depth", "site"], columns="column", values="text").sort_index()
    wide = wide[list(here.sort_values("control", na_position="first", kind="stable")["column"].unique())]
    wide = wide.reset_index().drop(columns="depth").rename(columns={"site": "state"})
    return Table(f"{_short(metric)} by layer, {label}, {_subset(subset)}", wide, interval, pick(rows, subset=subset))


def _control_table(table: pd.DataFrame, label: str, metric: str, subsets: Sequence[str], interval: str) -> Table:
    """The best probe and all its controls, one column per subset; a control is given at its strongest layer."""
    best = best_probe(table, label, metric)
    columns, data = {}, []
    for subset in subsets:
        here = pick(table, label=label, metric=metric, split="test", subset=subset, intervention=None)
        probe = pick(here, control=None, **{c: best[c] for c in ("probe", "stream", "layer")})
        if probe.empty:
            continue
        controls = probe_controls(table, probe.iloc[0])
        data += [probe, controls]
        column = {f"{best['probe']} probe, {site_name(best)}": cell(probe.iloc[0])}
        for control, group in controls.groupby("control", sort=False):
            row = ranked(group, metric).iloc[0]
            column[control_name(control)] = cell(row)
        columns[_subset(subset)] = column
    shown = pd.DataFrame(columns).rename_axis("what").reset_index()
    return Table(f"The best probe of {label} and its controls ({metric})", shown,
                 f"Controls with layers are given at their strongest layer. {interval}", pd.concat(data))


def _effect_table(table: pd.DataFrame, verbs: Sequence[str], metric: str, groups: str) -> Table:
    """The chosen edits and all their controls on the reported cases."""
    shown, data = [], []
    for verb in verbs:
        edit, controls = _edit(table, verb, metric)
        for row in [edit, *(row for _, row in controls.iterrows())]:
            band = row["control"] in ("random_direction", "random_in_components", "random_subspace")
            shown.append({"edit": verb, "arm": "the edit" if pd.isna(row["control"]) else control_name(row["control"]),
                          "direction": row["probe"], "where": site_name(row), "dose": row["alpha"],
                          metric.replace("_", " "): cell(row) + (" (5–95 %)" if band else ""), "n": row["n"]})
        data += [edit.to_frame().T, controls]
    caption = (f"Cases kept for reporting. In brackets: 95 % interval, percentile bootstrap over {groups}; for random "
               "directions the 5th to 95th percentile of the draws, and n is their number.")
    return Table(f"Edits and their controls: {metric_name(metric)}", pd.DataFrame(shown).drop_duplicates(), caption,
                 pd.concat(data))


def _probe_text(table: pd.DataFrame, label: str, metric: str) -> list[str]:
    best = best_probe(table, label, metric)
    chosen = len(pick(table, label=label, metric=metric, split="validation", control=None, subset="all"))
    how = "Probe and layer were chosen on the validation split." if chosen else (
        "Without validation rows, probe and layer were chosen on the split they are reported on, which flatters them.")
    text = f"The best probe of {label} is {best['probe']} at {site_name(best)}: {metric} {cell(best)}. {how}"
    return [part for part in (text, standing(table, best, metric)) if part]


def _counts(rows: pd.DataFrame, groups: str) -> str:
    """`n = 59,000 cases in 1,000 games.`, a range where rows differ; empty where the rows do not say."""
    said = []
    for column, word in (("n", ""), ("n_groups", f" {groups}")):
        values = pick(rows, control=None)[column].dropna()
        if len(values):
            low, high = int(values.min()), int(values.max())
            said.append((f"{low:,}" if low == high else f"{low:,}–{high:,}") + word)
    return f"n = {' in '.join(said)}." if said else ""


def _subset(subset: str) -> str:
    return {"all": "all targets"}.get(subset, subset.replace("_", " "))


def _short(metric: str) -> str:
    return _capital(metric.replace("_", " "))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
