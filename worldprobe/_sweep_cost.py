"""What the cells of a sweep cost: a rough law that cuts them into units, and a measurement on this machine.

The measurement computes one cell of every kind, label and probe at two small numbers of prompts, in a folder of its
own, and draws a line through the two; where the sweep is no larger than that, it is the cell itself. Seconds are those
of a core (of the clock, on a GPU), so that a busy machine changes them little.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

FLOPS = 2e10  # of one core, about
RUNS = 60  # of the model per dose of an effect: random directions, controls and side effects
SIZES = (60, 240)  # prompts
ROW = 6e-5  # seconds per row of the table at the end: checking and writing it
END = 4.0  # seconds of the report
START = 8.0  # seconds of a process before it does anything: torch and transformer-lens are imported
ITEM = {"float32": 4, "bfloat16": 2, "float16": 2}
COPIES = 8  # of a site's activations that a fit holds in float32, about: both models, float64, standardised


def guess(cell: Mapping[str, Any], settings: Mapping[str, Any]) -> float:
    """Seconds of a cell on one core, within a factor of three or so: it depends on the plan alone, so that the same
    plan is always cut into the same units."""
    examples, targets = cell["examples"], cell["targets"]
    fit = 0.05 + 3e-5 * examples * targets
    if cell["kind"] == "baseline":
        return 0.05 + 2e-6 * examples * targets
    if cell["kind"] == "effect":
        tokens = cell["tokens"] / cell["prompts"]
        return 1 + fit + RUNS * len(settings["doses"]) * settings["cases"] * tokens * 2 * cell["parameters"] / FLOPS
    return fit * max(1, len(cell["sites"].split()))


def measured(settings: Mapping[str, Any], cells: pd.DataFrame) -> pd.DataFrame:
    """The cells with `seconds`, `rows`, `bytes` and, for the end, seconds to `read` as measured; `setup` seconds stand
    in the first cell of every group, 0 elsewhere."""
    cells = cells.assign(seconds=np.nan, rows=0.0, bytes=0.0, read=0.0, setup=0.0)
    kinds = ["task", "model", "load"]
    for _, of in cells.groupby(kinds, sort=False):
        first = of[of["seed"] == of["seed"].iloc[0]]
        sizes = sorted({min(n, int(first["prompts"].iloc[0])) for n in SIZES})
        points = [_at(settings, first.assign(prompts=n)) for n in sizes]
        lines = {key: _line(sizes, [p[key] for p in points], int(first["prompts"].iloc[0])) for key in points[-1]}
        for key, (seconds, rows, size, read) in lines.items():
            if key == "setup":
                heads = of.drop_duplicates("group").index
                cells.loc[heads, "setup"] = seconds
                continue
            same = of.index[(of[["kind", "label", "reading", "probe"]] == list(key)).all(axis=1)]
            n_sites = of.loc[same, "sites"].str.split().str.len().clip(lower=1)
            cells.loc[same, "seconds"] = seconds * n_sites
            cells.loc[same, "rows"], cells.loc[same, "bytes"] = rows * n_sites, size * n_sites
            cells.loc[same, "read"] = read
    return cells


def _at(settings: Mapping[str, Any], cells: pd.DataFrame) -> dict[Any, np.ndarray]:
    """(seconds, rows, bytes, seconds to read) of a cell of every kind, and of `setup`, with this number of prompts."""
    from probing._threads import single_threaded

    from ._sweep_cells import Bench
    from ._sweep_folder import SweepFolder

    found: dict[Any, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as scratch, single_threaded():
        folder, models = SweepFolder(Path(scratch) / "sweep"), dict[str, Any]()
        folder.make()
        Bench(cells, {**settings, "cache": f"{scratch}/warm"}, models)  # what only the first one in a process pays
        began = _clock(models)
        bench = Bench(cells, {**settings, "cache": f"{scratch}/cache"}, models)
        found["setup"] = np.array([_clock(models) - began, 0, 0, 0])
        for key, same in cells.groupby(["kind", "label", "reading", "probe"], sort=False):
            cell = same.iloc[len(same) // 2].copy()
            cell["sites"] = " ".join(cell["sites"].split()[:1])
            for _ in range(2):  # the second time is that of most
                began = _clock(models)
                rows = bench.rows(cell)
                folder.write(cell["cell"], rows)
                spent = _clock(models) - began
            began = _clock(models)
            folder.read(cell["cell"])
            read = _clock(models) - began
            size = sum(file.stat().st_size for file in folder.cells.glob(f"{cell['cell']}.*"))
            found[key] = np.array([spent, len(rows), size, read])
    return found


def _clock(models: Mapping[str, Any]) -> float:
    on_gpu = any(next(model.parameters()).device.type == "cuda" for model in models.values())
    return time.perf_counter() if on_gpu else time.process_time()


def _line(sizes: Sequence[int], points: Sequence[np.ndarray], n: int) -> np.ndarray:
    """The points extended to `n` prompts; never below the largest that was measured."""
    if len(sizes) == 1:
        return points[0]
    slope = (points[1] - points[0]) / (sizes[1] - sizes[0])
    return np.maximum(points[1], points[1] + slope * (n - sizes[1]))


def activation_bytes(settings: Mapping[str, Any], cells: pd.DataFrame) -> float:
    """Of the stores of all groups, with the randomly initialised models; those of one shape and seed share theirs."""
    total, twins = 0.0, set[tuple]()
    for _, of in cells.groupby("group", sort=False):
        first, sites = of.iloc[0], len(set(" ".join(of["sites"]).split()))
        size = first["examples"] * sites * first["d_model"] * ITEM[settings["dtype"]]
        twin = first["task"], first["load"], first["seed"], first["parameters"], first["d_model"], sites
        total += size * (1 if twin in twins else 2)
        twins.add(twin)
    return total


def memory(cells: pd.DataFrame) -> float:
    """Bytes of a worker: what this process has needed so far, and the largest site beside the model's weights."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    small = cells["examples"] * min(1.0, SIZES[-1] / cells["prompts"].min())
    site = (cells["examples"] - small) * cells["d_model"] * 4
    return used + COPIES * float(site.max())


def summary(settings: Mapping[str, Any], cells: pd.DataFrame, done: set[str], workers: int, executor: str) -> str:
    """The plan in words, by `measured` cells: cells, bytes, memory and time, all and what is left of it."""
    left = cells[~cells["cell"].isin(done)]
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in cells["kind"].value_counts(sort=False).items())
    lines = [f"{len(cells):,} cells in {cells['unit'].nunique():,} units: {kinds}"]
    for name, of in cells.groupby("model", sort=False):
        lines.append(f"model {name}: {of['parameters'].iloc[0]:,} parameters, d_model {of['d_model'].iloc[0]}; "
                     f"{', '.join(of['task'].unique())}; seeds {_spans(of['seed'].unique())}")
    for (task, label, reading), of in cells.groupby(["task", "label", "reading"], sort=False):
        probes = [p for p in of["probe"].unique() if p]
        place = f" ({reading})" if reading not in ("", label) else ""
        lines.append(f"{task}, {label}{place}: {of['prompts'].iloc[0]:,} prompts, about {of['examples'].iloc[0]:,.0f} "
                     f"examples, {of['targets'].iloc[0]} targets; {', '.join(probes)}")
    work = left["seconds"].sum() + left.groupby("group")["setup"].max().sum()
    end = ROW * cells["rows"].sum() + cells["read"].sum() + END
    longest = left.groupby("unit")["seconds"].sum().max() if len(left) else 0.0
    clock = START * (1 if executor == "serial" else 2) + max(work / workers, longest) + end
    work += START * (1 if executor == "serial" else 1 + workers)
    if done & set(cells["cell"]):
        lines.append(f"done before: {len(cells) - len(left):,}, left: {len(left):,}")
    from ._sweep_status import duration

    return "\n".join([
        *lines, f"activations on disk: {_size(activation_bytes(settings, cells))} in {settings['cache']}; results: "
                f"{_size(cells['bytes'].sum())} of cells, {cells['rows'].sum():,.0f} rows",
        f"memory: about {_size(memory(cells))} per worker",
        f"time: {duration(work + end)} of one core, by a measurement on this machine; about {duration(clock)} with "
        f"{workers} worker{'s' * (workers > 1)} ({executor})"])


def _spans(numbers: Sequence[int]) -> str:
    """`0-4, 7`."""
    found: list[list[int]] = []
    for n in map(int, numbers):
        if found and found[-1][1] == n - 1:
            found[-1][1] = n
        else:
            found.append([n, n])
    return ", ".join(f"{low}-{high}" if low < high else f"{low}" for low, high in found)


def _size(n: float) -> str:
    return f"{n / 1e9:,.1f} GB" if n >= 1e9 else f"{n / 1e6:,.1f} MB"
