"""The readout-mediator report as a picture: one row per space, one panel per question."""

import pandas as pd

from worldprobe._ink import MUTED, PAPER, SERIES, Plot, plot, words
from worldprobe._rows import pick, require

PANELS = (("compare", "principal_angle", "angle to the learned subspace (degrees)"),
          ("read", "accuracy", "label read from it (accuracy)"),
          ("ablate", "answers_kept", "answers kept when ablated (share)"),
          ("interchange", "iia", "interchange accuracy (share)"))


def readout_mediator_plot(table: pd.DataFrame, split: str = "report") -> Plot:
    """The spaces of `interventions.readout_mediator` from top to bottom, the learned one last, and from left to right:
    how far from the learned one, how well it reads, what ablating it leaves, what an interchange along it brings.

    Dots with the intervals of the rows. Grey bars run from the 5th to the 95th percentile of random directions (wide;
    of an edit, with its norm) and of the same edit of random subspaces of equal rank (narrow). The dashed line is the
    `null` of the panel: orthogonal subspaces, the majority, no edit.
    """
    rows = require(pick(table, split=split, intervention=[name for name, *_ in PANELS]), table,
                   "the readout-mediator report", "intervention", "split")
    learned = next(name for name in rows["probe"].dropna().unique() if "das, rank" in name)
    names = [*(n for n in rows["probe"].dropna().unique() if n != learned), learned]
    figure, axes = plot(rows, len(PANELS), size=(11.0, 1.5 + 0.42 * len(names)))
    for ax, (verb, metric, title) in zip(axes, PANELS, strict=True):
        here = pick(rows, intervention=verb, metric=metric, subset=f"to {learned}" if verb == "compare" else "all")
        for y, name in enumerate(names):
            _row(ax, y, pick(here, probe=name), SERIES[1] if name == learned else SERIES[0])
        for level in pick(here, control="null")["value"].unique():
            ax.axvline(level, color=MUTED, lw=1, ls=(0, (4, 2)), zorder=1)
        ax.set_yticks(range(len(names)), [words(n) for n in names] if ax is axes[0] else [""] * len(names))
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.set_xlim(*((-3, 93) if verb == "compare" else (-0.03, 1.03)))
        ax.grid(axis="y", visible=False)
        ax.set_xlabel(title)
    return figure


def _row(ax, y: int, rows: pd.DataFrame, colour: str) -> None:
    for control, width in (("random_direction", 10), ("random_subspace", 4)):
        for row in pick(rows, control=control).itertuples():
            ax.plot([row.ci_low, row.ci_high], [y, y], color=MUTED, alpha=0.35, lw=width, solid_capstyle="butt",
                    zorder=2)
    for row in pick(rows, control=None).itertuples():
        ax.plot([row.ci_low, row.ci_high], [y, y], color=colour, lw=1.6, zorder=3)
        ax.plot(row.value, y, "o", color=colour, ms=6.5, mec=PAPER, mew=0.7, zorder=4)
