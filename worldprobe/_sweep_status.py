"""How far a sweep has come, read from its folder alone: by the command that leads it, or by any other."""

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ._sweep_folder import SweepFolder
from ._terminal import plain

STATES = ("done", "cached", "running", "failed", "waiting")  # cached: by an earlier command
MARKS = {"done": "#", "cached": "=", "running": ">", "failed": "!", "waiting": "."}
_COLOURS = {"done": "green", "cached": "cyan", "running": "yellow", "failed": "red", "waiting": "bright_black"}
_FIRST = ("failed", "running", "waiting", "done", "cached")  # what a mark that stands for several cells shows
WIDE = 110  # columns of a terminal that has room for 40 marks in a line
LINE = 10.0  # seconds between lines in a log file
DRAW = 1.0  # seconds between pictures on a terminal
ERRORS = 5  # kinds of errors that are shown


def state_of(path: str | Path | SweepFolder, plan: pd.DataFrame | None = None) -> dict[str, Any]:
    """`cells`, how many are in each of STATES, `seconds` since the present command began and about how many are `left`,
    `rows` (one per task, model and label, with the same counts and the state of each cell in `strip`), `errors`.

    Raises:
        RunError: This is not the folder of a sweep.
    """
    folder = path if isinstance(path, SweepFolder) else SweepFolder(path)
    settings, plan = folder.settings(), folder.plan() if plan is None else plan
    session, done, failures = folder.session(), folder.done(), folder.failures()
    cached = set(session.get("cached", ()))
    final = {c for c, f in failures.items() if f.get("attempts", 0) > settings["retries"]}
    state = pd.Series("waiting", index=plan["cell"])
    state[state.index.isin(final)] = "failed"
    state[state.index.isin(done)] = "done"
    state[state.index.isin(done & cached)] = "cached"
    for _, waiting in plan[(state == "waiting").to_numpy()].groupby("unit", sort=False):
        if (held := folder.held(str(waiting["unit"].iloc[0]))) is not None:
            here = waiting["cell"]
            state[held["cell"] if held.get("cell") in set(here) else here.iloc[0]] = "running"
    kinds = plan.assign(state=state.to_numpy())
    rows = [dict(zip(("task", "model", "label"), key, strict=True)) | _counts(of["state"])
            | {"strip": "".join(of["state"].map(MARKS))}
            for key, of in kinds.groupby(["task", "model", "label"], sort=False)]
    errors = [{"cell": c, "error": f.get("error", "")} for c, f in failures.items() if c in set(plan["cell"])]
    seconds = time.time() - session["began"] if "began" in session else None
    return {"folder": str(folder.path), "executor": session.get("executor"), "cells": len(plan),
            **_counts(kinds["state"]), "seconds": seconds, "left": _left(kinds, seconds), "errors": errors,
            "rows": rows}


def _counts(states: pd.Series) -> dict[str, int]:
    counted = states.value_counts()
    return {name: int(counted.get(name, 0)) for name in STATES}


def _left(cells: pd.DataFrame, seconds: float | None) -> float | None:
    """Seconds, if it goes on as it went, by what cells were thought to cost."""
    cost = cells.groupby("state")["seconds"].sum()
    made, due = cost.get("done", 0.0), cost.get("waiting", 0.0) + cost.get("running", 0.0)
    return None if not made or not seconds else float(seconds * due / made)


def as_line(state: Mapping[str, Any]) -> str:
    """One line for a log."""
    counts = ", ".join(f"{state[name]:,} {name}" for name in ("cached", "running", "failed") if state[name])
    left = "" if not state["left"] else f"; about {duration(state['left'])} left"
    more = f" ({counts})" if counts else ""
    return f"{state['done'] + state['cached']:,} of {state['cells']:,} cells done{more}{left}"


def as_table(state: Mapping[str, Any]) -> str:
    """The grid as text."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else 140, force_terminal=sys.stdout.isatty() or None)
    with console.capture() as captured:
        console.print(_grid(state, console.width >= WIDE))
    return captured.get().rstrip()


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.{1 if seconds < 600 else 0}f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _grid(state: Mapping[str, Any], wide: bool = True) -> Any:
    """A line of marks per task, model and label; a mark stands for one or several cells."""
    from rich.box import SIMPLE
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    there = [name for name in STATES if state[name]]  # a narrow terminal has no room for columns of nothing
    table = Table("task", "model", "label", *there, "", box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for row in state["rows"]:
        strip = Text(no_wrap=True)
        for mark in _binned(row["strip"], 40 if wide else 16):
            strip.append(MARKS[mark], _COLOURS[mark])
        table.add_row(*(Text(plain(row[c])) for c in ("task", "model", "label")),
                      *(f"{row[name]:,}" if row[name] else "" for name in there), strip)
    legend = Text("  ".join(f"{mark} {name}" for name, mark in MARKS.items()), "bright_black")
    errors = [Text(f"failed: {plain(text)}", "red") for text in list(dict.fromkeys(e["error"] for e in state["errors"]))
              [:ERRORS]]
    return Group(table, legend, *errors, Text(as_line(state)))


def _binned(strip: str, width: int) -> list[str]:
    names = {mark: name for name, mark in MARKS.items()}
    n = min(width, len(strip))
    parts = [{names[m] for m in strip[i * len(strip) // n:(i + 1) * len(strip) // n]} for i in range(n)]
    return [next(name for name in _FIRST if name in part) for part in parts]


class Live:
    """Shows a sweep while it runs: the grid on a terminal, a line now and then elsewhere; `with Live(...) as look:
    look()`, which may be called often."""

    def __init__(self, folder: SweepFolder, plan: pd.DataFrame, log: Callable[[str], None]):
        self.folder, self.plan, self._log = folder, plan, log
        self._view: Any = None
        self._wide = True
        self._said = time.monotonic()

    def __enter__(self) -> "Live":
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live as View

            console = Console(stderr=True)
            self._wide = console.width >= WIDE
            self._view = View(console=console, auto_refresh=False, transient=True)
            self._view.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._view is not None:
            self._view.stop()

    def __call__(self) -> None:
        if time.monotonic() - self._said < (LINE if self._view is None else DRAW):
            return
        state = state_of(self.folder, self.plan)
        if self._view is None:
            self._log(as_line(state))
        else:
            self._view.update(_grid(state, self._wide), refresh=True)
        self._said = time.monotonic()  # after it: of a large sweep the look itself takes a moment
