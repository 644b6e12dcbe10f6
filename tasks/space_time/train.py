"""Train the reference models of the small world of places and events.

    python -m tasks.space_time.train --out runs/space_time               # minutes
    python -m tasks.space_time.train --out runs/space_time-1 --seed 1

Every prompt is a relation and two names, and the loss is the cross-entropy of the answer. Coordinates and dates are
never seen. The same command again resumes.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .._training import Decoder, save_gpt2, train, word_tokenizer
from ._behaviour import behaviour
from ._world import PROMPT_LENGTH, RELATIONS, answer_tokens, answers, pairs_of, prompts_of, words

TRAIN_SEED = 1001
SHAPE: dict[str, Any] = dict(n_layers=3, d_model=64, n_heads=4)
STEPS, BATCH = 1000, 256

CARD = """---
license: mit
library_name: transformers
tags: [toy, interpretability, world-model, worldprobe]
---
# {name}

Knows how far and in which direction 200 places of a small world lie from each other, and in which order and how far
apart 150 events happened: `distance Ba de Li no` is followed by `d07`. A GPT-2 decoder with {n_layers} layers, d_model
{d_model}, {n_heads} heads, ReLU, learned positions, untied unembedding: {parameters:.3f} M parameters.

**Data.** `tasks.space_time.load()`: names of two syllables that say nothing of where or when, half of the places with
syllables of their own, four relations with {n_answers} answers. Questions are drawn while training; of every relation
a tenth of the ordered pairs is never asked about. No prompt holds a coordinate or a date.

**Objective.** Cross-entropy of the answer; nothing else is predicted.

**Recipe.** {steps:,} steps of {batch} questions, a quarter of each relation, in float32. Muon (lr 0.02, momentum 0.95,
weight decay 0.01) on the matrices inside the blocks, AdamW (lr 3e-3, betas 0.9 and 0.95) on the rest; 100 steps of
warm-up, constant for half the run, then linear to 2 %; gradients clipped at norm 1; initial weights and questions from
seed {seed}. {minutes:.0f} minutes on a CPU.

**Held-out metrics** (all pairs that training never asked about): answers within one bin of the right one, and how
often the best fixed answer is.

| relation | within one bin | exact | best fixed answer |
|---|---|---|---|
{table}

The log is in `log.jsonl`{checkpoints}.

Made by `python -m tasks.space_time.train --steps {steps} --seed {seed}`. Intended for interpretability research; it
has no other use.
"""


def batches(seed: int, batch: int = BATCH) -> Callable[[int], tuple[Tensor, Tensor]]:
    """step -> questions (prompt, pos) and answers (prompt,): a pure function of the step, so a resumed run is the
    same."""
    facts = []
    for relation in RELATIONS:
        a, b = pairs_of(relation, reserved=False)
        facts.append((prompts_of(relation, a, b), answer_tokens(relation)[answers(relation, a, b)]))

    def one(step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([TRAIN_SEED + seed, step])
        rows = [rng.integers(0, len(right), batch // len(facts)) for _, right in facts]
        tokens, right = (np.concatenate([fact[i][row] for fact, row in zip(facts, rows, strict=True)]) for i in (0, 1))
        return torch.from_numpy(tokens), torch.from_numpy(right)

    return one


def fit(out: Path, seed: int = 0, steps: int = STEPS, every: int = 100, log=print) -> dict:
    """Train into the folder `out`; the same call again resumes. Returns the last line of the log."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Decoder(len(words()), PROMPT_LENGTH, **SHAPE)
    tokenizer, batch = word_tokenizer(list(words())), batches(seed)

    def loss_at(model: Decoder, step: int) -> Tensor:
        tokens, right = batch(step)
        return F.cross_entropy(model(tokens)[:, -1], right)

    def evaluate(model: Decoder) -> dict:
        return behaviour(model, n=500).groupby("relation", sort=False)["within_one"].mean().to_dict()

    def save(model: Decoder, folder: Path, metrics: dict) -> None:
        save_gpt2(model, folder, tokenizer, torch.float32 if folder == out else torch.bfloat16)

    metrics = train(model, loss_at, steps, out, evaluate, save, snapshots=snapshots(steps), every=every, log=log)
    write_card(model, out, steps, seed, metrics["seconds"])
    return metrics


def snapshots(steps: int, n: int = 14) -> list[int]:
    """0 and about `n` steps from 8 to `steps`, evenly spaced in log."""
    return sorted({0, *np.geomspace(min(8, steps), steps, n).round().astype(int).tolist()})


def write_card(model: Decoder, out: Path, steps: int, seed: int, seconds: float | int) -> None:
    """Ask the model about every held-out pair and write the model card, `README.md`."""
    rates = behaviour(model, n=None).groupby("relation", sort=False)[["within_one", "exact", "chance"]].mean()
    table = "\n".join(f"| {row.Index} | {row.within_one:.3f} | {row.exact:.3f} | {row.chance:.3f} |"
                      for row in rates.itertuples())
    kept = sorted((out / "checkpoints").glob("step-*"))
    (out / "README.md").write_text(CARD.format(
        **SHAPE, name=out.name, parameters=sum(p.numel() for p in model.parameters()) / 1e6, steps=steps, batch=BATCH,
        n_answers=sum(len(r.answers) for r in RELATIONS.values()), seed=seed, minutes=seconds / 60, table=table,
        checkpoints=f"; {len(kept)} checkpoints from step 0, bfloat16, are in `checkpoints/`" if kept else ""))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights and the questions")
    parser.add_argument("--every", type=int, default=100, help="steps between evaluations and resume points")
    args = parser.parse_args(argv)
    fit(args.out, args.seed, args.steps, args.every, log=lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
