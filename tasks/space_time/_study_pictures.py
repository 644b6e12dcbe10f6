"""What the study of space and time draws: maps and calendars as read, how far readings are off, and neurons."""

from collections.abc import Sequence
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
            [Map("The reference world", _truth(read, "place"), read.values, None, read.where)], land=False,
            columns=2, regions=regions), "Test places; grey: the regions A to H, which no prompt names."))
        out.append(_errors(read, "place", plane_distance, "map units", "region"))
    if (read := found.readings.get("gap")) is not None:
        out.append(Picture("Events as they are read", time_picture(
            _truth(read, "time")[:, 0], read.values[:, 0], title=read.where, unit="time"),
            "Test events: above when they were, below when the probe says so."))
    return out


def of_names(reading: str, distance: Distance, unit: str, found: Found) -> Sequence[Picture]:
    """Real places on the map of the Earth, or works on the axis of time, and errors."""
    read = found.readings.get(reading)
    if read is None:
        return []
    scheme = "place" if unit == "km" else "time"
    true = _truth(read, scheme)
    if scheme == "place":
        svg, title = map_picture([Map(read.prompts.task.partition("-")[2], true, read.values, None, read.where)]), "map"
    else:
        svg, title = time_picture(true[:, 0], read.values[:, 0], title=read.where, unit="year"), "axis of time"
    coast = " Coast: Natural Earth, public domain." if scheme == "place" else ""
    return [Picture(f"Names on the {title}", svg, f"Test names and what the probe says of them.{coast}"),
            _errors(read, scheme, distance, unit, "block")]


def neurons(rows: pd.DataFrame) -> Picture:
    """The ten neurons of every coordinate, beside the band of shuffled coordinates and the random model's best."""
    top, best = rows[rows["metric"] == "top_neuron_spearman"], rows[rows["metric"] == "neuron_spearman"]
    own, null = top[top["control"].isna()], rows[rows["metric"] == "neuron_spearman_shuffled"]
    target = own["subset"].str.partition(",")[0]
    names, left, right, step = list(dict.fromkeys(target)), 40, WIDTH - 20, 46
    parts, low = [], min(0.0, float(own["value"].min()), float(best["value"].min()), float(null["ci_low"].min()))

    def at(value: float) -> float:
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


def _errors(read: Read, scheme: str, distance: Distance, unit: str, block: str) -> Picture:
    true = _truth(read, scheme)
    mean = read.prompts.labels(scheme)[read.prompts.rows("train")].mean(0)
    errors = {"the probe": distance(true, read.values)}
    if "block_mean" in read.prompts.schemes:
        errors[f"mean of the {block}"] = distance(true, _truth(read, "block_mean"))
    errors["mean of all"] = distance(true, np.broadcast_to(mean, true.shape))
    return Picture("Errors", errors_picture(errors, unit=unit), f"Test entities; {read.where}. Beside it what is known "
                   f"from the {block} alone, and from nothing.")
