"""The worker of a sweep: the one command that every executor runs.

    python -m worldprobe._sweep_work DIR                   # takes one unit after the other until none is left
    python -m worldprobe._sweep_work DIR --workers 8       # the same in eight processes, one thread and one GPU each
    python -m worldprobe._sweep_work DIR --units A,B       # these units only

It keeps nothing in mind: what is finished is read from the folder, a unit that another process works on is passed
over, and killed at any moment it loses the cell it was computing. The exit code is 0 when nothing was left to do that
nobody else does.
"""

import argparse
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pandas as pd

from probing._threads import single_threaded

from ._sweep_cells import Bench
from ._sweep_folder import DEATHS, Claim, SweepFolder
from ._sweep_plan import in_turn

LOST = 3  # workers that may die one after the other before any finishes a cell; then the machine is to blame
_Stop = Callable[[], bool]


def work(folder: SweepFolder, units: Sequence[str] | None = None, *, stop: _Stop = lambda: False,
         each: Callable[[], None] = lambda: None) -> None:
    """Computes what is not finished of the units (by default all, in turn); every cell on one thread, so that no bit
    of it depends on the machine's number of cores.

    Args:
        stop: Asked before every cell.
        each: Called after every cell.
    """
    plan, settings = folder.plan(), folder.settings()
    cells = {str(unit): rows for unit, rows in plan.groupby("unit", sort=False)}
    of_group = dict(list(plan.groupby("group", sort=False)))
    models: dict[str, Any] = {}
    with single_threaded():
        for unit in units or in_turn(plan):
            left = _left(folder, cells[unit], settings)
            if left.empty or stop():
                continue
            with folder.claimed(unit) as claim:
                if claim is not None:
                    whole = of_group[left["group"].iloc[0]]
                    _unit(folder, claim, cells[unit], whole, settings, models, stop, each)


def _left(folder: SweepFolder, cells: pd.DataFrame, settings: dict[str, Any]) -> pd.DataFrame:
    """Cells that are neither finished nor failed for good."""
    return cells[[not folder.has(c) and folder.attempts(c) <= settings["retries"] for c in cells["cell"]]]


def _unit(folder: SweepFolder, claim: Claim, cells: pd.DataFrame, group: pd.DataFrame, settings: dict[str, Any],
          models: dict[str, Any], stop: _Stop, each: Callable[[], None]) -> None:
    left = _left(folder, cells, settings)  # again: the process before this one may have done it all
    bench: Bench | None = None
    for cell in (row for _, row in left.iterrows()):
        if stop():
            return
        name, most = str(cell["cell"]), settings["retries"]
        if claim.deaths.get(name, 0) > DEATHS or claim.deaths.get("setup", 0) > DEATHS:
            folder.fail(name, f"{DEATHS} workers died over it; perhaps there is not enough memory", "", most + 1)
            continue
        while not folder.has(name) and folder.attempts(name) <= most:
            began, cpu = time.monotonic(), time.process_time()
            try:
                if bench is None:
                    claim.on("setup")
                    bench = Bench(group, settings, models)
                    claim.log("setup", group["group"].iloc[0], **_spent(began, cpu))
                    claim.survived("setup")
                    began, cpu = time.monotonic(), time.process_time()
                claim.on(name)
                claim.log("begin", name)
                rows = bench.rows(cell)
                folder.write(name, rows)
                claim.log("done", name, **_spent(began, cpu))
            except Exception as error:
                for each_one in [name] if bench else left["cell"]:  # without model and prompts there is none of them
                    if not folder.has(each_one):
                        folder.fail(each_one, _said(error), traceback.format_exc(), folder.attempts(each_one) + 1)
                claim.log("failed", name, error=_said(error), **_spent(began, cpu))
        each()


def _spent(began: float, cpu: float) -> dict[str, float]:
    return {"seconds": round(time.monotonic() - began, 4), "cpu": round(time.process_time() - cpu, 4)}


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


# --- several processes ------------------------------------------------------------------------------------------------


def lead(folder: SweepFolder, workers: int, devices: Sequence[str] = ()) -> int:
    """Forks workers, replaces those that die, and returns 0 once nothing is left to do; 1 where workers die one after
    the other and none of them finishes a cell.

    This process only waits: it runs no thread and touches no GPU, so that its children start with everything imported.

    Args:
        devices: What `CUDA_VISIBLE_DEVICES` is in the first, second, ... worker.
    """
    parent, running, plan = os.getppid(), dict[int, int](), folder.plan()
    lost, done, look = 0, len(folder.done()), 0.0
    _leave_in_order()
    try:
        while True:
            if len(running) < workers and time.monotonic() >= look:
                free = sum(folder.held(unit) is None for unit in units_left(folder, plan))
                for slot in sorted(set(range(workers)) - set(running.values()))[:free]:
                    running[_fork(folder, devices[slot % len(devices)] if devices else None)] = slot
                if not running:
                    return 0
                look = time.monotonic() + 1  # for a worker that had nothing to take
            time.sleep(0.02)
            if os.getppid() != parent:  # whoever started this is gone: nobody waits for what it computes
                return 1
            ended, status = os.waitpid(-1, os.WNOHANG) if running else (0, 0)
            if ended:
                del running[ended]
                now = len(folder.done())
                lost = lost + 1 if status and now == done else 0
                done, look = now, look if not status else 0.0
                if lost > LOST + workers:
                    return 1
    finally:
        for pid in running:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        for pid in running:
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def units_left(folder: SweepFolder, plan: pd.DataFrame) -> list[str]:
    """Units with a cell that is neither finished nor failed for good."""
    retries, done = folder.settings()["retries"], folder.done()
    given_up = {c for c, failure in folder.failures().items() if failure["attempts"] > retries}
    return plan["unit"][~plan["cell"].isin(done | given_up)].unique().tolist()


def _fork(folder: SweepFolder, device: str | None) -> int:
    parent = os.getpid()
    if pid := os.fork():
        return pid
    code = 1
    try:
        _leave_in_order()
        if device is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = device
        work(folder, stop=lambda: os.getppid() != parent)
        code = 0
    except SystemExit:
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _leave_in_order() -> None:
    """Told to end, by whoever started this or by SLURM before a time limit or a preemption, give the unit back."""
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(1)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Work on a sweep (worldprobe sweep).")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--units", type=lambda text: text.split(","))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--devices", type=lambda text: text.split(","), default=[])
    given = parser.parse_args(argv)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches the whole group: workers go without a word
    folder = SweepFolder(given.folder)
    if given.workers > 1:
        return lead(folder, given.workers, given.devices)
    _leave_in_order()
    parent = os.getppid()
    work(folder, given.units, stop=lambda: os.getppid() != parent)
    return 0


if __name__ == "__main__":
    sys.exit(main())
