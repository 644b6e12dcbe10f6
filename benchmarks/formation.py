"""What the alignments of a checkpoint cost, as a multiple of one forward and backward pass of the same batches.

    python -m benchmarks.formation
    python -m benchmarks.formation --similarity        # CKA and neighbours at 100,000 rows, with their memory

The reference is the loss of the next token and its gradient in every parameter, of plain Hugging Face in training's own
way. The others measure the second moments of states, gradients and weights at every linear layer, queries, keys and
values included, and the six alignments of each. Contenders take turns; ratios are of the fastest, in wall time and in
the processor's, the latter being the one to read on a machine that does something else too.
"""

import argparse
import gc
import json
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import torch
import transformers
from torch.nn.functional import cross_entropy

from benchmarks.dose_response import peak, times
from benchmarks.extraction import markdown
from probing._huggingface import quiet
from probing.formation import alignments, debiased_cka, layer_moments, mutual_knn, two_nn

MODELS = {
    "GPT-2, 6 x 128, 60 words": transformers.GPT2Config(
        n_layer=6, n_embd=128, n_head=4, vocab_size=60, n_positions=128, bos_token_id=0, eos_token_id=0),
    "GPT-2, 4 x 256, 60 words": transformers.GPT2Config(
        n_layer=4, n_embd=256, n_head=4, vocab_size=60, n_positions=128, bos_token_id=0, eos_token_id=0),
    "Llama, 4 x 256, 1,000 words": transformers.LlamaConfig(
        vocab_size=1000, num_hidden_layers=4, hidden_size=256, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=688, max_position_embeddings=128),
}
WIDTH = 128
SIMILARITY = {"debiased_cka": debiased_cka, "mutual_knn": mutual_knn, "two_nn": lambda A, B: two_nn(A)}


def next_token_loss(model, tokens):
    return cross_entropy(model(tokens).logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")


def contenders(config, n_prompts: int, batch: int, length: int):
    """What is timed, the reference first."""
    torch.manual_seed(0)
    with quiet():
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    tokens = torch.randint(config.vocab_size, (n_prompts, length), generator=torch.Generator().manual_seed(0))
    batches = tokens.split(batch)

    def reference():
        for each in batches:
            model.zero_grad()
            next_token_loss(model, each).sum().backward()

    return {"forward and backward": (reference, 1),
            "moments": (lambda: layer_moments(model, next_token_loss, batches), 1),
            "moments, raw": (lambda: layer_moments(model, next_token_loss, batches, normed=False), 1),
            "moments and alignments": (lambda: alignments(layer_moments(model, next_token_loss, batches), 0), 1)}


def measure(name: str, n: int) -> dict[str, float]:
    """Seconds and growth of the peak, MiB, of one metric on two random spaces, in this process."""
    rng = np.random.default_rng(0)
    A, B = (rng.normal(size=(n, WIDTH)).astype(np.float32) for _ in range(2))
    SIMILARITY[name](A[:100], B[:100])
    gc.collect()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before, began = peak(), time.perf_counter()
    SIMILARITY[name](A, B)
    return {"seconds": time.perf_counter() - began, "peak grows, MiB": (peak() - before) / 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="models whose name has this in it")
    parser.add_argument("--prompts", type=int, default=64, help="of --length tokens (default %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="prompts in a batch (default %(default)s)")
    parser.add_argument("--length", type=int, default=128, help="tokens in a prompt (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="(default %(default)s)")
    parser.add_argument("--similarity", action="store_true", help="similarity at many rows instead")
    parser.add_argument("--rows", type=int, default=100_000, help="of --similarity (default %(default)s)")
    parser.add_argument("--measure", metavar="METRIC", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.rows)))
        return
    if args.similarity:
        lines = []
        for name in SIMILARITY:
            command = [sys.executable, "-m", "benchmarks.formation", "--measure", name, "--rows", str(args.rows)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            lines.append({"metric": name} | json.loads(done.stdout.splitlines()[-1]))
        print(f"\n**{args.rows:,} rows of {WIDTH} dimensions**\n\n{markdown(pd.DataFrame(lines))}")
        return
    for name, config in MODELS.items():
        if args.only.lower() in name.lower():
            table = pd.DataFrame(times(contenders(config, args.prompts, args.batch, args.length), args.repeats))
            print(f"\n**{name}**: {args.prompts} prompts of {args.length} tokens, {torch.get_num_threads()} threads\n\n"
                  f"{markdown(table)}", flush=True)


if __name__ == "__main__":
    main()
