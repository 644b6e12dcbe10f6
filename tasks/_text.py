"""Text as token ids for any Hugging Face tokenizer, and the token in which a character of the text ends up."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray
from torch import Tensor

_UNBOUNDED = 1 << 30  # some tokenizers name no context length, others say 1e30


@dataclass(frozen=True)
class Tokenised:
    """Token ids of texts, padded on the right, and the token of each character that was asked for.

    Attributes:
        tokens, lengths: As in `LabelledPrompts`.
        pos: (prompt, asked) position of the token that holds each asked character.
    """

    tokens: Int[Tensor, "prompt pos"]
    lengths: Int[Tensor, " prompt"]
    pos: Int[ndarray, "prompt asked"]


def tokenise(tokenizer, texts: Sequence[str], characters: Sequence[Sequence[int]], *, bos: bool = True,
             before: Int[ndarray, "prompt inserted"] | None = None, context: int | None = None) -> Tokenised:
    """Texts as token ids, nothing truncated, and the positions of characters.

    A character that spans several tokens (byte-level vocabularies) is at the last of them; a token that holds several
    characters is the position of each. A space that the tokenizer drops is at the token before it. Positions come
    from the character offsets of the tokenizer, and from tokenising prefixes of the text where it has none.

    Args:
        tokenizer: Any Hugging Face tokenizer; the special tokens it adds itself are kept.
        characters: For each text, the characters to find, counted from 0; equally many in all texts.
        bos: Begin every prompt with the beginning-of-sequence token, where the tokenizer has one.
        before: Token ids to put between the special tokens at the beginning and the text.
        context: Longest prompt in tokens; by default what the tokenizer says its model can take.
    Raises:
        ValueError: A prompt is longer than the context, a character is in no token or cannot be told from its
            neighbours, or all of several different texts become the same tokens.
    """
    encoded, locate = _encode(tokenizer, texts)
    prompts, positions = [], []
    for i, (ids, asked) in enumerate(zip(encoded, characters, strict=True)):
        where = locate(i)
        pos = [where(c) for c in asked]
        add, start = [], 0
        if before is not None:
            add, start = before[i].tolist(), where.first
            ids = ids[:start] + add + ids[start:]
        first = getattr(tokenizer, "bos_token_id", None) if bos else None
        lead = [first] if first is not None and ids[:1] != [first] else []
        prompts.append(lead + ids)
        positions.append([p + len(add) + len(lead) for p in pos])
    _fitting(prompts, texts, context or getattr(tokenizer, "model_max_length", None) or _UNBOUNDED)
    if len(set(texts)) > 1 and before is None and len(set(map(tuple, prompts))) == 1:
        raise ValueError(f"the tokenizer turns all {len(texts)} texts into the same tokens {prompts[0][:8]}: it does "
                         "not know their words; give the tokenizer of the model to be probed")
    lengths = [len(p) for p in prompts]
    tokens = torch.full((len(prompts), max(lengths, default=0)), getattr(tokenizer, "pad_token_id", None) or 0)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = torch.tensor(prompt)
    return Tokenised(tokens, torch.tensor(lengths, dtype=torch.long),
                     np.array(positions, dtype=np.int64).reshape(len(prompts), -1))


class _ByOffsets:
    """Position of a character by the (start, end) that the tokenizer gives for each token."""

    def __init__(self, text: str, spans: Sequence[tuple[int, int]], special: Sequence[int]):
        self.text = text
        self.real = [p for p, s in enumerate(special) if not s]
        self.starts = [spans[p][0] for p in self.real]
        _not_empty(self.real, text)
        self.first = self.real[0]

    def __call__(self, character: int) -> int:
        if character >= len(self.text) - 1:
            return self.real[-1]  # a trailing space may have an empty span
        last = bisect_left(self.starts, character + 1) - 1
        if last < 0:
            raise ValueError(f"character {character} of {self.text!r} comes before its first token; strip the text")
        return self.real[last]


class _ByPrefixes:
    """Position of a character by tokenising the text up to it.

    Where the tokens of text[:k] are the first tokens of the whole text, a token ends at k. Between two neighbouring
    ends there is one token, and all characters between them are in it.
    """

    def __init__(self, tokenizer, text: str, ids: Sequence[int], plain: Sequence[int]):
        self.tokenizer, self.text, self.plain = tokenizer, text, list(plain)
        _not_empty(self.plain, text)
        n = len(self.plain)
        self.first = next(k for k in range(len(ids)) if list(ids[k : k + n]) == self.plain)

    def __call__(self, character: int) -> int:
        end = next(n for k in range(character + 1, len(self.text) + 1) if (n := self._tokens_to(k)) is not None)
        start = next(n for k in range(character, -1, -1) if (n := self._tokens_to(k)) is not None)
        if end > start + 1 and self._tokens_to(character + 1) is None:
            raise ValueError(f"character {character} of {self.text!r} lies somewhere in tokens {start} to {end - 1}, "
                             "and this tokenizer gives no offsets; use its fast version (use_fast=True)")
        return self.first + max(end, 1) - 1

    def _tokens_to(self, k: int) -> int | None:
        ids = _plain(self.tokenizer, self.text[:k]) if k else []
        return len(ids) if ids == self.plain[: len(ids)] else None


def _encode(tokenizer, texts: Sequence[str]) -> tuple[list[list[int]], Callable[[int], _ByOffsets | _ByPrefixes]]:
    options = dict(truncation=False, padding=False, verbose=False)
    if getattr(tokenizer, "is_fast", False):
        given = tokenizer(list(texts), return_offsets_mapping=True, return_special_tokens_mask=True, **options)
        spans, special = given["offset_mapping"], given["special_tokens_mask"]
        return given["input_ids"], lambda i: _ByOffsets(texts[i], spans[i], special[i])
    ids = [tokenizer(text, **options)["input_ids"] for text in texts]
    return ids, lambda i: _ByPrefixes(tokenizer, texts[i], ids[i], _plain(tokenizer, texts[i]))


def _plain(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, truncation=False, padding=False, verbose=False)["input_ids"]


def _not_empty(tokens: Sequence[int], text: str) -> None:
    if not tokens:
        raise ValueError(f"the tokenizer turns {text!r} into no token at all; drop that row")


def _fitting(prompts: list[list[int]], texts: Sequence[str], context: int | float) -> None:
    if long := [i for i, p in enumerate(prompts) if len(p) > context]:
        raise ValueError(f"{len(long)} of {len(prompts)} prompts are longer than the context of {context} tokens, and "
                         f"nothing is truncated (first: row {long[0]}, {len(prompts[long[0]])} tokens, "
                         f"{texts[long[0]][:60]!r}); drop those rows, or use a model with a longer context")
