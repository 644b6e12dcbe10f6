"""The token that holds a character of the text, for tokenizers of every usual family."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_tokenizers import CORPUS, FAMILIES, WithoutOffsets, tiny

from tasks._text import tokenise

KNOWN = ("Krasnodar", "Lodz", "Poland", "Russia", "New", "York", "City", "Spanish", "word", "Paulo")  # of the corpus
TEXTS = [*CORPUS[:8], "Zürich 東京 ½", "a", "It's 5% (x)...", "San José de Ocuné"]


@pytest.mark.parametrize("family", FAMILIES)
def test_both_ways_to_find_a_character_agree(family):
    tokenizer = tiny(family)
    if not tokenizer.is_fast:
        pytest.skip("has one way only")
    for text in TEXTS:
        ends = [k for k in range(len(text)) if k == len(text) - 1 or (text[k + 1] == " " and text[k] != " ")]
        by_offsets, by_prefixes = (tokenise(t, [text], [ends]) for t in (tokenizer, WithoutOffsets(tokenizer)))
        assert by_offsets.pos.tolist() == by_prefixes.pos.tolist(), text
        assert by_offsets.tokens.equal(by_prefixes.tokens)


@pytest.mark.parametrize("family", ["byte-level", "byte-fallback", "byt5"])
@settings(max_examples=40)
@given(words=st.lists(st.text(st.characters(categories=("L", "N", "P", "So")), min_size=1, max_size=6), min_size=1,
                      max_size=4), tail=st.sampled_from(["", " is", " is in Russia."]))
@example(words=["São", "東京😀"], tail=" is")
def test_the_tokens_up_to_the_position_decode_to_the_end_of_the_entity(family, words, tail):
    tokenizer, entity = tiny(family), " ".join(words)
    text = tokenise(tokenizer, [entity + tail], [[len(entity) - 1]], bos=False)
    ids, (pos,) = text.tokens[0].tolist(), text.pos[0]
    assert _text(tokenizer, family, ids[: pos + 1]).startswith(entity)
    assert not _text(tokenizer, family, ids[:pos]).startswith(entity)
    assert _text(tokenizer, family, ids) == entity + tail  # nothing truncated


@pytest.mark.parametrize("family", ["word-level", "wordpiece", "unigram"])
@settings(max_examples=40)
@given(words=st.lists(st.sampled_from(KNOWN), min_size=1, max_size=4),
       tail=st.sampled_from(["", " is", " is in Russia"]))
def test_the_tokens_up_to_the_position_spell_the_entity_where_spaces_and_case_are_lost(family, words, tail):
    tokenizer, entity = tiny(family), " ".join(words)
    text = tokenise(tokenizer, [entity + tail], [[len(entity) - 1]])
    ids, (pos,) = text.tokens[0].tolist(), text.pos[0]

    def spelt(upto: int) -> str:
        pieces = [t for t in tokenizer.convert_ids_to_tokens(ids[:upto]) if t not in tokenizer.all_special_tokens]
        return "".join(t.removeprefix("##").replace("▁", "") for t in pieces).lower()

    assert spelt(pos + 1) == entity.replace(" ", "").lower() != spelt(pos)
    assert spelt(len(ids)) == (entity + tail).replace(" ", "").lower()  # nothing truncated


def _text(tokenizer, family: str, ids: list[int]) -> str:
    """The bytes of the tokens as text; those of an unfinished character are left out."""
    if family == "byte-fallback":
        pieces = [t for t in tokenizer.convert_ids_to_tokens(ids) if t != "<s>"]
        data = b"".join(bytes([int(t[3:5], 16)]) if t.startswith("<0x") else t.replace("▁", " ").encode()
                        for t in pieces)
        return data.decode(errors="ignore").removeprefix(" ")
    if family == "byt5":
        return bytes(i - 3 for i in ids if i >= 3).decode(errors="ignore")
    byte = {c: b for b, c in _gpt2_bytes().items()}
    return bytes(byte[c] for t in tokenizer.convert_ids_to_tokens(ids) for c in t).decode(errors="ignore")


def _gpt2_bytes() -> dict[int, str]:
    """GPT-2's printable stand-in of each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + k) for k, b in enumerate(rest)}


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_are_padded_on_the_right_and_begin_once_with_the_beginning_of_sequence(family):
    tokenizer = tiny(family)
    text = tokenise(tokenizer, TEXTS, [[len(t) - 1] for t in TEXTS])
    bare = [tokenizer(t)["input_ids"] for t in TEXTS]
    added = [[tokenizer.bos_token_id] if family == "byte-level" else [] for _ in TEXTS]
    for ids, length, want in zip(text.tokens, text.lengths, map(list.__add__, added, bare), strict=True):
        assert ids[:length].tolist() == want
        assert set(ids[length:].tolist()) <= {tokenizer.pad_token_id or 0}
    closing = [b[-1] == i for b in bare for i in [tokenizer.sep_token_id or tokenizer.eos_token_id]]
    assert (text.pos[:, 0] == text.lengths.numpy() - 1 - np.array(closing)).all()


def test_tokens_can_be_put_before_the_text_and_move_the_positions():
    tokenizer, texts = tiny("wordpiece"), ["Lodz", "New York City"]
    plain, moved = (tokenise(tokenizer, texts, [[0], [7]], before=b) for b in (None, np.full((2, 3), 9)))
    assert (moved.pos == plain.pos + 3).all() and (moved.lengths == plain.lengths + 3).all()
    assert (moved.tokens[:, 1:4] == 9).all() and (moved.tokens[:, 0] == tokenizer.cls_token_id).all()


def test_what_cannot_be_tokenised_is_named():
    with pytest.raises(ValueError, match="1 of 2 prompts are longer than the context of 5 tokens, and nothing is trunca"
                                         "ted .first: row 1, 8 tokens, 'The city of Krasnodar is in Russia.'"):
        tokenise(tiny("word-level"), ["a b", CORPUS[0]], [[0], [0]], context=5)
    with pytest.raises(ValueError, match="all 2 texts into the same tokens"):
        tokenise(tiny("word-level"), ["qwe", "rty"], [[0], [0]])
    with pytest.raises(ValueError, match="' ' into no token at all; drop that row"):
        tokenise(tiny("word-level"), ["a", " "], [[0], [0]])
