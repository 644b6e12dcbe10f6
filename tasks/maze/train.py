"""Train the maze reference models.

    python -m tasks.maze.train --out runs/maze                          # 5x5, depth-first mazes
    python -m tasks.maze.train --out runs/maze-forkless --forkless      # corridors without forks: the contrast
    python -m tasks.maze.train --out runs/maze-6x6 --size 6
    python -m tasks.maze.train --out runs/maze-one --queries one        # and other ways to train, one factor at a time

Each row of a batch holds one adjacency list and several queries (origin, target, path) about it. A query sees the list
and itself, at the positions it would have as the only one, so the loss is that of ordinary prompts, on the tokens after
`<PATH_START>`; the list is merely computed once for all of them. The same command again resumes.
Threads follow OMP_NUM_THREADS.
"""

import argparse
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
from .._training import save_gpt2, train, word_tokenizer
from ._behaviour import behaviour
from ._lattice import distances, shortest_paths
from ._mazes import Mazes, random_mazes
from ._tokens import (
    CELL,
    ORDERS,
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


def batches(size: int, batch: int = BATCH, seed: int = TRAIN_SEED, *, queries: str = "several", whole: bool = False,
            listed: str = "random", **maze):
    """step -> (tokens, goals, Shared), see `pack`: a pure function of the step, so a resumed run is the same."""
    made: dict[int, Mazes] = {}

    def one(step: int) -> Packed:
        block, place = divmod(step, _BLOCK)
        if block not in made:
            made.clear()
            made[block] = random_mazes(_BLOCK * batch, size, seed=(seed, block), reserved=False, **maze)
        return pack(made[block][place * batch : (place + 1) * batch], (seed, step), queries, whole, listed)

    return one


def pack(mazes: Mazes, seed: tuple[int, int], queries: str = "several", whole: bool = False, listed: str = "random"
         ) -> Packed:
    """One row per maze: its adjacency list, and random queries: `several`, as many as fit into the bins, or `one`.

    Args:
        whole: The tokens of the list are goals, too, not those after `<PATH_START>` alone.
        listed: Order of the passages, as in `tokenise`.
    Returns:
        (row, pos) tokens; (row, pos) goals, the token to be predicted there and -1 where nothing is; and what
        `RotaryDecoder.forward` wants to know of the rows.
    """
    lists = tokenise(mazes, (*seed, 0), listed)
    n_list = lists.path_start - _HEAD + 1
    width, rng, most = int(n_list.max()), np.random.default_rng([*seed, 1]), _HEAD + mazes.shape[0] * mazes.shape[1]
    bins, room = (BINS, max(ROOM, most)) if queries == "several" else (1, most)
    asked, goals, lengths = _queries(mazes, bins * room // 10 if queries == "several" else 1, rng)
    start = _first_fit(lengths, bins, room)
    row, query, pos = np.nonzero((np.arange(asked.shape[2]) < lengths[..., None]) & (start >= 0)[..., None])
    at = width + start[row, query] + pos
    tokens = np.full((len(mazes), width + bins * room), PADDING)
    positions, part, goal = np.zeros_like(tokens), np.full_like(tokens, -1), np.full_like(tokens, -1)
    tokens[:, :width] = np.where(np.arange(width) < n_list[:, None], lists.tokens[:, :width], PADDING)
    positions[:, :width] = np.arange(width)
    tokens[row, at], goal[row, at], part[row, at] = asked[row, query, pos], goals[row, query, pos], query
    positions[row, at] = n_list[row] + pos
    if whole:
        goal[:, : width - 1] = np.where(np.arange(width - 1) < n_list[:, None] - 1, tokens[:, 1:width], -1)
    same = torch.from_numpy(part[:, width:]).unflatten(1, (bins, room))
    own = (same[..., None, :] == same[..., None]).tril()  # row, bin, token, token that it sees
    listed = (torch.arange(width) < torch.from_numpy(n_list)[:, None])[:, None, None].expand(-1, bins, room, -1)
    wanted = torch.from_numpy(goal)
    shared = Shared(width, torch.from_numpy(positions), torch.cat([listed, own], -1), wanted >= 0)
    return torch.from_numpy(tokens), wanted, shared


def _first_fit(lengths: Int[ndarray, "maze query"], bins: int, room: int) -> Int[ndarray, "maze query"]:
    """Where each query begins, in the first bin that has room for it when its turn comes, or -1."""
    used, maze, start = np.zeros((len(lengths), bins), np.int64), np.arange(len(lengths)), np.full_like(lengths, -1)
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


def token_loss(batch: Callable[[int], Packed]) -> Callable[[RotaryDecoder, int], Tensor]:
    """(model, step) -> cross-entropy of the goals of that step's batch, in nats per token."""

    def loss_at(model: RotaryDecoder, step: int) -> Tensor:
        tokens, goal, shared = batch(step)
        return F.cross_entropy(model(tokens, shared=shared), goal[shared.keep])

    return loss_at


def solving(model, mazes: Mazes, roll: bool = False, listed: str = "random") -> dict[str, float]:
    """Means of `behaviour` that the log keeps; decisions are pooled over mazes."""
    rows = behaviour(model, mazes, HELD_OUT_SEED, roll=roll, listed=listed)
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
greedily; {walker:.1%} by somebody who knows the maze and chooses at random where it forks. A decoder with
{n_layers} layers, d_model {d_model}, {n_heads} heads, ReLU, {positions} positions, attention and MLP one after the
other, untied unembedding: {parameters:.2f} M parameters.

**Data.** Mazes made while training (`tasks.maze.random_mazes`, seed {data_seed}): {mazes:,} of them, none of the half
of all mazes that is reserved for tests (`tasks.maze.is_reserved`). {queries} A prompt is the adjacency list in {order}
order, origin, target and path, in the layout and with the strings of maze-dataset's legacy tokenizer:
`<ADJLIST_START> (2,0) <--> (1,0) ; ... <PATH_START> (0,3) ... <PATH_END>`.

**Objective.** Cross-entropy of {goals}; nothing else is predicted.

**Recipe.** {steps:,} steps of {batch} lists in float32. Muon (lr 0.02, momentum 0.95, weight decay 0.01) on the
matrices inside the blocks, AdamW (lr 3e-3, betas 0.9 and 0.95) on the rest; 100 steps of warm-up, constant for half the
run, then linear to 2 %; gradients clipped at norm 1; initial weights from seed {seed}. {hours:.1f} hours on the CPU.

**Held-out metrics** ({held_out:,} reserved mazes of seed {held_out_seed}, random ends): exact {exact:.3f}, valid
{valid:.3f}, target reached {target:.3f}, tokens after `<PATH_START>` {token:.3f}, decisions {decision:.3f} (chance
{chance:.3f}), first choice at origins with two passages or more {origin_decision:.3f} (chance {origin_chance:.3f}).
With paths of at least 6 cells: exact {exact_6:.3f}, valid {valid_6:.3f}, target {target_6:.3f}. The whole log is in
`log.jsonl`.

Made by `python -m tasks.maze.train {arguments}`. Intended for interpretability research; it has no other use.
"""


def write_card(out: Path, args: argparse.Namespace, kind: str, metrics: dict, maze: dict) -> dict:
    """Measure the trained model on whole rollouts, write the model card, `README.md`, and return what was measured."""
    from transformers import AutoModelForCausalLM

    net = AutoModelForCausalLM.from_pretrained(out).eval()
    mazes = random_mazes(2 * HELD_OUT, seed=HELD_OUT_SEED, reserved=True, **maze)
    measured = partial(solving, lambda tokens: net(tokens).logits, roll=True, listed=args.listed)
    found, long = measured(mazes), measured(mazes[mazes.n_nodes >= min(6, mazes.n_nodes.max())])
    n_queries = int(BINS * ROOM / (_HEAD + mazes.n_nodes.mean()))
    several = (f"About {n_queries} queries are asked about each maze: they share its list, which is computed once, do "
               "not see each other, and stand where each would stand alone.")
    after = "the tokens after `<PATH_START>`"
    (out / "README.md").write_text(CARD.format(
        name=out.name, size=args.size, kind=kind, n_layers=args.layers, d_model=args.width, n_heads=args.heads,
        positions=args.positions, parameters=sum(p.numel() for p in net.parameters()) / 1e6, data_seed=TRAIN_SEED,
        mazes=args.steps * BATCH, queries=several if args.queries == "several" else "One query is asked about each.",
        goals=after if args.loss == "path" else f"the tokens of the list and of {after}", steps=args.steps, batch=BATCH,
        order=args.listed, seed=args.seed, hours=metrics["seconds"] / 3600, held_out=len(mazes),
        held_out_seed=HELD_OUT_SEED, arguments=given(args), **found,
        **{f"{name}_6": long[name] for name in ("exact", "valid", "target")}))
    return found


def given(args: argparse.Namespace) -> str:
    """The command line of a training, without what is as by default."""
    usual, flags = vars(parser().parse_args(["--out", "."])), []
    for name, value in vars(args).items():
        if name in ("size", "steps") or (value != usual[name] and name not in ("out", "every")):
            flags.append(f"--{name}" if value is True else f"--{name} {value}")
    return " ".join(flags)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=5, help="side of the lattice")
    parser.add_argument("--generator", default="dfs", help="see tasks.maze.random_mazes")
    parser.add_argument("--forkless", action="store_true", help="depth-first mazes without forks")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights")
    parser.add_argument("--every", type=int, default=100, help="steps between evaluations and resume points")
    parser.add_argument("--layers", type=int, default=SHAPE["n_layers"])
    parser.add_argument("--width", type=int, default=SHAPE["d_model"], help="d_model")
    parser.add_argument("--heads", type=int, default=SHAPE["n_heads"])
    parser.add_argument("--positions", choices=("rotary", "learned"), default="rotary")
    parser.add_argument("--queries", choices=("several", "one"), default="several", help="about each maze")
    parser.add_argument("--listed", choices=ORDERS, default="random", help="order of the passages in the list")
    parser.add_argument("--loss", choices=("path", "all"), default="path", help="on the path alone, or on the list too")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    maze: dict[str, Any] = dict(size=args.size, generator=args.generator)
    if args.forkless:
        maze["do_forks"] = False
    learned = args.positions == "learned"
    with torch.random.fork_rng():
        torch.manual_seed(args.seed)
        model = RotaryDecoder(len(words(args.size)), longest(args.size), args.layers, args.width, args.heads,
                              learned=learned)
    tokenizer = word_tokenizer(words(args.size), pad=SPECIALS[PADDING])
    held_out = random_mazes(HELD_OUT, seed=HELD_OUT_SEED, reserved=True, **maze)

    def save(model, folder: Path, metrics: dict) -> None:
        dtype = torch.float32 if folder == args.out else torch.bfloat16
        (save_gpt2 if learned else save_neox)(model, folder, tokenizer, dtype)

    n_parameters = sum(p.numel() for p in model.parameters())
    print(f"{args.size}x{args.size} {args.generator}, {n_parameters / 1e6:.2f}M parameters, {args.steps} steps "
          f"of {BATCH} lists, {args.queries} queries each", flush=True)
    batch = batches(queries=args.queries, whole=args.loss == "all", listed=args.listed, **maze)
    evaluate = partial(solving, mazes=held_out, listed=args.listed)
    metrics = train(model, token_loss(batch), args.steps, args.out, evaluate=evaluate,
                    save=save, every=args.every, snapshots=snapshots(args.steps), log=lambda s: print(s, flush=True))
    kind = f"{args.generator}{', without forks' if args.forkless else ''}"
    print(write_card(args.out, args, kind, metrics, maze), flush=True)


if __name__ == "__main__":
    main()
