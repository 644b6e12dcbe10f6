"""What becomes of the states over training: whether a probe rotates or appears, how much it costs to learn, how many
dimensions the states fill, and how far they and the weights have moved since step 0.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray
from torch import nn

from probing import LogisticProbe, Site, extract, load_model, residual_sites
from probing._compare import random_angles, row_space
from probing._fitting import candidates, fit_and_choose
from probing._mdl import online_code_lengths
from probing._question import Question
from probing._splits import splits_of
from probing._statistics import group_sums, ratio_interval
from probing.formation import kernel_regime, participation_ratio, two_nn
from probing.formation._linear_layers import _linear as linear_layers
from tasks import LabelledPrompts
from tasks._study import Reading

from ._report import Table
from ._study_checkpoints import probe_of
from ._study_readings import PROBES

FRACTIONS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)  # of the online code
CODED, ROWS = 800, 2000  # rows of which the code and the dimension are taken; whole groups, the first ones

Arrays = Mapping[str, ndarray]


def probes_at(path: Path, readings: Sequence[Reading], prompts: Mapping[str, LabelledPrompts],
              sites: Mapping[str, Site], seed: int) -> dict[str, ndarray]:
    """Of one checkpoint, for every reading: `NAME.read`, what the linear probe reads at the site (target, direction,
    d_model); and of labels with classes `NAME.bits` and `NAME.size`, sums per group of the online code's bits and of a
    uniform coder's."""
    model, found = load_model(path), {}
    for reading in readings:
        read, site = prompts[reading.name], sites[reading.name]
        acts = extract(model, read, [site], cache=False, random_init=None)
        X, asked = np.asarray(acts[site]), Question.of(read, reading.label, splits_of(acts, read))
        own = fit_and_choose(candidates(PROBES[probe_of(read, reading.label)]), X, [asked])[0].probe
        found[f"{reading.name}.read"] = own.read_.reshape(-1, *own.read_.shape[-2:])
        if asked.n_classes:
            keep = first_groups(asked.groups, CODED)
            bits = online_code_lengths(X[keep], asked.Y[keep], asked.groups[keep], LogisticProbe(tol=1e-2),
                                       fractions=FRACTIONS, n_orders=1, seed=seed)[0]
            uniform = np.full(len(bits), asked.Y.shape[1] * np.log2(len(np.unique(asked.Y[keep]))))
            found |= {f"{reading.name}.bits": group_sums(bits.sum(1), asked.groups[keep]),
                      f"{reading.name}.size": group_sums(uniform, asked.groups[keep])}
    return found


def first_groups(groups: ndarray, most: int) -> ndarray:
    """Rows of the groups that come first, up to `most` rows, of at least two groups."""
    _, first, number = np.unique(groups, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))[number]
    size = np.cumsum(np.bincount(rank))
    return np.flatnonzero(rank < max(2, int(np.searchsorted(size, most, side="right"))))


def angle(read: Float[ndarray, "target direction d_model"], other: Float[ndarray, "target direction d_model"]
          ) -> tuple[float, float]:
    """(mean principal angle between what two probes read of each target, the same of random subspaces), in degrees."""
    found, chance = [], []
    for a, b in zip(read, other, strict=True):
        if np.ptp(a, axis=None) and np.ptp(b, axis=None):  # a target that never varies has no direction
            spans = row_space(a), row_space(b)
            found.append(float(spans[0].angles(spans[1]).mean()))
            chance.append((a.shape[1], spans[0].rank, spans[1].rank))
    if not found:
        return np.nan, np.nan
    return float(np.mean(found)), float(np.mean([random_angles(*shape).mean() for shape in set(chance)]))


def probe_table(reading: Reading, at: Mapping[int, Arrays], first: pd.DataFrame,
                curves: Mapping[tuple[str, str | None], ndarray]) -> Table:
    """Does the reading rotate or appear? One line per checkpoint."""
    steps, last = sorted(at), at[max(at)]
    lines = []
    for i, step in enumerate(steps):
        mean, chance = angle(at[step][f"{reading.name}.read"], last[f"{reading.name}.read"])
        line = {"step": f"{step:,}", "probe of that step": curves["probe", reading.name][i],
                "final probe": curves["final_probe", reading.name][i],
                "angle to the final probe": f"{mean:.0f}°" if np.isfinite(mean) else "–"}
        if f"{reading.name}.bits" in last:
            line["compression"] = "{:.2f} [{:.2f}, {:.2f}]".format(*ratio_interval(
                at[step][f"{reading.name}.size"], at[step][f"{reading.name}.bits"]))
        lines.append(line)
    metric = first[first["reading"] == reading.name]["metric"].iloc[0]
    caption = (f"{metric} on test, at the site of the final probe for the last columns. Angle: mean principal angle "
               f"between what the probe of that step and the final one read of each target; random: {chance:.0f}°. "
               "Noise in the probes turns them too, so an angle between 0 and random says less than the transfer. ")
    if f"{reading.name}.bits" in last:
        caption += ("Compression: bits of a uniform coder over bits of the online code (minimum description length), "
                    "1 where the states say nothing, below 1 where the probe, of one penalty at all steps, overfits; "
                    "in brackets 95 %, groups resampled.")
    return Table(f"{reading.name}: does it rotate or appear?", pd.DataFrame(lines), caption)


def regime_rows(start: Path, end: Path, reading: Reading, read: LabelledPrompts) -> pd.DataFrame:
    """One row per site of the residual stream: intrinsic dimension and participation ratio at step 0 and at the end,
    how alike the two kernels are, and how far the weights of the block have moved."""
    models = {"start": load_model(start), "end": load_model(end)}
    sites = residual_sites(models["end"].cfg.n_layers)
    acts = {name: extract(model, read, sites, cache=False, random_init=None) for name, model in models.items()}
    keep = first_groups(read.examples["group"].to_numpy(), ROWS)
    moved, rows = weight_changes(models["start"], models["end"]), []
    for site in sites:
        now, then = (np.asarray(acts[name][site])[keep] for name in ("end", "start"))
        row: dict = {"site": str(site), "reading": reading.name, "n": len(keep)}
        for name, X in (("start", then), ("end", now)):
            row |= dict(zip((f"two_nn_{name}", f"two_nn_{name}_low", f"two_nn_{name}_high", f"distinct_{name}"),
                            dimension(X), strict=True))
            row[f"participation_{name}"] = participation_ratio(X) if np.ptp(X, axis=0).any() else np.nan
        there = np.isfinite([row["participation_start"], row["participation_end"]]).all()
        row["kernel_alignment"] = float(kernel_regime({"": now}, {"": then})["kernel_alignment"].iloc[0]) if there \
            else np.nan
        row["weight_change"] = moved.get(site.layer, np.nan) if site.stream == "resid_post" else np.nan
        rows.append(row)
    return pd.DataFrame(rows)


def dimension(X: Float[ndarray, "row d_model"]) -> tuple[float, float, float, int]:
    """(TwoNN dimension, low, high, distinct rows) of the distinct rows; missing where fewer than 20 are left, or where
    all of them are as far apart, as on a grid."""
    rows = np.unique(X, axis=0)
    try:
        return *two_nn(rows), len(rows)
    except ValueError:
        return np.nan, np.nan, np.nan, len(rows)


def weight_changes(start: nn.Module, end: nn.Module) -> dict[int, float]:
    """Block -> mean over its weight matrices of ||W - W_0|| / ||W_0||; those that start at zero have no ratio."""
    found: dict[int, list[float]] = {}
    before = {name: module.weight for name, (module, _) in linear_layers(start)}
    for name, (module, _) in linear_layers(end):
        block, W0 = name.partition("blocks.")[2].partition(".")[0], before[name]
        if block.isdigit() and not name.endswith(".qkv") and float(W0.norm()):  # which q, k and v are parts of
            found.setdefault(int(block), []).append(float((module.weight - W0).norm() / W0.norm()))
    return {block: float(np.mean(changes)) for block, changes in found.items()}


def regime_table(rows: pd.DataFrame) -> Table:
    """Dimensions and moves, a line per site."""
    def value(row: pd.Series, name: str) -> str:
        return f"{row[name]:.1f} [{row[f'{name}_low']:.1f}, {row[f'{name}_high']:.1f}]" if pd.notna(row[name]) else "–"

    shown = pd.DataFrame([{
        "site": row["site"], "TwoNN at step 0": value(row, "two_nn_start"), "at the end": value(row, "two_nn_end"),
        "participation ratio at step 0": row["participation_start"], "then": row["participation_end"],
        "kernel alignment": row["kernel_alignment"], "weights moved": row["weight_change"]}
        for _, row in rows.iterrows()]).astype(object)
    n, name = rows[["n", "reading"]].iloc[0]
    return Table("What moved between step 0 and the end", shown.where(shown.notna(), None), (
        f"States of {n:,} examples of {name}; the dimension is taken of distinct rows, in brackets its 95 % interval "
        "for independent ratios (tokens of one prompt are not; it falls short where it is above 8). Kernel alignment: "
        "debiased CKA of the states with those at step 0; 1 is lazy, the features never moved. Weights moved: "
        "||W - W0|| / ||W0||, mean over the matrices of the block. –: too few distinct rows, or nothing to compare."),
        rows)
