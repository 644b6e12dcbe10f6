"""Time of reading every residual site, against a bare Hugging Face forward of the same batches.

    python -m benchmarks.extraction
    python -m benchmarks.extraction --model ./my-checkpoint --prompts 400 --repeats 9

The bare forward is `AutoModel` (no unembedding, no key/value cache) with its default attention; it keeps nothing.
Ours keeps the embedding and the stream after every block at every position, checks that they are finite, and is
timed whole: planning, choosing the road, hashing the weights. Contenders take turns, so that a busy machine slows all
of them; the ratio is that of the fastest runs, and of the medians.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import torch
import transformers

import tasks
from probing import extract, load_model, residual_sites
from probing._forward import bridge_reader
from probing._identity import is_causal
from probing._plan import plan_batches
from tasks import LabelledPrompts

SMALL = {
    "GPT-2, 4 x 256, 50k words": transformers.GPT2Config(n_layer=4, n_embd=256, n_head=4, n_positions=128),
    "Llama, 4 x 256": transformers.LlamaConfig(num_hidden_layers=4, hidden_size=256, num_attention_heads=4,
                                               num_key_value_heads=2, intermediate_size=688, vocab_size=1000,
                                               max_position_embeddings=128),
    "GPT-NeoX, 4 x 256": transformers.GPTNeoXConfig(num_hidden_layers=4, hidden_size=256, num_attention_heads=4,
                                                    intermediate_size=1024, vocab_size=1000,
                                                    max_position_embeddings=128),
}


def random_prompts(n: int, length: int, d_vocab: int) -> LabelledPrompts:
    """Random tokens with every position probed."""
    tokens = torch.randint(1, d_vocab, (n, length), generator=torch.Generator().manual_seed(0))
    examples = pd.DataFrame({"prompt": torch.arange(n).repeat_interleave(length).numpy(),
                             "pos": torch.arange(length).repeat(n).numpy()}).assign(split="train")
    examples["group"] = examples["prompt"]
    return LabelledPrompts(task="random", tokens=tokens, lengths=torch.full((n,), length), examples=examples)


def contenders(folder: Path, n_prompts: int) -> dict[str, Callable[[], object]]:
    """What is timed, by name; the first is the reference."""
    model = load_model(folder)
    prompts = random_prompts(n_prompts, model.cfg.n_ctx, model.cfg.d_vocab)
    bare = transformers.AutoModel.from_pretrained(folder).eval().to(model.cfg.device)
    sites = residual_sites(model.cfg.n_layers)
    hooks = {site.hook for site in sites}
    batches = plan_batches(prompts, is_causal(model))
    inputs = [batch.inputs(prompts, True, model.cfg.device) for batch in batches]
    bridge = bridge_reader(model, sites)
    cache = tempfile.TemporaryDirectory(prefix="benchmark-")

    def store():
        extract(model, prompts, cache=tempfile.mkdtemp(dir=cache.name), random_init=None)

    @torch.no_grad()
    def forward(**keep):
        for x in inputs:
            bare(**x, use_cache=False, **keep)

    @torch.no_grad()
    def run_with_cache():
        for x in inputs:
            model.run_with_cache(x["input_ids"], names_filter=lambda name: name in hooks)

    return {
        "bare forward": forward,
        "extract, to memory": lambda: extract(model, prompts, cache=False, random_init=None),
        "extract, to store": store,
        "bridge hooks": lambda: [bridge.read(x, b.prompt, b.pos) for x, b in zip(inputs, batches, strict=True)],
        "output_hidden_states": lambda: forward(output_hidden_states=True),
        "run_with_cache": run_with_cache,
    }


def times(runs: dict[str, Callable[[], object]], repeats: int) -> Iterator[dict[str, str | float]]:
    """Fastest and median seconds of each, after one run that is not counted; the runs take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if repeat:
                seconds[name].append(time.perf_counter() - began)
    reference = next(iter(seconds.values()))
    for name, took in seconds.items():
        yield {"run": name, "fastest s": min(took), "median s": statistics.median(took),
               "ratio of fastest": min(took) / min(reference),
               "ratio of medians": statistics.median(took) / statistics.median(reference)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="model directory or reference model; the Othello model where there is one")
    parser.add_argument("--prompts", type=int, default=200, help="prompts per run (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="counted runs of each (default %(default)s)")
    args = parser.parse_args()
    folders = {name: Path(path) for name, path in tasks.reference_models().items() if name == (args.model or "othello")}
    if args.model and not folders:
        folders = {args.model: Path(args.model)}
    with tempfile.TemporaryDirectory() as made:
        for name, config in SMALL.items():
            torch.manual_seed(0)
            folders[name] = Path(made) / str(len(folders))
            transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folders[name])
        for name, folder in folders.items():
            table = pd.DataFrame(times(contenders(folder, args.prompts), args.repeats))
            print(f"\n{name}: {args.prompts} prompts, {torch.get_num_threads()} threads\n"
                  + table.to_string(index=False, float_format="%.3f".__mod__), flush=True)


if __name__ == "__main__":
    main()
