"""How far a long piece of work has come: a bar on a terminal, a plain line now and then in a log file."""

import sys
import time
from collections.abc import Callable
from typing import Any

EVERY = 10.0  # seconds between lines in a log file


class Progress:
    """Counts up to `total` and shows it; `with Progress(...) as advance: advance(n)`.

    Args:
        what: What is counted, as in `reading prompts`.
        report: None for a bar on a terminal and lines on standard error elsewhere, or a function called as
            `report(done, total)` after every step. An exception it raises stops the work.
    """

    def __init__(self, what: str, total: int, report: Callable[[int, int], None] | None = None):
        self.what, self.total, self.done, self._report = what, total, 0, report
        self._bar: Any = None
        self._said = self._began = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, n: int) -> None:
        """`n` more are done."""
        self.done += n
        if self._report is not None:
            self._report(self.done, self.total)
        elif sys.stderr.isatty():
            self._draw()
        elif time.monotonic() - self._said > EVERY:
            self._said = time.monotonic()
            self.note(f"{self.what}: {self.done:,} of {self.total:,}, {self._said - self._began:.0f} s")

    def note(self, text: str) -> None:
        """A line for the person who waits; nothing is printed when there is a `report` function."""
        if self._report is None:
            print(text, file=sys.stderr, flush=True)

    def _draw(self) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import Progress as Bar

            self._bar = Bar(console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(self.what, total=self.total)
            self._bar.start()
        self._bar.update(self._task, completed=self.done)
