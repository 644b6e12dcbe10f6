"""The folder of a sweep: the files say what is done, nothing else does.

    DIR/sweep.json            what was asked for, as far as it changes a number, and how it is carried out
    DIR/plan.parquet          the cells (with its record plan.json)
    DIR/cells/ID.parquet      the rows of a finished cell, with a record that has its hash: without one it is not done
    DIR/failed/ID.json        the error of a cell, its traceback, and how often it was tried
    DIR/units/UNIT.lock       held by the process that works on a unit; says on which cell
    DIR/units/UNIT.log        a line per event, with its time; only ever appended to, by the holder of the lock
    DIR/session.json          when the present command began, and what was done before
    DIR/results.parquet, report.html

A lock is the system's (flock): it ends with its process, however that ends.
"""

import fcntl
import getpass
import json
import os
import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd

from tasks._files import write_whole

from ._run import RunError, _lock
from ._stages import load_stage, store_stage

DEATHS = 5  # workers that may die over one cell, or over reading a group's activations, before it counts as failed


class SweepFolder:
    """The files of one sweep. Opening it reads nothing."""

    def __init__(self, path: str | Path):
        self.path = Path(path).resolve()
        self.cells, self.failed, self.units = (self.path / name for name in ("cells", "failed", "units"))

    def make(self) -> None:
        """Raises RunError where the folder holds something else, or cannot be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            others = sorted(f.name for f in self.path.iterdir() if not f.name.startswith("."))
            if others and not (self.path / "sweep.json").exists():
                raise RunError(f"{self.path} is not the folder of a sweep: it has no sweep.json, but "
                               f"{', '.join(others[:3])}. Name a new or empty folder with --out")
            for folder in (self.cells, self.failed, self.units):
                folder.mkdir(exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot write to {self.path}: {error.strerror or error}. Name another folder with "
                           "--out") from error

    def lock(self) -> object:
        """Held by the command that leads the sweep, as long as the object lives; RunError where there is another."""
        return _lock(self.path)

    # --- plan --------------------------------------------------------------------------------------------------------

    def write_plan(self, settings: Mapping[str, Any], cells: pd.DataFrame) -> None:
        write_whole(self.path / "sweep.json", _json(settings))
        store_stage(self.path / "plan.json", cells)

    def settings(self) -> dict[str, Any]:
        """Raises RunError where this is not the folder of a sweep."""
        file = self.path / "sweep.json"
        try:
            return dict(json.loads(file.read_bytes()))
        except FileNotFoundError:
            raise RunError(f"{self.path} is not the folder of a sweep: it has no sweep.json; worldprobe sweep --out "
                           "makes one") from None
        except (TypeError, ValueError) as error:
            raise RunError(f"{file} is damaged ({error}); the same sweep command again writes it anew") from error

    def plan(self) -> pd.DataFrame:
        if not (record := self.path / "plan.json").exists():
            raise RunError(f"{self.path} has no plan yet; the same sweep command again makes one")
        found = load_stage(record)
        assert isinstance(found, pd.DataFrame)
        return found

    def jobs(self) -> list[str]:
        """Ids of the jobs that were submitted for this sweep, whether they still live or not."""
        with suppress(OSError, ValueError):
            return list(map(str, json.loads((self.path / "jobs.json").read_bytes())))
        return []

    def session(self) -> dict[str, Any]:
        """When the present command began, and what was done before; {} where none ever did."""
        with suppress(OSError, ValueError):
            return dict(json.loads((self.path / "session.json").read_bytes()))
        return {}

    # --- cells -------------------------------------------------------------------------------------------------------

    def done(self) -> set[str]:
        """Ids of the cells that have a record."""
        return {name[:-5] for name in _names(self.cells) if name.endswith(".json") and not name.startswith(".")}

    def has(self, cell: str) -> bool:
        return (self.cells / f"{cell}.json").exists()

    def read(self, cell: str) -> pd.DataFrame:
        """Raises RunError where the file is damaged; it names the file."""
        found = load_stage(self.cells / f"{cell}.json")
        assert isinstance(found, pd.DataFrame)
        return found

    def write(self, cell: str, rows: pd.DataFrame) -> None:
        """Columns in which nothing stands are left out."""
        store_stage(self.cells / f"{cell}.json", rows.dropna(axis=1, how="all"))
        with suppress(FileNotFoundError):
            (self.failed / f"{cell}.json").unlink()

    # --- failures ----------------------------------------------------------------------------------------------------

    def failures(self) -> dict[str, dict[str, Any]]:
        """Cell -> `error`, `traceback`, `attempts`, `host`, `time`."""
        found = {}
        for name in _names(self.failed):
            if name.endswith(".json") and not name.startswith("."):
                with suppress(OSError, ValueError):  # removed, or being written, at this moment
                    found[name[:-5]] = json.loads((self.failed / name).read_bytes())
        return found

    def attempts(self, cell: str) -> int:
        with suppress(OSError, ValueError, KeyError):
            return int(json.loads((self.failed / f"{cell}.json").read_bytes())["attempts"])
        return 0

    def fail(self, cell: str, error: str, traceback: str, attempts: int) -> None:
        write_whole(self.failed / f"{cell}.json", _json({
            "cell": cell, "error": error, "traceback": traceback, "attempts": attempts, "host": socket.gethostname(),
            "time": time.time()}))

    def forgive(self) -> None:
        """Cells that failed may be tried again."""
        for name in _names(self.failed):
            (self.failed / name).unlink(missing_ok=True)
        for name in _names(self.units):
            if name.endswith(".deaths"):
                (self.units / name).unlink(missing_ok=True)

    # --- units -------------------------------------------------------------------------------------------------------

    def events(self, unit: str) -> list[dict[str, Any]]:
        """Lines of a unit's log; one that a kill cut short is left out."""
        try:
            lines = (self.units / f"{unit}.log").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            with suppress(ValueError):
                found.append(json.loads(line))
        return found

    def held(self, unit: str) -> dict[str, Any] | None:
        """Who works on a unit, and on which cell; None where nobody does."""
        try:
            descriptor = os.open(self.units / f"{unit}.lock", os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            with suppress(ValueError):
                return dict(json.loads(os.read(descriptor, 4096)))
            return {}
        finally:
            os.close(descriptor)
        return None

    @contextmanager
    def claimed(self, unit: str) -> Iterator["Claim | None"]:
        """The claim on a unit while the block runs; None where another process holds it."""
        descriptor = os.open(self.units / f"{unit}.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            for _ in range(20):  # a process that asks whether it is held holds it for a moment
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(0.005)
            else:
                yield None
                return
            claim = Claim(self, unit, descriptor)
            try:
                yield claim
            finally:  # whoever leaves in order did not die of it
                claim.on(None)
        finally:
            os.close(descriptor)

    def discard(self) -> None:
        """Removes what a sweep left, if there is one.

        Raises:
            RunError: Another command leads it, or jobs on a cluster work on it.
        """
        if not (self.path / "sweep.json").exists():
            return
        held = self.lock()
        if alive := live(self.jobs()):
            raise RunError(f"jobs of this sweep are in SLURM's queue; end them first: scancel {' '.join(alive)}")
        for folder in (self.cells, self.failed, self.units):
            shutil.rmtree(folder, ignore_errors=True)
        for name in ("plan.json", "plan.parquet", "session.json", "jobs.json"):
            (self.path / name).unlink(missing_ok=True)
        del held


class Claim:
    """A unit that this process works on."""

    def __init__(self, folder: SweepFolder, unit: str, descriptor: int):
        self.folder, self.unit, self._descriptor = folder, unit, descriptor
        self._file = folder.units / f"{unit}.deaths"
        self.deaths = self._died()

    def on(self, cell: str | None) -> None:
        """Says what is worked on: a cell, `setup`, or nothing."""
        text = json.dumps({"cell": cell, "pid": os.getpid(), "host": socket.gethostname(), "since": time.time()})
        os.pwrite(self._descriptor, text.ljust(300).encode(), 0)

    def log(self, event: str, cell: str, **more: Any) -> None:
        """Appends a line, in one write."""
        line = json.dumps({"event": event, "cell": cell, "time": round(time.time(), 3), "pid": os.getpid(),
                           "host": socket.gethostname(), **more}) + "\n"
        descriptor = os.open(self.folder.units / f"{self.unit}.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def _died(self) -> dict[str, int]:
        """What workers died over -> how often, the holder before this one included: its lock was let go of with the
        name of what it worked on still there."""
        found: dict[str, int] = {}
        with suppress(OSError, ValueError):
            found = dict(json.loads(self._file.read_bytes()))
        left: dict[str, Any] = {}
        with suppress(ValueError):
            left = json.loads(os.pread(self._descriptor, 4096, 0) or b"{}")
        if (cell := left.get("cell")) and not self.folder.has(cell):
            found[cell] = found.get(cell, 0) + 1
            write_whole(self._file, _json(found))
        return found

    def survived(self, what: str) -> None:
        """What workers had died over went well."""
        if self.deaths.pop(what, None):
            write_whole(self._file, _json(self.deaths))


def live(jobs: list[str]) -> Counter[str]:
    """Those of the jobs that SLURM still has in its queue, each with how many of its array there are; while the
    controller does not answer, one of each."""
    if not jobs:
        return Counter()
    try:
        found = subprocess.run(["squeue", "--noheader", "--array", "--format=%F", "--user", getpass.getuser()],
                               capture_output=True, text=True, timeout=60)
    except (subprocess.TimeoutExpired, FileNotFoundError):
        return Counter(jobs)
    if found.returncode:
        return Counter(jobs)
    there = Counter(found.stdout.split())
    return Counter({job: there[job] for job in jobs if there[job]})


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
