"""Names of places, works and events as labelled prompts, probed at the last token of the name."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from numpy import ndarray

from .._positions import NAMED
from .._prompts import LabelledPrompts, split_by_group
from .._text import tokenise
from ._cases import POSITIONS
from ._datasets import DATASETS, PROMPTS, read
from ._world import COORDINATES, PROMPT_LENGTH, entities, known, prompts_of, words

WORLD = "world"  # the name of the reference world among the data sets
N_RANDOM = 10  # tokens of the prompt `random`
_FIRST_WORD = 100  # and the first id they are drawn from, as in the paper: below it stand special tokens and bytes
SPLITTINGS = ("published", "group", "block")


def load(dataset: str | Path = WORLD, tokenizer=None, *, prompt: str | None = None, n: int | None = None,
         seed: int = 0, split: str | None = None, name: str = "name", targets: Sequence[str] | None = None,
         block: str | None = None, group: str | None = None, file: str | Path | None = None, bos: bool = True,
         context: int | None = None) -> LabelledPrompts:
    """Entities with their coordinates or dates, one prompt each, probed at the last token of the entity.

    Without a data set, the reference world, which needs no tokenizer: `prompt` is a relation, `distance` (the default)
    or `direction` with the label `place`, x and y in [-1, 1], `order` or `gap` with `time`, t in [0, 1]. The prompt
    asks about the entity and a random other one; `block` is a region or an age, `kind` is town, isle or event,
    `pos:first` and `pos:entity` are the first and the last token of the name, `pos:answer` is the last of the prompt.

    The labels of the other data sets are `place/longitude` and `place/latitude` in degrees, or `time/year`. Everywhere
    the shortcut `block_mean` predicts the mean of the training rows of the same block (country, decade), of all
    training rows where there are none: how much of a score is coarse membership. Columns `entity`, `block`, `kind`
    (entity type) and `row` (of the file) say what an example is; `pos:entity` is the last token of the entity, as is
    `pos`.

    Args:
        dataset: A name of `DATASETS`, or a CSV file; `world`, the reference world, unless given.
        tokenizer: A Hugging Face tokenizer, that of the model to be probed; what it would make of the words of the
            reference world is known without it.
        prompt: A relation of the reference world; else `empty` (the default); `empty_all_caps`; `random`, 10 random
            tokens before the entity; a key of the data set (`coords`, `where_us`, `release`, ...); or a template of
            your own, `The town of {} lies`.
        n: Take so many entities at random; all, unless given.
        seed: Of `n`, of the split and of `random`.
        split: `published`, the test rows of the papers, of the column `is_test` (the default where there is one), with
            validation rows from the others; `group` (the default elsewhere), by name, or creator; `block`, whole
            blocks, which are then the groups. A training row whose group is in the published test rows is dropped.
        name, targets, block, group: Columns of your file: the name; `("longitude", "latitude")`, or one column of years
            or ISO dates; what `hold_out` holds out; what never straddles splits (the name, unless given).
        file: Your copy of a published table (`historical_figure` and `headline` are in no public copy).
        bos: Begin with the beginning-of-sequence token, where the tokenizer has one, as the paper does.
        context: Longest prompt in tokens; what the tokenizer says, unless given.
    Raises:
        FileNotFoundError: There is no such file and no such data set.
        ValueError: A column is missing, a coordinate out of range, a date none, a prompt longer than the context, or
            real names come without a tokenizer.
    Source: Gurnee & Tegmark, arXiv:2310.02207.
    """
    if dataset == WORLD:
        return _of_the_world(prompt or "distance", n, seed, split or "group")
    if tokenizer is None:
        raise ValueError(f"the names of {dataset} need a tokenizer: give that of the model to be probed, "
                         "load(dataset, model.tokenizer)")
    prompt = prompt or "empty"
    rows = read(dataset, None if file is None else Path(file), name, targets, block, group)
    if n is not None:
        rows = rows.iloc[np.sort(np.random.default_rng(seed).permutation(len(rows))[:n])].reset_index(drop=True)
    rows = _split(rows, split or ("published" if "is_test" in rows else "group"), seed)
    before, after = _template(str(dataset), prompt)
    entities = [_cased(e, prompt) for e in rows["entity"]]
    noise = _random_tokens(tokenizer, len(rows), seed) if prompt == "random" else None
    text = tokenise(tokenizer, [before + e + after for e in entities], [[len(before + e) - 1] for e in entities],
                    before=noise, bos=bos, context=context)
    pos = text.pos[:, 0]
    where = pd.DataFrame({"prompt": range(len(rows)), "pos": pos, "pos:entity": pos})
    return _with_block_means(LabelledPrompts(
        task=f"space_time-{Path(dataset).stem}",
        tokens=text.tokens,
        lengths=text.lengths,
        examples=pd.concat([where, rows.drop(columns="is_test", errors="ignore")], axis=1),
    ))


def hold_out(prompts: LabelledPrompts, value: str, by: str = "block") -> LabelledPrompts:
    """The same prompts with all examples of one block as the test rows, and none of them in training.

    Test rows elsewhere are left out, as are training rows that share a group with the block (a creator of two decades).
    Compare with the same block's test rows of `prompts`, the nominal score.

    Args:
        by: `block` (a country, a decade), or `kind`, the entity type.
    Raises:
        ValueError: There is no such block; or all rows are in it.
    """
    here = (prompts.examples[by] == value).to_numpy()
    if not here.any() or here.all():
        known = prompts.examples[by].value_counts().index[:12].tolist()
        raise ValueError(f"{value!r} is {'all' if here.any() else 'none'} of the {len(here)} examples' {by}; the "
                         f"largest are {known}")
    outside = prompts.examples["group"].isin(set(prompts.examples["group"][here])).to_numpy()
    keep = here | (~outside & ~prompts.rows("test"))
    examples = prompts.examples.assign(split=np.where(here, "test", prompts.examples["split"]))[keep]
    return _with_block_means(replace(prompts, examples=examples.reset_index(drop=True),
                                     subsets={k: mask[keep] for k, mask in prompts.subsets.items()}))


def _of_the_world(relation: str, n: int | None, seed: int, split: str) -> LabelledPrompts:
    scheme = known(relation).scheme
    table, rng = entities(scheme).table, np.random.default_rng(seed)
    a = np.sort(rng.permutation(len(table))[:n])
    b = (a + rng.integers(1, len(table), len(a))) % len(table)
    rows = table[["entity", "kind", "block"]].iloc[a].reset_index(drop=True).assign(row=a)
    rows = _split(rows.assign(group=rows["entity"]), split, seed)
    where = {f"{NAMED}{name}": pos for name, pos in POSITIONS.items()}
    labels = {f"{scheme}/{c}": table[c].to_numpy()[a] for c in COORDINATES[scheme]}
    examples = pd.DataFrame({"prompt": range(len(a)), "pos": POSITIONS["entity"], **where})
    return _with_block_means(LabelledPrompts(
        task="space_time",
        tokens=torch.from_numpy(prompts_of(relation, a, b)),
        lengths=torch.full((len(a),), PROMPT_LENGTH),
        examples=pd.concat([examples, rows, pd.DataFrame(labels)], axis=1),
        vocabulary=words(),
    ))


def _split(rows: pd.DataFrame, split: str, seed: int) -> pd.DataFrame:
    """The rows with a split each, without those that would leak."""
    if split not in SPLITTINGS or (split == "published" and "is_test" not in rows):
        raise ValueError(f"split must be one of {SPLITTINGS}, and `published` needs a column is_test; it is {split!r}")
    if split == "block":
        return rows.assign(group=rows["block"], split=split_by_group(rows["block"].to_numpy(object), seed))
    dealt = split_by_group(rows["group"].to_numpy(object), seed)
    if split == "group":
        return rows.assign(split=dealt)
    leaking = ~rows["is_test"] & rows["group"].isin(set(rows["group"][rows["is_test"]]))
    named = np.where(rows["is_test"], "test", np.where(dealt == "validation", "validation", "train"))
    return rows.assign(split=named)[~leaking].reset_index(drop=True)


def _template(dataset: str, prompt: str) -> tuple[str, str]:
    """What stands before and after the entity."""
    own = DATASETS[dataset].prompts if dataset in DATASETS else {}
    template = {**PROMPTS, **own}.get(prompt, prompt)
    if template.count("{}") != 1:
        raise ValueError(f"prompt must be one of {', '.join([*PROMPTS, *own])}, or a template with one {{}} for the "
                         f"entity, not {prompt!r}")
    before, after = template.split("{}")
    return before, after


def _cased(entity: str, prompt: str) -> str:
    if prompt.endswith("_all_caps"):
        return entity.upper()
    return entity.removesuffix(".") if prompt.endswith("_wo_period") else entity


def _random_tokens(tokenizer, n: int, seed: int) -> Int[ndarray, "prompt inserted"]:
    words = np.setdiff1d(np.arange(_FIRST_WORD, len(tokenizer)), tokenizer.all_special_ids)
    if not len(words):
        raise ValueError(f"the prompt `random` draws tokens from id {_FIRST_WORD}, the tokenizer has {len(tokenizer)}; "
                         "use another prompt")
    return np.random.default_rng(seed).choice(words, (n, N_RANDOM))


def _with_block_means(prompts: LabelledPrompts) -> LabelledPrompts:
    examples, train = prompts.examples, prompts.rows("train")
    scheme = next(s for s in prompts.schemes if s != "block_mean")
    if examples["block"].nunique() < 2:
        return prompts
    for target in prompts.targets(scheme):
        label = examples[f"{scheme}/{target}"]
        means = label[train].groupby(examples["block"][train]).mean()
        examples = examples.assign(**{f"block_mean/{target}": examples["block"].map(means).fillna(label[train].mean())})
    return replace(prompts, examples=examples, shortcuts={scheme: ("block_mean",)})
