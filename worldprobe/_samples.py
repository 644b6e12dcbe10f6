"""Scores of single examples, written beside the results of a run, from which others make its numbers again.

    DIR/results.samples.json     {"digest": that of results.json, "samples": [{"row", "group", "score"}, ...]}

`worldprobe leaderboard validate DIR/results.json` reads them, see `_submission.recompute`. There are those of the best
probe of every reading of classes, on its test examples, and of the edit that did most of every change, on the cases
kept for reporting. R2 is no mean over examples and has none.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from jaxtyping import Float, Int
from numpy import ndarray

from probing._statistics import bootstrap_mean
from tasks._files import write_whole
from tasks._study import Changed, Found, Read, Reading, Study

from ._rows import pick
from ._verdicts import best_probe

DIGITS = 9  # of a score: the interval it makes agrees to six


class Sample(NamedTuple):
    """Scores of the examples behind one row of the results, and the group of each, as whole numbers."""

    row: int
    group: Int[ndarray, " example"]
    score: Float[ndarray, " example"]


def write_samples(results: Path, samples: Sequence[Sample]) -> Path | None:
    """Writes `results.samples.json` beside `results.parquet`; without samples it removes an old one."""
    path = results.with_suffix(".samples.json")
    if not samples:
        path.unlink(missing_ok=True)
        return None
    head = json.loads(pq.read_schema(results).metadata[b"worldprobe"])
    found = [{"row": s.row, "group": s.group.tolist(), "score": np.round(s.score, DIGITS).tolist()} for s in samples]
    write_whole(path, json.dumps({"digest": head["digest"], "samples": found}, separators=(",", ":")).encode())
    return path


def samples_of(study: Study, found: Found, table: pd.DataFrame) -> Iterator[Sample]:
    """Those of a study.

    Args:
        table: As it is written: its rows are counted from 0.
    """
    table = table.reset_index(drop=True)
    for reading in study.readings:
        if reading.name in found.readings:
            yield from _of_reading(reading, found.readings[reading.name], pick(table, model=found.model))
    for name, changed in found.changes.items():
        yield from _of_change(name, changed, pick(table, model=found.model))


def sample(row: pd.Series, groups: Sequence | ndarray, score: Float[ndarray, " example"]) -> Iterator[Sample]:
    """The sample of a row, if its scores give the row's number and interval."""
    codes = np.unique(np.asarray(groups), return_inverse=True)[1]
    made = bootstrap_mean(score, codes, seed=0 if pd.isna(row["seed"]) else int(row["seed"]))
    said = row[["value", "ci_low", "ci_high"]].astype(float).to_numpy()
    if np.allclose(made, said, rtol=1e-7, atol=1e-9) and len(score) <= row["n"]:
        assert isinstance(row.name, int | np.integer)
        yield Sample(int(row.name), codes, score)


def right(read: Read, label: str) -> Float[ndarray, " row"]:
    """Share of the targets of each test example that are read rightly."""
    truth = read.prompts.labels(label)[read.rows]
    said = read.values > 0.5 if len(read.prompts.classes[label]) == 2 else read.values
    return (said == truth).mean(1)


def _of_reading(reading: Reading, read: Read, table: pd.DataFrame) -> Iterator[Sample]:
    rows = pick(table, positions=reading.name, intervention=None)
    rows = rows[~rows["revision"].fillna("").str.startswith("step ")]
    scored = pick(rows, label=reading.label, metric="accuracy", split="test", control=None, subset="all")
    if scored.empty or not read.prompts.classes.get(reading.label):
        return
    best = best_probe(rows, reading.label, "accuracy")
    yield from sample(best, read.prompts.examples["group"].to_numpy()[read.rows], right(read, reading.label))


def _of_change(name: str, changed: Changed, table: pd.DataFrame) -> Iterator[Sample]:
    cases, rows = changed.cases, changed.rows
    own = pick(table, label=name, positions=changed.place, intervention=changed.verb, probe=changed.probe,
               stream=changed.stream, layer=changed.layer, alpha=changed.alpha, control=None, split="report")
    first, then = changed.before.argmax(1), changed.after.argmax(1)
    at = np.arange(len(rows))
    turned = cases.right_after[rows][at, then] & ~cases.right_after[rows][at, first]
    solved = cases.right_before[rows][at, first]
    moved = (changed.after * cases.right_after[rows]).sum(1, dtype=np.float64)
    for metric, score in (("flip_rate", turned.astype(float)), ("mass_after", moved)):
        for subset, kept in (("solved", solved), ("all", np.ones(len(rows), bool))):
            for _, row in pick(own, metric=metric, subset=subset).iterrows():
                if kept.any():
                    yield from sample(row, cases.cases["group"].to_numpy()[rows][kept], score[kept])
