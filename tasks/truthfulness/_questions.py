"""Questions with right and wrong answers, probed at the exact answer."""

from pathlib import Path

import numpy as np
import pandas as pd

from .._csv import read_csv
from .._positions import NAMED
from .._prompts import LabelledPrompts, split_by_group
from .._text import tokenise
from ._datasets import binary
from ._load import CLASSES, both_labels

ANSWERED = ("question", "answer", "label")
LISTED = ("question", "best_answer", "correct_answers", "incorrect_answers")
TEMPLATE = "Q: {question}\nA: {answer}"
PLACES = ("before_answer", "answer_first", "answer_last", "end")


def questions(file: str | Path, tokenizer, *, n: int | None = None, seed: int = 0, at: str = "answer_last",
              template: str = TEMPLATE, bos: bool = True, context: int | None = None) -> LabelledPrompts:
    """Questions with an answer each, and whether it is true: the scheme `truth`, with the one target `statement`.

    Examples are probed at the last token of the exact answer; `prompts.at(...)` moves them to `answer_first`,
    `before_answer` (the token before that) or `end` (the last token). The exact answer is the column `exact_answer`
    where there is one, the part of a long answer that makes it right or wrong (`The capital is Paris, I think.`:
    Paris), otherwise the answer without the full stop that ends it. A group is a question.

    Args:
        file: A CSV file with the columns of TruthfulQA.csv: `Question`, `Best Answer`, `Correct Answers` and
            `Incorrect Answers`, the latter two separated by semicolons; every answer is a prompt, once. Or one with
            `question`, `answer` and `label` (1 true), and perhaps `exact_answer`. Capitals in names do not matter.
        n: Take so many questions at random, with all their answers.
        template: Text of a prompt.
    Raises:
        FileNotFoundError: No such file.
        ValueError: A column is missing, a question or an answer is empty, an exact answer is not part of its answer, a
            label is not 0 or 1, a split has labels of one kind, or a prompt is longer than the context.
    Source: Lin et al., arXiv:2109.07958 (the format); Orgad et al., arXiv:2410.02707, section 3 (the positions).
    """
    if at not in PLACES:
        raise ValueError(f"at must be one of {PLACES}, not {at!r}")
    if template.count("{answer}") != 1 or "{question}" not in template:
        raise ValueError(f"a template has {{question}}, and {{answer}} once, not {template!r}")
    rows = read_answers(file)
    if n is not None:
        some = np.random.default_rng(seed).permutation(rows["question"].unique())[:n]
        rows = rows[rows["question"].isin(some)].reset_index(drop=True)
    rows["split"] = split_by_group(rows["question"].to_numpy(dtype=object), seed)
    rows["truth/statement"] = rows.pop("label")
    both_labels(rows)
    texts, characters = [], []
    for question, answer, exact in zip(rows["question"], rows["answer"], rows["exact_answer"], strict=True):
        before, after = (part.replace("{question}", question) for part in template.split("{answer}"))
        first = len(before) + answer.rindex(exact)
        texts.append(before + answer + after)
        characters.append([max(first - 1, 0), first, first + len(exact) - 1, len(texts[-1]) - 1])
    text = tokenise(tokenizer, texts, characters, bos=bos, context=context)
    before_it, first, last, end = text.pos.T
    first = np.where(before_it == first, first, np.minimum(before_it + 1, first))  # of a character of several tokens
    places = {f"{NAMED}{name}": pos for name, pos in zip(PLACES, (np.maximum(first - 1, 0), first, last, end),
                                                        strict=True)}
    where = pd.DataFrame({"prompt": range(len(rows)), "pos": places[f"{NAMED}{at}"], "group": rows["question"],
                          **places})
    return LabelledPrompts(task=f"truthfulness-{Path(file).stem}", tokens=text.tokens, lengths=text.lengths,
                           examples=pd.concat([where, rows], axis=1), classes={"truth": CLASSES["truth"]})


def read_answers(file: str | Path) -> pd.DataFrame:
    """One row per question and answer: `row` (of the file), `question`, `answer`, `exact_answer`, `label` (1 true)."""
    if not Path(file).is_file():
        raise FileNotFoundError(f"there is no file {file}; wanted a CSV with columns {', '.join(LISTED)}, or "
                                f"{', '.join(ANSWERED)}")
    table = read_csv(file)
    table.columns = [c.strip().lower().replace(" ", "_") for c in table.columns]
    if set(LISTED) <= set(table):
        table = _listed(table)
    elif missing := [c for c in ANSWERED if c not in table]:
        raise ValueError(f"{file} lacks column(s) {', '.join(missing)}, it has {', '.join(table.columns)}; wanted "
                         f"{', '.join(ANSWERED)}, or {', '.join(LISTED)}")
    else:
        table = table.assign(row=range(len(table)), label=binary(table["label"], Path(file)))
    for name in ("question", "answer"):
        if (empty := table[name].astype(str).str.strip() == "").any():
            raise ValueError(f"{file}: row {table['row'][empty.idxmax()]} has an empty {name}; drop the {empty.sum()} "
                             "such row(s)")
    table[["question", "answer"]] = table[["question", "answer"]].astype(str).apply(lambda c: c.str.strip())
    if "exact_answer" not in table:
        bare = table["answer"].str.removesuffix(".").str.rstrip()
        table["exact_answer"] = bare.where(bare != "", table["answer"])
    table["exact_answer"] = table["exact_answer"].astype(str).str.strip()
    for row, answer, exact in zip(table["row"], table["answer"], table["exact_answer"], strict=True):
        if not exact or exact not in answer:
            raise ValueError(f"{file}: the exact answer {exact!r} of row {row} is not part of the answer {answer!r}; "
                             "correct it, or drop the column exact_answer")
    return table[["row", "question", "answer", "exact_answer", "label"]]


def _listed(table: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for row, question, best, right, wrong in zip(range(len(table)), *(table[c].astype(str) for c in LISTED),
                                                 strict=True):
        right_ones, wrong_ones = (list(dict.fromkeys(filter(None, map(str.strip, answers)))) for answers in
                                  ((best, *right.split(";")), wrong.split(";")))
        rows += [(row, question, answer, 1) for answer in right_ones]
        rows += [(row, question, answer, 0) for answer in wrong_ones if answer not in right_ones]
    return pd.DataFrame(rows, columns=["row", "question", "answer", "label"])
