"""Peak memory and bytes on disk of extraction into a store, as the prompts grow ten times.

    python -m benchmarks.memory
    python -m benchmarks.memory --prompts 2000 --times 10

Each size runs in a process of its own: a random Othello-sized GPT-2 (6 layers of 128) reads random prompts of 59
tokens at every position, the embedding and the stream after every block, into a fresh store. Reported are the peak
resident memory of the process while `extract` runs (VmHWM), what of it the caller's prompts take (token ids and the
table of examples, which grow with the data whoever reads them), the ratio of the rest to that of the smallest size,
and the bytes of all files of the store beside the theoretical count: examples x sites x d_model x 4, and 8 for the
number of each example. The smallest size fills several shards of 64 MiB, the most that is written at once.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

LENGTH = 59


def peak(reset: bool = False) -> int:
    """Peak resident bytes of this process; `reset` makes the kernel count from here."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def measure(folder: str, n: int) -> dict[str, int]:
    """One size, in this process."""
    from benchmarks.extraction import random_prompts
    from probing import extract, load_model

    model = load_model(folder, device="cpu")
    extract(model, random_prompts(4, LENGTH, 61), cache=False, random_init=None)  # what is done once per model
    prompts = random_prompts(n, LENGTH, 61)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as cache:
        peak(reset=True)
        acts = extract(model, prompts, cache=cache, random_init=None)
        most = peak()
        sizes = {path.name: path.stat().st_size for path in acts.path.iterdir()}
    held = prompts.tokens.nbytes + prompts.lengths.nbytes + int(prompts.examples.memory_usage(deep=True).sum())
    return {"peak": most, "prompts": held, "bytes": sum(sizes.values()),
            "theory": len(prompts) * (len(acts) * acts.d_model * 4 + 8)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=2000, help="of the smallest size (default %(default)s)")
    parser.add_argument("--times", type=int, default=10, help="how much larger the largest is (default %(default)s)")
    parser.add_argument("--measure", nargs=2, metavar=("MODEL", "N"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure[0], int(args.measure[1]))))
        return
    import transformers

    from benchmarks.extraction import markdown
    from probing._huggingface import quiet

    rows: list[dict[str, object]] = []
    smallest = 0
    with tempfile.TemporaryDirectory() as folder:
        with quiet():
            config = transformers.GPT2Config(vocab_size=61, n_positions=LENGTH, n_layer=6, n_embd=128, n_head=4,
                                             bos_token_id=0, eos_token_id=0)
            transformers.GPT2LMHeadModel(config).save_pretrained(folder)
        for n in (args.prompts, args.prompts * args.times):
            came = subprocess.run([sys.executable, "-m", "benchmarks.memory", "--measure", folder, str(n)], check=True,
                                  stdout=subprocess.PIPE, text=True).stdout
            seen = json.loads(came.splitlines()[-1])
            rest = seen["peak"] - seen["prompts"]
            smallest = smallest or rest
            rows.append({"prompts": f"{n:,}", "peak, MB": seen["peak"] / 1e6, "prompts, MB": seen["prompts"] / 1e6,
                         "rest, ratio": rest / smallest, "on disk, MB": seen["bytes"] / 1e6,
                         "disk / theory": f"{seen['bytes'] / seen['theory']:.5f}"})
    print(markdown(pd.DataFrame(rows)), flush=True)


if __name__ == "__main__":
    main()
