"""Who runs the units of a sweep on this machine: this process, or one process per core or GPU.

An executor is handed a folder and waits until nothing is left that can be computed. It reads what is done from the
folder and unpickles nothing; killed and started again, it goes on.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from probing._threads import n_cores

from ._run import RunError
from ._sweep_folder import SweepFolder
from ._sweep_work import work

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"),
                           "1")
EVERY = 0.25  # seconds between looks at the folder


def serial(folder: SweepFolder, watch: Callable[[], None]) -> None:
    """In this process, one unit after the other."""
    work(folder, each=watch)


def processes(folder: SweepFolder, watch: Callable[[], None], workers: int | None = None) -> None:
    """In `workers` processes: by default one per GPU, where there are some, else one per core.

    Raises:
        RunError: Workers die one after the other; with the last lines that they said.
    """
    devices = cuda_devices() if folder.settings()["device"] in ("auto", "cuda") else []
    if folder.settings()["device_map"] is not None:
        devices = []  # one model takes them all
        workers = workers or 1
    n = workers or len(devices) or n_cores()
    log = folder.path / "workers.log"
    command = [*worker_command(folder), "--workers", str(n), *(["--devices", ",".join(devices)] if devices else [])]
    with open(log, "ab") as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                                   env={**os.environ, **ONE_THREAD})
    try:
        while process.poll() is None:
            watch()
            time.sleep(EVERY)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    if process.returncode:
        raise RunError(f"workers died one after the other (exit code {process.returncode}). Their last words in {log}: "
                       f"{last_words(log.read_text(errors='replace'))}")


def worker_command(folder: SweepFolder) -> list[str]:
    return [sys.executable, "-m", "worldprobe._sweep_work", str(folder.path)]


def last_words(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing"


def cuda_devices() -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` may be, one device at a time; no GPU is touched."""
    import torch

    with suppress(Exception):
        if n := torch.cuda.device_count():
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            return visible.split(",")[:n] if visible else [str(i) for i in range(n)]
    return []
