"""SLURM runs the workers of a sweep: arrays of jobs submitted through submitit, each of which takes units until none is
left.

A job is one command line. It is queued again when it runs into its time limit or is preempted, and replaced when it
disappears with something left to do. What is done is read from the folder of the sweep, and which jobs live from
squeue; of what submitit pickles, its own worker reads the command, and nobody reads a result. The command that
submitted them may end: jobs go on, and the same command finds them again.
"""

import shutil
import subprocess
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from tasks._files import write_whole

from ._run import RunError
from ._sweep_executors import ONE_THREAD, last_words, worker_command
from ._sweep_folder import SweepFolder, _json, live
from ._sweep_work import LOST, units_left

EVERY = 2.0  # seconds between looks at the queue
JOBS = 8  # at once, unless the user says how many
MINUTES = 60  # of a job, unless the user says how many
_AS_THEY_ARE = ("partition", "account", "qos", "constraint", "mem")


def slurm(folder: SweepFolder, watch: Callable[[], None], workers: int | None = None,
          asked: Mapping[str, Any] | None = None, log: Callable[[str], None] = print) -> None:
    """Waits until nothing is left that jobs can compute.

    Args:
        workers: Jobs at once.
        asked: partition, time_limit (minutes), gpus, cpus, mem, account, qos, constraint.
    Raises:
        RunError: There is no SLURM or no submitit here, it takes no job, or jobs end one after the other and none of
            them finishes a cell; with the last line that one of them said.
    """
    if missing := [name for name in ("sbatch", "srun", "squeue", "scontrol") if shutil.which(name) is None]:
        raise RunError(f"there is no SLURM on this machine: {missing[0]} is not found. Run this on a node from which "
                       "jobs are submitted, or take --executor processes")
    plan, wanted, jobs = folder.plan(), workers or JOBS, folder.jobs()
    if alive := live(jobs):
        log(f"jobs {', '.join(alive)} of an earlier command go on")
    lost, done, first = 0, len(folder.done()), True
    try:
        while left := len(units_left(folder, plan)):
            watch()
            alive = live(jobs)
            if (need := min(wanted, left) - alive.total()) > 0:
                finished = len(folder.done())
                lost = 0 if finished > done or first else lost + 1
                done, first = finished, False
                if lost <= LOST:
                    jobs.append(submit(folder, need, asked or {}))
                    write_whole(folder.path / "jobs.json", _json(jobs))
                    log(f"submitted job {jobs[-1]}: {need} worker{'s' * (need > 1)}")
                elif not alive:
                    raise RunError(f"jobs were submitted {LOST + 1} times and no cell was finished. Their last words "
                                   f"in {folder.path / 'slurm'}: {_last_words(folder)}")
            time.sleep(EVERY)
    except KeyboardInterrupt:
        if alive := live(jobs):
            log(f"jobs go on; to end them: scancel {' '.join(alive)}")
        raise
    if alive := live(jobs):  # they would start, and find that nothing is left
        subprocess.run(["scancel", "--state=PENDING", *alive], capture_output=True)


def submit(folder: SweepFolder, n: int, asked: Mapping[str, Any]) -> str:
    """Submits `n` workers as one array and returns its id.

    Raises:
        RunError: submitit is not installed, or SLURM refuses the job.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import submitit

            from ._sweep_job import Command
    except ImportError:
        raise RunError("the executor slurm needs submitit: pip install 'worldprobe[slurm]'") from None
    gpus, minutes = int(asked.get("gpus", 0)), int(asked.get("time_limit", MINUTES))
    cpus = int(asked.get("cpus", max(1, gpus)))
    shared = folder.settings()["device_map"] is not None  # one model over all GPUs of a job
    processes = 1 if shared else gpus or cpus
    words = [*worker_command(folder), "--workers", str(processes)]
    words += ["--devices", ",".join(map(str, range(gpus)))] if gpus > 1 and not shared else []
    given: dict[str, Any] = {k: asked[k] for k in _AS_THEY_ARE if k in asked}
    given |= {"gpus_per_node": gpus} if gpus else {}
    try:
        executor = submitit.SlurmExecutor(folder.path / "slurm", max_num_timeout=10**6)
        executor.update_parameters(
            job_name=f"worldprobe-{folder.path.name}", time=minutes, cpus_per_task=cpus, array_parallelism=n,
            signal_delay_s=min(60, 6 * minutes), additional_parameters={"requeue": True}, **given)
        jobs = executor.submit_array([Command(words, ONE_THREAD) for _ in range(n)])
    except (RuntimeError, subprocess.SubprocessError) as error:
        raise RunError(f"SLURM takes no job: {last_words(str(error))}") from error
    return str(jobs[0].job_id).partition("_")[0]


def _last_words(folder: SweepFolder) -> str:
    logs = sorted((folder.path / "slurm").glob("*.err"), key=lambda file: file.stat().st_mtime)
    return last_words(logs[-1].read_text(errors="replace")) if logs else "nothing"
