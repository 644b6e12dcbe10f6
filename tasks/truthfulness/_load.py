"""Statements as labelled prompts: of the reference world, or plain text probed where it ends."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy import ndarray

from .._prompts import LabelledPrompts, split_by_group
from .._text import tokenise
from ._datasets import read
from ._labels import world

CLASSES = {"truth": ("false", "true"), "polarity": ("negated", "affirmative"), "likely": ("unlikely", "likely"),
           "first_part": ("false", "true"), "second_part": ("false", "true")}
PLACES = ("end", "content")


def load(dataset: str | Path | Sequence[str | Path] | None = None, tokenizer=None, *, n: int | None = None,
         seed: int = 0, at: str | None = None, straddling: str = "drop", group: str | None = None, bos: bool = True,
         context: int | None = None, **of_the_world) -> LabelledPrompts:
    """Statements with their truth, one prompt each: of a data set of plain text, or, where none is named, of the
    reference world (`world`, which takes `n`, `seed`, `at` and what is in `of_the_world`). Of plain text:

    Schemes, all with the one target `statement`: `truth`; `polarity` where data sets of both kinds are loaded together
    (`cities` affirmative, `neg_cities` negated); for conjunctions and disjunctions `first_part` and `second_part`,
    shortcuts of `truth`: a probe may read the truth of one part alone. The data set `likely` is the control for
    probability: its texts end in the most likely token or in the 100th, its schemes are `likely` and `log_likelihood`
    (in nats), and not truth.

    Examples are probed at `end`, the token that holds the final full stop (the last token where a text ends without
    one), or at `content`, the last token of the last word before it; `prompts.at("content")` moves them. A tokenizer
    may put a quotation mark and the full stop into one token.

    A group is what a statement is about: its city, its Spanish word, its pair of numbers; data sets that share it, as a
    set and its negations do, get the same splits from the same seed. Where statements are about two things
    (`larger_than`, conjunctions), these are dealt to the splits, and a statement between two splits is dropped.

    Args:
        dataset: Names of `DATASETS`, CSV files with columns `statement` and `label` (and perhaps `polarity`), or
            several of them as one. None: the reference world.
        tokenizer: A Hugging Face tokenizer, that of the model to be probed.
        n: Take so many statements at random; all, unless given (2,000 of the reference world).
        at: `end` (unless given) or `content`.
        straddling: `keep` retains statements between two splits, in the split of their pair: for testing probes that
            were trained on other data, since what they are about occurs in all splits.
        group: Column of your files that says what a statement is about; see `read`.
        bos: Begin with the beginning-of-sequence token, where the tokenizer has one, as the paper does.
        context: Longest prompt in tokens; what the tokenizer says, unless given.
    Raises:
        FileNotFoundError: There is no such file and no such data set.
        ValueError: A file lacks a column, has other labels than 0 and 1 or only one of them, a statement is longer
            than the context, or there is no tokenizer.
    Source: Marks & Tegmark, arXiv:2310.06824. They probe at the full stop, without a few-shot prefix.
    """
    if dataset is None:
        return world(2000 if n is None else n, seed, at=at or "object", **of_the_world)
    if of_the_world:
        raise ValueError(f"{', '.join(of_the_world)}: for the reference world only, and {dataset} is plain text; leave "
                         "them out, or name no data set")
    if tokenizer is None:
        raise ValueError(f"{dataset} is plain text: give the tokenizer of the model to be probed, "
                         "AutoTokenizer.from_pretrained(MODEL)")
    at = at or "end"
    if at not in PLACES:
        raise ValueError(f"at must be one of {PLACES}, not {at!r}")
    if straddling not in ("drop", "keep"):
        raise ValueError(f"straddling must be 'drop' or 'keep', not {straddling!r}")
    names = [dataset] if isinstance(dataset, str | Path) else list(dataset)
    rows = _together([read(name, group) for name in names])
    if n is not None:
        rows = rows.iloc[np.sort(np.random.default_rng(seed).permutation(len(rows))[:n])].reset_index(drop=True)
    rows = rows.assign(group=[" & ".join(e) for e in rows["entities"]], split=_splits(rows, seed, straddling))
    rows = rows[rows["split"] != ""].reset_index(drop=True)
    both_labels(rows)
    if "polarity/statement" in rows and rows["polarity/statement"].nunique() == 1:
        rows = rows.drop(columns="polarity/statement")  # nothing to fit
    texts = rows["statement"].tolist()
    text = tokenise(tokenizer, texts, [[_end(t), _content(t)] for t in texts], bos=bos, context=context)
    places = {f"pos:{name}": text.pos[:, k] for k, name in enumerate(PLACES)}
    where = pd.DataFrame({"prompt": range(len(rows)), "pos": places[f"pos:{at}"], **places})
    schemes = {c.split("/")[0] for c in rows if "/" in c}
    return LabelledPrompts(
        task="-".join(["truthfulness", *dict.fromkeys(rows["dataset"])]),
        tokens=text.tokens,
        lengths=text.lengths,
        examples=pd.concat([where, rows.drop(columns="entities")], axis=1),
        classes={scheme: names for scheme, names in CLASSES.items() if scheme in schemes},
        shortcuts={"truth": ("first_part", "second_part")} if "first_part" in schemes else {},
    )


def _together(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """The rows of all tables, with the labels that all of them have."""
    shared = [c for c in tables[0] if all(c in table for table in tables)]
    if not {"truth/statement", "likely/statement"} & set(shared):
        raise ValueError("`likely` is labelled by likelihood and the others by truth; load it by itself")
    return pd.concat([table[shared] for table in tables], ignore_index=True)


def _splits(rows: pd.DataFrame, seed: int, straddling: str) -> ndarray:
    """Split of every row, "" where what it is about lies in several."""
    entities = np.array(sorted({e for row in rows["entities"] for e in row}), dtype=object)
    split = dict(zip(entities, split_by_group(entities, seed), strict=True))
    own = [{split[e] for e in row} for row in rows["entities"]]
    one = np.array([s.pop() if len(s) == 1 else "" for s in own], dtype=object)
    if straddling == "drop" or (one != "").all():
        return one
    return split_by_group(np.array([" & ".join(e) for e in rows["entities"]], dtype=object), seed)


def both_labels(rows: pd.DataFrame) -> None:
    scheme = "truth" if "truth/statement" in rows else "likely"
    for split in ("train", "validation", "test"):
        if len(here := set(rows[f"{scheme}/statement"][rows["split"] == split])) != 2:
            raise ValueError(f"{scheme} must be 1 and 0 in every split, the {split} rows have {sorted(here)}; give "
                             "more statements of both kinds, or another seed")


def _end(text: str) -> int:
    """Index of the final full stop, or of the last character of a text that ends without one."""
    stripped = text.rstrip()
    return len(stripped) - 1 if stripped.endswith((".", "\N{IDEOGRAPHIC FULL STOP}")) else len(text) - 1


def _content(text: str) -> int:
    """Index of the last letter or digit, of the last character where there is none."""
    return next((k for k in range(len(text) - 1, -1, -1) if text[k].isalnum()), len(text) - 1)
