"""The examples of a study one by one: the prompts that the best probe of a reading reads best and worst."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray

from tasks import LabelledPrompts
from tasks._shown import _words, _world
from tasks._study import Read, Reading

from ._report import Exhibit, Section, Table
from ._rows import number
from ._study import Done

SHOWN = 3  # of either end
NAMED = 3  # targets that are named
ERROR = "mean absolute error"  # the one score of which less is better
DIGITS = 4  # after the point, of what is read, in the data
BEFORE = 14  # words of a prompt in the page; the rows have all


def items_section(done: Done) -> Section | None:
    """The three best and the three worst test examples of every reading, with the picture of the task; all of them in
    the data of the tables."""
    parts = [items_part(done, reading) for reading in done.study.readings if reading.name in done.found.readings]
    about = ("What the scores are made of. Of every reading the test examples that its best probe (chosen on "
             "validation) reads best and worst, one of a group; the data of a table has all of them.")
    return Section("Example by example", about, subsections=parts) if parts else None


def items_part(done: Done, reading: Reading) -> Section:
    """The same of one reading."""
    read = done.found.readings[reading.name]
    score, what = scores(read, reading.label)
    chosen = ends(score if what != ERROR else -score, read.prompts.examples["group"].to_numpy()[read.rows])
    alike = "" if len(chosen[1]) else " No example is read worse than these."
    named = [f"{end} {i + 1}" for end, some in zip(("best", "worst"), chosen, strict=True) for i in range(len(some))]
    rows, every = np.concatenate(chosen), everything(done, read, reading.label, score, what)
    svg = done.study.draws(done.found, reading.name, rows.tolist(), named) if done.study.draws is not None else None
    svg = drawn_by_task(read, rows.tolist()) if svg is None else svg
    exhibits = [] if svg is None else [Exhibit(
        f"The best and the worst read: {reading.name}", svg, f"{read.where}. Test examples, from the best read to the "
        f"worst.{alike}", every.iloc[rows])]
    shown = pd.DataFrame([
        {"example": name, "truth": truth(read, reading.label, k), "read": said(read, reading.label, k),
         what: number(float(score[k])), "prompt": prompt_text(read.prompts, int(read.rows[k]))}
        for name, k in zip(named, rows.tolist(), strict=True)])
    return Section(reading.words, (), exhibits, [Table(
        f"Best and worst: {reading.name}", shown, f"{read.where}; {len(score):,} test examples.{alike} The probed "
        "token is in brackets.", every.sort_values(what, ascending=what != ERROR, kind="stable"),
        prose=("truth", "read", "prompt"))])


def scores(read: Read, label: str) -> tuple[Float[ndarray, " row"], str]:
    """(a number per test example, what it is): the probability of the true class, a mean over targets; the share of
    targets read rightly where there are more than two classes; the error of numbers, in units of the label."""
    truth = read.prompts.labels(label)[read.rows]
    classes = read.prompts.classes.get(label)
    if not classes:
        return np.abs(truth.astype(float) - read.values).mean(1), ERROR
    if len(classes) == 2:
        return np.where(truth == 1, read.values, 1 - read.values).mean(1), "probability of the truth"
    return (truth == read.values).mean(1), "share read rightly"


def ends(score: Float[ndarray, " row"], groups: Sequence | ndarray) -> tuple[Int[ndarray, " best"],
                                                                               Int[ndarray, " worst"]]:
    """The highest scores, from the top, and the lowest, from the upper one; one of each group, and no group in both.
    Where nothing is read worse than these best ones there are no worst ones."""
    order = np.argsort(-score, kind="stable")
    best = _apart(order, groups)[:SHOWN]
    shown = {groups[k] for k in best}
    worst = [k for k in _apart(order[::-1], groups) if groups[k] not in shown and score[k] < score[best].min()][:SHOWN]
    return np.array(best, np.int64), np.array(worst[::-1], np.int64)


def _apart(order: Int[ndarray, " row"], groups: Sequence | ndarray) -> list[int]:
    """The first row of every group."""
    first: dict = {}
    for k in order.tolist():
        first.setdefault(groups[k], k)
    return list(first.values())


def truth(read: Read, label: str, k: int) -> str:
    """The labels of a test example, in words; of many targets their number."""
    values, targets = read.prompts.labels(label)[read.rows[k]], read.prompts.targets(label)
    if len(targets) > NAMED:
        return f"{len(targets)} targets"
    return ", ".join(_named(t, _worded(read.prompts, label, v), len(targets)) for t, v in zip(targets, values,
                                                                                              strict=True))


def said(read: Read, label: str, k: int) -> str:
    """What the probe reads of a test example; of many targets how many rightly, and which are most wrong."""
    values, targets = read.values[k], read.prompts.targets(label)
    classes, true = read.prompts.classes.get(label), read.prompts.labels(label)[read.rows[k]]
    two = classes is not None and len(classes) == 2
    if len(targets) <= NAMED:
        return ", ".join(_named(t, f"{classes[-1]} {v:.2f}" if two and classes else _worded(read.prompts, label, v),
                                len(targets)) for t, v in zip(targets, values, strict=True))
    off = np.abs(true - values) if two or not classes else (true != values).astype(float)
    wrong = off > 0.5 if classes else np.zeros(len(off), bool)
    far = [i for i in np.argsort(-off, kind="stable")[:NAMED].tolist() if wrong[i] or not classes]
    listed = ", ".join(f"{targets[i]} ({_said_class(read.prompts, label, values[i])}, is "
                       f"{_worded(read.prompts, label, true[i])})" for i in far)
    count = f"{(~wrong).sum()} of {len(targets)} right" if classes else ""
    return "; ".join(part for part in (count, f"most wrong: {listed}" if listed else "") if part)


def prompt_text(prompts: LabelledPrompts, row: int, every: bool = False, decode=None) -> str:
    """A prompt with its probed token in brackets: the last words before it, or `every` word."""
    example = prompts.examples.iloc[row]
    prompt, pos = int(example["prompt"]), int(example["pos"])
    tokens = prompts.tokens[prompt, : int(prompts.lengths[prompt])].tolist()
    if not prompts.vocabulary:
        words, _ = _words(prompts, row)
        return str(decode(tokens)) if every and decode is not None else " ".join(words)
    words = [prompts.vocabulary[t] if t < len(prompts.vocabulary) else str(t) for t in tokens]
    words[pos] = f"[{words[pos]}]"
    start = 0 if every else max(0, pos - BEFORE)
    stop = len(words) if every else pos + 3
    return " ".join([*(["..."] if start else []), *words[start:stop], *(["..."] if stop < len(words) else [])])


def everything(done: Done, read: Read, label: str, score: Float[ndarray, " row"], what: str) -> pd.DataFrame:
    """All test examples: where they are, their labels, what is read of every target, the score, the whole prompt."""
    prompts, targets = read.prompts, read.prompts.targets(label)
    examples = prompts.examples.iloc[read.rows]
    columns: dict[str, object] = {c: examples[c].to_numpy() for c in ("prompt", "pos", "group")}
    columns |= {f"{label}/{t}": prompts.labels(label)[read.rows, i] for i, t in enumerate(targets)}
    columns |= {f"read/{t}": np.round(read.values[:, i], DIGITS) for i, t in enumerate(targets)}
    decode = getattr(getattr(done.found.network, "tokenizer", None), "decode", None)
    texts = [prompt_text(prompts, row, True, decode) for row in read.rows.tolist()]
    return pd.DataFrame(columns | {what: score, "text": texts})


def drawn_by_task(read: Read, rows: Sequence[int]) -> str | None:
    """The examples as their task draws them (`picture` of its module), without what is read; None where it does not."""
    draw = getattr(_world(read.prompts), "picture", None)
    return None if draw is None else str(draw(read.prompts, read.rows[list(rows)].tolist()))


def _named(target: str, value: str, n: int) -> str:
    return value if n == 1 else f"{target} {value}"


def _worded(prompts: LabelledPrompts, label: str, value: float | int) -> str:
    classes = prompts.classes.get(label)
    return str(classes[int(value)]) if classes else f"{float(value):.3g}"


def _said_class(prompts: LabelledPrompts, label: str, value: float | int) -> str:
    classes = prompts.classes.get(label)
    return f"{classes[1]} {value:.2f}" if classes and len(classes) == 2 else _worded(prompts, label, value)
