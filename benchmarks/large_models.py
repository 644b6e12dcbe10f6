"""What the four tasks would cost with a model that this machine cannot hold: GPU hours, core hours, bytes.

    python -m benchmarks.large_models               # Llama 70B; a minute, most of it timing probes on this machine
    python -m benchmarks.large_models --seeds 3 --prompts 10000

Forward passes are counted (2 x parameters per token), not measured; fits are measured here at small widths and
extended by the law of their algorithm, seconds = a + b n d T + c n d^2 + e d^3 (n examples, d width, T columns:
targets, times classes but one), whose coefficients are fitted to the timings, none below 0. The assumptions are
printed.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import nnls

sys.path.insert(0, str(Path(__file__).parent.parent))

from probing import LogisticProbe, RidgeProbe
from probing._threads import single_threaded
from worldprobe._sweep import settings_of
from worldprobe._sweep_cost import RUNS
from worldprobe._sweep_plan import plan_cells

TASKS = ("othello", "maze", "space_time", "truthfulness")
WIDTHS, EXAMPLES, TARGETS = (64, 128, 256, 384), (500, 2000), (1, 8)


@dataclass(frozen=True)
class Shape:
    """A model that is not loaded. `gpus` hold it; split by layers, one of them works at a time."""

    name: str
    layers: int
    d_model: int
    d_mlp: int
    d_kv: int
    d_vocab: int
    gpus: int

    @property
    def passed(self) -> int:
        """Parameters that a token passes through on its way to the last block: no embedding, no unembedding."""
        return self.layers * (2 * self.d_model**2 + 2 * self.d_model * self.d_kv + 3 * self.d_model * self.d_mlp)

    @property
    def parameters(self) -> int:
        return self.passed + 2 * self.d_vocab * self.d_model


LLAMA_70B = Shape("Llama 70B", layers=80, d_model=8192, d_mlp=28672, d_kv=1024, d_vocab=128_256, gpus=4)


@dataclass(frozen=True)
class Assumed:
    """What the table rests on and nothing here has measured."""

    flops: float = 989e12  # bfloat16 without sparsity, of one H100
    utilisation: float = 0.4  # of that, in forward passes of short prompts in large batches
    overhead: float = 1.15  # extraction over a bare forward pass (docs/benchmarks.md: 0.97 to 1.27 on a CPU)
    tokens_per_word: float = 2.0  # `c4` or `(2,0)` are no single tokens of a language model
    twin: bool = True  # the same architecture with random weights is read too
    itemsize: int = 2  # activations in bfloat16
    prefix: float = 0.48  # time of edited runs over full ones (docs/benchmarks.md: 0.05 to 0.48)
    doses: int = 1
    cases: int = 100


DEFAULT = Assumed()


def fit_law(seed: int = 0) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """(probe -> coefficients of (1, n d T, n d^2, d^3), timings with what the law says of each)."""
    rows, rng = [], np.random.default_rng(seed)
    for name, probe in (("logistic", LogisticProbe(tol=1e-2)), ("ridge", RidgeProbe())):
        for d in WIDTHS:
            for n in EXAMPLES:
                for t in TARGETS:
                    X = rng.normal(size=(n, d)).astype(np.float32)
                    Y = X[:, :t] + 0.5 * rng.normal(size=(n, t))
                    Y = (Y > 0).astype(int) if name == "logistic" else Y
                    with single_threaded():
                        probe.fit(X, Y)
                        began = time.process_time()
                        probe.fit(X, Y)
                        rows.append({"probe": name, "d": d, "n": n, "targets": t,
                                     "seconds": time.process_time() - began})
    timings, laws = pd.DataFrame(rows), {}
    for name, of in timings.groupby("probe"):
        A = features(of["n"], of["d"], of["targets"])
        laws[str(name)] = nnls(A / of["seconds"].to_numpy()[:, None], np.ones(len(of)))[0]  # relative errors count
        timings.loc[of.index, "law"] = A @ laws[str(name)]
    return laws, timings


def features(n, d, columns) -> np.ndarray:
    n, d, columns = (np.asarray(x, float) for x in (n, d, columns))
    return np.stack([1 + 0 * n, n * d * columns, n * d**2, d**3 + 0 * n], -1)


def costs(model: Shape, laws: dict[str, np.ndarray], seeds: Sequence[int] = (0,), prompts: int | None = None,
          assumed: Assumed = DEFAULT) -> pd.DataFrame:
    """One row per task and the sum of all: prompts, tokens, GPU hours of reading and of editing, core hours of fits,
    terabytes of activations."""
    settings = settings_of(TASKS, None, seeds=seeds, prompts=prompts, probes=list(laws), options={}, cache=None,
                           correction="none", block=1, labels=None, layers=["0"], doses=None, cases=assumed.cases,
                           quick=False, shuffles=None, dtype="bfloat16", device="auto", device_map="auto", retries=1)
    cells = plan_cells(settings)
    sites, speed = model.layers + 1, assumed.flops * assumed.utilisation
    rows = []
    for task, of in cells.groupby("task", sort=False):
        groups = of.drop_duplicates("group")
        tokens = groups["tokens"].sum() * assumed.tokens_per_word
        reads = 2 * model.passed * tokens * (1 + assumed.twin) * assumed.overhead
        probes = of[of["kind"] == "probe"]
        each = groups["tokens"].sum() / groups["prompts"].sum() * assumed.tokens_per_word
        edits = 2 * model.parameters * each * assumed.cases * RUNS * assumed.doses * assumed.prefix
        edits *= sites * len(probes)
        columns = probes["targets"] * (probes["classes"] - 1).clip(lower=1)
        each_fit = [features(n, model.d_model, t) @ laws[p] for n, t, p in
                    zip(probes["examples"], columns, probes["probe"], strict=True)]
        fits = float(sum(each_fit)) * sites * (2 + assumed.twin)  # its own labels, shuffled ones, random weights
        stored = groups["examples"].sum() * sites * model.d_model * assumed.itemsize * (1 + assumed.twin)
        rows.append({"task": task, "prompts": groups["prompts"].sum(), "tokens, M": tokens / 1e6,
                     "examples": groups["examples"].sum(), "reading, GPU h": reads / speed / 3600 * model.gpus,
                     "editing, GPU h": edits / speed / 3600 * model.gpus, "fits, core h": fits / 3600,
                     "activations, TB": stored / 1e12})
    table = pd.DataFrame(rows)
    return pd.concat([table, pd.DataFrame([{"task": "all four"} | table.drop(columns="task").sum().to_dict()])],
                     ignore_index=True)


def shown(x: str | float) -> str:
    return x if isinstance(x, str) else f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--prompts", type=int)
    given = parser.parse_args()
    laws, timings = fit_law()
    print("timings of fits on this machine (seconds of a core), and what the law says of them")
    print(timings.round(4).to_string(index=False))
    for name, law in laws.items():
        print(f"{name}: {law[0]:.2e} + {law[1]:.2e} n d T + {law[2]:.2e} n d^2 + {law[3]:.2e} d^3 seconds")
    print(f"\n{LLAMA_70B.name}: {LLAMA_70B.parameters / 1e9:.1f} G parameters, {LLAMA_70B.passed / 1e9:.1f} G of them "
          f"on the way to the last block\n{Assumed()}\n")
    table = costs(LLAMA_70B, laws, range(given.seeds), given.prompts)
    print("| " + " | ".join(table) + " |\n|---" + "|---:" * (len(table.columns) - 1) + "|")
    for row in table.itertuples(index=False):
        print(f"| {' | '.join(map(shown, row))} |")


if __name__ == "__main__":
    main()
