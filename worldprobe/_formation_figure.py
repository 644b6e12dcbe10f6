"""Behaviour, probes and the six alignments over training, on one axis of log steps: what rises first."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from numpy import ndarray

from probing.formation import log_steps

from ._dynamics_report import draw_curve, points, shortcut_lines, steps_axis
from ._formation_followed import Followed, Relation, headline
from ._ink import INK, MARKERS, MUTED, SERIES, Plot, name_lines, styled, words
from ._rows import metric_name

BEHAVIOUR, RELATIONS = SERIES[1], (SERIES[2], SERIES[3], SERIES[4])
PROBES = SERIES[0], SERIES[5], SERIES[2], SERIES[3], SERIES[4]
PAIRS = {"RGA": "states and gradients", "RWA": "states and weights", "GWA": "gradients and weights"}
SIDES = {"out": "after the layer", "in": "before it"}
CAPTION = (
    "One axis of log steps in every panel, step 0 at its left end. Above, left: behaviour; right: the linear probe "
    "fitted at each checkpoint (solid), the probe of the last one read out at all others (dotted), the strongest "
    "shortcut (dashed). Bands through all panels: the checkpoints between which behaviour (orange) and the probe that "
    "gains most (in its colour) are halfway from their first to their last value, 95 % of resamples. Below: the six "
    "alignments, thin: each of {layers} linear layers, later ones darker; thick: their mean, whiskers: 95 % interval, "
    "parts of the prompts resampled. Grey: the mean with the eigenvectors of one matrix rotated at random; dotted: the "
    "mean at step 0, which is high for out-RWA and in-GWA by algebra. Bar at the foot: where the mean is halfway, as "
    "for the bands.")


def formation_plot(table: pd.DataFrame, found: Followed) -> Plot:
    """Two columns of four panels that share their steps.

    Args:
        table: Results that hold the rows of the checkpoints, `revision` = `step N`.
    """
    rows = table[table["revision"].fillna("").str.startswith("step ")]
    rows = rows.assign(step=rows["revision"].str.removeprefix("step ").astype(int))
    figure = Plot(figsize=(9.2, 9.4), layout="constrained", facecolor="white")
    figure.frame = table
    axes = figure.subplots(4, 2)
    x = log_steps(found.steps)
    readings = [*headline(found.first, "probe")["reading"], *found.first["reading"].dropna()]
    colours = {name: PROBES[i % len(PROBES)] for i, name in enumerate(dict.fromkeys(readings))}
    for ax in axes.flat:
        styled(ax)
        steps_axis(ax, found.steps, x, last=ax in axes[-1], room=0.13)
        _bands(ax, found.first, colours)
    if (found.first["kind"] == "behaviour").any():
        _behaviour(axes[0, 0], rows, found, x)
    else:
        axes[0, 0].set_visible(False)
    _probes(axes[0, 1], rows, found, x, colours)
    low = min(0.0, min(r.values.mean(1).min() for r in found.relations))
    for i, relation in enumerate(found.relations):
        ax = axes[1 + i % 3, i // 3]
        ax.set_ylim(low - 0.12, 1.04)
        _relation(ax, relation, found, x, RELATIONS[i % 3], named=i // 3 == 1)
    return figure


def _bands(ax: Axes, first: pd.DataFrame, colours: Mapping[str, str]) -> None:
    """Between which checkpoints the headlines of behaviour and of the probes are halfway."""
    for kind in ("behaviour", "probe"):
        for _, curve in headline(first, kind).iterrows():
            ax.axvspan(*_at(ax, curve), color=colours.get(curve["reading"], BEHAVIOUR), alpha=0.13, lw=0)


def _at(ax: Axes, curve: pd.Series) -> tuple[float, float]:
    """Where the checkpoints stand between which a curve is halfway; step 0 is the left end."""
    ends = (max(float(curve[name]), 1e-9) for name in ("halfway_from", "halfway_to"))
    low, high = (float(np.log10(step)) for step in ends)
    return max(low, ax.get_xlim()[0]), high


def _behaviour(ax: Axes, rows: pd.DataFrame, found: Followed, x: Float[ndarray, " step"]) -> None:
    mine, names = found.first[found.first["kind"] == "behaviour"], []
    for i, (_, curve) in enumerate(mine.iterrows()):
        names.append(draw_curve(ax, points(rows, curve), curve, BEHAVIOUR if i == 0 else MUTED, MARKERS[i], x, False))
    _finish(ax, "behaviour", "share", names)


def _probes(ax: Axes, rows: pd.DataFrame, found: Followed, x: Float[ndarray, " step"], colours: Mapping[str, str]
            ) -> None:
    mine = found.first[found.first["kind"] != "behaviour"]
    looks = {name: MARKERS[i] for i, name in enumerate(colours)}
    names = []
    for _, curve in mine.iterrows():
        reading = curve["reading"]
        end = draw_curve(ax, points(rows, curve), curve, colours[reading], looks[reading], x, False)
        names += [end] if curve["kind"] == "probe" else []  # the dotted one has its colour
    shortcuts = {(round(y, 6), name): colour for y, name, colour in shortcut_lines(ax, rows, mine, colours)}
    names += [(y, name, colour) for (y, name), colour in shortcuts.items()]
    _finish(ax, "probes", " / ".join(metric_name(m).partition(" (")[0] for m in mine["metric"].unique()), names)


def _finish(ax: Axes, title: str, label: str, names: Sequence[tuple[float, str, str]]) -> None:
    low, high = ax.dataLim.intervaly
    ax.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
    ax.set_title(title, loc="left", size=9.5, color=INK, weight="bold")
    ax.set_ylabel(words(label))
    name_lines(ax, [(y, fill(name, 16), colour) for y, name, colour in names], gap=0.16)


def _relation(ax: Axes, relation: Relation, found: Followed, x: Float[ndarray, " step"], colour: str, named: bool
              ) -> None:
    curve = next(c for c in found.curves if c.name == relation.name)
    by_layer = relation.values.mean(1)
    for i, line in enumerate(by_layer.T):
        ax.plot(x, line, color=colour, lw=0.7, alpha=0.12 + 0.38 * i / max(len(by_layer.T) - 1, 1), zorder=2)
    ax.fill_between(x, relation.null_low.mean(1), relation.null_high.mean(1), color=MUTED, alpha=0.3, lw=0, zorder=3)
    ax.plot(x, relation.null.mean(1), color=MUTED, lw=1.0, zorder=3)
    ax.axhline(curve.values[0], color=INK, lw=1.0, ls=(0, (1, 2)), zorder=3)
    low, high = np.percentile(curve.draws, [2.5, 97.5], axis=0)
    ax.vlines(x, low, high, color=colour, lw=1.4, zorder=4)
    ax.plot(x, curve.values, color=colour, lw=2.3, zorder=5)
    about = found.transitions.set_index("curve").loc[relation.name]
    foot = ax.get_ylim()[0] + 0.05
    if about["gain_low"] > 0:
        ax.plot(_at(ax, about), [foot, foot], color=colour, lw=4, zorder=5, solid_capstyle="butt")
    else:
        ax.text(x[-1], foot, "does not grow", color=MUTED, size=8, va="center", ha="right")
    side, pair = relation.name.split("-")
    ax.set_title(f"{relation.name}: {PAIRS[pair]} {SIDES[side]}", loc="left", size=9.5, color=INK, weight="bold")
    if side == "out":
        ax.set_ylabel("alignment")
    if named:
        ends = (curve.values[-1], "mean of layers", colour), (relation.null[-1].mean(), "rotated", MUTED), (
            curve.values[0], "at step 0", INK)
        name_lines(ax, [(float(height), name, ink) for height, name, ink in ends], gap=0.1)
