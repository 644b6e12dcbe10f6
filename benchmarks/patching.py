"""Time of patching every residual stream at every position, against full forwards with transformer-lens' own tool.

    python -m benchmarks.patching
    python -m benchmarks.patching --only Othello --pairs 16

A cell is one layer's resid_pre at one position, taken from the clean run and put into the corrupted one. The reference
is `transformer_lens.patching`: one `run_with_hooks` of all pairs for every cell. The other is a full forward of plain
Hugging Face with a hook and the logits of the last position alone, which no library call makes cheaper. Both are timed
on a few cells of every layer, spread over the positions, and scaled up. Ours is the whole sweep as a user calls it,
`activation_patching`, rows and p-values included, without random bands, which the others lack. All are given the same
pairs and metric, and their numbers must agree. Contenders take turns; ratios are of wall time and of the processor's.
"""

import argparse
import io
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import transformers
from jaxtyping import Float
from torch import Tensor
from transformer_lens import patching as lens

from benchmarks.dose_response import MODELS, Timed, model_folder, times
from benchmarks.extraction import markdown, random_prompts
from interventions import PatchRun, activation_patching
from probing import Site, load_model
from probing._huggingface import quiet
from tasks._pairs import PromptPairs


def pairs_of(n: int, length: int, d_vocab: int) -> PromptPairs:
    """Random prompts and twins that differ in the second token; right are the two halves of the vocabulary."""
    clean = random_prompts(n, length, d_vocab).tokens
    corrupted = clean.clone()
    corrupted[:, 1] = (corrupted[:, 1] + d_vocab // 2) % d_vocab
    half = np.broadcast_to(np.arange(d_vocab) < d_vocab // 2, (n, d_vocab))
    cases = pd.DataFrame({"group": np.arange(n), "split": "report"})
    return PromptPairs("random", "second token", clean, corrupted, torch.full((n,), length), cases, half, ~half)


def contenders(folder: Path, n_pairs: int, length: int, n_cells: int) -> tuple[dict[str, Timed], Callable[[], float]]:
    """What is timed, the reference first; and the largest difference of their numbers over the cells that all ran."""
    with quiet():
        model = load_model(folder, device="cpu")
        plain = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    pairs = pairs_of(n_pairs, min(length, model.cfg.n_ctx), model.cfg.d_vocab)
    layers, positions = range(model.cfg.n_layers), range(pairs.clean.shape[1])
    sites, n = [Site("resid_pre", layer) for layer in layers], len(positions)
    cells = [(layer, p) for layer in layers for p in np.linspace(0, n - 1, n_cells).round().astype(int).tolist()]
    with torch.no_grad():
        _, cache = model.run_with_cache(pairs.clean, names_filter=[site.hook for site in sites])
        corrupted, clean = (plain(t, logits_to_keep=1).logits[:, -1].double() for t in (pairs.corrupted, pairs.clean))
    away, found = clean - corrupted, dict[str, Mapping]()

    def toward(logits, numbers):
        """How far the logits have gone from the corrupted ones to the clean ones, along their own difference."""
        return ((logits.double() - corrupted[numbers]) * away[numbers]).sum(-1) / away.square().sum(-1).mean()

    def share(logits: Float[Tensor, "pair d_vocab"]) -> float:
        return float(toward(logits, torch.arange(len(logits))).mean())

    @torch.no_grad()
    @redirect_stderr(io.StringIO())  # a progress bar for every cell
    def transformer_lens():
        found["lens"] = {(layer, p): float(lens.generic_activation_patch(
            model, pairs.corrupted, cache, lambda logits: torch.tensor(share(logits[:, -1])),
            lens.layer_pos_patch_setter, "resid_pre", index_df=pd.DataFrame({"layer": [layer], "pos": [p]})))
            for layer, p in cells}

    @torch.no_grad()
    def hugging_face():
        blocks = next(m for m in plain.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == len(layers))
        found["plain"] = {}
        for layer, p in cells:
            def put(module, args, kwargs, layer=layer, p=p):
                x = (args[0] if args else kwargs["hidden_states"]).clone()
                x[:, p] = cache[sites[layer].hook][:, p]
                return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x})

            handle = blocks[layer].register_forward_pre_hook(put, with_kwargs=True)
            found["plain"][layer, p] = share(plain(pairs.corrupted, use_cache=False, logits_to_keep=1).logits[:, -1])
            handle.remove()

    def ours():
        run = PatchRun(model, pairs, toward)
        table = activation_patching(run, pairs, sites, directions=["denoise"], n_random=0)
        rows = table[table["control"].isna() & (table["metric"] == "nie")]
        places = rows["positions"].replace("last", str(n - 1)).astype(int)
        found["ours"] = dict(zip(zip(rows["layer"], places, strict=True), rows["value"], strict=True))

    def apart() -> float:
        return max(abs(found["ours"][cell] - found[name][cell]) for name in ("lens", "plain") for cell in cells)

    whole = len(layers) * n / len(cells)
    return {"full forwards, transformer-lens": (transformer_lens, whole),
            "full forwards, Hugging Face": (hugging_face, whole), "activation_patching": (ours, 1.0)}, apart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=32, help="pairs of prompts (default %(default)s)")
    parser.add_argument("--length", type=int, default=48, help="tokens of a prompt at most (default %(default)s)")
    parser.add_argument("--cells", type=int, default=3, help="positions timed per layer (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=1, help="counted runs of each (default %(default)s)")
    parser.add_argument("--only", default="", help="models whose name contains this")
    args = parser.parse_args()
    for name, config in MODELS.items():
        if args.only.lower() not in name.lower():
            continue
        print(f"timing {name} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="benchmark-") as made:
            runs, apart = contenders(model_folder(config, Path(made)), args.pairs, args.length, args.cells)
            table = pd.DataFrame(times(runs, args.repeats))
        print(f"\n**{name}**: {args.pairs} pairs, {torch.get_num_threads()} threads, numbers within {apart():.0e}\n\n"
              f"{markdown(table)}", flush=True)


if __name__ == "__main__":
    main()
