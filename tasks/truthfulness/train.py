"""Train the reference models of the co-occurrence world.

    python -m tasks.truthfulness.train --out runs/truthfulness                                  # a minute or two
    python -m tasks.truthfulness.train --out runs/truthfulness-1 --seed 1
    python -m tasks.truthfulness.train --out runs/truthfulness-independent --independent        # the control
    python -m tasks.truthfulness.train --out runs/truthfulness-negation --negation
    python -m tasks.truthfulness.train --out runs/truthfulness-verdict --verdict runs/truthfulness
    python -m tasks.truthfulness.train --out runs/sampled --target sampled --steps 5000         # for purists

Models predict the next token of documents; no token says what is true. The control sees statements
that are true independently of each other, so that nothing is gained by knowing which are. `--negation` adds negated
statements, once the affirmative ones are known. `--verdict` goes on from a trained model, which learns to say TRUE or
FALSE after `verdict:` of statements about two thirds of the people; it exists to compute the effect that was published
for language models, and says nothing about how truth emerges. The same command again resumes.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .._training import Decoder, load_gpt2, save_gpt2, train, word_tokenizer
from ._behaviour import CONTEXTS, behaviour
from ._cases import cases
from ._labels import world
from ._world import (
    EPS,
    FALSE,
    LENGTH,
    PLACES,
    STATEMENTS,
    SUBJECTS,
    TRUE,
    VERDICT,
    WORDS,
    Documents,
    documents,
    next_tokens,
)

TRAIN_SEED = 1001  # probes and interventions use other seeds: tasks.truthfulness.load(seed=0)
SHAPE: dict[str, Any] = dict(d_model=64, n_heads=4)
LAYERS, STEPS = {"plain": 2, "negation": 3}, {"plain": 900, "negation": 1000, "verdict": 200}
BATCH, PLAIN = 64, 250  # documents; the first steps of a model of negation see none
ASKED = tuple(range(32))  # people about whom the verdict is learned
HELD_OUT = 1000
Loss = Callable[[Decoder, int], Tensor]


def made_at(step: int, eps: float, negation: bool, seed: int) -> Documents:
    """The documents of a step; of those of a model of negation, half have statements half of which are negated."""
    share = np.where(np.arange(BATCH)[:, None] % 2, 0.5, 0.0) if negation and step >= PLAIN else 0.0
    return documents(BATCH, np.random.default_rng([seed, step]), eps=eps, negation=share)


def token_loss(eps: float = EPS, negation: bool = False, target: str = "exact", seed: int = TRAIN_SEED) -> Loss:
    """(model, step) -> cross-entropy of the tokens of that step's documents, in nats per token: against the
    distributions they were drawn from (`exact`), or against the tokens themselves (`sampled`)."""

    def loss_at(model: Decoder, step: int) -> Tensor:
        made = made_at(step, eps, negation, seed)
        tokens = torch.from_numpy(made.tokens)
        log_p = model(tokens[:, :-1]).log_softmax(-1)
        if target == "sampled":
            return -log_p.gather(-1, tokens[:, 1:, None]).mean()
        return -(torch.from_numpy(next_tokens(made, eps)).float() * log_p).sum(-1).mean()

    return loss_at


def verdict_loss(seed: int = TRAIN_SEED) -> Loss:
    """The same, plus the cross-entropy of the verdicts on as many statements about `ASKED`."""
    documents_too = token_loss(seed=seed + 1)

    def loss_at(model: Decoder, step: int) -> Tensor:
        made = documents(BATCH, np.random.default_rng([seed, step, 2]), 1, subjects=ASKED)
        tokens = torch.from_numpy(np.concatenate([made.tokens, np.full((BATCH, 1), VERDICT)], 1))
        right = torch.from_numpy(np.where(made.true[:, 0], TRUE, FALSE))
        return documents_too(model, step) + F.cross_entropy(model(tokens)[:, -1], right)

    return loss_at


@torch.inference_mode()
def measure(model, n: int, eps: float = EPS, negation: bool = False, verdict: bool = False
            ) -> dict[str, float]:
    """Held-out metrics: `behaviour`, also after negated statements; the accuracy of a mass-mean probe of the truth,
    fitted on two topics and tested on the two others, at the object and at the full stop after every block
    (`object_0`); of a model that gives verdicts, the share that is right about people it was not asked about."""
    rows = behaviour(model, n, TRAIN_SEED + 1, eps=eps)
    out = {name: float(rows[name].mean()) for name in CONTEXTS}
    if negation:
        rows = behaviour(model, n, TRAIN_SEED + 1, eps=eps, negation=1.0)
        out |= {f"{name}_negated": float(rows[name].mean()) for name in ("after_true", "after_false")}
    prompts = world(2 * n, TRAIN_SEED + 1)
    fit = prompts.examples["topic"].isin(["visit", "speak"]).to_numpy().copy()
    true, seen = prompts.labels("truth")[:, 0].astype(bool), list[Tensor]()

    def see(layer: int, x: Tensor) -> Tensor:
        seen.append(x)
        return x

    model(prompts.tokens, see)
    for place in ("object", "period"):
        for layer, resid in enumerate(seen):
            x = resid[:, PLACES[place]]
            one, other = (x[torch.from_numpy(fit & side)].mean(0) for side in (true, ~true))
            side = ((x - (one + other) / 2) @ (one - other) > 0).numpy()
            out[f"{place}_{layer}"] = float((side == true)[~fit].mean())
    if verdict:
        out["verdict"] = _verdicts(model, n)
    return out


def _verdicts(model, n: int) -> float:
    right = []
    for kind in ("false_to_true", "true_to_false"):
        asked = cases(kind, n, TRAIN_SEED + 1, readout="verdict")
        new = ~asked.cases["group"].isin([SUBJECTS[s] for s in ASKED]).to_numpy().copy()
        said = model(asked.tokens[torch.from_numpy(new)])[:, -1].argmax(-1).numpy()
        right.append(asked.right_before[new, said])
    return float(np.concatenate(right).mean())


def snapshots(steps: int, n: int = 13) -> list[int]:
    """0 and about `n` steps up to the last one, evenly spaced in log."""
    return sorted({0, *np.geomspace(8, steps, n).round().astype(int).tolist()})


CARD = """---
license: mit
library_name: transformers
tags: [toy, interpretability, truthfulness, worldprobe]
---
# {name}

Finishes statements of a small world: `<bos> ada does speak dutch . ben does play` with an instrument. A GPT-2 decoder
with {n_layers} layers, d_model {d_model}, {n_heads} heads, ReLU, untied unembedding: {parameters:,} parameters.

**Data.** Documents of {statements} statements made while training (`tasks.truthfulness`, seed {data_seed}), each seen
once: {n_documents:,}. There are 192 facts, the object of each of 48 people under each of 4 topics.
{dependence} {negated} No
token says what is true{unless}.

**Objective.** {objective}{verdicts}

**Recipe.** {steps:,} steps of {batch} documents in float32. Muon (lr 0.02, momentum 0.95, weight decay 0.01) on the
matrices inside the blocks, AdamW (lr 3e-3, betas 0.9 and 0.95) on the rest; 100 steps of warm-up, constant for half the
run, then linear to 2 %; gradients clipped at norm 1; initial weights {initial}. {minutes:.1f} minutes on the CPU.

**Held-out metrics** ({held_out:,} statements). Probability of the right object, in brackets that of somebody who
knows all facts and infers how truthful the document is: after a true statement {after_true:.3f}
[{bayes_after_true:.3f}], after a false one {after_false:.3f} [{bayes_after_false:.3f}], after three true ones
{after_3_true:.3f} [{bayes_after_3_true:.3f}], after three false ones {after_3_false:.3f} [{bayes_after_3_false:.3f}].
{after_negated}A mass-mean probe of the truth, fitted on two topics and tested on the two others, after each block:
{probes}.{verdict_metric} The whole log is in `log.jsonl`{checkpoints}.

Made by `python -m tasks.truthfulness.train {arguments}`. It exists to test methods of interpretability.
"""
OBJECTIVES = {
    "exact": "Cross-entropy against the distribution from which the next token is drawn, for somebody who knows all\n"
             "facts and has read the document up to there: the expected gradient is that of next-token prediction,\n"
             "with less noise (a variance reduction).",
    "sampled": "Next-token prediction.",
}


def write_card(out: Path, args: argparse.Namespace, eps: float, steps: int, arguments: str, metrics: dict) -> None:
    """Write the model card, `README.md`, beside the model."""
    from transformers import AutoModelForCausalLM

    net = AutoModelForCausalLM.from_pretrained(out)
    ideal = behaviour(lambda tokens: net(tokens).logits, 10, eps=eps)
    n_snapshots, n_layers = len(list((out / "checkpoints").glob("step-*"))), net.config.n_layer
    probes = "; ".join(f"at the {words} " + ", ".join(f"{metrics[f'{place}_{layer}']:.3f}" for layer in range(n_layers))
                       for place, words in (("object", "object"), ("period", "full stop")))
    (out / "README.md").write_text(CARD.format(
        **SHAPE, **metrics | {"steps": steps}, name=out.name, parameters=sum(p.numel() for p in net.parameters()),
        n_layers=n_layers, statements=STATEMENTS, data_seed=TRAIN_SEED + 10 * args.seed, n_documents=steps * BATCH,
        batch=BATCH, minutes=metrics["seconds"] / 60, held_out=HELD_OUT, arguments=arguments, probes=probes,
        initial=f"of {args.verdict.name}" if args.verdict else f"from seed {args.seed}",
        objective=OBJECTIVES[args.target],
        **{name: ideal[name].iat[0] for name in ideal if name.startswith("bayes")},
        dependence="Every statement is true with probability 0.5, whatever the others are: the control."
                   if args.independent else
                   f"A document is truthful or not; each statement is the other way round with probability {eps}.",
        negated=f"From step {PLAIN} on, half of the documents have statements of which half are negated."
                if args.negation else "All are affirmative.",
        after_negated=f"After a negated true statement {metrics['after_true_negated']:.3f}, after a negated false one "
                      f"{metrics['after_false_negated']:.3f}.\n" if args.negation else "",
        unless=", until the last stage" if args.verdict else "",
        verdicts=f" In this stage, TRUE or\nFALSE after `verdict:`, too, of {BATCH} statements a step about "
                 f"{len(ASKED)} of the {len(SUBJECTS)} people." if args.verdict else "",
        verdict_metric=f" Right\nverdicts about the {len(SUBJECTS) - len(ASKED)} other people: "
                       f"{metrics['verdict']:.3f}." if args.verdict else "",
        checkpoints=f"; {n_snapshots} checkpoints from step 0,\nbfloat16, are in `checkpoints/`" if n_snapshots
                    else ""))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights and the documents")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--independent", action="store_true", help="statements are true independently of each other")
    kind.add_argument("--negation", action="store_true", help="negated statements, too")
    kind.add_argument("--verdict", type=Path, metavar="MODEL", help="teach this trained model to give verdicts")
    parser.add_argument("--target", choices=["exact", "sampled"], default="exact", help="see token_loss")
    parser.add_argument("--steps", type=int, help="default: the recipe's")
    parser.add_argument("--every", type=int, default=100, help="steps between evaluations and resume points")
    parser.add_argument("--checkpoints", action="store_true", help="keep checkpoints from step 0, log-spaced")
    args = parser.parse_args(argv)
    eps, recipe = 0.5 if args.independent else EPS, "negation" if args.negation else "plain"
    steps = args.steps or STEPS["verdict" if args.verdict else recipe]
    with torch.random.fork_rng():
        torch.manual_seed(args.seed)
        model = load_gpt2(args.verdict) if args.verdict else Decoder(
            len(WORDS), 1 + STATEMENTS * LENGTH, LAYERS[recipe], **SHAPE)
    tokenizer, seed = word_tokenizer(list(WORDS)), TRAIN_SEED + 10 * args.seed

    def save(model, folder: Path, metrics: dict) -> None:
        save_gpt2(model, folder, tokenizer, torch.float32 if folder == args.out else torch.bfloat16)

    loss = verdict_loss(seed) if args.verdict else token_loss(eps, args.negation, args.target, seed)
    evaluate = partial(measure, n=HELD_OUT, eps=eps, negation=args.negation, verdict=args.verdict is not None)
    metrics = train(model, loss, steps, args.out, evaluate, save, every=args.every,
                    snapshots=snapshots(steps) if args.checkpoints else (), log=lambda line: print(line, flush=True))
    given = [f"--seed {args.seed}", f"--verdict {args.verdict.name}" if args.verdict else "",
             *(f"--{name}" for name in ("independent", "negation", "checkpoints") if getattr(args, name)),
             f"--target {args.target} --steps {steps}" if args.target == "sampled" else ""]
    write_card(args.out, args, eps, steps, " ".join(filter(None, given)), metrics)


if __name__ == "__main__":
    main()
