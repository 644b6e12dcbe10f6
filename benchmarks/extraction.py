"""Time of reading every residual site, against a bare Hugging Face forward of the same batches.

    python -m benchmarks.extraction
    python -m benchmarks.extraction --model ./my-checkpoint --prompts 1000 --repeats 9

The bare forward is `AutoModel` (no unembedding, no key/value cache) with its default attention; it keeps nothing.
Ours keeps the embedding and the stream after every block at every position, checks that they are finite, and is
timed whole: planning, choosing the road, hashing the weights. So are its rivals: Hugging Face's
`output_hidden_states` and transformer-lens' `run_with_cache` of the same hooks, which runs the unembedding as well;
both keep the same. Contenders take turns, so that a busy machine slows all of them. Ratios to the bare forward are
those of the fastest runs, of the medians, and of the processor time of the cheapest runs, which other processes
disturb least. What a first call does once per model (the comparison with a second copy) is timed apart.
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
from probing._huggingface import quiet
from probing._identity import is_causal
from probing._plan import plan_batches
from tasks import LabelledPrompts

LLAMA = dict(num_hidden_layers=4, hidden_size=256, num_attention_heads=4, num_key_value_heads=2, intermediate_size=688,
             max_position_embeddings=128)
SMALL = {
    "GPT-2, 4 x 256, 50k words": transformers.GPT2Config(n_layer=4, n_embd=256, n_head=4, n_positions=128),
    "Llama, 4 x 256": transformers.LlamaConfig(vocab_size=1000, **LLAMA),
    "Llama, 4 x 256, 128k words": transformers.LlamaConfig(vocab_size=128_000, **LLAMA),
    "GPT-NeoX, 4 x 256": transformers.GPTNeoXConfig(num_hidden_layers=4, hidden_size=256, num_attention_heads=4,
                                                    intermediate_size=1024, vocab_size=1000,
                                                    max_position_embeddings=128),
    "BERT, 4 x 256": transformers.BertConfig(num_hidden_layers=4, hidden_size=256, num_attention_heads=4,
                                             intermediate_size=1024, vocab_size=1000, max_position_embeddings=128),
}


def random_prompts(n: int, length: int, d_vocab: int) -> LabelledPrompts:
    """Random tokens with every position probed."""
    tokens = torch.randint(1, d_vocab, (n, length), generator=torch.Generator().manual_seed(0))
    examples = pd.DataFrame({"prompt": torch.arange(n).repeat_interleave(length).numpy(),
                             "pos": torch.arange(length).repeat(n).numpy()}).assign(split="train")
    examples["group"] = examples["prompt"]
    return LabelledPrompts(task="random", tokens=tokens, lengths=torch.full((n,), length), examples=examples)


def contenders(folder: Path, n_prompts: int) -> tuple[dict[str, Callable[[], object]], float]:
    """What is timed, by name, the reference first; and the seconds of a first call."""
    with quiet():
        model = load_model(folder)
        bare = transformers.AutoModel.from_pretrained(folder).eval().to(model.cfg.device)
    prompts = random_prompts(n_prompts, min(128, model.cfg.n_ctx), model.cfg.d_vocab)
    sites = residual_sites(model.cfg.n_layers)
    hooks = {site.hook for site in sites}
    inputs = [batch.inputs(prompts, is_causal(model), model.cfg.device)
              for batch in plan_batches(prompts, is_causal(model), device=torch.device(model.cfg.device).type)]
    cache = tempfile.TemporaryDirectory(prefix="benchmark-")

    def memory():
        extract(model, prompts, cache=False, random_init=None)

    def store():
        extract(model, prompts, cache=tempfile.mkdtemp(dir=cache.name), random_init=None)

    how = {"use_cache": False} if is_causal(model) else {}

    @torch.no_grad()
    def forward():
        for x in inputs:
            bare(**x, **how)

    @torch.no_grad()
    def hidden_states():
        return [bare(**x, **how, output_hidden_states=True).hidden_states for x in inputs]

    @torch.no_grad()
    def run_with_cache():
        return [model.run_with_cache(x["input_ids"], names_filter=lambda name: name in hooks)[1] for x in inputs]

    began = time.perf_counter()
    memory()
    return {"bare forward": forward, "extract, to memory": memory, "extract, to store": store,
            "Hugging Face output_hidden_states": hidden_states,
            "transformer-lens run_with_cache": run_with_cache}, time.perf_counter() - began


def times(runs: dict[str, Callable[[], object]], repeats: int) -> Iterator[dict[str, str | float]]:
    """Seconds of each and their ratios to the first, after one run that is not counted; the runs take turns."""
    wall, work = ({name: [] for name in runs} for _ in range(2))
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            began = time.perf_counter(), time.process_time()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if repeat:
                wall[name].append(time.perf_counter() - began[0])
                work[name].append(time.process_time() - began[1])
    first = next(iter(runs))
    for name in runs:
        yield {"run": name, "fastest, s": min(wall[name]), "ratio": min(wall[name]) / min(wall[first]),
               "ratio of medians": statistics.median(wall[name]) / statistics.median(wall[first]),
               "ratio of processor time": min(work[name]) / min(work[first])}


def markdown(table: pd.DataFrame) -> str:
    """A table that can be pasted into a page; the columns after the first are numbers."""
    lines = [list(table), ["---", *["---:"] * (len(table.columns) - 1)],
             *([x if isinstance(x, str) else f"{x:.2f}" for x in row] for row in table.itertuples(index=False))]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="model directory, reference model, or part of a name below; by default all")
    parser.add_argument("--prompts", type=int, default=400, help="prompts per run (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="counted runs of each (default %(default)s)")
    args = parser.parse_args()
    reference = {name: Path(path) for name, path in tasks.reference_models().items()}
    folders = {name: reference[name] for name in [args.model or "othello"] if name in reference}
    if args.model and Path(args.model).is_dir():
        folders[args.model] = Path(args.model)
    with tempfile.TemporaryDirectory() as made, quiet():
        for name, config in SMALL.items():
            if (args.model or "") not in name:
                continue
            torch.manual_seed(0)
            auto = transformers.AutoModelForMaskedLM if "BERT" in name else transformers.AutoModelForCausalLM
            folders[name] = Path(made) / str(len(folders))
            auto.from_config(config).save_pretrained(folders[name])
        for name, folder in folders.items():
            runs, first = contenders(folder, args.prompts)
            print(f"\n**{name}**: {args.prompts} prompts, {torch.get_num_threads()} threads; first call {first:.2f} s"
                  f"\n\n{markdown(pd.DataFrame(times(runs, args.repeats)))}", flush=True)


if __name__ == "__main__":
    main()
