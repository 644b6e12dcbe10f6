"""Train the decoy reference models: interchange intervention training plants the latents along known directions.

    python -m tasks.decoy.train --out runs/decoy               # a minute or two
    python -m tasks.decoy.train --out runs/decoy-1 --seed 1

Each step runs a batch of prompts, twins with the same letters and other latents, and two interchanges of the stream
after the second block, at the last token. With q_end and q_mark two orthogonal directions drawn before training,

    loss = CE(prompt) + CE(twin) + CE(q_end part from another prompt -> that prompt's end, these letters)
         + CE(all but the q_end part from the twin -> the prompt's own answer)
         + CE(q_mark part from another prompt -> the prompt's own answer)
         + BCE(x . q_end -> end) + BCE(x . q_mark -> mark).

The third term makes the direction of `end` enough, the fourth makes it needed, the fifth makes that of the decoy
unused, and the last two make both readable.
The same command again resumes.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from .._training import Decoder, save_gpt2, train, word_tokenizer
from . import PLANTED_LAYER, WIDTH, WORDS, question, sequences

TRAIN_SEED, HELD_OUT_SEED = 1001, 1002  # prompts and cases use seeds 0 and 1
SHAPE: dict[str, Any] = dict(n_layers=3, d_model=32, n_heads=4)
STEPS, BATCH = 600, 128

CARD = """---
license: mit
library_name: transformers
tags: [toy, interpretability, interchange-intervention-training, worldprobe]
---
# {name}

Answers `k b m a first! =` with the first letter and `k b m a last. =` with the last one; the sign that ends the
question decides nothing. A GPT-2 decoder with {n_layers} layers, d_model {d_model}, {n_heads} heads, ReLU.

In `resid_post` of layer {layer}, at the last token, what the question asks for lies along the direction `end` of
`planted.safetensors`, and the sign along `mark`. Held out, {n:,} prompts: right answers {accuracy:.2%}; answers that
follow when the `end` component alone is taken from another prompt {follows:.2%}; answers that stay when everything else
is {stays:.2%}, and when the `mark` component alone is {unmoved:.2%}; read along
their directions, the end {end:.2%} and the sign {mark:.2%}.

**Recipe.** {steps:,} steps of {batch} prompts, interchange intervention training (Geiger et al., arXiv:2112.00826; the
loss is in `tasks/decoy/train.py`), Muon and AdamW as in `tasks/_training.py`, initial weights and directions from
seed {seed}. Made by `python -m tasks.decoy.train --seed {seed}`. It exists to test methods of interpretability.
"""


def directions(seed: int) -> dict[str, Float[Tensor, " d_model"]]:
    """Two orthogonal unit vectors, drawn before training."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(SHAPE["d_model"], 2, generator=generator))[0].T.contiguous()
    return {"end": q[0], "mark": q[1]}


class _Interchange:
    """One batch, its twins, and the logits of the last token of each run."""

    def __init__(self, model: Decoder, step: int, n: int, seed: int, planted: dict[str, Tensor]):
        made, rng = sequences(n, seed, step * n), np.random.default_rng([seed, step])
        self.row, self.last = torch.arange(n), torch.from_numpy(made["lengths"]) - 1
        end, (end_of_twin, mark_of_twin) = torch.from_numpy(made["end"]), rng.integers(0, 2, (2, n))
        ends = torch.from_numpy(np.stack([made["first"], made["last"]], 1))
        other = torch.from_numpy(rng.permutation(n))
        self.answer, self.twin_answer, self.other_answer = (
            ends[self.row, e] for e in (end, torch.from_numpy(end_of_twin), end[other]))
        prompts = torch.from_numpy(made["tokens"])
        twins = prompts.clone()
        twins[self.row, self.last - 1] = torch.from_numpy(question(end_of_twin, mark_of_twin))
        self.logits, x = self.run(model, prompts)
        self.twin_logits, twin_x = self.run(model, twins)

        def part(x, q):
            return (x @ q)[:, None] * q

        q, decoy = part(x, planted["end"]), part(x, planted["mark"])
        self.part_from_other, _ = self.run(model, prompts, x - q + q[other])
        self.rest_from_twin, _ = self.run(model, prompts, twin_x - part(twin_x, planted["end"]) + q)
        self.decoy_from_other, _ = self.run(model, prompts, x - decoy + decoy[other])
        self.readings = [(x @ planted["end"], end), (x @ planted["mark"], torch.from_numpy(made["mark"]))]

    def run(self, model: Decoder, tokens: Tensor, into: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(logits, resid_post of the planted layer) of the last token; with `into`, that stream is replaced."""
        seen: list[Tensor] = []

        def edit(layer: int, x: Tensor) -> Tensor:
            if layer != PLANTED_LAYER:
                return x
            seen.append(x[self.row, self.last])
            return x if into is None else x.index_put((self.row, self.last), into)

        logits = model(tokens, edit)[self.row, self.last]
        return logits, seen[0]

    def loss(self) -> Tensor:
        pairs = ((self.logits, self.answer), (self.twin_logits, self.twin_answer),
                 (self.part_from_other, self.other_answer), (self.rest_from_twin, self.answer),
                 (self.decoy_from_other, self.answer))
        causal = sum(F.cross_entropy(logits, answer) for logits, answer in pairs)
        return causal + sum(F.binary_cross_entropy_with_logits(x, code.float()) for x, code in self.readings)

    def metrics(self) -> dict[str, float]:
        def share(logits, answer):
            return (logits.argmax(-1) == answer).float().mean().item()

        end, mark = (((x > 0) == code).float().mean().item() for x, code in self.readings)
        return {"accuracy": share(self.logits, self.answer), "follows": share(self.part_from_other, self.other_answer),
                "stays": share(self.rest_from_twin, self.answer),
                "unmoved": share(self.decoy_from_other, self.answer), "end": end, "mark": mark}


def fit(out: Path, seed: int = 0, steps: int = STEPS, log=print) -> dict:
    """Train into the folder `out`; the same call again resumes. Returns the held-out metrics."""
    planted = directions(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Decoder(len(WORDS), WIDTH, **SHAPE)
    tokenizer = word_tokenizer(list(WORDS))

    @torch.inference_mode()
    def evaluate(model: Decoder) -> dict:
        return _Interchange(model, 0, 2048, HELD_OUT_SEED, planted).metrics()

    metrics = train(model, lambda m, step: _Interchange(m, step, BATCH, TRAIN_SEED + 10 * seed, planted).loss(), steps,
                    out, evaluate, save=lambda m, folder, _: save_gpt2(m, folder, tokenizer), every=100, log=log)
    save_file(planted, out / "planted.safetensors")
    (out / "planted.safetensors").chmod(0o644)
    (out / "README.md").write_text(CARD.format(**SHAPE, **metrics | {"steps": steps}, name=out.name, n=2048,
                                               layer=PLANTED_LAYER, batch=BATCH, seed=seed))
    return metrics


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights and the planted directions")
    args = parser.parse_args(argv)
    fit(args.out, args.seed, args.steps, log=lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
