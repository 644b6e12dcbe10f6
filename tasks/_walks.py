"""Walks over a ring whose nodes carry other words in other prompts: what is next to what stands in the walk alone.

A quarter of the walks follow the words in their usual order, as days follow one another; in the others the words are
dealt out anew, so that a reader must notice that the usual order does not hold, and then find the one that does. As the
order is drawn, the best that can be read off a walk is known: `posterior_prediction`.

After Park et al., arXiv:2501.00070 (a graph traced in context, days of the week in another order).
"""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import nn

from ._prompts import LabelledPrompts, split_by_group
from ._training import Decoder, next_token_loss, save_gpt2, train, word_tokenizer

NODES = 10
STAY, RESTART = 0.2, 0.1  # chances of a step that stays, and of one to any node at all; else to one of two neighbours
USUAL = 0.25  # share of walks in the usual order
TRAIN_SEED = 1001  # walks that are measured have seeds of their own
LENGTH, BATCH, N_STEPS = 96, 32, 1600
SHAPE: dict[str, Any] = dict(n_layers=3, d_model=64, n_heads=4)
WORDS = tuple("red orange yellow lime green cyan blue indigo violet pink".split())

Ring = Int[ndarray, "walk node"]  # the word at every node; the usual order is 0, 1, 2, ...


class Walks(NamedTuple):
    """Attributes:
        words: The word of every step.
        nodes: Where it stands; node i is next to i - 1 and i + 1, the last to the first.
        ring: The word at every node.
    """

    words: Int[ndarray, "walk pos"]
    nodes: Int[ndarray, "walk pos"]
    ring: Ring


def walks(n: int, length: int, seed: int | list[int], usual: float = USUAL, nodes: int = NODES) -> Walks:
    """`n` walks of `length` words; in a share `usual` of them, words are in the usual order."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(4, (n, length), p=[STAY, *[(1 - STAY - RESTART) / 2] * 2, RESTART])
    move = np.array([0, 1, -1, 0])[kind]
    anywhere = rng.integers(nodes, size=(n, length))
    kind[:, 0] = 3
    at = np.empty((n, length), np.int64)
    for t in range(length):
        at[:, t] = np.where(kind[:, t] == 3, anywhere[:, t], (at[:, max(t - 1, 0)] + move[:, t]) % nodes)
    dealt = np.argsort(rng.random((n, nodes)), 1)
    ring = np.where(rng.random((n, 1)) < usual, np.arange(nodes), dealt)
    return Walks(np.take_along_axis(ring, at, 1), at, ring)


def steps(nodes: int = NODES) -> Float[ndarray, "node node"]:
    """Chances of the next node, a row per node."""
    next_to = neighbours(nodes) / 2
    return STAY * np.eye(nodes) + (1 - STAY - RESTART) * next_to + RESTART / nodes


def neighbours(nodes: int = NODES) -> Float[ndarray, "node node"]:
    """1 where two nodes of the ring are next to each other."""
    line = np.roll(np.eye(nodes), 1, 1)
    return line + line.T


def next_words(made: Walks) -> Float[ndarray, "walk pos word"]:
    """Chances of the next word at every position, for one who knows the ring."""
    n_words = made.ring.shape[1]
    by_node = steps(n_words)[made.nodes]
    out = np.empty_like(by_node)
    np.put_along_axis(out, np.broadcast_to(made.ring[:, None], by_node.shape).copy(), by_node, 2)
    return out


def asked(made: Walks, lengths: Sequence[int]) -> LabelledPrompts:
    """Every walk cut after so many words, and after each cut every word once: one prompt per walk, length and node, in
    this order, read at that last word. Whatever walks do to what is near in time, the nodes of a walk have in common.

    Labels: `node/ring`, where the last word stands. Columns: `walk`, `length`; groups are walks.
    """
    n, nodes = made.ring.shape
    cut = np.array(sorted(lengths))
    if cut[0] < 0 or cut[-1] > made.words.shape[1]:
        raise ValueError(f"walks have {made.words.shape[1]} words, they cannot be cut after {cut[0]} to {cut[-1]}; "
                         "draw longer walks or ask for other lengths")
    walk, length, node = (a.ravel() for a in np.meshgrid(np.arange(n), cut, np.arange(nodes), indexing="ij"))
    tokens = np.where(np.arange(cut[-1]) < length[:, None], made.words[walk, :cut[-1]], 0)
    tokens = np.concatenate([tokens, np.zeros((len(tokens), 1), np.int64)], 1)
    tokens[np.arange(len(tokens)), length] = made.ring[walk, node]
    examples = pd.DataFrame({"prompt": np.arange(len(walk)), "pos": length, "group": walk, "walk": walk,
                             "length": length, "split": split_by_group(walk), "node/ring": node})
    return LabelledPrompts(task="walks", tokens=torch.from_numpy(tokens), lengths=torch.from_numpy(length + 1),
                           examples=examples, classes={"node": tuple(map(str, range(nodes)))},
                           vocabulary=WORDS[:nodes], by=("length", "target"))


def posterior_prediction(words: Int[ndarray, "walk pos"], usual: float = USUAL, nodes: int = NODES
                         ) -> Float[ndarray, "walk word"]:
    """Chances of the word after a walk, for one who knows how walks are made but not the ring: the mean over all rings,
    by their probability given the walk. No reader of the walk can be better in expectation."""
    rings, usual_one, (first, second) = _rings(nodes)
    chance = steps(nodes)[0]
    prior = np.log((1 - usual) / len(rings) + usual * usual_one)
    out = np.full((len(words), nodes), RESTART / nodes)
    for block in np.array_split(np.arange(len(words)), -(-len(words) // 32)):
        counts = np.zeros((len(block), nodes, nodes))
        pairs = words[block, :-1], words[block, 1:]
        np.add.at(counts, (np.arange(len(block))[:, None], *pairs), 1)
        moved = (counts + counts.mT)[:, first, second]  # steps that stay are as likely on every ring
        weight = np.log(chance[1] / chance[2]) * (moved.astype(np.float32) @ rings.T) + prior
        weight = np.exp(weight - weight.max(1, keepdims=True))
        next_to = np.zeros((len(block), nodes, nodes))
        next_to[:, first, second] = weight @ rings / weight.sum(1, keepdims=True)
        next_to += next_to.mT
        out[block] += (1 - STAY - RESTART) / 2 * next_to[np.arange(len(block)), words[block, -1]]
    out[np.arange(len(words)), words[:, -1]] += STAY
    return out


def train_reader(out: Path, seed: int = 0, n_steps: int = N_STEPS, log: Callable[[str], None] = print) -> None:
    """Trains a small decoder on walks and leaves it in `out` as a GPT-2 directory; the same call again resumes, and
    does nothing where it is done."""
    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        made = walks(BATCH, LENGTH, [TRAIN_SEED, seed, step])
        tokens = torch.from_numpy(made.words)
        return tokens, torch.from_numpy(next_words(made)).float(), torch.ones(tokens.shape)

    held_out = walks(4 * BATCH, LENGTH, [TRAIN_SEED, seed, 1 << 30], usual=0.0)
    exact = next_words(held_out)

    @torch.no_grad()
    def beyond(model: nn.Module) -> dict[str, float]:
        log_p = model(torch.from_numpy(held_out.words)).log_softmax(-1).double().numpy()
        lost = (exact * (np.log(exact) - log_p)).sum(-1)
        return {"nats": float(lost.mean()), "nats_at_the_end": float(lost[:, -16:].mean())}

    if (out / "model.safetensors").exists():
        return
    torch.manual_seed(seed)
    train(Decoder(NODES, LENGTH, **SHAPE), next_token_loss(batch), n_steps, out, beyond,
          lambda model, folder, _: save_gpt2(model, folder, word_tokenizer(list(WORDS), pad=WORDS[0])), log=log)


@cache
def _rings(nodes: int) -> tuple[Float[ndarray, "ring pair"], Bool[ndarray, " ring"], Any]:
    """Every ring of words, as 1 for each pair of words that are next to each other; which of them is the usual one; the
    pairs."""
    orders = np.array([(0, *rest) for rest in permutations(range(1, nodes)) if rest[0] < rest[-1]])
    first, second = np.triu_indices(nodes, 1)
    number = np.zeros((nodes, nodes), np.int64)
    number[first, second] = number[second, first] = np.arange(len(first))
    out = np.zeros((len(orders), len(first)), np.float32)
    np.put_along_axis(out, number[orders, np.roll(orders, -1, 1)], 1, 1)
    return out, (orders == np.arange(nodes)).all(1), (first, second)
