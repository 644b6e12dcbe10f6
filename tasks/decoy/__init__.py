"""Decoy: a world in which one latent decides the answer and another, read as easily, decides nothing.

    prompts = tasks.decoy.load(n=2000, seed=0)     # labels `end` (decides) and `mark` (the decoy), at the last token
    cases = tasks.decoy.cases("end", n=500)        # prompts with the latent to change, and the right answers
    pairs = tasks.decoy.pairs()                    # prompts that differ in the question alone, for patching
    truth = tasks.decoy.planted()                  # the directions, known because they were planted in training

A prompt is some letters, a question and `=`; the answer is the first or the last letter, as the question asks:

    k b m a first! =   ->  k            k b m a last. =   ->  a

`end` is what the question asks for, `mark` the sign it ends with, which no answer depends on. The reference models were
trained so that after the second block the last token carries each latent along one known direction, that the answer
follows the direction of `end`, and that nothing follows the direction of `mark` (interchange intervention training,
Geiger et al., arXiv:2112.00826). The world exists to tell methods apart: an honest one finds both latents decodable and
only `end` causal, and of a learned subspace it can be said how far it is from the truth.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int, Shaped
from numpy import ndarray
from safetensors.torch import load_file
from torch import Tensor

from .._pairs import PromptPairs
from .._prompts import Counterfactuals, LabelledPrompts, split_by_group

__all__ = ["WORDS", "cases", "load", "pairs", "planted", "sequences"]

LETTERS = tuple("abcdefghijklmnop")
ENDS, MARKS = ("first", "last"), (".", "!")
WORDS = ("<pad>", *LETTERS, *(end + mark for end in ENDS for mark in MARKS), "=")
SHORTEST, LONGEST = 3, 6  # letters
WIDTH = LONGEST + 2
PLANTED_LAYER = 1  # the latents lie along the planted directions in resid_post of this layer, at the last token


def sequences(n: int, seed: int = 0, start: int = 0) -> dict[str, Int[ndarray, "..."]]:
    """`n` random prompts: `tokens` (prompt, pos), `lengths`, `end`, `mark` (codes), `first`, `last` (token ids).

    Letters, lengths and both latents are drawn independently; the first letter never equals the last. Prompt i of a
    seed is the same whatever `n` and `start`, which counts prompts in blocks of 1024.
    """
    blocks = [_block(seed, b) for b in range(start // 1024, -(-(start + n) // 1024))]
    whole = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    return {name: x[start % 1024 : start % 1024 + n] for name, x in whole.items()}


def _block(seed: int, block: int) -> dict[str, ndarray]:
    rng, n = np.random.default_rng([seed, block]), 1024
    letters = rng.integers(1, 1 + len(LETTERS), (n, LONGEST))
    count = rng.integers(SHORTEST, LONGEST + 1, n)
    row = np.arange(n)
    other = 1 + (letters[:, 0] - 1 + rng.integers(1, len(LETTERS), n)) % len(LETTERS)
    letters[row, count - 1] = other  # differs from the first
    end, mark = rng.integers(0, 2, (2, n))
    tokens = np.zeros((n, WIDTH), np.int64)
    tokens[:, :LONGEST] = np.where(np.arange(LONGEST) < count[:, None], letters, 0)
    tokens[row, count] = question(end, mark)
    tokens[row, count + 1] = WORDS.index("=")
    return {"tokens": tokens, "lengths": count + 2, "end": end, "mark": mark, "first": letters[:, 0], "last": other}


def question(end: Int[ndarray, " prompt"], mark: Int[ndarray, " prompt"]) -> Int[ndarray, " prompt"]:
    """Token ids of the questions with these codes."""
    return 1 + len(LETTERS) + 2 * end + mark


def load(n: int = 2000, seed: int = 0) -> LabelledPrompts:
    """`n` prompts probed at the last token, `=`. Labels: `end/answer` and `mark/answer`; a group is a string of
    letters, so that no split asks about letters that another has seen."""
    made = sequences(n, seed)
    tokens, lengths, group = made["tokens"], made["lengths"], _letters(made)
    examples = pd.DataFrame({"prompt": np.arange(len(tokens)), "pos": lengths - 1, "group": group,
                             "split": split_by_group(group, seed), "end/answer": made["end"],
                             "mark/answer": made["mark"]})
    return LabelledPrompts(task="decoy", tokens=torch.from_numpy(tokens), lengths=torch.from_numpy(lengths),
                           examples=examples, classes={"end": ENDS, "mark": MARKS}, vocabulary=WORDS)


def _letters(made: dict[str, ndarray]) -> Shaped[ndarray, " prompt"]:
    """The letters of each prompt as text: `k b m a`."""
    return np.array([" ".join(WORDS[token] for token in row[: length - 2])
                     for row, length in zip(made["tokens"], made["lengths"], strict=True)])


def planted(model: str | Path = "decoy") -> dict[str, Float[Tensor, " d_model"]]:
    """Scheme -> unit vector along which the latent was planted in `resid_post` of layer 1, at the last token, pointing
    from `classes[scheme][0]` to `classes[scheme][1]`.

    Args:
        model: A reference model (`decoy`, `decoy-1`, `decoy-2`: three seeds) or the folder of one trained elsewhere.
    """
    folder = Path(model)
    if not folder.is_dir():
        folder = Path(__file__).parent / "models" / str(model)
    if not (file := folder / "planted.safetensors").is_file():
        raise ValueError(f"no planted directions for {str(model)!r}: wanted a decoy model or the folder of one "
                         "with planted.safetensors; python -m tasks.decoy.train --out DIR makes one")
    return load_file(file)


def cases(scheme: str = "end", n: int = 500, seed: int = 1) -> Counterfactuals:
    """Prompts in which one latent is to be changed at the last token. For `end` the right answer becomes the other
    letter; for `mark` it stays, and an edit that changes it has hit something else. The first half is for choosing
    layers and doses, the second for reporting."""
    if scheme not in ("end", "mark"):
        raise ValueError(f"scheme must be 'end' (the latent that decides) or 'mark' (the decoy), not {scheme!r}")
    made = sequences(n, seed)
    group = _letters(made)
    ends = np.stack([made["first"], made["last"]], 1)
    answers = np.eye(len(WORDS), dtype=bool)
    before = answers[ends[np.arange(n), made["end"]]]
    after = answers[ends[np.arange(n), 1 - made["end"]]] if scheme == "end" else before
    table = pd.DataFrame({"prompt": np.arange(n), "target": "answer", "was": made[scheme], "becomes": 1 - made[scheme],
                          "group": group, "split": _halves(group)})
    return Counterfactuals(task="decoy", kind=f"{scheme} changed", scheme=scheme,
                           tokens=torch.from_numpy(made["tokens"]), lengths=torch.from_numpy(made["lengths"]),
                           cases=table, right_before=before, right_after=after)


def pairs(n: int = 200, seed: int = 1) -> PromptPairs:
    """Prompts about the same letters: the corrupted twin asks for the other end, with the other mark. Both latents
    differ, and one token (`pos:question`); the answers are the two ends. Groups and halves are those of `cases`."""
    made = sequences(n, seed)
    row, at = np.arange(n), made["lengths"] - 2
    corrupted = made["tokens"].copy()
    corrupted[row, at] = question(1 - made["end"], 1 - made["mark"])
    group, answers = _letters(made), np.eye(len(WORDS), dtype=bool)
    ends = np.stack([made["first"], made["last"]], 1)
    table = pd.DataFrame({"group": group, "split": _halves(group), "pos:question": at})
    return PromptPairs("decoy", "end+mark", torch.from_numpy(made["tokens"]), torch.from_numpy(corrupted),
                       torch.from_numpy(made["lengths"]), table, answers[ends[row, made["end"]]],
                       answers[ends[row, 1 - made["end"]]])


def _halves(group: Shaped[ndarray, " case"]) -> Shaped[ndarray, " case"]:
    """`choose` or `report`: every other group."""
    return np.where(np.isin(group, np.unique(group)[::2]), "choose", "report")
