"""A sweep under attack: killed at random moments and resumed, under every executor.

    python benchmarks/sweep_torture.py                                     # 2,000 cells under each executor
    python benchmarks/sweep_torture.py --cells 200 --kills 4 --executors serial,processes

serial: the process is killed. processes: the command, and single workers. slurm: jobs are cancelled (scancel), queued
again (scontrol requeue), preempted by a job in the partition `urgent`, run into their time limit, and the command that
submitted them is killed. Every attack ends with the same questions: is the table, byte for byte, that of a run nobody
disturbed? Was a cell begun again after it was finished? Prints a line per executor; exit code 1 if one of them fails.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # a forked process has one thread, and no others
sys.path.insert(0, str(Path(__file__).parent.parent))

from worldprobe._sweep import sweep
from worldprobe._sweep_folder import SweepFolder

MODELS, PROBES, LABELS = ("decoy", "decoy-1", "decoy-2"), ("mass_mean", "lda"), ("end", "mark")
PROMPTS = 60


def asked(cells: int) -> dict:
    """A sweep of at least so many cells."""
    layers = ["embed", "0", "1"]
    per_seed = len(MODELS) * len(LABELS) * (1 + len(PROBES) * (1 + len(layers)))
    seeds = list(range(-(-cells // per_seed)))
    return dict(tasks=["decoy"], models=list(MODELS), labels=list(LABELS), probes=list(PROBES), layers=layers,
                prompts=PROMPTS, shuffles=1, seeds=seeds)


def command(out: Path, given: dict, cache: Path, *more: str) -> list[str]:
    flags = {"--model": "models", "--labels": "labels", "--probes": "probes", "--layers": "layers", "--seeds": "seeds"}
    words = [sys.executable, "-m", "worldprobe", "sweep", *given["tasks"], "--out", str(out), "--cache", str(cache)]
    words += [word for flag, name in flags.items() for word in (flag, ",".join(map(str, given[name])))]
    return [*words, "--prompts", str(given["prompts"]), "--shuffles", str(given["shuffles"]), "--retries", "9", *more]


class Watched:
    """What is known of a folder while it is attacked: a cell that was seen finished must never be begun again."""

    def __init__(self, path: Path):
        self.folder, self.seen = SweepFolder(path), dict[str, int]()

    def look(self) -> int:
        """How many cells are done."""
        done = self.folder.done()
        if new := done - self.seen.keys():
            begun = self.begun()
            self.seen |= {cell: begun[cell] for cell in new}
        return len(done)

    def begun(self) -> Counter[str]:
        return Counter(e["cell"] for log in self.folder.units.glob("*.log") for e in self.folder.events(log.stem)
                       if e["event"] == "begin")

    def finished(self) -> Counter[str]:
        return Counter(e["cell"] for log in self.folder.units.glob("*.log") for e in self.folder.events(log.stem)
                       if e["event"] == "done")

    def again(self) -> int:
        """Cells that were begun after they had been seen finished, or finished twice."""
        begun = self.begun()
        return sum(begun[c] != n for c, n in self.seen.items()) + sum(n > 1 for n in self.finished().values())


def alive_in(process: subprocess.Popen) -> Callable[[], bool]:
    return lambda: process.poll() is None


def wait_for(watched: Watched, more: int, alive: Callable[[], bool], rng: random.Random) -> None:
    """Until so many more cells are done, and a moment."""
    goal = watched.look() + more
    while alive() and watched.look() < goal:
        time.sleep(0.05)
    time.sleep(0.1 * rng.random())


def attack_serial(out: Path, given: dict, cache: Path, kills: int, cells: int, rng: random.Random) -> Counter[str]:
    watched, done = Watched(out), Counter[str]()
    while True:
        pid = os.fork()
        if not pid:
            sweep(out, **given, cache=cache, retries=9, log=lambda text: None)
            os._exit(0)

        def alive(pid: int = pid) -> bool:
            return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

        if done["kill"] < kills:
            wait_for(watched, rng.randrange(1, 2 * cells // (kills + 1)), alive, rng)
            done["kill"] += alive()
            os.kill(pid, signal.SIGKILL)
        if os.waitpid(pid, 0)[1] == 0:
            return done + Counter(again=watched.again())
        watched.look()


def attack_processes(out: Path, given: dict, cache: Path, kills: int, cells: int, rng: random.Random) -> Counter[str]:
    watched, done = Watched(out), Counter[str]()
    words = command(out, given, cache, "--executor", "processes", "--workers", "2")
    while True:
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        while process.poll() is None and done.total() < kills:
            wait_for(watched, rng.randrange(1, 2 * cells // (kills + 1)), alive_in(process), rng)
            if done["command killed"] * 5 <= done["worker killed"] - 4:  # one in five: it starts anew for seconds
                process.kill()
                done["command killed"] += 1
            elif held := [h for unit in watched.folder.plan()["unit"].unique() if (h := watched.folder.held(unit))]:
                os.kill(rng.choice(held)["pid"], signal.SIGKILL)
                done["worker killed"] += 1
        if process.wait() == 0:
            return done + Counter(again=watched.again())


def attack_slurm(out: Path, given: dict, cache: Path, kills: int, cells: int, rng: random.Random) -> Counter[str]:
    watched, done = Watched(out), Counter[str]()
    words = command(out, given, cache, "--executor", "slurm", "--workers", "2", "--time-limit", "4",
                    "--mem", "2G")
    attacks = [attack for _ in range(-(-kills // 4)) for attack in ("requeued", "cancelled", "preempted",
                                                                    "command killed")]
    log = open(out.with_suffix(".log"), "ab")
    while True:
        process = subprocess.Popen(words, stdout=log, stderr=log)
        while process.poll() is None and attacks:
            wait_for(watched, rng.randrange(1, 2 * cells // (kills + 1)), alive_in(process), rng)
            running = queue(out)
            attack = attacks[0]
            if not running or process.poll() is not None:
                continue
            if attack == "command killed":
                process.kill()
            elif attack == "requeued":
                subprocess.run(["scontrol", "requeue", rng.choice(running)], check=True)
            elif attack == "cancelled":
                subprocess.run(["scancel", rng.choice(running)], check=True)
            else:
                subprocess.run(["sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=sleep 5"],
                               check=True, stdout=subprocess.DEVNULL)
            done[attacks.pop(0)] += 1
        if process.wait() == 0:
            done["time limits"] = sum("is timed-out" in file.read_text() for file in (out / "slurm").glob("*.err"))
            done["jobs"] = len(json.loads((out / "jobs.json").read_bytes()))
            return done + Counter(again=watched.again())


def queue(out: Path) -> list[str]:
    """Running jobs of a sweep."""
    found = subprocess.run(["squeue", "-h", "-r", "-t", "RUNNING", "-n", f"worldprobe-{out.name}", "-o", "%i"],
                           capture_output=True, text=True, check=True)
    return found.stdout.split()


ATTACKS = {"serial": attack_serial, "processes": attack_processes, "slurm": attack_slurm}


def digest(out: Path) -> str:
    return hashlib.sha256((out / "results.parquet").read_bytes()).hexdigest()[:16]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--executors", default=",".join(ATTACKS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="keep the folders here; a finished reference there is used again")
    given = parser.parse_args()
    root, what, rng = given.out or Path(tempfile.mkdtemp()), asked(given.cells), random.Random(given.seed)
    began = time.monotonic()
    if not (root / "whole" / "results.parquet").exists():
        if not os.fork():  # this process runs no thread, so that it can be forked again
            sweep(root / "whole", **what, cache=root / "cache", log=lambda text: None)
            os._exit(0)
        os.wait()
    cells, wanted = len(SweepFolder(root / "whole").plan()), digest(root / "whole")
    print(f"undisturbed: {cells:,} cells, {time.monotonic() - began:.0f} s, table {wanted}", flush=True)
    bad = 0
    for name in given.executors.split(","):
        out, began = root / name, time.monotonic()
        shutil.rmtree(out, ignore_errors=True)
        done = ATTACKS[name](out, what, root / f"cache-{name}", given.kills, cells, rng)
        again, same = done.pop("again", 0), digest(out) == wanted
        bad += again > 0 or not same
        attacks = ", ".join(f"{n} {attack}" for attack, n in done.items())
        twice, seconds = Watched(out).begun().total() - cells, time.monotonic() - began
        print(f"{name}: {attacks}; {'the same table' if same else 'ANOTHER TABLE'}, {again} finished cells computed "
              f"again, {twice} unfinished ones begun again, {seconds:.0f} s", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
