"""Is the results table the same, byte for byte, whatever the hash seed, the number of threads and of workers?

    python -m benchmarks.determinism                       # 20 runs on Othello, 40 games, read by the 6x6 model
    python -m benchmarks.determinism --task world --runs 5

Every run is a process of its own: it draws PYTHONHASHSEED at random, takes 1 or 2 threads (OMP_NUM_THREADS) and 1, 2
or 4 workers in turn, extracts, sweeps (logistic at two penalties, MLP) and writes results.parquet and .json.
"""

import argparse
import hashlib
import os
import random
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import torch


def activations(task: str):
    """(acts, prompts, labels) of a task, with its random-init control."""
    if task == "world":
        from benchmarks.leakage import InMemory, world

        acts, prompts = world(0, n_groups=30)
        acts.model_identity = SimpleNamespace(name="made by hand", revision=None, digest="00")
        acts.random_init = InMemory({site: torch.roll(x, 1, 0) for site, x in acts.items()}, None)
        return acts, prompts, ["z"]
    import tasks
    from probing import extract, load_model
    from tasks import othello

    name = next(n for n in tasks.reference_models() if n.endswith("6x6"))
    prompts = othello.load(40, 0, 6)
    return extract(load_model(name), prompts, random_init=0, cache=False), prompts, ["mine_theirs", "flipped"]


def write_table(task: str, out: Path, workers: int) -> None:
    """One run: extract, sweep, write."""
    from probing import LogisticProbe, MLPProbe, sweep, write_results

    acts, prompts, labels = activations(task)
    probes = {"logistic": [LogisticProbe(C=c, tol=1e-2) for c in (0.01, 1.0)],
              "mlp": MLPProbe(hidden=32, epochs=2)}
    write_results(sweep(acts, prompts, labels, probes, workers=workers).rows, out / "results.parquet")


def run(task: str, hash_seed: int, threads: int, workers: int) -> str:
    """Digest of both files of a run in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="determinism-") as folder:
        environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "OMP_NUM_THREADS": str(threads)}
        subprocess.run([sys.executable, "-m", "benchmarks.determinism", "--task", task, "--write", folder,
                        "--workers", str(workers)], env=environment, check=True)
        files = [(Path(folder) / f"results.{suffix}").read_bytes() for suffix in ("parquet", "json")]
    return hashlib.sha256(b"".join(files)).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--task", choices=("othello", "world"), default="othello")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.write:
        write_table(args.task, args.write, args.workers)
        return
    settings = list(product((1, 2), (1, 2, 4)))
    found = []
    for i in range(args.runs):
        threads, workers = settings[i % len(settings)]
        hash_seed = random.SystemRandom().randrange(2**32)
        found.append(run(args.task, hash_seed, threads, workers))
        print(f"hash seed {hash_seed:10d}, {threads} threads, {workers} workers: {found[-1][:16]}", flush=True)
    print(f"{len(found)} runs, {len(set(found))} different tables")
    sys.exit(len(set(found)) > 1)


if __name__ == "__main__":
    main()
