"""Maps of edits: layers against doses, and layers against positions in the prompt. As in `worldprobe._effect_plots`."""

import pandas as pd
from matplotlib.patches import Rectangle

from worldprobe._ink import BAD, INK, MUTED, Plot, plot, words
from worldprobe._plots import colour_bar, heat
from worldprobe._rows import UNITS, lower_is_better, metric_name, pick, require

STREAMS = {"resid_pre": "stream before the block", "resid_post": "stream after the block", "attn_out": "attention",
           "mlp_out": "MLP"}


def layer_dose_map(table: pd.DataFrame, intervention: str, metric: str = "set_error", split: str = "choose") -> Plot:
    """One panel per direction: the metric at every layer and dose, on the cases set aside; framed, the best."""
    rows = pick(table, intervention=intervention, metric=metric, control=None, split=split, subset="all")
    rows = require(rows[rows["layer"] == rows["layer_end"]], table, f"single layers edited by {intervention!r}",
                   "intervention", "metric", "split")
    names = list(rows["probe"].unique())
    layers, low = sorted(rows["layer"].unique(), reverse=True), lower_is_better(metric)
    widest = rows.groupby("probe")["alpha"].nunique().max()
    size = (1.1 + len(names) * max(1.5, 0.46 * widest), 1.35 + 0.36 * len(layers))
    figure, axes = plot(rows, len(names), size=size)
    limits = (min(0.0, rows["value"].min()), max(rows["value"].max(), 1e-9))
    for ax, name in zip(axes, names, strict=True):
        here = pick(rows, probe=name)
        doses = sorted(here["alpha"].unique())
        grid = here.pivot(index="layer", columns="alpha", values="value").reindex(index=layers, columns=doses)
        mesh = heat(ax, grid.to_numpy(float), digits=1 if limits[1] >= 1 else 2, dark_is_low=low, limits=limits)
        ax.set_ylim(len(layers) - 0.5, -0.5)
        ax.set_aspect("auto")
        best = here.sort_values(["value", "alpha"], ascending=[low, True], kind="stable").iloc[0]
        corner = doses.index(best["alpha"]) - 0.5, layers.index(best["layer"]) - 0.5
        ax.add_patch(Rectangle(corner, 1, 1, fill=False, ec=BAD, lw=2.2, zorder=5))
        ax.set_title(words(name), size=9, color=INK)
        ax.set_xticks(range(len(doses)), [f"{dose:g}" for dose in doses])
        ax.set_yticks(range(len(layers)), [str(layer) for layer in layers] if ax is axes[0] else [])
    axes[0].set_ylabel("layer")
    unit = rows["unit"].iloc[0]
    figure.supxlabel(words(f"dose α ({UNITS.get(unit, unit)})"), size=9, color=INK)
    colour_bar(figure, mesh, axes, metric_name(metric).replace(" (", "\n("))
    return figure


def position_map(table: pd.DataFrame, intervention: str, metric: str = "nie", level: float = 0.05) -> Plot:
    """The metric when one layer is edited at one position, a panel per stream: layers upwards, positions from left to
    right. Hatched cells are not significant: `p_adjusted` is not below `level`, or, without one, the interval holds 0.
    """
    rows = pick(table, metric=metric, intervention=intervention, control=None, split="report")
    rows = require(rows, table, f"{metric} of {intervention!r}", "intervention", "metric", "split")
    rows = rows.assign(place=_places(rows))
    order, layers = list(rows["place"].unique()), sorted(rows["layer"].unique(), reverse=True)
    streams = list(rows["stream"].unique())
    width = max(0.5 * len(order), 1.5)
    figure, axes = plot(rows.drop(columns="place"), len(streams), (1.7 + width * len(streams), 1.4 + 0.4 * len(layers)))
    limits = min(0.0, rows["value"].min()), max(rows["value"].max(), 1e-9)
    for ax, stream in zip(axes, streams, strict=True):
        here = pick(rows, stream=stream)
        grid = here.pivot(index="layer", columns="place", values="value").reindex(index=layers, columns=order)
        mesh = heat(ax, grid.to_numpy(float).round(2) + 0.0, limits=limits)  # + 0.0: no -0.00
        ax.set_aspect("auto")
        for row in here.itertuples():
            if not significant(row, level):
                corner = order.index(row.place) - 0.5, layers.index(row.layer) - 0.5
                ax.add_patch(Rectangle(corner, 1, 1, fill=False, hatch="////", ec=MUTED, lw=0, alpha=0.45, zorder=1.5))
        ax.set_title(words(STREAMS.get(stream, stream)), size=9, color=INK)
        ax.set_xticks(range(len(order)), [words(name) for name in order])
        ax.set_yticks(range(len(layers)), [str(layer) for layer in layers] if ax is axes[0] else [])
    axes[0].set_ylabel("layer")
    figure.supxlabel("position in the prompt (-1: the last token)", size=9, color=INK)
    colour_bar(figure, mesh, axes, metric_name(metric).replace(" (", "\n("))
    return figure


def _places(rows: pd.DataFrame) -> pd.Series:
    """Where in the prompt each row acts: column `positions`, or the subset `pos=-1`."""
    if "positions" in rows and rows["positions"].notna().all():
        return rows["positions"]
    return rows["subset"].str.removeprefix("pos=")


def significant(row, level: float = 0.05) -> bool:
    """Whether a cell differs from nothing: by its corrected p-value, else by its interval."""
    if pd.notna(row.p_adjusted):
        return bool(row.p_adjusted < level)
    return bool(row.ci_low > 0 or row.ci_high < 0)
