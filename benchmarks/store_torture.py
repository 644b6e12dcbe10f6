"""The activation store under attack: kills, damage, a disk that fails, many processes at once.

    python benchmarks/store_torture.py                                    # everything, about ten minutes on one core
    python benchmarks/store_torture.py --kills 8 --damage 40 --failures 8 --processes 3 --rounds 2 --json report.json

Every attack is on a real `extract()` of a small model with random weights and its control, and ends with the same
question: are these the bytes of a run that nobody disturbed? Processes are forked from this one, which has loaded the
model and runs one thread. Prints one line per attack; exit code 1 if one of them got through.
"""

import argparse
import builtins
import errno
import hashlib
import io
import itertools
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # a forked process has one thread, and no others

import numpy as np
import pandas as pd
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parent.parent))

from probing import _plan
from probing._activations import Activations
from probing._extract import extract
from probing._models import load_model
from probing._store import Store, StoreError
from probing._store_repair import inspect, repair
from tasks import LabelledPrompts

_plan.SHARD_BATCHES = 2  # many small shards
OPERATIONS = ("mkdir", "open", "write", "fchmod", "fsync", "replace", "unlink")


@dataclass(frozen=True)
class Work:
    """One command: reading these prompts in this model."""

    model: object
    prompts: LabelledPrompts

    def __call__(self, cache: Path, control: bool = True, progress: Callable = lambda done, total: None) -> Activations:
        return extract(self.model, self.prompts, cache=cache, batch_size=1, random_init=0 if control else None,
                       progress=progress)


def small_model(folder: Path):
    config = transformers.GPT2Config(vocab_size=40, n_positions=16, n_embd=16, n_layer=2, n_head=2,
                                     initializer_range=0.2)
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return load_model(folder, device="cpu")


def some_prompts(n: int) -> LabelledPrompts:
    """Of 1 to 8 tokens, one to three of them probed."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 9, n)
    tokens = rng.integers(1, 40, (n, 8)) * (np.arange(8) < lengths[:, None])
    where = [(i, p) for i, m in enumerate(lengths) for p in sorted(rng.choice(m, min(m, 1 + i % 3), replace=False))]
    examples = pd.DataFrame(where, columns=["prompt", "pos"]).astype("int64").assign(split="train")
    return LabelledPrompts(task="torture", tokens=torch.from_numpy(tokens), lengths=torch.from_numpy(lengths),
                           examples=examples.assign(group=examples["prompt"].astype(str)))


def contents(cache: Path) -> dict[str, str]:
    """Every file under the cache and the sha256 of its bytes."""
    return {str(file.relative_to(cache)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(cache.glob("*/*"))}


def finished(cache: Path) -> dict[str, tuple]:
    """Every shard with a record: which files these are and what is in them. A shard written again is another file."""
    def told(file: Path) -> tuple:
        stat = file.stat()
        return stat.st_ino, stat.st_mtime_ns, hashlib.sha256(file.read_bytes()).hexdigest()

    return {str(record): (told(record), told(record.with_suffix(".safetensors")))
            for record in cache.glob("*/shard-*.json")}


def damaged(cache: Path) -> int:
    return sum(len(inspect(path, every_byte=True, threads=1).damage) for path in cache.iterdir())


# --- operations of the system, watched in a forked process -----------------------------------------------------------


@contextmanager
def watched(cache: Path, before: Callable[[str, str], None]) -> Iterator[None]:
    """Calls `before(operation, path)` ahead of everything that is done to a file under `cache`."""
    real = {name: getattr(os, name) for name in OPERATIONS}

    def where(target) -> str:
        return os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.fspath(target)

    def patched(name: str, function: Callable, at: int = 0) -> Callable:
        def call(*args, **kwargs):
            if (path := where(args[at])).startswith(str(cache)):
                before(name, path) if name != "write" else before(name, path, partial(_half, function, args))
            return function(*args, **kwargs)

        return call

    files = io.open
    for name, function in real.items():
        setattr(os, name, patched(name, function, 1 if name == "replace" else 0))
    builtins.open = io.open = patched("open", files)
    try:
        yield
    finally:
        builtins.open = io.open = files
        for name, function in real.items():
            setattr(os, name, function)


def _half(function: Callable, args: tuple) -> None:
    function(args[0], args[1][: len(args[1]) // 2])


def forked(work: Callable[[], str | None]) -> tuple[int, str]:
    """Exit code (minus the signal, if killed) of a copy of this process that runs `work`, and what it returned."""
    pid, pipe = spawn(work)
    return finish(pid, pipe)


def spawn(work: Callable[[], str | None]) -> tuple[int, int]:
    read, write = os.pipe()
    if pid := os.fork():
        os.close(write)
        return pid, read
    os.close(read)
    code = 0
    try:
        text = work() or ""
    except BaseException as error:
        code, text = 3, f"{type(error).__name__}: {error}"
    os.write(write, text.encode()[:60_000])
    os._exit(code)


def finish(pid: int, pipe: int) -> tuple[int, str]:
    with os.fdopen(pipe, "rb") as file:
        text = file.read().decode()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text


# --- kills -----------------------------------------------------------------------------------------------------------

POINTS = {
    "temporary file half written": lambda name, path: name == "write",
    "before a rename": lambda name, path: name == "replace",
    "between shard and record": lambda name, path: name == "open" and "/.shard-" in path and ".json." in path,
    "before a folder is synced": lambda name, path: name == "fsync" and not path.endswith(".tmp"),
    "before a file is synced": lambda name, path: name == "fsync" and path.endswith(".tmp"),
}


def kills(work: Work, folder: Path, n: int, seed: int = 0) -> tuple[str, int]:
    """SIGKILL `n` times, at chosen operations and after any progress; (what happened, finished shards lost)."""
    rng, cache, points, lost, wrong = random.Random(seed), folder / "kills", Counter(), 0, 0
    work(folder / "undisturbed")
    wanted = contents(folder / "undisturbed")
    while points.total() < n:
        before = finished(cache) if cache.exists() else {}
        point = rng.choice([*POINTS, "running the model", "any moment"])
        code, text = _killed(work, cache, point, rng)
        after = finished(cache)
        lost += sum(after.get(shard) != files for shard, files in before.items())
        wrong += damaged(cache)
        if code == -signal.SIGKILL:
            points[point] += 1
        else:
            wrong += code != 0 or contents(cache) != wanted
            shutil.rmtree(cache)
    before = finished(cache) if cache.exists() else {}
    work(cache)
    after = finished(cache)
    lost += sum(after[shard] != files for shard, files in before.items())
    wrong += contents(cache) != wanted
    said = ", ".join(f"{count} {point}" for point, count in sorted(points.items()))
    return f"{n} kills ({said}): {lost} finished shards lost, {wrong} differences from an undisturbed run", lost + wrong


def _killed(work: Work, cache: Path, point: str, rng: random.Random) -> tuple[int, str]:
    count, nth = itertools.count(1), rng.randint(1, 14 if point != "before a folder is synced" else 25)

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def before(name: str, path: str, half: Callable[[], None] = lambda: None) -> None:
        if POINTS[point](name, path) and next(count) == nth:
            half()
            die()

    def run() -> None:
        if point == "running the model":
            work(cache, progress=lambda done, total: die() if next(count) == 2 * nth else None)
        else:
            with watched(cache, before):
                work(cache)

    if point != "any moment":
        return forked(run)
    heard, told = os.pipe()
    pid, pipe = spawn(lambda: work(cache, progress=lambda done, total: os.write(told, b".") and None) and None)
    os.close(told)  # so that the end of the process is the end of what it tells
    for _ in range(rng.randint(1, 24)):
        os.read(heard, 1)
    time.sleep(rng.random() * 0.005)
    os.kill(pid, signal.SIGKILL)
    os.close(heard)
    return finish(pid, pipe)


# --- damage ----------------------------------------------------------------------------------------------------------


def flip(file: Path, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def _swap(store: Store, other: Store, i: int, j: int, rng: random.Random) -> set[int]:
    a, b = store.shard_path(i), store.shard_path(j)
    a.rename(a.with_suffix(".swap"))
    b.rename(a)
    a.with_suffix(".swap").rename(b)
    return {i, j}


def _moved(store: Store, other: Store, i: int, j: int, rng: random.Random) -> set[int]:
    shutil.copyfile(store.shard_path(j), store.shard_path(i))
    shutil.copyfile(store.record_path(j), store.record_path(i))
    return {i}


def _foreign(store: Store, other: Store, i: int, j: int, rng: random.Random) -> set[int]:
    shutil.copyfile(other.shard_path(i), store.shard_path(i))
    if rng.random() < 0.5:
        shutil.copyfile(other.record_path(i), store.record_path(i))
    return {i}


def _one(damage: Callable[[Store, int, random.Random], object]) -> Callable[..., set[int]]:
    def attack(store: Store, other: Store, i: int, j: int, rng: random.Random) -> set[int]:
        damage(store, i, rng)
        return {i}

    return attack


DAMAGE = {
    "flipped": _one(lambda store, i, rng: flip(store.shard_path(i), rng)),
    "cut": _one(lambda store, i, rng: os.truncate(path := store.shard_path(i), rng.randrange(path.stat().st_size))),
    "emptied": _one(lambda store, i, rng: store.shard_path(i).write_bytes(b"")),
    "deleted": _one(lambda store, i, rng: store.shard_path(i).unlink()),
    "swapped": _swap,
    "copied with its record": _moved,
    "of another store": _foreign,
    "record flipped": _one(lambda store, i, rng: flip(store.record_path(i), rng)),
    "record cut": _one(lambda store, i, rng: os.truncate(path := store.record_path(i),
                                                         rng.randrange(path.stat().st_size))),
}


def damage(work: Work, folder: Path, n: int, seed: int = 0) -> tuple[str, int]:
    """`n` shards damaged in every way; each must be noticed before it is read, and only it computed again."""
    rng, kinds, unseen, other_work, wrong = random.Random(seed), Counter(), 0, 0, 0
    acts = work(folder / "damage", control=True)
    store, other = Store.open(acts.path), Store.open(acts.random_init.path)
    wanted, turn = contents(folder / "damage"), itertools.cycle(DAMAGE)
    while kinds.total() < n:
        before, broken = finished(folder / "damage"), set[int]()
        free = rng.sample(range(store.n_shards), store.n_shards)
        while len(free) > store.n_shards // 2 and kinds.total() < n:
            kind, i, j = next(turn), free.pop(), free.pop()
            hit = DAMAGE[kind](store, other, i, j, rng)
            kinds[kind] += len(hit)
            broken |= hit
        for i in range(store.n_shards):
            unseen += (i in broken) != _refused(lambda i=i: store.verify(i))
        unseen += not _refused(lambda: Activations.open(store.path)[store.sites[-1]])
        unseen += set(inspect(store.path, every_byte=True, threads=1).broken) != broken
        wrong += repair(store.path, threads=1).to_compute != len(broken)
        work(folder / "damage")
        after = finished(folder / "damage")
        again = {Path(shard) for shard in before if before[shard][1] != after[shard][1]}
        other_work += again != {store.record_path(i) for i in broken}
        wrong += contents(folder / "damage") != wanted
    said = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return (f"{kinds.total()} shards damaged ({said}): {unseen} unseen, {other_work} repairs that computed anything "
            f"else, {wrong} differences after repair"), unseen + other_work + wrong


def _refused(read: Callable[[], object]) -> bool:
    try:
        read()
    except StoreError:
        return True
    return False


# --- a disk that fails -----------------------------------------------------------------------------------------------


def failures(work: Work, folder: Path, n: int | None) -> tuple[str, int]:
    """Every n-th operation on a file of the store fails in turn, or `n` of them spread over the run."""
    work(folder / "undisturbed few")
    wanted, seen = contents(folder / "undisturbed few"), []
    with watched(folder / "counted", lambda name, path, half=None: seen.append(name)):
        work(folder / "counted")
    chosen = range(len(seen)) if n is None else sorted({round(x) for x in np.linspace(0, len(seen) - 1, n)})
    wrong, told = [], Counter()
    for nth in chosen:
        cache, code = folder / f"failing {nth}", (errno.ENOSPC, errno.EIO)[nth % 2]
        status, text = forked(partial(_failing, work, cache, nth, code))
        told[seen[nth]] += 1
        if status != 3 or not text.startswith("StoreError") or str(cache) not in text or os.strerror(code) not in text:
            wrong.append(f"{seen[nth]} {nth}: {status} {text}")
        if cache.exists() and damaged(cache):
            wrong.append(f"{seen[nth]} {nth}: damage")
        work(cache)
        if contents(cache) != wanted:
            wrong.append(f"{seen[nth]} {nth}: not the same bytes after running again")
        shutil.rmtree(cache)
    wrong += _full_disk(work, folder / "full", wanted)
    said = ", ".join(f"{count} {name}" for name, count in sorted(told.items()))
    return (f"{len(chosen)} of {len(seen)} operations failed in turn ({said}), and the kernel refused one shard: "
            f"{len(wrong)} not survived"
            + "".join(f"\n    {line}" for line in wrong[:10])), len(wrong)


def _full_disk(work: Work, cache: Path, wanted: dict[str, str]) -> list[str]:
    """The kernel itself refuses: no file may grow beyond the size of the smallest shard but one."""
    limit = sorted(file.stat().st_size for file in (cache.parent / "counted").glob("*/*.safetensors"))[1] - 1

    def run() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        work(cache)

    status, text = forked(run)
    wrong = [] if status == 3 and f"StoreError: cannot write {cache}" in text and os.strerror(errno.EFBIG) in text \
        else [f"full disk: {status} {text}"]
    wrong += ["full disk: damage"] if damaged(cache) else []
    work(cache)
    return wrong + (["full disk: not the same bytes after running again"] if contents(cache) != wanted else [])


def _failing(work: Work, cache: Path, nth: int, code: int) -> None:
    count = itertools.count()

    def before(name: str, path: str, half: Callable[[], None] = lambda: None) -> None:
        if next(count) == nth:
            half()
            raise OSError(code, os.strerror(code), path)

    with watched(cache, before):
        work(cache)


# --- many at once ----------------------------------------------------------------------------------------------------


def together(work: Work, folder: Path, processes: int, rounds: int) -> tuple[str, int]:
    """Several processes give the same command at the same moment, again and again on new stores."""
    acts = work(folder / "alone")
    wanted, digest, wrong, repeated = contents(folder / "alone"), _digest(acts), 0, 0

    def one(cache: Path, log: Path, delay: float) -> str:
        def before(name: str, path: str, half=None) -> None:
            if name == "replace":
                descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
                os.write(descriptor, f"{path}\n".encode())
                os.close(descriptor)

        time.sleep(delay)
        with watched(cache, before):
            return _digest(work(cache))

    rng = random.Random(0)
    for k in range(rounds):
        cache, log = folder / f"together {k}", folder / f"log {k}"
        running = [spawn(partial(one, cache, log, rng.random() * 0.05)) for _ in range(processes)]
        came = [finish(*each) for each in running]
        wrong += sum(each != (0, digest) for each in came) + (contents(cache) != wanted)
        written = Counter(log.read_text().splitlines())
        repeated += sum(written.values()) - len(written) + (len(written) != sum("lock" not in name for name in wanted))
        shutil.rmtree(cache)
    return (f"{processes} processes x {rounds} rounds: {wrong} wrong reads or stores, {repeated} files written twice "
            "or not at all"), wrong + repeated


def _digest(acts: Activations) -> str:
    both = [acts, acts.random_init]
    return hashlib.sha256(b"".join(each[site].numpy().tobytes() for each in both for site in each)).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--damage", type=int, default=2000, help="shards to damage")
    parser.add_argument("--failures", type=int, help="operations that fail, one per run (default: every one)")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--json", type=Path, help="write what was found to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = small_model(folder / "model")
        many, few = Work(model, some_prompts(40)), Work(model, some_prompts(6))
        attacks = {"kills": lambda: kills(many, folder, options.kills),
                   "damage": lambda: damage(many, folder, options.damage),
                   "failures": lambda: failures(few, folder, options.failures),
                   "together": lambda: together(many, folder, options.processes, options.rounds)}
        for attack, run in attacks.items():
            began = time.monotonic()
            said, bad = run()
            found[attack] = {"said": said, "bad": bad, "seconds": round(time.monotonic() - began, 1)}
            print(f"{'FAILED' if bad else 'ok':6} {attack:9} {found[attack]['seconds']:6.1f} s  {said}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    return int(any(each["bad"] for each in found.values()))


if __name__ == "__main__":
    sys.exit(main())
