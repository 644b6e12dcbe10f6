"""Train the maze reference models.

    python -m tasks.maze.train --out runs/maze                          # 5x5, depth-first mazes
    python -m tasks.maze.train --out runs/maze-forkless --forkless      # corridors without forks: the contrast
    python -m tasks.maze.train --out runs/maze-6x6 --size 6

Each row of a batch holds one adjacency list and several queries (origin, target, path) about it. A query sees the list
and itself, at the positions it would have as the only one, so the loss is that of ordinary prompts, on the tokens after
`<PATH_START>`; the list is merely computed once for all of them. The same command again resumes.
Threads follow OMP_NUM_THREADS.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int
from numpy import ndarray
from torch import Tensor

from .._rotary import RotaryDecoder, Shared, save_neox
from .._training import train, word_tokenizer
from ._behaviour import behaviour
from ._lattice import distances, shortest_paths
from ._mazes import Mazes, random_mazes
from ._tokens import (
    CELL,
    ORIGIN_END,
    ORIGIN_START,
    PADDING,
    PATH_END,
    PATH_START,
    SPECIALS,
    TARGET_END,
    TARGET_START,
    longest,
    tokenise,
    words,
)

TRAIN_SEED, HELD_OUT_SEED = 1001, 1002  # probes and interventions use other seeds again: tasks.maze.load(seed=0)
SHAPE: dict[str, Any] = dict(n_layers=6, d_model=128, n_heads=4)
STEPS, BATCH = 3600, 24
BINS, ROOM = 3, 72  # for queries, beside each list, and tokens in each
HELD_OUT = 512  # mazes
_BLOCK = 64  # batches whose mazes are made at a time
_HEAD = 7  # tokens of a query up to <PATH_START>
Packed = tuple[Tensor, Tensor, Shared]


def batches(size: int, batch: int = BATCH, seed: int = TRAIN_SEED, **maze):
    """step -> (tokens, goals, Shared), see `pack`: a pure function of the step, so a resumed run is the same."""
    made: dict[int, Mazes] = {}

    def one(step: int) -> Packed:
        block, place = divmod(step, _BLOCK)
        if block not in made:
            made.clear()
            made[block] = random_mazes(_BLOCK * batch, size, seed=(seed, block), reserved=False, **maze)
        return pack(made[block][place * batch : (place + 1) * batch], (seed, step))

    return one


def pack(mazes: Mazes, seed: tuple[int, int]) -> Packed:
    """One row per maze: its adjacency list, and random queries, as many as fit into the bins.

    Returns:
        (row, pos) tokens; (row, pos) goals, the token to be predicted there and -1 where nothing is; and what
        `RotaryDecoder.forward` wants to know of the rows.
    """
    lists = tokenise(mazes, (*seed, 0))
    n_list = lists.path_start - _HEAD + 1
    width, rng = int(n_list.max()), np.random.default_rng([*seed, 1])
    room = max(ROOM, _HEAD + mazes.shape[0] * mazes.shape[1])
    queries, goals, lengths = _queries(mazes, BINS * room // 10, rng)
    start = _first_fit(lengths, room)
    row, query, pos = np.nonzero((np.arange(queries.shape[2]) < lengths[..., None]) & (start >= 0)[..., None])
    at = width + start[row, query] + pos
    tokens = np.full((len(mazes), width + BINS * room), PADDING)
    positions, part, goal = np.zeros_like(tokens), np.full_like(tokens, -1), np.full_like(tokens, -1)
    tokens[:, :width] = np.where(np.arange(width) < n_list[:, None], lists.tokens[:, :width], PADDING)
    positions[:, :width] = np.arange(width)
    tokens[row, at], goal[row, at], part[row, at] = queries[row, query, pos], goals[row, query, pos], query
    positions[row, at] = n_list[row] + pos
    bins = torch.from_numpy(part[:, width:]).unflatten(1, (BINS, room))
    own = (bins[..., None, :] == bins[..., None]).tril()  # row, bin, token, token that it sees
    listed = (torch.arange(width) < torch.from_numpy(n_list)[:, None])[:, None, None].expand(-1, BINS, room, -1)
    asked = torch.from_numpy(goal)
    shared = Shared(width, torch.from_numpy(positions), torch.cat([listed, own], -1), asked >= 0)
    return torch.from_numpy(tokens), asked, shared


def _first_fit(lengths: Int[ndarray, "maze query"], room: int) -> Int[ndarray, "maze query"]:
    """Where each query begins, in the first bin that has room for it when its turn comes, or -1."""
    used, maze, start = np.zeros((len(lengths), BINS), np.int64), np.arange(len(lengths)), np.full_like(lengths, -1)
    for query, length in enumerate(lengths.T):
        fits = used + length[:, None] <= room
        place = fits.argmax(1)
        some = fits.any(1)
        start[some, query] = (place * room + used[maze, place])[some]
        used[maze[some], place[some]] += length[some]
    return start


def _queries(mazes: Mazes, n: int, rng: np.random.Generator) -> tuple[ndarray, ndarray, ndarray]:
    """`n` queries per maze, between random cells that are joined: tokens and goals (maze, query, pos), lengths."""
    joined = distances(mazes.connections, mazes.origins) >= 0
    keys = np.where(joined[:, None], rng.random((len(mazes), n, joined.shape[1])), -1)
    ends = np.argpartition(keys, -2, -1)[..., -2:].reshape(-1, 2)
    ends = np.where(rng.random(len(ends))[:, None] < 0.5, ends, ends[:, ::-1])
    paths = shortest_paths(np.repeat(mazes.connections, n, 0), ends[:, 0], ends[:, 1])
    n_nodes, every = (paths >= 0).sum(1), np.arange(len(paths))
    head = np.stack(np.broadcast_arrays(ORIGIN_START, CELL + ends[:, 0], ORIGIN_END, TARGET_START, CELL + ends[:, 1],
                                        TARGET_END, PATH_START), 1)
    tokens = np.concatenate([head, np.where(paths >= 0, CELL + paths, PADDING)], 1)
    goals = np.full_like(tokens, -1)
    goals[:, _HEAD - 1 : -1] = np.where(paths >= 0, CELL + paths, -1)
    goals[every, _HEAD - 1 + n_nodes] = PATH_END
    shape = (len(mazes), n, -1)
    return tokens.reshape(shape), goals.reshape(shape), (_HEAD + n_nodes).reshape(len(mazes), n)


def path_loss(batch: Callable[[int], Packed]) -> Callable[[RotaryDecoder, int], Tensor]:
    """(model, step) -> cross-entropy of the tokens after `<PATH_START>`, in nats per token."""

    def loss_at(model: RotaryDecoder, step: int) -> Tensor:
        tokens, goal, shared = batch(step)
        return F.cross_entropy(model(tokens, shared=shared), goal[shared.keep])

    return loss_at


def solving(model, mazes: Mazes, roll: bool = False) -> dict[str, float]:
    """Means of `behaviour` that the log keeps; decisions are pooled over mazes."""
    rows = behaviour(model, mazes, HELD_OUT_SEED, roll=roll)
    kept = ["exact", "token", "first_path_choice", "origin_decision", "origin_chance", "walker"]
    kept += ["valid", "target"] if roll else []
    decisions = {name: float((rows[name] * rows["n_decisions"]).sum() / rows["n_decisions"].sum())
                 for name in ("decision", "chance") if rows["n_decisions"].any()}
    return {name: float(rows[name].mean()) for name in kept} | decisions


def snapshots(steps: int) -> list[int]:
    """0 and steps a factor of sqrt(2) apart, from 32: the same for every length of run."""
    spaced = (32 * 2 ** (np.arange(40) / 2)).round().astype(int)
    return [0, *spaced[spaced < steps].tolist(), steps]


CARD = """---
license: mit
library_name: transformers
tags: [maze, interpretability, worldprobe]
---
# {name}

Solves {size}x{size} lattice mazes ({kind}) given as tokens: {exact:.1%} of held-out mazes walked without a mistake,
greedily; {walker:.1%} by somebody who knows the maze and chooses at random where it forks. A GPT-NeoX decoder with
{n_layers} layers, d_model {d_model}, {n_heads} heads, ReLU, rotary positions, attention and MLP one after the other,
untied unembedding: {parameters:.2f} M parameters.

**Data.** Mazes made while training (`tasks.maze.random_mazes`, seed {data_seed}): {mazes:,} of them, about {queries}
queries each, none of the half of all mazes that is reserved for tests (`tasks.maze.is_reserved`). A prompt is the
adjacency list in random order, origin, target and path, in the layout and with the strings of maze-dataset's legacy
tokenizer: `<ADJLIST_START> (2,0) <--> (1,0) ; ... <PATH_START> (0,3) ... <PATH_END>`.

**Objective.** Cross-entropy of the tokens after `<PATH_START>`; nothing else is predicted. The queries about one maze
share its list, which is computed once; they do not see each other, and stand where each would stand alone.

**Recipe.** {steps:,} steps of {batch} lists with {room} tokens of queries in float32. Muon (lr 0.02, momentum 0.95,
weight decay 0.01) on the matrices inside the blocks, AdamW (lr 3e-3, betas 0.9 and 0.95) on the rest; 100 steps of
warm-up, constant for half the run, then linear to 2 %; gradients clipped at norm 1; initial weights from seed {seed}.
{hours:.1f} hours on the CPU.

**Held-out metrics** ({held_out:,} reserved mazes of seed {held_out_seed}, random ends): exact {exact:.3f}, valid
{valid:.3f}, target reached {target:.3f}, tokens after `<PATH_START>` {token:.3f}, decisions {decision:.3f} (chance
{chance:.3f}), first choice at origins with two passages or more {origin_decision:.3f} (chance {origin_chance:.3f}).
With paths of at least 6 cells: exact {exact_6:.3f}, valid {valid_6:.3f}, target {target_6:.3f}. The whole log is in
`log.jsonl`.

Made by `python -m tasks.maze.train {arguments}`. Intended for interpretability research; it has no other use.
"""


def write_card(out: Path, steps: int, seed: int, kind: str, arguments: str, metrics: dict, maze: dict) -> dict:
    """Measure the trained model on whole rollouts, write the model card, `README.md`, and return what was measured."""
    from transformers import AutoModelForCausalLM

    net = AutoModelForCausalLM.from_pretrained(out).eval()
    mazes = random_mazes(2 * HELD_OUT, seed=HELD_OUT_SEED, reserved=True, **maze)
    found = solving(lambda tokens: net(tokens).logits, mazes, roll=True)
    long = solving(lambda tokens: net(tokens).logits, mazes[mazes.n_nodes >= min(6, mazes.n_nodes.max())], roll=True)
    config, side = json.loads((out / "config.json").read_text()), maze["size"]
    tokens_of_query = _HEAD + mazes.n_nodes.mean()
    (out / "README.md").write_text(CARD.format(
        name=out.name, size=side, kind=kind, n_layers=config["num_hidden_layers"], d_model=config["hidden_size"],
        n_heads=config["num_attention_heads"], parameters=sum(p.numel() for p in net.parameters()) / 1e6,
        data_seed=TRAIN_SEED, mazes=steps * BATCH, queries=int(BINS * ROOM / tokens_of_query), steps=steps,
        batch=BATCH, room=BINS * ROOM, seed=seed, hours=metrics["seconds"] / 3600, held_out=len(mazes),
        held_out_seed=HELD_OUT_SEED, arguments=arguments, **found,
        **{f"{name}_6": long[name] for name in ("exact", "valid", "target")}))
    return found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=5, help="side of the lattice")
    parser.add_argument("--generator", default="dfs", help="see tasks.maze.random_mazes")
    parser.add_argument("--forkless", action="store_true", help="depth-first mazes without forks")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights")
    parser.add_argument("--every", type=int, default=100, help="steps between evaluations and resume points")
    args = parser.parse_args(argv)
    maze: dict[str, Any] = dict(size=args.size, generator=args.generator)
    if args.forkless:
        maze["do_forks"] = False
    with torch.random.fork_rng():
        torch.manual_seed(args.seed)
        model = RotaryDecoder(len(words(args.size)), longest(args.size), **SHAPE)
    tokenizer = word_tokenizer(words(args.size), pad=SPECIALS[PADDING])
    held_out = random_mazes(HELD_OUT, seed=HELD_OUT_SEED, reserved=True, **maze)

    def save(model, folder: Path, metrics: dict) -> None:
        save_neox(model, folder, tokenizer, torch.float32 if folder == args.out else torch.bfloat16)

    n_parameters = sum(p.numel() for p in model.parameters())
    print(f"{args.size}x{args.size} {args.generator}, {n_parameters / 1e6:.2f}M parameters, {args.steps} steps "
          f"of {BATCH} lists with {BINS * ROOM} tokens of queries", flush=True)
    metrics = train(model, path_loss(batches(**maze)), args.steps, args.out, evaluate=partial(solving, mazes=held_out),
                    save=save, every=args.every, snapshots=snapshots(args.steps), log=lambda s: print(s, flush=True))
    kind = f"{args.generator}{', without forks' if args.forkless else ''}"
    arguments = f"--size {args.size} --steps {args.steps}" + (" --forkless" if args.forkless else "") + (
        f" --generator {args.generator}" if args.generator != "dfs" else "")
    print(write_card(args.out, args.steps, args.seed, kind, arguments, metrics, maze), flush=True)


if __name__ == "__main__":
    main()
