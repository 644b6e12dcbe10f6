"""Time of summing every closed-form probe's moments while the model runs, against a bare Hugging Face forward.

    python -m benchmarks.streaming
    python -m benchmarks.streaming --games 2000 --only Othello

The bare forward is `AutoModel` (no unembedding, no key/value cache) on the same batches; it keeps nothing. `stream`
reads the embedding and the stream after every block at every position, and sums float64 moments per fold (5 training
folds, validation, test) against all labels: everything that ridge with all penalties, mass-mean, LDA, the encoding
model, low-rank probes, PCA, whitening and erasure need. It is timed whole: planning, checks, hashing, labels. Runs
take turns, so that a busy machine slows all of them; CPU seconds are those of the process, all threads.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import transformers

import tasks
from benchmarks.extraction import random_prompts
from probing import load_model, stream
from probing._identity import is_causal
from probing._plan import plan_batches
from tasks import LabelledPrompts, split_by_group

WIDE = {f"GPT-2, 6 x {width}, 1,000 words": transformers.GPT2Config(
    n_layer=6, n_embd=width, n_head=width // 64, n_positions=64, vocab_size=1000) for width in (256, 512)}


def labelled(prompts: LabelledPrompts, n_targets: int = 64, n_classes: int = 3, seed: int = 0) -> LabelledPrompts:
    """Random prompts with as many labels as an Othello board has squares."""
    rng, examples = np.random.default_rng(seed), prompts.examples
    codes = pd.DataFrame({f"board/{t}": rng.integers(0, n_classes, len(examples)) for t in range(n_targets)})
    split = split_by_group(examples["group"].to_numpy())
    return LabelledPrompts("random", prompts.tokens, prompts.lengths,
                           pd.concat([examples.assign(split=split), codes], axis=1), {"board": ("a", "b", "c")})


def contenders(folder: Path, prompts: LabelledPrompts, labels: list[str]) -> dict[str, Callable[[], object]]:
    """What is timed, by name; the first is the reference."""
    model = load_model(folder)
    bare = transformers.AutoModel.from_pretrained(folder).eval().to(model.cfg.device)
    inputs = [b.inputs(prompts, True, model.cfg.device) for b in plan_batches(prompts, is_causal(model))]

    @torch.no_grad()
    def forward():
        for x in inputs:
            bare(**x, use_cache=False)

    def streamed(**options):
        return lambda: stream(model, prompts, labels=labels, random_init=None, **options)

    return {"bare forward": forward,
            "stream, 7 folds": streamed(),
            "stream, 7 folds, position held": streamed(nuisance=["pos"]),
            "stream, 1 training fold": streamed(folds=1)}


def times(runs: dict[str, Callable[[], object]], repeats: int) -> Iterator[dict[str, str | float]]:
    """Fastest and median seconds of each, after one run that is not counted; the runs take turns."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if repeat:
                seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    reference, *_ = ([wall for wall, _ in took] for took in seconds.values())
    reference_cpu = min(cpu for _, cpu in next(iter(seconds.values())))
    for name, took in seconds.items():
        wall, cpu = ([pair[i] for pair in took] for i in (0, 1))
        yield {"run": name, "fastest s": min(wall), "median s": statistics.median(wall), "CPU s": min(cpu),
               "ratio of fastest": min(wall) / min(reference),
               "ratio of medians": statistics.median(wall) / statistics.median(reference),
               "ratio of CPU": min(cpu) / reference_cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", type=int, default=1000,
                        help="prompts per run, fewer where the model is wider (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="counted runs of each (default %(default)s)")
    parser.add_argument("--only", default="", help="models whose name contains this")
    args = parser.parse_args()
    worlds = {"Othello, 6 x 128": (Path(tasks.reference_models()["othello"]), tasks.load("othello", n=args.games),
                                   ["mine_theirs"])}
    with tempfile.TemporaryDirectory() as made:
        for name, config in WIDE.items():
            torch.manual_seed(0)
            folder = Path(made) / str(len(worlds))
            transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
            n = max(1, args.games * 128**2 // config.n_embd**2)  # as much work as the games of the Othello model
            prompts = random_prompts(n, config.n_positions, config.vocab_size)
            worlds[name] = folder, labelled(prompts), ["board"]
        for name, (folder, prompts, labels) in worlds.items():
            if args.only not in name:
                continue
            table = pd.DataFrame(times(contenders(folder, prompts, labels), args.repeats))
            print(f"\n{name}: {len(prompts.tokens):,} prompts, {len(prompts):,} rows, "
                  f"{torch.get_num_threads()} threads\n"
                  + table.to_string(index=False, float_format="%.3f".__mod__), flush=True)


if __name__ == "__main__":
    main()
