"""Pictures of edits: what they do at every dose, what they cost, and what erasing leaves.

Every function takes the results table of one label and returns a figure, as in `worldprobe._plots`. A colour is a
direction; a marker is an edit. Grey is chance: bands run from the 5th to the 95th percentile of the random directions.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from interventions._summary import main_metric
from worldprobe._ink import GRID, INK, MARKERS, MUTED, PAPER, SERIES, Plot, name_lines, plot, words
from worldprobe._plots import LEVELS
from worldprobe._rows import UNITS, control_name, lower_is_better, metric_name, pick, require
from worldprobe._verdicts import NECESSITY, chosen_edit

ARM = ["intervention", "probe", "layer", "layer_end"]


def dose_curves(table: pd.DataFrame, intervention: str, metric: str | None = None, side: str = "kl") -> Plot:
    """Above, the metric (`interventions.main_metric` unless named) against the dose on the reported cases, a line per
    direction at the layers chosen for it; below, on the same axis, what it costs; dashed, on prompts that it was not
    made for, where that was measured. Left of zero the same change is subtracted (the sign flip).

    The band and the other controls are those of the edit that did best on the cases set aside.
    """
    metric = metric or main_metric(pick(table, intervention=intervention))
    edit = chosen_edit(table, intervention, metric)
    rows = pick(table, intervention=intervention, split="report", subset="all", metric=[metric, side])
    rows = require(rows, table, f"reported edits {intervention!r}", "intervention", "metric", "split")
    elsewhere = pick(table, intervention=intervention, split="report", subset="unrelated", metric=side, control=None)
    figure, axes = plot(pd.concat([rows, elsewhere]), 2, size=(6.6, 6.4), stacked=True)
    for ax, name in zip(axes, (metric, side), strict=True):
        here = pick(rows, metric=name)
        band = _of(here, edit, "random_direction")
        ends = [_band(ax, band)] if len(band) else []
        for i, (probe, line) in enumerate(pick(here, control=None).groupby("probe", sort=False)):
            flipped = _of(here, line.iloc[0], "sign_flip")
            line = pd.concat([flipped.assign(alpha=-flipped["alpha"]), _level(here, "null").assign(alpha=0.0), line])
            ends.append(_curve(ax, line, str(probe), SERIES[i % len(SERIES)], MARKERS[i % len(MARKERS)]))
            if name == side and len(away := pick(elsewhere, probe=probe)):
                away = pd.concat([_level(here, "null").assign(alpha=0.0), away])
                _curve(ax, away, "", SERIES[i % len(SERIES)], "", (0, (4, 1.6)))
        if name == metric:
            others = [c for c in pick(here, probe=edit["probe"])["control"].dropna().unique()
                      if c not in (*LEVELS, "random_direction", "sign_flip") and "direction" not in c]
            for i, control in enumerate(others):
                line = _of(here, edit, control)
                if line["alpha"].notna().all():
                    ends.append(_curve(ax, line, control_name(control), MUTED, "", (0, (1 + 2 * i, 1.6))))
            for control in (*LEVELS, "full_patch"):
                if len(level := _of(here, edit, control) if control == "full_patch" else _level(here, control)):
                    ax.axhline(level["value"].iloc[0], color=INK, lw=0.9, ls=(0, (5, 2)), zorder=2)
                    ends.append((float(level["value"].iloc[0]), control_name(control), INK))
            one = _at_dose(pick(here, control=None), edit)
            ax.plot(one["alpha"], one["value"], "o", ms=10, mfc="none", mec=INK, mew=1.5, zorder=6)
        ax.axvline(0, color=GRID, lw=1.2, zorder=1)
        _air(ax)
        ax.set_ylabel(words(metric_name(name).replace(" (", "\n(")))
        name_lines(ax, ends, gap=0.075)
    axes[1].sharex(axes[0])
    axes[0].tick_params(labelbottom=False)
    axes[1].set_xlabel(words(f"dose α ({UNITS.get(edit['unit'], edit['unit'])})"))
    return figure


def pareto(table: pd.DataFrame, price: float, metric: str = "set_error", side: str = "kl") -> Plot:
    """Effect against side effect of every writing edit and direction, dose by dose; the dashed line is the price at
    which they are compared. On the right, each where its line first reaches the price (or where it costs most), with
    its interval and the band of random directions.
    """
    rows = _writes(table, metric, side)
    looks, best = _looks(rows), at_price(table, price, metric, side)
    figure, (ax, beside) = plot(rows, 2, size=(9.0, max(3.6, 1.2 + 0.28 * len(best))))
    null = _level(pick(table, split="report"), "null", metric)["value"].iloc[0]
    for key, line in _arms(pick(rows, control=None)):
        colour, marker = looks[key]
        points = _points(line, metric, side)
        ax.plot([0.0, *points["side"]], [null, *points["value"]], color=colour, lw=1.2, alpha=0.6, zorder=3)
        ax.vlines(points["side"].astype(float), points["ci_low"].astype(float), points["ci_high"].astype(float),
                  color=colour, lw=1, alpha=0.45, zorder=2)
        ax.plot(points["side"], points["value"], marker, color=colour, ms=5.5, mec=PAPER, mew=0.6, zorder=4)
    for _, line in _arms(pick(rows, control="random_direction")):
        points = _points(line, metric, side)
        ax.plot(points["side"], points["value"], ".", color=MUTED, ms=5, alpha=0.6, zorder=1)
    ax.axvline(price, color=INK, lw=1.1, ls=(0, (4, 2)), zorder=2)
    ax.set_xlabel(words(side_name(table, side)))
    ax.set_ylabel(words(metric_name(metric)))
    _air(ax)
    ax.set_xlim(left=-0.02 * ax.get_xlim()[1])
    ax.set_title(f"compared at {price:.3g}", size=8.5, color=INK, x=np.clip(price / ax.get_xlim()[1], 0.12, 0.88))
    for y, row in enumerate(best.itertuples()):
        colour, marker = looks[row.intervention, row.probe]
        beside.plot([row.band_low, row.band_high], [y, y], color=MUTED, alpha=0.35, lw=9, solid_capstyle="butt")
        beside.plot([row.ci_low, row.ci_high], [y, y], color=colour, lw=1.7, zorder=3)
        beside.plot(row.value, y, marker, color=colour, ms=6.5, mec=PAPER, mew=0.7, zorder=4)
    for level in (ax.axhline, beside.axvline):
        level(null, color=MUTED, lw=1, ls=(0, (1, 1.5)), zorder=1)
    labels = [f"{r.intervention} {r.probe}, α = {r.alpha:.2g}" for r in best.itertuples()]
    beside.set_yticks(range(len(best)), [words(label) for label in labels])
    beside.yaxis.tick_right()
    beside.spines["left"].set_visible(False)
    beside.tick_params(axis="y", length=0)
    beside.set_ylim(len(best) - 0.5, -0.5)
    beside.grid(axis="y", visible=False)
    beside.grid(axis="x", color=GRID, linewidth=0.8)
    beside.set_xlabel(words(f"{metric_name(metric).partition(' (')[0]} at equal side effect"))
    return figure


def at_price(table: pd.DataFrame, price: float, metric: str = "set_error", side: str = "kl") -> pd.DataFrame:
    """Every writing edit and direction where its side effect first reaches `price`, best first: the row of the metric,
    with `alpha`, value and interval between two doses on the straight line between them (dose 0 is no edit), and the
    band of random directions likewise (`band`, `band_low`, `band_high`). One that never costs so much is given where it
    costs most. `side` is what was paid.
    """
    rows = _writes(table, metric, side)
    null, found = _level(pick(table, split="report"), "null", metric)["value"].iloc[0], []
    for _, line in _arms(pick(rows, control=None)):
        points = _points(line, metric, side)
        band = pick(_of(rows, points.iloc[0], "random_direction"), metric=metric).set_index("alpha")
        band = band.loc[points["alpha"], ["value", "ci_low", "ci_high"]].to_numpy(float)
        path = np.column_stack([points[["side", "alpha", "value", "ci_low", "ci_high"]].to_numpy(float), band])
        path = np.concatenate([[[0.0, 0.0, *[null] * 6]], path])
        paid = min(price, path[:, 0].max())
        first = max(1, int(np.argmax(path[:, 0] >= paid * (1 - 1e-9))))
        before, after = path[first - 1], path[first]
        gap = after[0] - before[0]
        there = before + ((paid - before[0]) / gap if gap > 0 else 1.0) * (after - before)
        names = ("side", "alpha", "value", "ci_low", "ci_high", "band", "band_low", "band_high")
        found.append(points.iloc[0].to_dict() | dict(zip(names, there, strict=True)))
    order = pd.DataFrame(found).sort_values("value", ascending=lower_is_better(metric), kind="stable")
    return order.reset_index(drop=True)


def side_name(table: pd.DataFrame, side: str = "kl") -> str:
    """The side effect in words: on which prompts."""
    name, _, unit = metric_name(side).partition(" (")
    where = "on other prompts" if _elsewhere(table, side) else "on these prompts"
    return f"{name.partition(' from ')[0]} {where} ({unit}"


def common_price(table: pd.DataFrame, metric: str = "set_error", side: str = "kl") -> float:
    """A price to compare at: the largest side effect of a writing edit and direction, in the median over them."""
    rows = pick(_writes(table, metric, side), control=None, metric=side)
    return float(rows.groupby(ARM, sort=False)["value"].max().median())


def erasure_by_layer(table: pd.DataFrame, metric: str = "set_error") -> Plot:
    """The metric after the feature was erased at one layer, by layer: a point per edit and direction. Behind each, the
    bands of random directions that push as far (wide) and of random subspaces of equal rank, erased (narrow, dark).
    Dashed: no edit."""
    rows = pick(table, intervention=list(NECESSITY), metric=metric, split="report", subset="all")
    rows = require(rows[rows["layer"] == rows["layer_end"]], table, "erasures", "intervention", "metric", "split")
    figure, (ax,) = plot(rows, size=(6.6, 3.7))
    arms = list(rows[rows["probe"].notna()].groupby(["intervention", "probe"], sort=False))
    step, ends = 0.62 / max(len(arms), 2), []
    for i, ((verb, probe), here) in enumerate(arms):
        shift = step * (i - (len(arms) - 1) / 2)
        for control, width, dark in (("random_direction", 9, 0.25), ("random_subspace", 4, 0.6)):
            band = pick(here, control=control)
            ax.vlines(band["layer"].astype(float) + shift, band["ci_low"].astype(float), band["ci_high"].astype(float),
                      color=MUTED, alpha=dark, lw=width, zorder=1)
        own = pick(here, control=None)
        _curve(ax, own.assign(alpha=own["layer"].astype(float) + shift), "", SERIES[i % len(SERIES)],
               MARKERS[i % len(MARKERS)], "")
        name = verb if verb == probe else f"{verb} {probe}"
        ends.append((SERIES[i % len(SERIES)], MARKERS[i % len(MARKERS)], 5, name))
    clean = _level(rows, "clean")
    if len(clean):
        ax.axhline(clean["value"].iloc[0], color=INK, lw=0.9, ls=(0, (5, 2)), zorder=2)
    ax.set_xticks(sorted(rows["layer"].dropna().unique()))
    ax.set_xlabel("layer at which it is erased (last token)")
    ax.set_ylabel(words(metric_name(metric).replace(" (", "\n(")))
    ax.grid(axis="x", visible=False)
    _air(ax)
    _key(ax, ends, [(0.25, 9, "random directions, as far"), (0.6, 4, "random subspaces, erased")])
    return figure


def erased_answers(table: pd.DataFrame, metric: str = "accuracy") -> Plot:
    """What the model still answers after an erasure (`interventions.amnesic`), beside every control."""
    rows = require(pick(table, intervention="erase", metric=metric, split="report", subset="all"), table,
                   "amnesic probing", "intervention", "metric")
    figure, (ax,) = plot(rows, size=(6.6, 0.9 + 0.34 * len(rows)))
    names = []
    for y, row in enumerate(rows.itertuples()):
        real = not isinstance(row.control, str)
        names.append(f"{row.probe} of the label" if real else control_name(row.control))
        colour = SERIES[0] if real else MUTED
        draws = row.control in ("random_subspace", "random_coordinates", "random_direction")
        ax.plot([row.ci_low, row.ci_high], [y, y], color=colour, lw=9 if draws else 1.7, alpha=0.35 if draws else 1,
                solid_capstyle="butt", zorder=2)
        ax.plot(row.value, y, "o", color=colour, ms=6.5, mec=PAPER, mew=0.7, zorder=4)
    ax.set_yticks(range(len(names)), [words(name) for name in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlim(-0.03, 1.03)
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", color=GRID, linewidth=0.8)
    ax.set_xlabel("answers still right (share)")
    return figure


def _elsewhere(table: pd.DataFrame, side: str = "kl") -> bool:
    """Whether the side effect was measured on prompts that the edits were not made for."""
    return len(pick(table, metric=side, subset="unrelated", control=None)) > 0


def _writes(table: pd.DataFrame, metric: str, side: str) -> pd.DataFrame:
    """The rows of both metrics; the side effect on prompts that the edit was not made for, where that was measured."""
    verbs = [v for v in table["intervention"].dropna().unique() if v not in NECESSITY]
    rows = pick(table, intervention=verbs, metric=[metric, side], split="report")
    price = pick(rows, metric=side, subset="unrelated" if _elsewhere(rows, side) else "all")
    rows = pd.concat([pick(rows, metric=metric, subset="all"), price])
    both = rows.groupby("intervention")["metric"].transform("nunique") == 2
    return require(rows[both & rows["alpha"].notna()], table, f"edits with {metric} and {side}", "intervention",
                   "metric", "split")


def _arms(rows: pd.DataFrame):
    """((edit, direction), rows) of every edit at its layers."""
    for key, line in rows.groupby(ARM, sort=False):
        yield key[:2], line


def _points(rows: pd.DataFrame, metric: str, side: str) -> pd.DataFrame:
    """The rows of the metric, by dose, with value and interval of the side effect beside: `side`, `side_ci_low`, ..."""
    price = pick(rows, metric=side).set_index("alpha")
    points = pick(rows, metric=metric).sort_values("alpha")
    at = price.loc[points["alpha"]]
    return points.assign(side=at["value"].to_numpy(), side_ci_low=at["ci_low"].to_numpy(),
                         side_ci_high=at["ci_high"].to_numpy())


def _looks(rows: pd.DataFrame) -> dict[tuple[str, str], tuple[str, str]]:
    """(edit, direction) -> colour of the direction and marker of the edit."""
    colours = {p: SERIES[i % len(SERIES)] for i, p in enumerate(rows["probe"].dropna().unique())}
    markers = {v: MARKERS[i % len(MARKERS)] for i, v in enumerate(rows["intervention"].unique())}
    return {(v, p): (colours[p], markers[v]) for v, p in rows[["intervention", "probe"]].dropna().drop_duplicates()
            .itertuples(index=False)}


def _of(rows: pd.DataFrame, edit, control: str) -> pd.DataFrame:
    """A control of an edit: the same layers and direction, any dose."""
    return pick(rows, control=control, **{c: edit[c] for c in ("intervention", "probe", "layer", "layer_end")})


def _at_dose(rows: pd.DataFrame, edit) -> pd.DataFrame:
    return pick(rows, **{c: edit[c] for c in ("probe", "layer", "layer_end", "alpha")})


def _level(rows: pd.DataFrame, control: str, metric: str | None = None) -> pd.DataFrame:
    rows = rows if metric is None else pick(rows, metric=metric)
    return pick(rows, control=control).drop_duplicates(["metric"])[:1]


def _curve(ax: Axes, rows: pd.DataFrame, name: str, colour: str, marker: str, dash="-") -> tuple[float, str, str]:
    """A line with whiskers through rows along `alpha`; what it is called where it ends."""
    rows = rows.sort_values("alpha", kind="stable")
    x = rows["alpha"].to_numpy(float)
    thin = not marker
    if not thin:
        ax.vlines(x, rows["ci_low"].astype(float), rows["ci_high"].astype(float), color=colour, lw=1.3, zorder=3)
    ax.plot(x, rows["value"], color=colour, marker=marker, ms=5, lw=1.1 if thin else 1.8, ls=dash, mec=PAPER, mew=0.6,
            zorder=3 if thin else 4)
    return float(rows["value"].iloc[-1]), name, colour


def _band(ax: Axes, rows: pd.DataFrame) -> tuple[float, str, str]:
    rows = rows.sort_values("alpha")
    x, low, high, middle = (rows[c].to_numpy(float) for c in ("alpha", "ci_low", "ci_high", "value"))
    if len(rows) == 1:
        ax.vlines(x, low, high, color=MUTED, alpha=0.35, lw=9, zorder=1)
    ax.fill_between(x, low, high, color=MUTED, alpha=0.28, lw=0, zorder=1)
    ax.plot(x, middle, color=MUTED, lw=1.2, zorder=2)
    return float(middle[-1]), "random directions, 5–95 %", MUTED


def _key(ax: Axes, marks: Sequence[tuple[str, str, float, str]], bands: Sequence[tuple[float, float, str]]) -> None:
    """What markers and bands are called, to the right of the axes."""
    lines = [Line2D([], [], color=colour, marker=marker, ms=size, ls="", mec=PAPER, mew=0.6, label=words(name))
             for colour, marker, size, name in marks]
    lines += [Line2D([], [], color=MUTED, alpha=alpha, lw=width, label=words(name), solid_capstyle="butt")
              for alpha, width, name in bands]
    key = ax.legend(handles=lines, loc="upper left", bbox_to_anchor=(1.01, 1.02), frameon=False, fontsize=8.5,
                    handlelength=1.1, borderaxespad=0, labelspacing=0.55)
    for text in key.get_texts():
        text.set_color(INK)


def _air(ax: Axes) -> None:
    low, high = ax.dataLim.intervaly
    if np.isfinite([low, high]).all():
        air = 0.06 * (high - low or 1.0)
        ax.set_ylim(min(low, 0.0) - air, high + air)
