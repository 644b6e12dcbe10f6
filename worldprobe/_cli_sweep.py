"""The commands `sweep` and `status`. What they call is imported when they run."""

import argparse
import json
import re
import shlex
import sys
from typing import Any

from ._terminal import plain

_EXAMPLES = """examples:
  worldprobe sweep decoy --model decoy,decoy-1 --seeds 0-4 --doses 1 --out runs/sweep
  worldprobe sweep maze,space_time --probes logistic,ridge --out runs/both --executor processes --workers 8
  worldprobe sweep truthfulness --model gpt2,gpt2-medium --with data=cities --out runs/gpt2 \\
      --executor slurm --workers 16 --partition gpu --gpus 1 --time-limit 4:00:00
  worldprobe sweep decoy --out runs/sweep --dry-run
  worldprobe status runs/sweep
"""
_SLURM = ("partition", "time_limit", "gpus", "cpus", "mem", "account", "qos", "constraint")
_NOT_OPTIONS = ("command", "debug", "dry_run", "fresh", "out", "tasks", *_SLURM)


def add_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Adds the parsers of the two."""
    words = "probe many models, tasks, labels, layers and seeds, on this machine or a cluster"
    command = commands.add_parser(
        "sweep", help=words, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[shared],
        argument_default=argparse.SUPPRESS, allow_abbrev=False,
        description=f"{words[0].upper()}{words[1:]}. The same command again continues, a larger one adds to what is "
                    "there. Exit code 1 if a cell failed; all others are in the results.")
    what, how, jobs = (command.add_argument_group(title) for title in ("what", "how", "jobs of --executor slurm"))
    what.add_argument("tasks", type=_names, metavar="TASK[,TASK...]", help="tasks, e.g. decoy,maze")
    what.add_argument("--model", dest="models", type=_names, metavar="A,B", help="reference models, local directories, "
                      "Hub ids (default: the reference model of each task)")
    what.add_argument("--labels", type=_names, metavar="A,B", help="labels, or names of a study's readings "
                      "(default: all)")
    what.add_argument("--probes", type=_names, metavar="A,B", help="logistic, mass_mean, lda, ridge, mlp, ..., or your "
                      "own as MODULE:NAME (default: what the study says); each for the labels that it suits")
    what.add_argument("--layers", type=_names, metavar="A,B", help="embed, 3, -1, 2-5 (default: the embedding and all)")
    what.add_argument("--seeds", type=_seeds, metavar="A,B", help="0,1,2 or 0-9: each draws prompts, splits, shuffled "
                      "labels and random weights anew (default: 0)")
    what.add_argument("--doses", type=_doses, metavar="A,B", help="write along every probe at every layer too, at "
                      "these distances between class means, with all controls (default: probes only)")
    what.add_argument("--cases", type=_count, metavar="N", help="cases that a dose is tried on (default: 100)")
    what.add_argument("--prompts", type=_count, metavar="N", help="prompts for every reading (default: what the study "
                      "says)")
    what.add_argument("--shuffles", type=_count, metavar="N", help="draws of shuffled labels (default: 20 where cheap)")
    what.add_argument("--with", dest="options", type=_option, action="append", metavar="KEY=VALUE", help="an option of "
                      "the task, such as size=6 or data=FILE.csv; may be given more than once")
    what.add_argument("--quick", action="store_true", help="the small numbers of prompts of the studies")
    how.add_argument("--out", required=True, metavar="DIR", help="folder of the sweep; on a cluster one that all nodes "
                     "reach")
    how.add_argument("--executor", metavar="E", help="serial (default), processes or slurm")
    how.add_argument("--workers", type=_count, metavar="N", help="processes, or jobs at once (default: one per GPU or "
                     "core; 8 jobs)")
    how.add_argument("--block", type=_count, metavar="N", help="layers per cell (default: 1)")
    how.add_argument("--dtype", metavar="T", help="of stored activations: float32 (default), bfloat16, float16")
    how.add_argument("--device", metavar="D", help="auto (default), cpu, cuda, mps")
    how.add_argument("--device-map", metavar="M", help="auto: one model over all GPUs of a worker")
    how.add_argument("--cache", metavar="DIR", help="folder of the activations, reached by all workers (default: "
                     "$WORLDPROBE_CACHE, else worldprobe in your cache folder)")
    how.add_argument("--retries", type=_whole, metavar="N", help="how often a cell that failed is tried again "
                     "(default: 1)")
    how.add_argument("--fresh", action="store_true", help="discard what an earlier sweep left in DIR")
    how.add_argument("--dry-run", action="store_true", help="print cells, bytes, memory and time, measured on a few "
                     "prompts; compute nothing else")
    jobs.add_argument("--partition", metavar="P")
    jobs.add_argument("--time-limit", type=_minutes, metavar="T", help="minutes or H:MM:SS (default: 60); a job that "
                      "runs into it is queued again and goes on")
    jobs.add_argument("--gpus", type=_whole, metavar="N", help="per job (default: none)")
    jobs.add_argument("--cpus", type=_count, metavar="N", help="per job, one worker process each (default: 1)")
    jobs.add_argument("--mem", metavar="SIZE", help="per job, such as 16G (default: what the cluster gives)")
    for name in ("account", "qos", "constraint"):
        jobs.add_argument(f"--{name}", metavar=name[0].upper(), help="as in sbatch")

    words = "show how far a sweep has come: done, cached, running, failed and waiting cells"
    command = commands.add_parser("status", help=words, description=f"{words[0].upper()}{words[1:]}. Exit code 1 if a "
                                  "cell failed.", parents=[shared], allow_abbrev=False)
    command.add_argument("folder", metavar="DIR", help="folder of a sweep")
    command.add_argument("--json", dest="as_json", action="store_true", help="the same for programs")


def sweep(arguments: argparse.Namespace) -> int:
    """Sweeps; the last line printed is the path of the report, and the exit code 1 if a cell failed."""
    given = {k: v for k, v in vars(arguments).items() if k not in _NOT_OPTIONS}
    if "options" in given:
        given["options"] = dict(given["options"])
    from . import _sweep
    from ._run import say

    if getattr(arguments, "dry_run", False):
        print(_sweep.dry_run(arguments.out, arguments.tasks, **given, log=say))
        return 0
    if getattr(arguments, "fresh", False):
        _sweep.SweepFolder(arguments.out).discard()
    jobs = {k: getattr(arguments, k) for k in _SLURM if hasattr(arguments, k)}
    if jobs and given.get("executor") != "slurm":
        flag = next(iter(jobs)).replace("_", "-")
        raise ValueError(f"--{flag} is for --executor slurm, the executor is {given.get('executor', 'serial')}")
    done = _sweep.sweep(arguments.out, arguments.tasks, **given, slurm=jobs, log=say)
    failed = done.failed
    if len(failed):
        for line in _told(failed):
            say(line)
        again = shlex.join(a for a in sys.argv[1:] if a != "--fresh")
        say(f"{len(failed):,} of {len(done.cells):,} cells failed; their tracebacks are in {done.folder.failed}. To "
            f"try them again: worldprobe {again}")
    if done.report is not None:
        print(done.report)
    return 1 if len(failed) else 0


def status(arguments: argparse.Namespace) -> int:
    """Prints the state of a sweep; 1 if a cell failed."""
    from ._sweep_status import as_table, state_of

    state = state_of(arguments.folder)
    print(json.dumps(state, indent=1) if arguments.as_json else as_table(state))
    return 1 if state["failed"] else 0


def _told(failed: Any) -> list[str]:
    """One line for each kind of error."""
    lines = []
    for error, cells in failed.groupby("error", sort=False):
        first = cells.iloc[0]
        where = " ".join(str(first[c]) for c in ("kind", "task", "model", "label", "probe", "sites") if first[c])
        more = f" and {len(cells) - 1:,} more" if len(cells) > 1 else ""
        lines.append(plain(f"failed: {where}, seed {first['seed']}{more}: {error}"))
    return lines


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} is no list; name one or more, with commas between them")
    return names


def _seeds(text: str) -> list[int]:
    seeds: list[int] = []
    for part in _names(text):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        if found is None or (found[2] and int(found[2]) < int(found[1])):
            raise argparse.ArgumentTypeError(f"{part!r} is no seed; say 0,1,2 or 0-9")
        seeds += range(int(found[1]), int(found[2] or found[1]) + 1)
    return seeds


def _doses(text: str) -> list[float]:
    try:
        return [float(part) for part in _names(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of doses; say 1 or =-1,1") from None


def _whole(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _minutes(text: str) -> int:
    """Of `90` (minutes), `2:30:00` or `1-12:00:00`; at least 1."""
    found = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(\d+)(?::(\d\d))?", text)
    if found is None or (found[2] is None) != (found[4] is None):
        raise argparse.ArgumentTypeError(f"{text!r} is no time; say minutes, H:MM:SS or D-HH:MM:SS")
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return max(1, 1440 * days + 60 * hours + minutes + (seconds > 0))


def _option(text: str) -> tuple[str, str | int]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is no option; say KEY=VALUE, such as size=6")
    return key, int(value) if value.lstrip("-").isdigit() else value
