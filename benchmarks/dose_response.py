"""Time and memory of a dose-response sweep over all layers with random directions, against full forwards of every arm.

    python -m benchmarks.dose_response
    python -m benchmarks.dose_response --only Othello --cases 200

An arm is one layer, one dose and one direction: the probe's or one of 20 random ones. Each is scored by the KL of the
next token. The references are full forward passes of every arm with a hook: plain Hugging Face with the logits of the
last position alone, which no library call makes cheaper, and transformer-lens' `run_with_hooks`, which runs the
unembedding at every position. Ours: `LastToken` (edits of the last token; everything before it is computed once and
its keys and values are shared by all arms) and `Sequences` (edits of every token; an arm enters at the edited layer,
and the stream below is computed once). Full forwards are timed on a few arms of every layer and scaled up. Contenders
take turns; ratios are of wall time and of the processor's. Memory is the growth of the process's peak, each contender
in a process of its own.
"""

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import torch
import transformers

import tasks
from benchmarks.extraction import markdown, random_prompts
from interventions import At, LastToken, Sequences, kl, steer
from probing import Site, load_model
from probing._huggingface import quiet

MODELS = {
    "Othello, 6 x 128, 60 words": None,
    "GPT-2, 4 x 256, 50k words": transformers.GPT2Config(n_layer=4, n_embd=256, n_head=4, n_positions=128),
    "Llama, 4 x 256, 1,000 words": transformers.LlamaConfig(
        vocab_size=1000, num_hidden_layers=4, hidden_size=256, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=688, max_position_embeddings=128),
}
DOSES = (-1.0, 1.0)
BATCH = 64  # prompts in a full forward
Timed = tuple[Callable[[], object], float]  # and how many times its work the whole sweep is


def contenders(folder: Path, n_cases: int, length: int, n_directions: int) -> dict[str, Timed]:
    with quiet():
        model = load_model(folder, device="cpu")
        plain = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokens = random_prompts(n_cases, min(length, model.cfg.n_ctx), model.cfg.d_vocab).tokens
    lengths = torch.full((n_cases,), tokens.shape[1])
    layers, d = range(model.cfg.n_layers), model.cfg.d_model
    directions = torch.nn.functional.normalize(torch.randn(n_directions, d, generator=torch.Generator().manual_seed(0)))
    few = [(layer, DOSES[layer % len(DOSES)], directions[layer % n_directions]) for layer in layers]
    whole = len(layers) * len(DOSES) * n_directions / len(few)
    unedited = LastToken(model, tokens, lengths).logits()

    def price(logits, places):
        return kl(unedited[places], logits)[:, None].double()

    def arms(edit):
        return [{Site("resid_post", layer): edit(v, dose)} for layer in layers for dose in DOSES for v in directions]

    def last_token():
        return LastToken(model, tokens, lengths).measure(arms(steer), price)

    def sequences():
        return Sequences(model, tokens, lengths).measure(arms(lambda v, dose: At(steer(v, dose))), price)

    @torch.no_grad()
    def hugging_face():
        blocks = next(m for m in plain.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == len(layers))
        for layer, dose, v in few:
            def add(module, args, output, v=v, dose=dose):
                x = output[0] if isinstance(output, tuple) else output
                x = x.clone()
                x[:, -1] += dose * v
                return (x, *output[1:]) if isinstance(output, tuple) else x

            handle = blocks[layer].register_forward_hook(add)
            for places in torch.arange(n_cases).split(BATCH):
                price(plain(tokens[places], use_cache=False, logits_to_keep=1).logits[:, -1], places)
            handle.remove()

    @torch.no_grad()
    def run_with_hooks():
        for layer, dose, v in few:
            def add(resid, hook, v=v, dose=dose):
                resid[:, -1] += dose * v
                return resid

            for places in torch.arange(n_cases).split(BATCH):
                hooks = [(f"blocks.{layer}.hook_resid_post", add)]
                price(model.run_with_hooks(tokens[places], fwd_hooks=hooks)[:, -1], places)

    return {"full forwards, Hugging Face": (hugging_face, whole),
            "full forwards, run_with_hooks": (run_with_hooks, whole),
            "LastToken": (last_token, 1.0), "Sequences, every token edited": (sequences, 1.0)}


def model_folder(config, made: Path) -> Path:
    """A model of this shape with random weights, written into `made`; without one the Othello reference model."""
    if config is None:
        return Path(tasks.reference_models()["othello"])
    with quiet():
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(made)
    return made


def times(runs: dict[str, Timed], repeats: int) -> Iterator[dict[str, str | float]]:
    """Seconds of the whole sweep and ratios to the first, after one run of the references that is not counted."""
    wall, work = ({name: [] for name in runs} for _ in range(2))
    for repeat in range(repeats + 1):
        for name, (run, whole) in runs.items():
            if not repeat and whole == 1:
                continue
            began = time.perf_counter(), time.process_time()
            run()
            if repeat:
                wall[name].append(whole * (time.perf_counter() - began[0]))
                work[name].append(whole * (time.process_time() - began[1]))
    first = next(iter(runs))
    for name in runs:
        yield {"run": name, "fastest, s": min(wall[name]), "ratio": min(wall[name]) / min(wall[first]),
               "processor, s": min(work[name]), "ratio of processor time": min(work[name]) / min(work[first])}


def peak() -> int:
    """VmHWM, bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def grown(folder: Path, name: str, args: argparse.Namespace) -> float:
    """MiB by which the process's peak grows while the contender of this name runs, in a process of its own."""
    options = [str(x) for x in (args.cases, args.length, args.directions)]
    done = subprocess.run([sys.executable, "-m", "benchmarks.dose_response", "--measure", str(folder), name, *options],
                          check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1]) / 2**20


def measure(folder: str, name: str, *numbers: str) -> None:
    run, _ = contenders(Path(folder), *map(int, numbers))[name]
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    run()
    print(json.dumps(peak() - before))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=64, help="prompts (default %(default)s)")
    parser.add_argument("--length", type=int, default=128, help="tokens of a prompt at most (default %(default)s)")
    parser.add_argument("--directions", type=int, default=21, help="per layer and dose (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=1, help="counted runs of each (default %(default)s)")
    parser.add_argument("--only", default="", help="models whose name contains this")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="times only")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        return measure(*args.measure)
    for name, config in MODELS.items():
        if args.only.lower() not in name.lower():
            continue
        print(f"timing {name} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="benchmark-") as made:
            folder = model_folder(config, Path(made))
            runs = contenders(folder, args.cases, args.length, args.directions)
            table = pd.DataFrame(times(runs, args.repeats))
            if args.memory:
                table["peak grows, MiB"] = [grown(folder, run, args) for run in table["run"]]
        print(f"\n**{name}**: {args.cases} prompts, {torch.get_num_threads()} threads\n\n{markdown(table)}", flush=True)


if __name__ == "__main__":
    main()
