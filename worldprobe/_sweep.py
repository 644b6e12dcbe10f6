"""`worldprobe sweep`: every probe of every label of several tasks and models, at every layer and seed.

The plan is a table of cells (`_sweep_plan`), computed by workers (`_sweep_work`) that an executor starts, each cell
once; the files in the folder say what is done (`_sweep_folder`). The same command again continues, a larger one adds
to what is there.
"""

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from probing._significance import adjusted
from probing._store_files import cache_root
from probing._threads import n_cores
from tasks._files import write_whole

from ._cli import no_such
from ._sweep_cost import measured, summary
from ._sweep_executors import processes, serial
from ._sweep_folder import SweepFolder, _json
from ._sweep_plan import plan_cells
from ._sweep_results import write
from ._sweep_status import Live

EXECUTORS = ("serial", "processes", "slurm")
_ASKED = ("seeds", "labels", "probes", "layers", "doses", "cases", "block", "prompts", "quick", "options", "shuffles",
          "correction", "dtype", "device", "device_map", "cache", "retries")


def sweep(
    out: str | Path,
    tasks: Sequence[str],
    models: Sequence[str] | None = None,
    *,
    seeds: Sequence[int] = (0,),
    labels: Sequence[str] | None = None,
    probes: Sequence[str] | None = None,
    layers: Sequence[str] | None = None,
    doses: Sequence[float | int] | None = None,
    cases: int = 100,
    block: int = 1,
    prompts: int | None = None,
    quick: bool = False,
    options: Mapping[str, Any] | None = None,
    shuffles: int | None = None,
    correction: str = "benjamini_hochberg",
    dtype: str = "float32",
    device: str = "auto",
    device_map: str | None = None,
    cache: str | Path | None = None,
    executor: str = "serial",
    workers: int | None = None,
    slurm: Mapping[str, Any] | None = None,
    retries: int = 1,
    log: Callable[[str], None] = print,
) -> "Swept":
    """Computes what is not finished of the plan, and writes results and report.

    Args:
        tasks, models: Every task with every model; by default the reference model of each task.
        labels: Labels, or names of readings of a task's study; by default all.
        probes: Names that studies know, or `module:name`; by default what the study says. Each is used for the labels
            that it suits.
        layers: `embed`, `3`, `-1`, `2-5`; by default the embedding and every layer.
        doses: Of writing along the direction of every probe at every layer, in distances between class means; none
            unless given.
        cases: That are edited, per cell.
        block: Sites of one cell.
        prompts: Of every reading; by default what the study says (`quick`: its smaller number).
        shuffles: Draws of shuffled labels, as in `probing.sweep`.
        cache: Folder of the activation stores, which all workers must reach.
        executor: serial, processes or slurm.
        workers: Processes at once; on SLURM, jobs.
        slurm: partition, time, gpus, cpus, mem, account, qos, constraint: for the jobs.
        retries: How often a cell that failed is tried again.
    Raises:
        ValueError: Something is asked for that is not there.
        RunError: The folder cannot be used, or no worker survives.
    """
    if executor not in EXECUTORS:
        raise ValueError(no_such("executor", executor, EXECUTORS))
    settings = settings_of(tasks, models, seeds=seeds, labels=labels, probes=probes, layers=layers, doses=doses,
                           cases=cases, block=block, prompts=prompts, quick=quick, options=options, shuffles=shuffles,
                           correction=correction, dtype=dtype, device=device, device_map=device_map, cache=cache,
                           retries=retries)
    cells = plan_cells(settings)
    folder = SweepFolder(out)
    folder.make()
    held = folder.lock()
    folder.forgive()
    folder.write_plan(settings, cells)
    cached = folder.done() & set(cells["cell"])
    write_whole(folder.path / "session.json", _json({"began": time.time(), "cached": sorted(cached),
                                                     "executor": executor}))
    log(f"{len(cells):,} cells in {cells['unit'].nunique():,} units, {len(cached):,} done before")
    if len(cached) < len(cells):
        carry_out(folder, executor, workers, slurm or {}, log)
    swept = Swept(folder, settings, cells, write(folder, settings, cells))
    del held
    return swept


def dry_run(out: str | Path, tasks: Sequence[str], models: Sequence[str] | None = None, *, executor: str = "serial",
            workers: int | None = None, log: Callable[[str], None] = print, **given: Any) -> str:
    """What `sweep` with the same arguments would do: cells, bytes, memory and time, measured on a few prompts. Nothing
    is written to `out`."""
    if executor not in EXECUTORS:
        raise ValueError(no_such("executor", executor, EXECUTORS))
    known = {name: p.default for name, p in inspect.signature(sweep).parameters.items() if name in _ASKED}
    settings = settings_of(tasks, models, **known | given)
    cells = plan_cells(settings)
    log(f"{len(cells):,} cells; measuring a few of them")
    done = SweepFolder(out).done()
    n = workers or {"serial": 1, "processes": n_cores(), "slurm": 8}[executor]
    return summary(settings, measured(settings, cells), done, n, executor)


def settings_of(tasks: Sequence[str], models: Sequence[str] | None, *, seeds: Sequence[int], prompts: int | None,
                options: Mapping[str, Any] | None, cache: str | Path | None, correction: str, block: int,
                **more: Any) -> dict[str, Any]:
    """What a sweep is asked for, as JSON values; raises ValueError where that makes no sense."""
    adjusted(pd.Series(dtype=float).to_numpy(), correction)  # an unknown name stops here, not after an hour
    if block < 1:
        raise ValueError(f"a block has at least one site, not {block}")
    for name, given in (("seed", seeds), ("task", tasks)):
        if not given or len(set(given)) < len(given):
            raise ValueError(f"name each {name} once, and at least one; {', '.join(map(str, given)) or 'none'} came")
    more = {k: list(v) if isinstance(v, tuple) else v for k, v in more.items()}
    return {"tasks": list(tasks), "models": None if models is None else list(models), "seeds": list(seeds),
            "prompts": prompts, "options": dict(options or {}), "cache": str(cache_root(cache).resolve()),
            "correction": correction, "block": block, **more}


def carry_out(folder: SweepFolder, executor: str, workers: int | None, slurm: Mapping[str, Any],
              log: Callable[[str], None]) -> None:
    """Has every cell computed that can be."""
    with Live(folder, folder.plan(), log) as watch:
        if executor == "serial":
            serial(folder, watch)
        elif executor == "processes":
            processes(folder, watch, workers)
        else:
            from ._sweep_slurm import slurm as on_slurm

            on_slurm(folder, watch, workers, slurm, log)


class Swept:
    """A sweep that has ended.

    Attributes:
        cells: Its plan.
        report: None where there was nothing to report.
    """

    def __init__(self, folder: SweepFolder, settings: dict[str, Any], cells: pd.DataFrame, report: Path | None):
        self.folder, self.settings, self.cells, self.report = folder, settings, cells, report

    @property
    def failed(self) -> pd.DataFrame:
        """The cells that are not there, each with its `error`."""
        there, failures = self.folder.done(), self.folder.failures()
        missing = self.cells[~self.cells["cell"].isin(there)]
        return missing.assign(error=[failures.get(c, {}).get("error", "not computed") for c in missing["cell"]])
