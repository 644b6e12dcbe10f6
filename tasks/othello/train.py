"""Train the Othello reference models.

    python -m tasks.othello.train --size 8 --out runs/othello            # the 8x8 model
    python -m tasks.othello.train --size 6 --out runs/othello-6x6        # 6x6, with log-spaced checkpoints
    python -m tasks.othello.train --size 6 --target sampled ...          # next-token sampling, for purists

The same command again resumes. Threads follow OMP_NUM_THREADS.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from .._training import Decoder, next_token_loss, save_gpt2, train, word_tokenizer
from ._engine import random_games
from ._tokens import legal_tokens, to_tokens, words

TRAIN_SEED, HELD_OUT_SEED = 1, 2  # probes and interventions use other seeds again: tasks.othello.load(seed=0)
RECIPES = {
    8: dict(n_layers=6, d_model=128, n_heads=8, batch=128, steps=6000),
    6: dict(n_layers=4, d_model=128, n_heads=8, batch=256, steps=1500),
}
_BLOCK = 2048  # games made at a time


def batches(size: int, batch: int, target: str = "legal", seed: int = TRAIN_SEED):
    """step -> (tokens, target distribution, weight): a pure function of the step, so a resumed run is the same."""
    block: dict[int, tuple] = {}

    def games(step: int):
        first = step * batch
        start = first - first % _BLOCK
        if start not in block:
            block.clear()
            block[start] = random_games(_BLOCK, size, seed, start)
        squares, legal = block[start]
        return squares[first - start : first - start + batch], legal[first - start : first - start + batch]

    def one(step: int):
        squares, legal = games(step)
        tokens = to_tokens(squares, size)
        if target == "legal":
            goal = legal_tokens(legal[:, 1:], size).astype(np.float32)
            goal /= np.maximum(goal.sum(-1, keepdims=True), 1)
        else:
            goal = np.eye(len(words(size)), dtype=np.float32)[tokens[:, 1:]]
        played = squares[:, 1:] >= 0
        return (torch.from_numpy(tokens[:, :-1]), torch.from_numpy(goal), torch.from_numpy(played.astype(np.float32)))

    return one


@torch.inference_mode()
def legality(model, size: int, n: int = 500, seed: int = HELD_OUT_SEED) -> dict:
    """Share of positions whose most likely token is a legal move (strict rule), on `n` held-out random games."""
    squares, legal = random_games(n, size, seed)
    tokens = torch.from_numpy(to_tokens(squares, size))
    hits = total = mass = 0.0
    for part in range(0, n, 128):
        rows = slice(part, part + 128)
        allowed = torch.from_numpy(legal_tokens(legal[rows, 1:], size))
        played = torch.from_numpy(squares[rows, 1:] >= 0)
        p = model(tokens[rows, :-1]).softmax(-1)
        top = allowed.gather(-1, p.argmax(-1, keepdim=True))[..., 0]
        hits += top[played].sum().item()
        mass += (p * allowed).sum(-1)[played].sum().item()
        total += played.sum().item()
    return {"legal_top1": hits / total, "legal_mass": mass / total}


def log_spaced(steps: int, n: int = 12) -> list[int]:
    """0 and about `n` steps from 8 to `steps`, evenly spaced in log."""
    return sorted({0, *np.geomspace(8, steps, n).round().astype(int).tolist()})


CARD = """---
license: mit
library_name: transformers
tags: [othello, interpretability, worldprobe]
---
# {name}

Plays uniformly random legal Othello moves on the {size}x{size} board; strict top-1 legality {legal:.2%} on held-out
games. A GPT-2 decoder with {n_layers} layers, d_model {d_model}, {n_heads} heads, ReLU, learned positions, untied
unembedding: {parameters:.2f} M parameters.

**Data.** Random games made while training (`tasks.othello.random_games`, seed {data_seed}), every game seen once:
{games:,} games. Tokens are `<pad>` and the playable squares (`c4`: row letter, column number); there is no BOS and no
pass token. The model reads moves 1 to T-1 and predicts moves 2 to T.

**Objective.** {objective} Board labels are never seen.

**Recipe.** {steps:,} steps of {batch} games in float32. Muon (lr 0.02, momentum 0.95, weight decay 0.01) on the
matrices inside the blocks, AdamW (lr 3e-3, betas 0.9 and 0.95) on the rest; 100 steps of warm-up, constant for half the
run, then linear to 2 %; gradients clipped at norm 1; initial weights from seed {seed}. {hours:.1f} hours on the CPU.

**Held-out metrics** (500 random games of seed {held_out}): top-1 legality {legal:.4f}, probability on legal moves
{mass:.4f}. The whole log is in `log.jsonl`{checkpoints}.

Made by `python -m tasks.othello.train --size {size} --steps {steps}`. Intended for interpretability research; it has no
other use.
"""
OBJECTIVES = {
    "legal": "Cross-entropy against the uniform distribution over the legal moves, from which random games draw: the "
             "expected gradient is that of next-token prediction, with less noise (a variance reduction).",
    "sampled": "Next-token prediction on the moves that were played.",
}


def write_card(out: Path, size: int, steps: int, target: str, seed: int, metrics: dict) -> None:
    """Write the model card, `README.md`, beside the model."""
    recipe = RECIPES[size]
    config = json.loads((out / "config.json").read_text())
    parameters = sum(t.numel() for t in load_file(out / "model.safetensors").values())
    snapshots = sorted((out / "checkpoints").glob("step-*"))
    card = CARD.format(
        name="othello" if size == 8 else f"othello-{size}x{size}", size=size, legal=metrics["legal_top1"],
        n_layers=config["n_layer"], d_model=config["n_embd"], n_heads=config["n_head"], parameters=parameters / 1e6,
        data_seed=TRAIN_SEED, games=steps * recipe["batch"], objective=OBJECTIVES[target], steps=steps,
        batch=recipe["batch"], seed=seed, hours=metrics["seconds"] / 3600, held_out=HELD_OUT_SEED,
        mass=metrics["legal_mass"],
        checkpoints=f"; {len(snapshots)} checkpoints from step 0, bfloat16, are in `checkpoints/`" if snapshots else "")
    (out / "README.md").write_text(card)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, choices=sorted(RECIPES), default=8)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, help="default: the recipe's")
    parser.add_argument("--target", choices=["legal", "sampled"], default="legal",
                        help="legal: the exact next-move distribution; sampled: the move that was played")
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights")
    parser.add_argument("--every", type=int, default=100, help="steps between evaluations and resume points")
    args = parser.parse_args(argv)
    recipe = RECIPES[args.size]
    steps = args.steps or recipe["steps"]
    torch.manual_seed(args.seed)
    vocabulary = words(args.size)
    model = Decoder(len(vocabulary), args.size**2 - 5, recipe["n_layers"], recipe["d_model"], recipe["n_heads"])
    tokenizer = word_tokenizer(vocabulary)

    def save(model, folder: Path, metrics: dict) -> None:
        save_gpt2(model, folder, tokenizer, torch.float32 if folder == args.out else torch.bfloat16)

    print(f"{args.size}x{args.size}, {sum(p.numel() for p in model.parameters()) / 1e6:.2f}M parameters, {steps} steps "
          f"of {recipe['batch']} games, target {args.target}", flush=True)
    loss = next_token_loss(batches(args.size, recipe["batch"], args.target))
    metrics = train(model, loss, steps, args.out, evaluate=lambda m: legality(m, args.size), save=save,
                    every=args.every, snapshots=log_spaced(steps) if args.size == 6 else (),
                    log=lambda s: print(s, flush=True))
    write_card(args.out, args.size, steps, args.target, args.seed, metrics)


if __name__ == "__main__":
    main()
