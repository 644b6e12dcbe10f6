"""The part of a study's report on training: behaviour and readings over log steps, and where each of them rises."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from probing.formation import log_steps
from tasks._study import Study

from ._ink import MARKERS, MUTED, PAPER, SERIES, Plot, name_lines, plot, words
from ._report import Exhibit, Section, Table
from ._rows import control_name, metric_name, number, pick
from ._study_checkpoints import FINAL, chosen

NAMES = {"behaviour": "behaviour", "probe": "probe of that step", "final_probe": "final probe"}
CAPTION = (
    "Steps are on a log scale, step 0 at its left end. Above: behaviour on {items}. Below, solid: the linear probe "
    "fitted at each checkpoint, at the layer that is best on validation there; dotted: the probe of the last "
    "checkpoint read out at every other one; dashed: the strongest shortcut. Whiskers: 95 % interval, percentile "
    "bootstrap over groups. Bands: 95 % interval of the step at which a curve rises, where a sigmoid in log step beats "
    "a straight line; grey below: that of the first metric above.")


def dynamics_section(table: pd.DataFrame, transitions: pd.DataFrame, study: Study) -> Section | None:
    """Behaviour and readings over the checkpoints, as figure, table and words; None where nothing was followed.

    Args:
        table: Results that hold the rows of the checkpoints, `revision` = `step N`.
        transitions: As `dynamics_stages` returns them.
    """
    if transitions.empty:
        return None
    rows = table[table["revision"].fillna("").str.startswith("step ")]
    rows = rows.assign(step=rows["revision"].str.removeprefix("step ").astype(int))
    items = study.behaviour.items if study.behaviour else "prompts"
    figure = dynamics_plot(rows, transitions)
    steps = sorted(rows["step"].unique())
    about = f"{len(steps)} checkpoints from step 0 to {steps[-1]:,}."
    return Section("When it appears in training", [about, *_sentences(rows, transitions, study)],
                   [Exhibit("Behaviour and probes over training", figure, CAPTION.format(items=items))],
                   [_table(transitions, study)])


def dynamics_plot(rows: pd.DataFrame, transitions: pd.DataFrame) -> Plot:
    """Curves of behaviour above, of readings below, over log steps.

    Args:
        rows: Results of the checkpoints, with a column `step`.
    """
    panels = [kinds for kinds in (("behaviour",), ("probe", "final_probe")) if transitions["kind"].isin(kinds).any()]
    figure, axes = plot(rows.drop(columns="step"), len(panels), (6.1, 1.0 + 2.9 * len(panels)), stacked=True)
    steps = np.array(sorted(rows["step"].unique()))
    x = log_steps(steps)
    for ax, kinds in zip(axes, panels, strict=True):
        mine = transitions[transitions["kind"].isin(kinds)]
        names: list[tuple[float, str, str]] = []
        looks: dict[str, tuple[str, str]] = {}
        for _, curve in mine.iterrows():
            key = curve["reading"] if isinstance(curve["reading"], str) else curve["metric"]
            look = looks.setdefault(key, (SERIES[len(looks) % len(SERIES)], MARKERS[len(looks) % len(MARKERS)]))
            names.append(draw_curve(ax, points(rows, curve), curve, *look, x))
        if "probe" in kinds:
            _first_of_behaviour(ax, transitions)
            names += shortcut_lines(ax, rows, mine, {k: v[0] for k, v in looks.items()})
        steps_axis(ax, steps, x, last=ax is axes[-1])
        ax.set_ylabel("share" if "behaviour" in kinds else words(" / ".join(map(_short, mine["metric"].unique()))))
        low, high = ax.dataLim.intervaly
        ax.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
        name_lines(ax, names)
    return figure


def points(rows: pd.DataFrame, curve: pd.Series) -> pd.DataFrame:
    """The results that a followed curve goes through, one row per step, ascending."""
    own = rows[rows["control"].isna()].sort_values("step", kind="stable")
    if curve["kind"] == "behaviour":
        return pick(own, metric=curve["metric"], label=None, intervention=None)
    if curve["kind"] == "final_probe":
        final = own[own["probe"].str.endswith(FINAL).fillna(False).astype(bool)]
        return pick(final, positions=curve["reading"], split="test", stream=curve["stream"], layer=int(curve["layer"]))
    every = [chosen(part, curve["reading"]) for _, part in own.groupby("step")]
    return pd.DataFrame(every).astype(own.dtypes)


def draw_curve(ax: Axes, here: pd.DataFrame, curve: pd.Series, colour: str, marker: str, x: np.ndarray,
               marked: bool = True) -> tuple[float, str, str]:
    """One curve with its whiskers and, if it is to be `marked`, where it rises; (height, name, colour) of its end."""
    final = curve["kind"] == "final_probe"
    if marked and curve["sharp"] and not final:
        if np.isfinite([curve["step_low"], curve["step_high"]]).all():
            ax.axvspan(np.log10(curve["step_low"]), np.log10(curve["step_high"]), color=colour, alpha=0.16, lw=0)
        ax.axvline(np.log10(curve["step"]), color=colour, lw=1.0, zorder=1)
    if not final:
        ax.vlines(x, here["ci_low"].astype(float), here["ci_high"].astype(float), color=colour, lw=1.3, zorder=3)
    ax.plot(x, here["value"], marker="" if final else marker, ms=4.5, lw=1.4 if final else 1.9,
            ls=(0, (1, 1.3)) if final else "-", color=colour, zorder=4, mec=PAPER, mew=0.6)
    name = metric_name(curve["metric"]).partition(" (")[0] if curve["kind"] == "behaviour" else curve["reading"]
    return float(here["value"].iloc[-1]), f"{name}, final probe" if final else str(name), colour


def _first_of_behaviour(ax: Axes, transitions: pd.DataFrame) -> None:
    """Where the headline of behaviour rises, in grey."""
    first = transitions[transitions["kind"] == "behaviour"].head(1)
    ends = [float(first[name].iloc[0]) for name in ("step_low", "step_high")] if first["sharp"].any() else [np.nan]
    if np.isfinite(ends).all():
        ax.axvspan(*np.log10(ends), color=MUTED, alpha=0.14, lw=0)


def shortcut_lines(ax: Axes, rows: pd.DataFrame, curves: pd.DataFrame, colours: Mapping[str, str]
                   ) -> list[tuple[float, str, str]]:
    """The strongest shortcut of every reading (the majority where it has none), which is the same at every step."""
    names = []
    for _, curve in curves[curves["kind"] == "probe"].iterrows():
        best = _shortcut(rows, curve)
        colour = colours[curve["reading"]]
        ax.axhline(best["value"], color=colour, lw=1.1, ls=(0, (5, 2)), zorder=2)
        names.append((float(best["value"]), control_name(best["control"]), colour))
    return names


def _shortcut(rows: pd.DataFrame, curve: pd.Series) -> pd.Series:
    free = pick(rows, positions=curve["reading"], split="test", step=0)
    short = free[free["control"].str.startswith("shortcut:").fillna(False).astype(bool)]
    return (short if len(short) else pick(free, control="majority")).sort_values("value").iloc[-1]


def steps_axis(ax: Axes, steps: np.ndarray, x: np.ndarray, last: bool, room: float = 0.075) -> None:
    """Training steps at their log steps, named below the `last` panel, a share of the axis apart."""
    shown = [len(steps) - 1, 0]
    for i in reversed(range(len(steps))):  # the first and the last are named, and all that have room beside those
        if np.abs(x[shown] - x[i]).min() > room * (x[-1] - x[0]):
            shown.append(i)
    ax.set_xticks(x[shown], [f"{steps[i]:,}" for i in shown] if last else [])
    ax.set_xlim(x[0] - 0.05, x[-1] + 0.05)
    if last:
        ax.set_xlabel("training step (log scale, step 0 at the left)")


def _sentences(rows: pd.DataFrame, transitions: pd.DataFrame, study: Study) -> list[str]:
    """One paragraph per reading: when it rises, and before or after behaviour."""
    said = [_when(curve, study) for _, curve in transitions[transitions["kind"] == "behaviour"].iterrows()]
    out = [" ".join(said)] if said else []
    for _, curve in transitions[transitions["kind"] == "probe"].iterrows():
        text = _when(curve, study) + _above_shortcut(rows, curve)
        both = transitions[(transitions["kind"] == "behaviour") & (transitions["curve"] == curve.get("other"))]
        if curve["sharp"] and len(both) and bool(both["sharp"].iloc[0]) and np.isfinite(curve["lag_low"]):
            low, high = curve["lag_low"], curve["lag_high"]
            order = "before" if high < 0 else "after" if low > 0 else "within the interval at the same time as"
            text += (f" That is {order} {_metric_words(study, curve['other'])}: "
                     f"{curve['lag']:+.2f} decades of training [{low:+.2f}, {high:+.2f}].")
        out.append(text)
    return out


def _above_shortcut(rows: pd.DataFrame, curve: pd.Series) -> str:
    """From which step on the probe is above the strongest shortcut, interval from interval."""
    best = _shortcut(rows, curve)
    here = points(rows, curve)
    above = here["ci_low"].to_numpy(float) > np.nanmax([best["value"], best["ci_high"]])
    what = f" The strongest shortcut, {control_name(best['control']).removeprefix('shortcut: ')}, reads "
    what += f"{number(best['value'])}; "
    if not above[-1]:
        return what + "the probe does not end above it."
    since = len(above) - int(np.argmin(above[::-1])) if not above.all() else 0
    return what + f"the probe is above it from step {here['step'].iloc[since]:,} on."


def _when(curve: pd.Series, study: Study) -> str:
    what = _metric_words(study, curve["metric"])
    if curve["kind"] != "behaviour":
        what = next((f"{r.words} ({curve['metric']})" for r in study.readings if r.name == curve["reading"]), what)
    levels = f"from {number(curve['first'])} at step 0 to {number(curve['last'])}"
    if not curve["sharp"]:
        return f"{_capital(what)}: {levels}; a straight line in log step fits as well, so it has no step of its own."
    return f"{_capital(what)}: {levels}, halfway at step {_step(curve, 'step')}, {between(curve)}."


def between(curve: pd.Series) -> str:
    """What the spacing of checkpoints leaves of a transition, in words."""
    if curve["between_from"] == 0:
        return f"before the first checkpoint at step {curve['between_to']:,.0f}"
    return f"between the checkpoints at {curve['between_from']:,.0f} and {curve['between_to']:,.0f}"


def _table(transitions: pd.DataFrame, study: Study) -> Table:
    shown = []
    for _, curve in transitions.iterrows():
        line = {"curve": curve["curve"], "read by": NAMES[curve["kind"]], "at step 0": curve["first"],
                "at the end": curve["last"],
                "rises at step": _step(curve, "step") if curve["sharp"] else "no step of its own",
                "checkpoints around": _around(curve) if curve["sharp"] else None,
                "10–90 %, decades": _range(curve, "width") if curve["sharp"] else None,
                "halfway at step": _step(curve, "half_rise"), "BIC gain": round(curve["bic_gain"], 1)}
        if "lag" in curve and pd.notna(curve["lag"]) and curve["sharp"]:
            line["behind behaviour, decades"] = _range(curve, "lag", "{:+.2f}")
        shown.append(line)
    frame = pd.DataFrame(shown).astype(object)
    caption = ("In brackets: 95 % interval, percentile bootstrap over groups of one run of training; other seeds of "
               "training are not in it. A step of its own: a sigmoid in log step beats a straight line by BIC (gain: "
               "BIC of the line minus that of the sigmoid), by more than noise on that line does (p < 0.05), and two "
               "checkpoints follow its centre. A jump between two checkpoints may be anywhere between them, and its "
               "interval says so.")
    return Table("Where the curves rise", frame.where(frame.notna(), None), caption, transitions)


def _step(curve: pd.Series, name: str) -> str:
    return _range(curve, name, "{:,.0f}")


def _range(curve: pd.Series, name: str, form: str = "{:.2f}") -> str:
    value, low, high = (curve[f"{name}{end}"] for end in ("", "_low", "_high"))
    if not np.isfinite(value):
        return "–"
    known = np.isfinite([low, high]).all()
    return form.format(value) + (f" [{form.format(low)}, {form.format(high)}]" if known else "")


def _around(curve: pd.Series) -> str:
    return f"{curve['between_from']:,.0f}, {curve['between_to']:,.0f}"


def _metric_words(study: Study, metric: str) -> str:
    return study.behaviour.metrics.get(metric, metric) if study.behaviour else metric


def _short(metric: str) -> str:
    return metric_name(metric).partition(" (")[0]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
