"""What is followed through the training of an Othello model: when its moves become legal, and when the board is there.

    worldprobe formation othello-6x6 --out runs/formation
    worldprobe formation ./mine --task othello --out runs/mine

`worldprobe run othello` asks far more, see `worldprobe._othello`.
"""

import json
from functools import partial
from math import isqrt

import numpy as np
import pandas as pd
import torch

from .. import reference_models
from .._prompts import Counterfactuals
from .._study import Behaviour, Change, Part, Reading, Study, codes
from ._cases import cases
from ._engine import random_games, square_name
from ._labels import load
from ._tokens import legal_tokens, to_tokens

_SEEDS = 3 << 32  # other games than those of the trainer and of `load`
_BATCH = 128


def study(size: int | None = None, model: str = "othello-6x6", d_vocab: int | None = None) -> Study:
    """The study of a model that plays Othello.

    Args:
        size: Side of the board; that of the model, unless given.
        model: The reference model that is studied unless another is named.
        d_vocab: Of a model that is not a reference model: its tokens are the playable squares and padding.
    Raises:
        ValueError: No board has as many squares as the model has tokens.
    """
    size = size or _size_of(model, d_vocab)
    return Study(
        task="othello", title="How the board forms in the model {model}", model=model,
        question="The model reads the moves of a game and says the next one. It is never shown a board. When do its "
                 "moves become legal, and when can the board be read from it, as squares of the player to move and of "
                 "the other? A disc that keeps the colour it was placed with (no_flip) is the shortcut: a board has to "
                 "be better than that.",
        behaviour=Behaviour(
            partial(legal_moves, size=size),
            {"legal_top1": "the most likely move is legal", "legal_mass": "probability on legal moves"},
            {"legal_top1": "any_empty_square", "legal_mass": "any_empty_square"},
            {"legal_top1": "moves", "legal_mass": "moves"}, n=500, quick=400, items="held-out games"),
        readings=[Reading("board", "mine_theirs", "the board, as mine, theirs and empty, after every move",
                          partial(load, size=size), n=400, quick=120, subsets=("occupied",), followed=True,
                          groups="openings")],
        changes=[Change("flip", "a disc changes its colour", partial(_flipped, size), {"last move": [Part(
            "board", -1, *(partial(codes, targets=[square_name(s, size) for s in range(size**2)], column=column)
                           for column in ("was", "becomes")))]},
                        by="log_odds", n=240, quick=120, groups="openings")])


def _flipped(size: int, n: int, seed: int) -> Counterfactuals:
    return cases("natural", "flip", n, size, seed)


def legal_moves(model, n: int, seed: int, size: int) -> pd.DataFrame:
    """One row per random game: share of its moves where the most likely token is legal (strict), probability on legal
    moves, share of empty squares that are legal, and how many moves were asked for."""
    squares, legal = random_games(n, size, _SEEDS + seed)
    tokens, allowed = torch.from_numpy(to_tokens(squares[:, :-1], size)), torch.from_numpy(
        legal_tokens(legal[:, 1:], size))
    asked = squares[:, 1:] >= 0
    top, mass = [], []
    with torch.inference_mode():
        for part, right in zip(tokens.split(_BATCH), allowed.split(_BATCH), strict=True):
            p = model(part).float().softmax(-1).cpu()
            top.append(right.gather(-1, p.argmax(-1, keepdim=True))[..., 0])
            mass.append((p * right).sum(-1))
    empty = size**2 - 4 - np.arange(1, squares.shape[1])
    shares = {"legal_top1": torch.cat(top).numpy(), "legal_mass": torch.cat(mass).numpy(),
              "any_empty_square": allowed.sum(-1).numpy() / empty}
    moves = asked.sum(1)
    return pd.DataFrame({name: (share * asked).sum(1) / moves for name, share in shares.items()}
                        | {"moves": moves, "group": np.arange(n)})


def _size_of(model: str, d_vocab: int | None) -> int:
    if d_vocab is None:
        d_vocab = int(json.loads((reference_models()[model] / "config.json").read_text())["vocab_size"])
    size = isqrt(d_vocab + 3)
    if size * size != d_vocab + 3 or size not in (4, 6, 8):
        raise ValueError(f"the model has {d_vocab} tokens; Othello moves need 61 (8x8) or 33 (6x6): one per playable "
                         "square and padding. Use a model trained on Othello, such as othello-6x6")
    return size
