"""A table of texts with labels, yours or anyone's, as labelled prompts for any Hugging Face tokenizer."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from . import available
from ._csv import read_csv
from ._prompts import SPLITS, LabelledPrompts, split_by_group
from ._text import tokenise


def from_table(table: pd.DataFrame | str | Path, tokenizer, *, text: str = "text", labels: Sequence[str] | None = None,
               group: str | None = None, at: str = "last", shortcuts: Mapping[str, str | Sequence[str]] | None = None,
               name: str | None = None, seed: int = 0, bos: bool = True, context: int | None = None) -> LabelledPrompts:
    """Labelled prompts of a table with one text per row, probed at one token of each.

        prompts = tasks.from_table("mine.csv", model.tokenizer, labels=["animal"], group="noun")

    A label of words, booleans or whole numbers names classes, in alphabetical or ascending order; a label of decimal
    numbers is read as a number, in its units (`frame["year"].astype(float)` makes one of whole numbers).

    Rows are dealt to train, validation and test by `group`, so that nothing is tested on what it was fitted on; a
    column `split` with these three words is taken as it is.

    Args:
        table: A data frame, or a CSV file.
        tokenizer: That of the model to be probed, `model.tokenizer`.
        text: Column of the texts.
        labels: Columns to be read; by default the one called `label`.
        group: Column that says which rows belong together: the thing that a text is about. By default the text itself,
            so that only equal texts do.
        at: `last`, the last token of the text, or the column whose words stand in the text: their last token, where
            they occur last.
        shortcuts: Label -> columns that predict it without a model; every score is reported beside them.
        name: Of the task, for the results; the file's name, unless given, or `table`.
        bos: Begin with the beginning-of-sequence token, where the tokenizer has one.
        context: Longest prompt in tokens; what the tokenizer says, unless given.
    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A column is missing or has empty cells, a label is the same everywhere or different everywhere, a
            group lies in two splits, words are not in their text, a text is longer than the context.
    """
    rows, name = _read(table, name)
    if name.partition("-")[0] in available():
        raise ValueError(f"{name!r} is the name of a task of ours; give your own another, name='my_{name}'")
    names, given = list(labels or ["label"]), {k: _as_list(v) for k, v in (shortcuts or {}).items()}
    predictions = list(dict.fromkeys(column for columns in given.values() for column in columns))
    _check(rows, [text, *names, *predictions, *([group] if group else []), *([at] if at != "last" else [])], name)
    if stray := sorted(set(given) - set(names)):
        raise ValueError(f"shortcuts are given for {stray[0]!r}, which is no label; the labels are {', '.join(names)}")
    texts = rows[text].astype(str).tolist()
    where = [len(t) - 1 for t in texts] if at == "last" else _ends(texts, rows[at].astype(str).tolist(), at)
    found = tokenise(tokenizer, texts, [[k] for k in where], bos=bos, context=context)
    groups = rows[group or text].astype(str)
    examples = {"prompt": np.arange(len(rows)), "pos": found.pos[:, 0], "group": groups.to_numpy(object),
                "split": _splits(rows, groups, seed)}
    classes: dict[str, tuple[str, ...]] = {}
    for column in names:
        examples[f"{column}/{text}"] = _codes(rows, column, classes)
    for column in predictions:
        of = next(label for label, columns in given.items() if column in columns)
        examples[f"{column}/{text}"] = _codes(rows, column, classes, of)
    at_pos = found.tokens[np.arange(len(rows)), found.pos[:, 0]]
    examples["probed"] = tokenizer.convert_ids_to_tokens(at_pos.tolist())
    if text in examples:  # a column called `prompt`
        examples["text"] = texts
    kept = [c for c in rows if c not in examples and "/" not in str(c)]
    return LabelledPrompts(task=name, tokens=found.tokens, lengths=found.lengths, classes=classes,
                           examples=pd.DataFrame(examples).join(rows[kept]),
                           shortcuts={label: tuple(columns) for label, columns in given.items()})


def _read(table: pd.DataFrame | str | Path, name: str | None) -> tuple[pd.DataFrame, str]:
    if isinstance(table, pd.DataFrame):
        return table.reset_index(drop=True), name or "table"
    if not Path(table).is_file():
        raise FileNotFoundError(f"there is no file {table}; give a CSV file or a data frame")
    return read_csv(table, missing=[""]), name or Path(table).stem


def _check(rows: pd.DataFrame, wanted: Sequence[str], name: str) -> None:
    if missing := [c for c in dict.fromkeys(wanted) if c not in rows]:
        raise ValueError(f"{name} has no column {', '.join(map(repr, missing))}, it has "
                         f"{', '.join(map(str, rows.columns))}; name yours with text=, labels=, group=, at=")
    if slashed := [c for c in wanted if "/" in c]:
        raise ValueError(f"the column {slashed[0]!r} has a slash in its name, which here parts a label from its "
                         "targets; rename it")
    for column in wanted:
        if (empty := rows[column].isna() | (rows[column].astype(str).str.strip() == "")).any():
            raise ValueError(f"{name}: {column} is empty in {empty.sum()} row(s), first in row {empty.idxmax()}; fill "
                             "them or drop the rows")
    if len(rows) < 3:
        raise ValueError(f"{name} has {len(rows)} row(s); it needs some for each of train, validation and test")


def _splits(rows: pd.DataFrame, groups: pd.Series, seed: int) -> np.ndarray:
    if "split" not in rows:
        return split_by_group(groups.to_numpy(object), seed)
    if unknown := sorted(set(rows["split"].astype(str)) - set(SPLITS)):
        raise ValueError(f"the column split holds {unknown[0]!r}; write {', '.join(SPLITS)}, or drop the column")
    if (torn := rows["split"].groupby(groups).nunique() > 1).any():
        raise ValueError(f"the group {torn.idxmax()!r} lies in more than one split: a probe would be tested on what it "
                         "was fitted on; keep each group in one split, or drop the column")
    return rows["split"].to_numpy(object)


def _codes(rows: pd.DataFrame, column: str, classes: dict[str, tuple[str, ...]], of: str | None = None) -> np.ndarray:
    """Numbers as they are, classes as codes, entered into `classes`; a prediction is coded as the label it is `of`."""
    if (of is None and pd.api.types.is_float_dtype(rows[column])) or (of is not None and of not in classes):
        return rows[column].astype(float).to_numpy()
    if of is not None:
        code = {word: i for i, word in enumerate(classes[of])}
        if unknown := sorted(set(rows[column].astype(str)) - set(code)):
            raise ValueError(f"the shortcut {column!r} predicts {unknown[0]!r}, which {of!r} never is; it is "
                             f"{', '.join(classes[of][:8])}")
        classes[column] = classes[of]
        return rows[column].astype(str).map(code).to_numpy(np.int64)
    values = sorted(rows[column].unique())
    if len(values) < 2 or 2 * len(values) > len(rows):
        advice = ("there is nothing to tell apart" if len(values) < 2 else
                  f"too many classes to learn; where it is a number, frame[{column!r}].astype(float)")
        raise ValueError(f"the label {column!r} has {len(values)} different value(s) in {len(rows)} rows: {advice}")
    classes[column] = tuple(map(str, values))
    return rows[column].map({value: i for i, value in enumerate(values)}).to_numpy(np.int64)


def _ends(texts: Sequence[str], words: Sequence[str], column: str) -> list[int]:
    """The last character of each row's words, where they occur last in the text."""
    found = [t.rfind(w) + len(w) - 1 if w in t else -1 for t, w in zip(texts, words, strict=True)]
    if -1 in found:
        row = found.index(-1)
        raise ValueError(f"row {row}: {words[row]!r} (column {column!r}) is not in the text {texts[row][:60]!r}; "
                         f"at= wants 'last' or a column whose words stand in the text")
    return found


def _as_list(columns: str | Sequence[str]) -> list[str]:
    return [columns] if isinstance(columns, str) else list(columns)
