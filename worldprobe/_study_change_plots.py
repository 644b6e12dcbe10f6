"""Pictures of a change: what writing it does at every layer and place, and at every dose.

Every function takes the reported rows of one change, for one subset of cases, and returns a figure, as in
`worldprobe._plots`. Grey is chance: bands run from the 5th to the 95th percentile of the random directions.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from ._ink import INK, MARKERS, MUTED, PAPER, SERIES, Plot, plot, words
from ._plots import colour_bar, heat
from ._rows import UNITS, depth, pick

MOST_PANELS = 3  # in a row
DOSES = {"move": "× the move", "goal": "× way to the new value", "class_mean": "× distance between the class means",
         "class_goal": "× way to the reading of the new class's mean"}


def place_map(rows: pd.DataFrame, chosen: Mapping[str, pd.Series], metric: str, name: str) -> Plot:
    """Sites upwards, places from left to right: written along the best direction of each place (left), and whole
    activations patched from the prompt that tells of the change (right), where there is one. Hatched: within what
    random directions of equal norm do.

    Args:
        chosen: Place -> the edit that did best on the cases set aside.
    """
    panels = {"written": {p: at_dose(pick(rows, positions=p), c) for p, c in chosen.items()},
              "whole activation patched": {p: pick(rows, positions=p, intervention="patch") for p in chosen}}
    panels = {what: cells for what, cells in panels.items() if any(len(c) for c in cells.values())}
    every = pick(pd.concat([c for cells in panels.values() for c in cells.values()]), metric=metric)
    sites, own = sites_of(every), pick(every, control=None)["value"]
    limits = (0.0, 1.0) if _in_shares(every) else (float(own.min()), float(own.max()))
    width, longest = 1.05 * len(chosen), max(len(p) for p in chosen)
    figure, axes = plot(rows, len(panels), (1.9 + (0.3 + width) * len(panels), 1.5 + 0.36 * len(sites)))
    for ax, (what, cells) in zip(axes, panels.items(), strict=True):
        grid = np.full((len(sites), len(chosen)), np.nan)
        for column, place in enumerate(chosen):
            here = pick(cells[place], metric=metric)
            for row in pick(here, control=None).itertuples():
                line = sites.index((row.stream, row.layer))
                grid[line, column] = row.value
                if not beyond(row, here):
                    ax.add_patch(Rectangle((column - 0.5, line - 0.5), 1, 1, fill=False, hatch="////", ec=MUTED, lw=0,
                                           alpha=0.45, zorder=1.5))
        mesh = heat(ax, grid.round(2) + 0.0, limits=limits)
        ax.set_ylim(len(sites) - 0.5, -0.5)
        ax.set_aspect("auto")
        ax.set_title(what, size=9, color=INK)
        ax.set_xticks(range(len(chosen)), [words(p) for p in chosen], rotation=25 if longest > 9 else 0,
                      ha="right" if longest > 9 else "center")
        ax.set_yticks(range(len(sites)), [short(*s) for s in sites] if ax is axes[0] else [])
    axes[0].set_ylabel("layer")
    colour_bar(figure, mesh, axes, name)
    return figure


def dose_panels(rows: pd.DataFrame, chosen: Mapping[tuple[str, str], pd.Series], verb: str, metric: str, name: str
                ) -> Plot:
    """One panel per place: the metric against the dose, a line per direction, each at the site chosen for it; the band
    of random directions is that of the first. Dashed: the prompt that tells of the change; dotted: whole activations
    patched at the site of the best direction.

    Args:
        chosen: (place, direction) -> the edit of this verb that did best on the cases set aside.
    """
    places = list(dict.fromkeys(place for place, _ in chosen))
    figure, axes = plot(rows, len(places), (2.1 + 2.35 * len(places), 3.5))
    probes, shares = list(dict.fromkeys(probe for _, probe in chosen)), _in_shares(pick(rows, metric=metric))
    for ax, place in zip(axes, places, strict=True):
        mine = {probe: c for (p, probe), c in chosen.items() if p == place}
        lines = {probe: same_site(pick(rows, positions=place, intervention=verb, probe=probe, metric=metric), c)
                 for probe, c in mine.items()}
        first = min(mine, key=lambda probe: mine[probe]["rank"])
        band = pick(lines[first], control="random_direction").sort_values("alpha")
        idle = pick(lines[first], control="null")["value"]
        start = float(idle.iloc[0]) if len(idle) else 0.0
        x = np.r_[0.0, band["alpha"].to_numpy(float)]
        low, high = (np.r_[start, band[c].to_numpy(float)] for c in ("ci_low", "ci_high"))
        ax.fill_between(x, low, high, color=MUTED, alpha=0.28, lw=0, zorder=1)
        for probe, line in lines.items():
            own = pick(line, control=None).sort_values("alpha")
            i = probes.index(probe)
            _curve(ax, own, start, SERIES[i % len(SERIES)], MARKERS[i % len(MARKERS)], probe)
        for control, dash in (("told", (0, (5, 2))), ("full_patch", (0, (1, 1.6)))):
            if len(level := pick(lines[first], control=control)):
                ax.axhline(level["value"].iloc[0], color=INK, lw=1, ls=dash, zorder=2)
        if shares:
            ax.set_ylim(-0.04, 1.04)
        ax.set_xlim(left=0)
        ax.set_title(words(place), size=9, color=INK)
        if shares and ax is not axes[0]:
            ax.set_yticklabels([])
    axes[0].set_ylabel(words(name))
    unit = next(iter(chosen.values()))["unit"]
    figure.supxlabel(words(f"dose α ({DOSES.get(unit, UNITS.get(unit, unit))})"), size=9, color=INK)
    handles, labels = axes[0].get_legend_handles_labels()
    key = figure.legend(handles, [words(label) for label in labels], loc="outside right upper", frameon=False,
                        fontsize=8.5, handlelength=1.1)
    for text in key.get_texts():
        text.set_color(INK)
    return figure


def at_dose(rows: pd.DataFrame, chosen: pd.Series) -> pd.DataFrame:
    """Rows of a way to write at the chosen dose of its site, and at the one dose of every other site."""
    mine = pick(rows, intervention=chosen["intervention"], probe=chosen["probe"])
    here = (mine["stream"] == chosen["stream"]) & (mine["layer"] == chosen["layer"])
    return mine[~here | mine["alpha"].isna() | (mine["alpha"] == chosen["alpha"])]


def same_site(rows: pd.DataFrame, chosen: pd.Series) -> pd.DataFrame:
    return pick(rows, stream=chosen["stream"], layer=chosen["layer"])


def beyond(row, rows: pd.DataFrame) -> bool:
    """Whether an edit's interval lies above the band of its random directions."""
    band = pick(rows, control="random_direction", stream=row.stream, layer=row.layer, alpha=row.alpha)
    return bool(len(band)) and row.ci_low > band["ci_high"].iloc[0]


def _in_shares(rows: pd.DataFrame) -> bool:
    """Whether every number is a share, from 0 to 1."""
    return bool(rows["value"].between(0, 1).all())


def sites_of(rows: pd.DataFrame) -> list[tuple[str, int]]:
    """(stream, layer) from the last layer down to the embedding."""
    own = pick(rows, control=None)[["stream", "layer"]].drop_duplicates()
    own = own.assign(depth=depth(own)).sort_values("depth", ascending=False)
    return [(stream, int(layer)) for stream, layer in zip(own["stream"], own["layer"], strict=True)]


def short(stream: str, layer: int) -> str:
    return "embedding" if stream == "resid_pre" and layer == 0 else str(layer)


def _curve(ax: Axes, rows: pd.DataFrame, start: float, colour: str, marker: str, name: str) -> None:
    x, y = rows["alpha"].to_numpy(float), rows["value"].to_numpy(float)
    ax.vlines(x, rows["ci_low"].astype(float), rows["ci_high"].astype(float), color=colour, lw=1.3, zorder=3)
    if len(x) > 1:  # of one dose there is no line to draw
        ax.plot([0, *x], [start, *y], color=colour, lw=1.5, zorder=3)
    ax.plot(x, y, marker, color=colour, ms=5, mec=PAPER, mew=0.6, zorder=4, label=name)


def thirds(places: Sequence[str]) -> list[list[str]]:
    """Places by threes, for figures that stay readable."""
    return [list(places[i : i + MOST_PANELS]) for i in range(0, len(places), MOST_PANELS)]
