"""What the study of space and time draws: maps and calendars as read, how far readings are off, and neurons."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from .._study import Changed, Found, Picture, Read
from ._distance import Distance, plane_distance
from ._pictures import (
    BLUE,
    GRID,
    INK,
    MUTED,
    ORANGE,
    WIDTH,
    Map,
    components_picture,
    document,
    errors_picture,
    map_picture,
    text,
    time_picture,
)
from ._world import entities, words


def of_the_world(found: Found) -> Sequence[Picture]:
    """Places on the map of regions, events on the axis of time, and errors beside the mean of the block."""
    out = []
    if (read := found.readings.get("distance")) is not None:
        table = entities("place").table
        regions = {str(name): rows[["x", "y"]].to_numpy() for name, rows in table.groupby("block")}
        out.append(Picture("Places as they are read", map_picture(
            _maps(read, "The reference world", {"block": "Regions held out", "kind": "Isles from towns, and back"}),
            land=False, columns=2, regions=regions),
            "Test places; grey: the regions A to H, which no prompt names. Orange: read by a probe that was fitted "
            "without the region, or the type, of the place."))
        out.append(_errors(read, "place", plane_distance, "map units", "region"))
        out += _components(found, "distance")
    if (read := found.readings.get("gap")) is not None:
        out += _times(read, "time", "Events", {"block": "Every age held out"})
        out += _components(found, "gap")
    return out


def of_names(reading: str, distance: Distance, unit: str, found: Found) -> Sequence[Picture]:
    """Real places on the map of the Earth, or works on the axis of time, with blocks held out beside them, and errors.
    """
    read = found.readings.get(reading)
    if read is None:
        return []
    scheme = "place" if unit == "km" else "time"
    apart = {"block": "Every block (country, state, ...) held out", "kind": "Every type held out"}
    if scheme == "place":
        drawn = [Picture("Names on the map", map_picture(_maps(read, read.prompts.task.partition("-")[2], apart)),
                         "Test names and what the probe says of them. Orange: of a probe that was fitted without the "
                         "block, or the type, of the name. Coast: Natural Earth, public domain.")]
    else:
        drawn = _times(read, "year", "Names", {"block": "Every block (decade, ...) held out"})
    return [*drawn, _errors(read, scheme, distance, unit, "block"), *_components(found, reading)]


def examples(land: bool, found: Found, reading: str, rows: Sequence[int], names: Sequence[str]) -> str:
    """The test names that are read best and worst: where they are, or when they were, and as they are read."""
    read, k = found.readings[reading], np.asarray(rows, np.int64)
    best = np.array([name.startswith("best") for name in names])
    if "place" in read.prompts.schemes:
        true, said = _truth(read, "place"), read.values
        return map_picture([Map(title, true[k[some]], said[k[some]], None, read.where) for title, some in
                            (("Best read", best), ("Worst read", ~best)) if some.any()], land=land, columns=2,
                           regions=None if land else {"": true})
    return time_picture(_truth(read, "time")[k, 0], read.values[k, 0], title="Blue: best read; orange: worst",
                        unit="year" if land else "time", marked=~best)


def neurons(rows: pd.DataFrame) -> Picture:
    """The ten neurons of every coordinate, beside the band of shuffled coordinates and the random model's best."""
    top, best = rows[rows["metric"] == "top_neuron_spearman"], rows[rows["metric"] == "neuron_spearman"]
    own, null = top[top["control"].isna()], rows[rows["metric"] == "neuron_spearman_shuffled"]
    target = own["subset"].str.partition(",")[0]
    names, right, step = list(dict.fromkeys(target)), WIDTH - 20, 46
    left = max(40, 22 + 7 * max(map(len, names)))
    parts, low = [], min(0.0, float(own["value"].min()), float(best["value"].min()), float(null["ci_low"].min()))

    def at(value: float | int) -> float:
        return left + (right - left) * (value - low) / (1 - low)

    for k, name in enumerate(names):
        y = 30 + step * k
        parts.append(text(left - 14, y + 4, name, 13, INK, anchor="end", bold=True)
                     + f'<path d="M{left} {y}H{right}" style="stroke:{GRID}"/>')
        for row in null[(null["subset"] == name) & null["control"].isna()].itertuples():
            a, b = at(row.ci_low), at(row.ci_high)
            parts.append(f'<rect x="{a:.1f}" y="{y - 8}" width="{b - a:.1f}" height="16" style="fill:{MUTED}" '
                         'opacity="0.3"/>')
        for row in best[(best["subset"] == name) & best["control"].notna()].itertuples():
            parts.append(f'<path d="M{at(row.value):.1f} {y - 9}v18" style="stroke:{ORANGE};stroke-width:2.4"/>')
        for row in own[target == name].itertuples():
            parts.append(f'<circle cx="{at(row.value):.1f}" cy="{y}" r="4" style="fill:{BLUE}" opacity="0.6"><title>'
                         f'layer {row.layer}, {escape(row.subset)}: {row.value:.2f}</title></circle>')
    y = 30 + step * len(names) - 14
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<path d="M{at(tick):.1f} {y}v5" style="stroke:{MUTED}"/>'
                     + text(at(tick), y + 18, f"{tick:g}", 10.5, MUTED, anchor="middle"))
    return Picture("Neurons that follow a coordinate", document("".join(parts), y + 26),
                   "Rank correlation of single neurons with a coordinate, the ten that correlate most on one half of "
                   "the entities, on the other half (blue). Grey: the same for shuffled coordinates, 5th to 95th "
                   "percentile; orange: the best neuron of the model with random weights.")


def shows(found: Found) -> str:
    """A question before and after its place is moved, as text."""
    changed: Changed | None = found.changes.get("moved-distance")
    if changed is None:
        return ""
    case = changed.rows[0]
    row, vocabulary = changed.cases.cases.iloc[case], words()
    prompt = " ".join(vocabulary[t] for t in changed.cases.tokens[int(row["prompt"])].tolist())
    said = [vocabulary[int(p[0].argmax())] for p in (changed.before, changed.after)]
    right = [" ".join(vocabulary[t] for t in np.flatnonzero(r[case])) for r in
             (changed.cases.right_before, changed.cases.right_after)]
    return (f"\n{prompt}  ->  {said[0]}   (right: {right[0]})\n{row['entity']} moved to {row['becomes_entity']} inside "
            f"the model  ->  {said[1]}   (right: {right[1]})")


def _truth(read: Read, scheme: str) -> Float[ndarray, "row target"]:
    return read.prompts.labels(scheme)[read.rows].astype(float)


def _maps(read: Read, title: str, apart: Mapping[str, str]) -> list[Map]:
    """The map as it was fitted, and those of probes that never saw the block of a place."""
    true = _truth(read, "place")
    maps = [Map(title, true, read.values, None, read.where)]
    for column, name in apart.items():
        if column in read.apart:
            there = ~np.isnan(read.apart[column]).any(1)
            maps.append(Map(name, true[there], read.apart[column][there], np.ones(there.sum(), bool), read.where))
    return maps


def _times(read: Read, unit: str, what: str, apart: Mapping[str, str]) -> list[Picture]:
    """The axis of time as it was fitted, and that of probes that never saw the block of an event."""
    true = _truth(read, "time")[:, 0]
    out = [Picture(f"{what} as they are read", time_picture(true, read.values[:, 0], title=read.where, unit=unit),
                   f"Test {what.lower()}: above when they were, below when the probe says so.")]
    for column, name in apart.items():
        if column in read.apart:
            there = ~np.isnan(read.apart[column]).any(1)
            out.append(Picture(name, time_picture(
                true[there], read.apart[column][there, 0], title=name, unit=unit, marked=np.ones(there.sum(), bool)),
                "The same, read by probes that were fitted without the block of the event."))
    return out


def _components(found: Found, reading: str) -> list[Picture]:
    """R2 by principal components, beside the model with random weights and the input alone."""
    table = found.table[(found.table["positions"] == reading) & (found.table["metric"] == "r2")]
    table = table[table["subset"].fillna("").str.endswith(" components") & (table["model"] == found.model)]
    curves = {}
    for control, name in ((None, "the probe"), ("random_init", "random weights"), ("input_only", "the input alone")):
        of = table[table["control"].isna() if control is None else (table["control"] == control).fillna(False)]
        if len(of):
            curves[name] = sorted((int(s.split()[0]), float(v)) for s, v in zip(of["subset"], of["value"], strict=True))
    if not curves:
        return []
    return [Picture("How many directions it takes", components_picture(curves, title=found.readings[reading].where),
                    "R2 of the probe when it is given the first principal components of what it reads, and no others.")]


def _errors(read: Read, scheme: str, distance: Distance, unit: str, block: str) -> Picture:
    true = _truth(read, scheme)
    mean = read.prompts.labels(scheme)[read.prompts.rows("train")].mean(0)
    errors = {"the probe": distance(true, read.values)}
    if "block_mean" in read.prompts.schemes:
        errors[f"mean of the {block}"] = distance(true, _truth(read, "block_mean"))
    errors["mean of all"] = distance(true, np.broadcast_to(mean, true.shape))
    return Picture("Errors", errors_picture(errors, unit=unit), f"Test entities; {read.where}. Beside it what is known "
                   f"from the {block} alone, and from nothing.")
