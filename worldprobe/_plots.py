"""Pictures of the results table: every function takes the table and returns a figure; none computes a result.

Intervals are those of the rows: 95 % cluster bootstrap, and for random directions the 5th to 95th percentile of
the draws. A probe is a solid line; a control is dashed and named where it ends.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle

from worldprobe._ink import BAD, GOOD, INK, MARKERS, MUTED, PAPER, SERIES, Plot, name_lines, plot, words
from worldprobe._rows import UNITS, control_name, depth, lower_is_better, metric_name, pick, require
from worldprobe._verdicts import best_probe, chosen_edit, effect_controls

HEAT = LinearSegmentedColormap.from_list("worldprobe", ("#f4f1e8", "#9fc3d9", "#3d7fb1", "#12365c"))
LAYER_AXIS = "layer (state after the block; emb: before block 0)"
LEVELS = ("null", "clean", "ideal_null")  # controls that have no dose
DASHES = {"shuffled_labels": (0, (1, 1.5)), "random_init": (0, (4, 1.5, 1, 1.5))}


def accuracy_by_layer(
    table: pd.DataFrame, label: str, metric: str = "accuracy", subset: str = "all", split: str = "test"
) -> Plot:
    """Score of every probe after every block, the embedding at the left, with all controls.

    A control that was run for several probes is drawn for the one that scored best on it at each layer.
    """
    rows = pick(table, label=label, metric=metric, subset=subset, split=split, intervention=None)
    real = rows[rows["control"].isna() & rows["layer"].notna()]
    require(real, table, f"probes of {label!r} ({metric}, {subset}, {split})", "label", "metric", "subset", "split")
    figure, (ax,) = plot(rows)
    names = []
    for i, (probe, line) in enumerate(real.groupby("probe", sort=False)):
        names.append(_line(ax, depth(line), line, probe, SERIES[i % len(SERIES)], MARKERS[i % len(MARKERS)]))
    for control, group in rows[rows["control"].notna()].groupby("control", sort=False):
        best = group.sort_values("value", ascending=lower_is_better(metric)).drop_duplicates(["stream", "layer"])
        names.append(_control(ax, control, best))
    _layer_axis(ax, real)
    ax.set_ylabel(words(metric_name(metric)))
    _room(ax)
    name_lines(ax, names)
    return figure


def absolute_vs_relative(
    table: pd.DataFrame,
    labels: tuple[str, str],
    linear: str | None = None,
    nonlinear: str = "mlp",
    metric: str = "accuracy",
    subset: str = "all",
    split: str = "test",
) -> Plot:
    """Two label schemes, each read by a linear probe (solid) and by a non-linear one (dashed), by layer.

    Args:
        labels: The absolute and the relative scheme.
        linear: Name of the linear probe; None takes the one that scores best on the relative scheme.
        nonlinear: Name of the non-linear probe, or how it starts.
    """
    rows = pick(table, label=labels, metric=metric, subset=subset, split=split, intervention=None)
    real = rows[rows["control"].isna() & rows["layer"].notna()]
    curved = real["probe"].str.startswith(nonlinear).fillna(False).astype(bool)
    require(real[~curved], table, f"linear probes of {labels}", "label", "probe", "metric", "split")
    if linear is None:
        linear = best_probe(real[~curved], labels[1], metric, subset)["probe"]
    figure, (ax,) = plot(real[curved | (real["probe"] == linear)])
    names = []
    for label, colour, marker in zip(labels, (SERIES[1], SERIES[0]), "so", strict=True):
        for kind, here in (("linear", real["probe"] == linear), (nonlinear.upper(), curved)):
            line = pick(real[here], label=label)
            if len(line):
                line = line.sort_values("value").drop_duplicates(["stream", "layer"], keep="last")
                dash = "-" if kind == "linear" else (0, (5, 2))
                names.append(_line(ax, depth(line), line, f"{label}, {kind}", colour, marker, dash))
    for control, group in rows[rows["control"].notna() & rows["layer"].isna()].groupby("control", sort=False):
        for label, line in group.groupby("label", sort=False):
            if control.startswith("shortcut:"):
                names.append(_control(ax, control, line, name=f"{control_name(control)}, {label}"))
    _layer_axis(ax, real)
    ax.set_ylabel(words(metric_name(metric)))
    _room(ax)
    name_lines(ax, names)
    return figure


def accuracy_by_position(
    table: pd.DataFrame, label: str, by: str = "ply", metric: str = "accuracy", split: str = "test", axis: str = ""
) -> Plot:
    """Score of the best probe at every position, with the controls that were scored there: subsets `ply=12`.

    A control that was run at several layers is drawn at its strongest, position by position.

    Args:
        by: The word before the equals sign of the subsets.
        axis: Label of the position axis, with its unit; by default `by` itself.
    """
    rows = pick(table, label=label, metric=metric, split=split, intervention=None)
    rows = rows[rows["subset"].str.startswith(f"{by}=").fillna(False).astype(bool)]
    require(rows, table, f"{label!r} by {by}", "label", "metric", "subset")
    rows = rows.assign(place=rows["subset"].str.partition("=")[2].astype(float)).sort_values("place", kind="stable")
    real = rows[rows["control"].isna()]
    best = _where_scored(real, best_probe(table, label, metric))
    strongest = rows[rows["control"].notna()].sort_values("value", ascending=lower_is_better(metric), kind="stable")
    strongest = strongest.drop_duplicates(["control", "place"]).sort_values("place", kind="stable")
    figure, (ax,) = plot(pd.concat([best, strongest]).drop(columns="place"))
    names = [_line(ax, best["place"], best, f"{best['probe'].iloc[0]}, layer {best['layer'].iloc[0]}", SERIES[0], "")]
    for i, (control, line) in enumerate(strongest.groupby("control", sort=False), 1):
        names.append(_line(ax, line["place"], line, control_name(control), SERIES[i % len(SERIES)], "", (0, (4, 2))))
    ax.set_xlabel(words(axis or f"{by} (position in the sequence)"))
    ax.set_ylabel(words(metric_name(metric)))
    _room(ax)
    name_lines(ax, names)
    return figure


def dose_response(
    table: pd.DataFrame,
    intervention: str,
    metric: str = "set_error",
    second: str | None = None,
    split: str | None = None,
) -> Plot:
    """An edit's effect against its dose, with every control; a second panel shows another metric, if it was measured.

    The layers are those of the chosen edit. The curve comes from the reported cases where several doses were run on
    them, else from those set aside for choosing; ringed is the chosen edit on the reported cases.

    Args:
        second: Metric of the second panel; None takes a KL divergence, if there is one.
        split: Cases of the curve, `choose` or `report`.
    """
    edit = chosen_edit(table, intervention, metric)
    measured = pick(table, intervention=intervention, subset="all")
    if second is None:
        second = next((m for m in measured["metric"].dropna().unique() if m.startswith("kl")), None)
    shown = [metric] if second is None else [metric, second]
    if split is None:
        reported = pick(measured, metric=metric, control=None, split="report")
        reported = _at(reported, edit, ("layer", "layer_end", "unit"))
        scanned = pick(measured, metric=metric, control=None, split="choose")
        split = "report" if reported["alpha"].nunique() > 1 or scanned.empty else "choose"
    measured = measured[measured["control"].isin(LEVELS) | (measured["unit"] == edit["unit"]).fillna(False)]
    rows = pick(measured, metric=shown, split=split)
    frame = pd.concat([_at(rows, edit, ("layer", "layer_end")), effect_controls(table, edit), edit.to_frame().T])
    frame = frame.astype(table.dtypes).drop_duplicates()
    figure, axes = plot(frame, len(shown), (6.1, 3.9 if len(shown) == 1 else 7.0), stacked=True)
    for ax, name in zip(axes, shown, strict=True):
        _dose_panel(ax, pick(rows, metric=name), edit)
        reported = pick(measured, metric=name, split="report", control=None)
        point = _at(reported, edit, ("probe", "layer", "layer_end", "alpha"))
        if len(point):
            _whiskers(ax, point["alpha"].astype(float), point, INK)
            ax.plot(point["alpha"].astype(float), point["value"], "o", ms=9, mfc="none", mec=INK, mew=1.6, zorder=6)
        ax.set_ylabel(words(metric_name(name).replace(" (", "\n(")))
        unit = edit["unit"] if isinstance(edit["unit"], str) else ""
        ax.set_xlabel(words(f"dose α ({UNITS.get(unit, unit or 'no unit given')})"))
    return figure


def _dose_panel(ax: Axes, rows: pd.DataFrame, edit: pd.Series) -> None:
    """One metric: the edits of every probe at the chosen layers, and the controls, named where they end."""
    here = _at(rows, edit, ("layer", "layer_end"))
    names = []
    curves = [(probe, line) for probe, line in here[here["control"].isna()].groupby("probe", sort=False)]
    for i, (probe, line) in enumerate(curves):
        look = SERIES[i % len(SERIES)], MARKERS[i % len(MARKERS)]
        names.append(_line(ax, line["alpha"].astype(float), line, f"edit: {probe}", *look))
    dosed = rows.loc[rows["alpha"].notna(), "control"].dropna().unique()
    for i, control in enumerate(c for c in dosed if c not in LEVELS):
        line = _near(pick(rows, control=control), edit)
        if control == "random_direction":
            names.append(_band(ax, line))
        else:
            colour = SERIES[2:][i % 4]
            line_at = line["alpha"].astype(float)
            names.append(_line(ax, line_at, line, control_name(control), colour, "", (0, (2, 1.5))))
    for control in LEVELS:
        if len(line := pick(rows, control=control)):
            names.append(_control(ax, control, _near(line, edit).iloc[:1]))
    _room(ax, floor=0.0)
    name_lines(ax, names)


def window_heatmap(
    table: pd.DataFrame,
    intervention: str,
    metric: str = "set_error",
    probe: str | None = None,
    split: str | None = None,
) -> Plot:
    """Effect of editing layers first..last together, at the best dose of each window; the chosen window is framed.

    Args:
        probe: Source of the direction; None takes the chosen edit's.
        split: Cases to show; None takes the split with most windows (layers are chosen on `choose`).
    """
    edit = chosen_edit(table, intervention, metric)
    rows = pick(table, intervention=intervention, metric=metric, control=None, subset="all")
    rows = pick(rows, probe=probe or edit["probe"])
    if split is None:
        spread = rows.drop_duplicates(["split", "layer", "layer_end"]).groupby("split").size()
        split = spread.sort_index(ascending=False).idxmax()
    best = pick(rows, split=split).sort_values("value", ascending=lower_is_better(metric), kind="stable")
    best = best.drop_duplicates(["layer", "layer_end"])
    n = int(best["layer_end"].max()) + 1
    grid = np.full((n, n), np.nan)
    grid[best["layer"].astype(int), best["layer_end"].astype(int)] = best["value"]
    figure, (ax,) = plot(best, size=(1.7 + 0.62 * max(n, 5), 1.1 + 0.5 * max(n, 5)))
    colour_bar(figure, heat(ax, grid, dark_is_low=lower_is_better(metric)), [ax], metric_name(metric))
    if edit["layer_end"] < n:
        corner = (edit["layer_end"] - 0.5, edit["layer"] - 0.5)
        ax.add_patch(Rectangle(corner, 1, 1, fill=False, ec=BAD, lw=2.4, zorder=5))
    ax.set_xticks(range(n))
    ax.set_yticks(range(n))
    ax.set_xlabel("last layer edited")
    ax.set_ylabel("first layer edited")
    return figure


def specificity_by_layer(table: pd.DataFrame, intervention: str, split: str = "report") -> Plot:
    """What later layers read after the edit: the edited target as intended, the other targets changed.

    Stream and layer of these rows are the place that was read. Dashed: the same reading without the edit.
    """
    found = table["metric"].str.startswith("specificity").fillna(False).astype(bool)
    rows = pick(table[found], intervention=intervention, split=split)
    real = require(rows[rows["control"].isna()], table, f"specificity after {intervention!r}", "intervention", "metric")
    rows = pick(rows, probe=real["probe"].iloc[0])
    figure, (ax,) = plot(rows)
    names = []
    looks = {"specificity_target": (GOOD, "o"), "specificity_others": (BAD, "s")}
    for (metric, control), line in rows.groupby(["metric", "control"], sort=False, dropna=False):
        colour, marker = looks.get(metric, (SERIES[0], "^"))
        name = metric_name(metric).partition(" (")[0]
        if pd.isna(control):
            names.append(_line(ax, depth(line), line, name, colour, marker))
        else:
            name = f"{' '.join(name.split()[:2])}, {control_name(control)}"  # edited target, other targets
            names.append(_line(ax, depth(line), line, name, MUTED, "", (0, (4, 2))))
    _layer_axis(ax, real)
    ax.set_ylim(-0.03, 1.03)
    ax.set_xlabel("layer at which the probe reads (state after the block)")
    ax.set_ylabel("share of cases, or of other targets")
    name_lines(ax, names)
    return figure


def steps_after(table: pd.DataFrame, intervention: str, split: str = "report") -> Plot:
    """What goes right at each step that follows an edit, beside its controls: metrics that end in `_step1`, ..."""
    named = table["metric"].str.extract(r"^(?P<what>.+)_step(?P<step>\d+)$")
    rows = table.assign(what=named["what"], step=pd.to_numeric(named["step"]))
    rows = pick(rows[rows["step"].notna()], intervention=intervention, split=split).sort_values("step", kind="stable")
    require(rows, table, f"steps after {intervention!r}", "intervention", "metric", "split")
    figure, (ax,) = plot(rows.drop(columns=["what", "step"]))
    names = []
    curves = rows.groupby(["what", "probe", "control"], dropna=False, sort=False)
    for i, ((what, probe, control), line) in enumerate(curves):
        name = f"edit: {probe}" if pd.isna(control) else control_name(control)
        name = name if rows["what"].nunique() == 1 else f"{name}, {metric_name(what)}"
        look = (SERIES[i % len(SERIES)], "o", "-") if pd.isna(control) else (MUTED, "", (0, (4, 1 + i % 3)))
        names.append(_line(ax, line["step"], line, name, *look))
    ax.set_xticks(sorted(rows["step"].unique()))
    ax.set_xlabel("step after the edit (tokens generated)")
    ax.set_ylabel(words(metric_name(rows["what"].iloc[0])))
    _room(ax)
    name_lines(ax, names)
    return figure


def _line(ax: Axes, x, rows: pd.DataFrame, name: str, colour: str, marker: str, dash="-") -> tuple[float, str, str]:
    """A line through rows with the interval of each as a band (many points) or as whiskers (few)."""
    x = np.asarray(x, float)
    order = np.argsort(x, kind="stable")
    x, rows = x[order], rows.iloc[order]
    if len(x) > 20:
        ax.fill_between(x, rows["ci_low"].astype(float), rows["ci_high"].astype(float), color=colour, alpha=0.18, lw=0)
    else:
        _whiskers(ax, x, rows, colour)
    ax.plot(x, rows["value"], color=colour, marker=marker, ms=5, lw=1.9, ls=dash, mec=PAPER, mew=0.6, zorder=4)
    return float(rows["value"].iloc[-1]), str(name), colour


def _whiskers(ax: Axes, x, rows: pd.DataFrame, colour: str) -> None:
    low, high = rows["ci_low"].astype(float), rows["ci_high"].astype(float)
    ax.vlines(np.asarray(x, float), low, high, color=colour, lw=1.3, zorder=3)


def _control(ax: Axes, control: str, rows: pd.DataFrame, name: str = "") -> tuple[float, str, str]:
    """A control: dashed along the layers, or a level with its interval when it has no layer."""
    colour = INK if control.startswith("shortcut:") else MUTED
    name = name or control_name(control)
    if rows["layer"].notna().all() and len(rows) > 1:
        return _line(ax, depth(rows), rows, name, colour, "", DASHES.get(control, (0, (4, 2))))
    row = rows.iloc[0]
    ax.axhline(row["value"], color=colour, lw=1.2, ls=(0, (5, 2)), zorder=2)
    if np.isfinite([row["ci_low"], row["ci_high"]]).all():
        ax.axhspan(row["ci_low"], row["ci_high"], color=colour, alpha=0.12, lw=0, zorder=1)
    return float(row["value"]), name, colour


def _band(ax: Axes, rows: pd.DataFrame) -> tuple[float, str, str]:
    """Random directions: mean of the draws and their 5-95 % band."""
    rows = rows.sort_values("alpha")
    x = rows["alpha"].astype(float)
    low, high = rows["ci_low"].astype(float), rows["ci_high"].astype(float)
    ax.fill_between(x, low, high, color=MUTED, alpha=0.28, lw=0, zorder=1)
    ax.plot(x, rows["value"], color=MUTED, lw=1.2, zorder=2)
    return float(rows["value"].iloc[-1]), f"{control_name('random_direction')}, 5–95 %", MUTED


def heat(
    ax: Axes, grid: np.ndarray, digits: int = 2, dark_is_low: bool = False, limits: tuple[float, float] | None = None
) -> ScalarMappable:
    """A grid of numbers on coloured cells, row 0 on top, for `colour_bar`; cells without a number stay empty."""
    edges = [np.arange(n + 1) - 0.5 for n in grid.shape[::-1]]
    low, high = limits or (np.nanmin(grid), np.nanmax(grid))
    colours = HEAT.reversed() if dark_is_low else HEAT
    mesh = ax.pcolormesh(*edges, np.ma.masked_invalid(grid), cmap=colours, vmin=low, vmax=high)
    for (row, column), value in np.ndenumerate(grid):
        if np.isfinite(value):
            dark = np.dot(mesh.cmap(mesh.norm(value))[:3], (0.299, 0.587, 0.114)) < 0.55
            ax.text(column, row, f"{value:.{digits}f}", ha="center", va="center", size=8.5,
                    color="white" if dark else "black")
    ax.grid(False)
    ax.invert_yaxis()
    ax.set_aspect("equal")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return mesh


def colour_bar(figure: Plot, mesh: ScalarMappable, axes: Sequence[Axes], name: str) -> None:
    """The scale of a heat map, named with its unit."""
    bar = figure.colorbar(mesh, ax=axes, fraction=0.046, pad=0.02)
    bar.set_label(words(name), color=INK, size=9)
    bar.ax.tick_params(colors=INK, labelsize=8.5)
    bar.outline.set_visible(False)


def _layer_axis(ax: Axes, rows: pd.DataFrame) -> None:
    at = sorted(set(depth(rows)))
    whole = [x for x in at if x == int(x)]
    step = max(1, len(whole) // 16)
    ticks = [x for x in whole if x < 0 or int(x) % step == 0]
    ax.set_xticks(ticks, ["emb" if x < 0 else str(int(x)) for x in ticks])
    ax.set_xlim(at[0] - 0.25, at[-1] + 0.25)
    ax.set_xlabel(LAYER_AXIS)


def _room(ax: Axes, floor: float | None = None) -> None:
    """A little air above and below the data; the axis starts at `floor`, if one is given."""
    low, high = ax.dataLim.intervaly
    if not np.isfinite([low, high]).all():
        return  # nothing was drawn
    air = 0.06 * (high - low or 1.0)
    ax.set_ylim(low - air if floor is None else min(floor, low), high + air)


def _at(rows: pd.DataFrame, edit: pd.Series, columns: Sequence[str]) -> pd.DataFrame:
    return pick(rows, **{c: None if pd.isna(edit[c]) else edit[c] for c in columns})


def _near(rows: pd.DataFrame, edit: pd.Series) -> pd.DataFrame:
    """A control's rows at the layers of the edit, for one source of the direction; where there are none, its own."""
    here = _at(rows, edit, ("layer", "layer_end"))
    rows = here if len(here) else rows
    same = pick(rows, probe=edit["probe"])
    return (same if len(same) else rows).sort_values("alpha", kind="stable").drop_duplicates("alpha")


def _where_scored(real: pd.DataFrame, best: pd.Series) -> pd.DataFrame:
    """The best probe's rows by position; where only another probe or layer was scored by position, those."""
    rows = _at(real, best, ("probe", "stream", "layer"))
    if rows.empty:
        first = require(real, real, "the probe by position", "probe", "layer").iloc[0]
        rows = _at(real, first, ("probe", "stream", "layer"))
    return rows
