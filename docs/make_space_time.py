"""The picture of space and time, from a finished run: `python docs/make_space_time.py runs/space_time`.

The run is one of the reference world, `worldprobe reproduce space_time --out runs/space_time`.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from safetensors.numpy import load_file
from scipy.spatial import ConvexHull

from probing import read_results
from tasks import space_time

INK, MUTED, PALE, LIGHT = "#1f2430", "#5b6475", "#b4bcc9", "#e4e8ee"
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#00876a", "#aa4499"
RELATION = "distance"
STATES = {("resid_pre", 0): "name's\ntokens", ("resid_post", 0): "block 1", ("resid_post", 1): "block 2",
          ("resid_post", 2): "block 3"}


def main(run: str) -> None:
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": MUTED,
                         "text.color": INK, "axes.labelcolor": INK, "xtick.color": MUTED, "ytick.color": MUTED})
    table, _ = read_results(Path(run) / "results.parquet")
    table = table[~table["revision"].fillna("").str.startswith("step ")]
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.1), width_ratios=(1.05, 1, 1), layout="constrained")
    places(axes[0], Path(run) / "stages")
    readings(axes[1], table)
    answers(axes[2], table)
    for letter, ax in zip("abc", axes, strict=True):
        ax.set_title(f"{letter}   {ax.get_title()}", loc="left", fontsize=11, fontweight="bold", color=INK)
        ax.set_title("")
    figure.savefig(Path(__file__).parent / "space_time.png", dpi=150, facecolor="white")


def places(ax: Axes, stages: Path) -> None:
    """Test places where they are and where the probe puts them, that never saw their region."""
    said, apart = (load_file(stages / f"{name}-{RELATION}.safetensors") for name in ("said", "apart"))
    world = space_time.entities("place").table
    prompts = space_time.load(prompt=RELATION)
    true, read = prompts.labels("place")[said["rows"]], apart["block"][said["rows"]]
    for name, rows in world.groupby("block"):
        at = rows[["x", "y"]].to_numpy()
        hull = at[ConvexHull(at).vertices]
        ax.fill(*hull.T, color=LIGHT, zorder=0, joinstyle="round")
        ax.text(*at.mean(0), str(name), color=PALE, fontsize=17, fontweight="bold", ha="center", va="center", zorder=1)
    ax.plot([true[:, 0], read[:, 0]], [true[:, 1], read[:, 1]], color=BLUE, lw=1, zorder=2)
    ax.plot(*true.T, "o", mfc="white", mec=INK, ms=6, mew=1.1, label="where a place is", zorder=3)
    ax.plot(*read.T, "o", color=BLUE, ms=3.4, label="where it is read, its\nregion never fitted on", zorder=4)
    ax.set(aspect="equal", xticks=[], yticks=[], title="The map inside the model")
    ax.spines[:].set_visible(False)
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(-0.02, 0.02), ncols=2, fontsize=9, columnspacing=1)


def readings(ax: Axes, table: pd.DataFrame) -> None:
    """R2 by layer, with every control."""
    rows = table[(table["positions"] == RELATION) & (table["metric"] == "r2") & (table["split"] == "test")
                 & (table["subset"] == "all") & table["intervention"].isna()]
    ridge = rows[rows["probe"] == "ridge"]
    by_state(ax, ridge[ridge["control"].isna()], "linear probe", BLUE, "o-")
    by_state(ax, ridge[ridge["control"] == "random_init"], "model with random weights", ORANGE, "s--")
    by_state(ax, ridge[ridge["control"] == "shuffled_labels"], "shuffled places", PURPLE, "^--")
    oracle = rows[rows["control"] == "shortcut:block_mean"]["value"].iloc[0]
    ax.axhline(oracle, color=GREEN, ls=":", lw=1.6, label="mean of the region")
    ax.set(ylabel="R² of the coordinates, test places", ylim=(-0.12, 1.05), title="Where can it be read?")
    finish(ax)


def answers(ax: Axes, table: pd.DataFrame) -> None:
    """Share of answers that follow a place that is moved, by the block after which it is moved."""
    rows = table[(table["label"] == f"moved-{RELATION}") & (table["metric"] == "flip_rate")
                 & (table["split"] == "report") & (table["subset"] == "all")]
    steered = rows[(rows["intervention"] == "steer") & (rows["probe"] == "pattern.write")]
    own = steered[steered["control"].isna()].sort_values("value", ascending=False, kind="stable")
    own = own.drop_duplicates(["stream", "layer"])  # of several doses the one that does most
    same = ["stream", "layer", "alpha"]
    random = steered[steered["control"] == "random_direction"].merge(own[same], on=same)
    whole = rows[(rows["intervention"] == "patch") & rows["control"].isna()]
    by_state(ax, random, "random, of equal norm", ORANGE, "s--")
    by_state(ax, own, "moved on the map", BLUE, "o-")
    by_state(ax, whole, "whole state swapped", GREEN, "D-")
    ax.set(ylabel="answers that follow the moved place", ylim=(-0.03, 1.05), title="Do answers rest on it?")
    finish(ax, loc="upper right")


def by_state(ax: Axes, rows: pd.DataFrame, name: str, colour: str, style: str) -> None:
    rows = rows.drop_duplicates(["stream", "layer"])
    at = [list(STATES).index((r.stream, int(r.layer))) for r in rows.itertuples()]
    order = np.argsort(at)
    x, rows = np.array(at)[order], rows.iloc[order]
    low, high = (rows[c].to_numpy(float) for c in ("ci_low", "ci_high"))
    ax.fill_between(x, low, high, color=colour, alpha=0.16, lw=0)
    ax.plot(x, rows["value"].to_numpy(float), style, color=colour, label=name, ms=5, lw=1.8)


def finish(ax: Axes, loc: str = "center right") -> None:
    ax.set_xticks(range(len(STATES)), list(STATES.values()))
    ax.set_xlim(-0.15, len(STATES) - 0.85)
    ax.grid(axis="y", color=LIGHT, lw=0.8)
    ax.set_axisbelow(True)
    ax.legend(frameon=True, framealpha=0.9, edgecolor="none", fontsize=9, loc=loc, reverse=loc == "upper right")


if __name__ == "__main__":
    main(*sys.argv[1:])
