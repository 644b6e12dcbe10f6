"""Few-shot prompts that ask for a verdict, and their minimal twins: where in a language model is it known what is true?

    The Spanish word 'uno' means 'floor'. This statement is: FALSE
    The Spanish word 'fruta' means 'fruit'. This statement is: TRUE
    The Spanish word 'gato' means 'cat'. This statement is:

The corrupted twin ends with a false statement instead, which differs in one stretch of equally many tokens.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from .._pairs import PromptPairs, token_pairs
from .._positions import NAMED
from .._text import tokenise
from ._datasets import read
from ._load import _content, _end

ASK, VERDICTS = " This statement is:", (" FALSE", " TRUE")


def few_shot_pairs(dataset: str | Path, tokenizer, *, shots: int = 5, n: int = 100, seed: int = 0, ask: str = ASK,
                   verdicts: tuple[str, str] = VERDICTS, d_vocab: int | None = None,
                   group: str | None = None, bos: bool = True, context: int | None = None) -> PromptPairs:
    """Prompts that end with a true statement to be judged (clean) and the same with a false one (corrupted), about the
    same thing, after the same `shots` judged statements about others. Right are the first tokens in which TRUE and
    FALSE differ; what they share, as a space, ends the prompt.

    Cases whose two prompts have unequal numbers of tokens are left out, at most `n` are taken. Positions of every
    case: `pos:changed`, the last token that differs; `pos:content` and `pos:end`, the last word and the full stop of
    the statement to be judged. A group is what that statement is about.

    Args:
        dataset: As in `load`: a published data set or a file of yours that has a true and a false statement about the
            same thing (`cities`, `sp_en_trans`).
        shots: True and false in turn, in random order, the same for all cases.
        verdicts: What is said of a false and of a true statement.
        group: Column of your file that says what a statement is about.
        d_vocab: Of the model; the tokenizer's own size, unless given.
    Raises:
        ValueError: The verdicts are the same tokens, there are too few statements, or no two of equal length.
    Source: Marks & Tegmark, arXiv:2310.06824, section 3 and `patching.py`: 5 shots of sp_en_trans.
    """
    rows = read(dataset, group)
    if "truth/statement" not in rows:
        raise ValueError(f"{dataset} is not labelled by truth; choose a data set of true and false statements")
    rng = np.random.default_rng(seed)
    twins = _twins(rows, rng)
    if len(twins) < shots + 1:
        raise ValueError(f"{dataset} has a true and a false statement about only {len(twins)} things; {shots} shots "
                         f"and a case need {shots + 1}")
    sides = rng.permutation(np.arange(shots) % 2)
    prefix = "".join(f"{(false[0], true)[side]}{ask}{verdicts[side]}\n"
                     for (_, false, true), side in zip(twins, sides, strict=False))
    found: list[tuple[str, _Asked, _Asked]] = []
    for about, falses, true in twins[shots:]:
        if len(found) == n:
            break
        ids_of = partial(_asked, tokenizer, prefix, ask=ask, verdicts=verdicts, bos=bos, context=context)
        clean = ids_of(true)
        like = next((o for o in map(ids_of, falses) if len(o.ids) == len(clean.ids) and o.ids != clean.ids
                     and o.answers == clean.answers), None)
        if like is not None:
            found.append((about, clean, like))
    if not found:
        raise ValueError(f"none of the {len(twins) - shots} true statements of {dataset} has a false twin of as many "
                         "tokens; give statements that differ in one word")
    differ = [max(k for k, (a, b) in enumerate(zip(c.ids, o.ids, strict=True)) if a != b) for _, c, o in found]
    made = token_pairs([c.ids for _, c, _ in found], [o.ids for _, _, o in found], [c.answers[1] for _, c, _ in found],
                       [c.answers[0] for _, c, _ in found], d_vocab=d_vocab or len(tokenizer),
                       groups=[about for about, _, _ in found],
                       split=[("choose", "report")[k % 2] for k in range(len(found))],
                       task=f"truthfulness-{Path(dataset).stem}", label="truth")
    return replace(made, cases=made.cases.assign(**{f"{NAMED}changed": differ}, **{
        f"{NAMED}{name}": [c.places[k] for _, c, _ in found] for k, name in enumerate(("content", "end"))}))


def _twins(rows: pd.DataFrame, rng: np.random.Generator) -> list[tuple[str, list[str], str]]:
    """(what it is about, false statements, a true one), in random order."""
    about = rows["entities"].map(" & ".join)
    false, true = (rows["statement"][rows["truth/statement"] == truth].groupby(about).agg(list).to_dict()
                   for truth in (0, 1))
    shared = [a for a in true if a in false]
    return [(shared[i], false[shared[i]], true[shared[i]][0]) for i in rng.permutation(len(shared))]


class _Asked(NamedTuple):
    """A prompt, up to where the verdicts part: its tokens, the tokens of FALSE and TRUE, and the positions of the last
    word and the full stop of its statement."""

    ids: list[int]
    answers: tuple[int, int]
    places: list[int]


def _asked(tokenizer, prefix: str, statement: str, ask: str, verdicts: tuple[str, str], bos: bool, context: int | None
           ) -> _Asked:
    texts = [prefix + statement + ask + verdict for verdict in verdicts]
    places = [len(prefix) + _content(statement), len(prefix) + _end(statement)]
    made = tokenise(tokenizer, texts, [[*places, len(text) - 1] for text in texts], bos=bos, context=context)
    false, true = (row[: last + 1].tolist() for row, last in zip(made.tokens, made.pos[:, 2].tolist(), strict=True))
    part = next((k for k, (a, b) in enumerate(zip(false, true, strict=False)) if a != b), None)
    if part is None:
        raise ValueError(f"{verdicts[0]!r} and {verdicts[1]!r} are the same to this tokenizer, or one begins with the "
                         "other; choose other verdicts")
    return _Asked(false[:part], (false[part], true[part]), made.pos[0, :2].tolist())
