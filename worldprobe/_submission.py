"""Results from others, read as what they are: bytes of a stranger.

`read_submission` takes a results file (JSON, as every run writes beside its parquet) and refuses what breaks a rule,
with a reason: size, depth, doubled keys, numbers that are none, text that a terminal would obey, columns and types that
no result has, a digest that does not fit, values outside what a metric can be, and every rule of `probing.validate`.
`recompute` goes through the scores of single examples, where they are given, and makes value and interval again.
"""

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from probing._result_files import _digest
from probing._results import COLUMNS, SCHEMA_VERSION, ResultsError, results_frame, validate
from probing._statistics import N_BOOT, bootstrap_mean

from ._terminal import obeyed, plain

MAX_BYTES, MAX_SAMPLE_BYTES = 32 << 20, 64 << 20
MAX_DEPTH, MAX_ROWS, MAX_TEXT, MAX_METADATA, MAX_NUMBER = 12, 100_000, 300, 20_000, 1e18
MOST_LAYERS = 10_000
SHARES = {"accuracy", "balanced_accuracy", "f1", "macro_f1", "auroc", "ece", "flip_rate", "iia", "mass_after",
          "mass_before", "mass_sum", "top1_right", "top1_valid", "legal_top1", "legal_mass", "legal_follow",
          "answers_kept", "tcav", "specificity_target", "specificity_others"}  # between 0 and 1
ATLEAST_0 = {"log_loss", "kl", "loss", "entropy", "mae", "set_error", "error_ratio", "perplexity_ratio"}
_MEANS = {"accuracy", "set_error", "flip_rate", "kl", "loss", "log_odds", "mass_after", "mass_before", "mass_sum",
          "entropy", "top1_right", "legal_top1", "legal_mass", "iia"}  # over examples: what `recompute` can make again
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"')
_FORMS = {"model_hash": re.compile(r"[\w.:+-]{1,128}"),  # a digest; data may also be named: 2000 mazes of seed 3
          "data_hash": re.compile(r"[\w.:+,()= -]{1,128}")}


class SubmissionError(ResultsError):
    """The submission is refused; the message says what to mend."""


@dataclass(frozen=True)
class Submission:
    """A submission that holds all rules.

    Attributes:
        digest: sha256 of metadata and rows.
        recomputed: Which rows were made again from the scores of single examples.
    """

    table: pd.DataFrame
    metadata: dict
    version: int
    digest: str
    recomputed: np.ndarray


def read_submission(path: str | Path, samples: str | Path | None = None) -> Submission:
    """A results file of a stranger; with the samples beside it (NAME.samples.json), if there are any.

    Args:
        samples: Another file of samples; see `recompute`.
    Raises:
        SubmissionError: With the first thing that is wrong with its form, or all rules that its rows break.
    """
    path = Path(path)
    data = _bytes(path, MAX_BYTES)
    beside = path.with_suffix(".samples.json")
    scores = _bytes(Path(samples), MAX_SAMPLE_BYTES) if samples else (
        _bytes(beside, MAX_SAMPLE_BYTES) if beside.exists() else None)
    return parse(data, scores)


def parse(data: bytes, samples: bytes | None = None) -> Submission:
    """The submission in the bytes of a file, and of its samples.

    Raises:
        SubmissionError: As `read_submission`.
    """
    if len(data) > MAX_BYTES:
        raise SubmissionError(f"a submission has at most {MAX_BYTES >> 20} MB, this one {len(data) / 2**20:.1f}; "
                              "split it by task or model")
    head = _loaded(data, MAX_DEPTH)
    if not isinstance(head, dict) or set(head) != {"schema_version", "digest", "metadata", "rows"}:
        raise SubmissionError("a submission is an object with schema_version, digest, metadata and rows, and nothing "
                              f"else; this is {_shape(head)}. Send the results.json of a run")
    version, digest, metadata, rows = (head[k] for k in ("schema_version", "digest", "metadata", "rows"))
    if type(version) is not int or version not in range(1, SCHEMA_VERSION + 1):
        raise SubmissionError(f"schema_version is {_shown(version)}, known are 1 to {SCHEMA_VERSION}; write the "
                              "results with this version of worldprobe")
    if not isinstance(metadata, dict):
        raise SubmissionError(f"metadata must be an object, it is {_shape(metadata)}")
    _check_metadata(metadata)
    _check_rows(rows)
    if _digest(metadata, rows) != digest:
        raise SubmissionError("the content does not match its digest: the file is damaged or was edited; send it as "
                              "the run wrote it")
    try:
        table = validate(results_frame(rows), version)
    except ResultsError as error:
        raise SubmissionError(plain_lines(str(error))) from error
    except (ArithmeticError, TypeError, ValueError) as error:
        raise SubmissionError(f"the rows make no table ({plain(error)[:200]})") from error
    _check_values(table)
    done = np.zeros(len(table), bool) if samples is None else recompute(table, samples, digest)
    return Submission(table, metadata, version, digest, done)


def recompute(table: pd.DataFrame, samples: bytes, digest: str) -> np.ndarray:
    """Which rows were made again: (row,). Samples are a JSON object

        {"digest": that of the results, "samples": [{"row": 0, "group": [3, 3, 8], "score": [1, 0, 1]}, ...]}

    with one score per example or case, whose mean is the value of that row of the results, and the groups that its
    interval resamples, with the row's own seed and 1,000 draws.

    Raises:
        SubmissionError: A sample is of another table, of a row or metric that has no mean, or does not give the number.
    """
    if len(samples) > MAX_SAMPLE_BYTES:
        raise SubmissionError(f"samples have at most {MAX_SAMPLE_BYTES >> 20} MB; send those of fewer rows")
    head = _loaded(samples, 5)
    if not isinstance(head, dict) or set(head) != {"digest", "samples"} or not isinstance(head["samples"], list):
        raise SubmissionError(f"samples are an object with digest and samples, a list; this is {_shape(head)}")
    if head["digest"] != digest:
        raise SubmissionError("the samples belong to other results: their digest is not that of this file")
    done = np.zeros(len(table), bool)
    for i, sample in enumerate(head["samples"]):
        row, scores, groups = _sample(sample, i, len(table))
        _compare(table.iloc[row], scores, groups, row)
        done[row] = True
    return done


def plain_lines(text: str) -> str:
    """Lines of a message, each safe to print."""
    return "\n".join(plain(line) for line in text.splitlines())


def _bytes(path: Path, most: int) -> bytes:
    if not path.is_file():
        raise SubmissionError(f"there is no file {plain(path)}; name the results.json of a run")
    if (size := path.stat().st_size) > most:
        raise SubmissionError(f"{plain(path.name)} has {size / 2**20:.1f} MB, at most {most >> 20} are read; split it")
    return path.read_bytes()


def _loaded(data: bytes, depth: int) -> Any:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SubmissionError(f"a submission is JSON in UTF-8, byte {error.start} is not; send the results.json of "
                              "a run, not its .parquet") from error
    marks = np.frombuffer(re.sub(rb"[^\[\]{}]+", b"", _STRING.sub(b"", data)), np.uint8)
    level = np.cumsum(np.where((marks == ord("[")) | (marks == ord("{")), 1, -1))
    if len(level) and level.max() > depth:
        raise SubmissionError(f"values are nested {level.max()} deep, at most {depth} are read")
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_number, parse_int=_int,
                          parse_float=_float)
    except SubmissionError:
        raise
    except (ValueError, RecursionError) as error:
        raise SubmissionError(f"this is no JSON: {plain(error)[:200]}; send the results.json of a run") from error


def _object(pairs: list[tuple[str, Any]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(k for k, _ in pairs).most_common(1)
        raise SubmissionError(f"the key {_shown(twice)} stands twice in one object; keep one")
    return found


def _no_number(name: str) -> None:
    raise SubmissionError(f"{name} is no JSON number; leave out what does not apply")


def _int(text: str) -> int:
    if len(text) > 19 or not -(2**63) <= int(text) < 2**63:
        raise SubmissionError(f"the whole number {text[:24]} has no room in 64 bits")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or len(text) > 40:
        raise SubmissionError(f"the number {text[:24]} is not finite, or longer than a number is")
    return value


def _check_metadata(metadata: dict) -> None:
    size = len(json.dumps(metadata))
    if size > MAX_METADATA:
        raise SubmissionError(f"the metadata has {size:,} characters, at most {MAX_METADATA:,} are read")
    todo: list[Any] = [metadata]
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            todo += [*value, *value.values()]
        elif isinstance(value, list):
            todo += value
        elif isinstance(value, str) and obeyed(value):
            raise SubmissionError(f"the metadata has characters that a terminal would obey: {_shown(value)}")


def _check_rows(rows: Any) -> None:
    if not isinstance(rows, list) or not 0 < len(rows) <= MAX_ROWS:
        raise SubmissionError(f"rows must be a list of 1 to {MAX_ROWS:,} objects, it is {_shape(rows)}")
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            raise SubmissionError(f"row {i} must be an object, it is {_shape(row)}")
        for column, value in row.items():
            if column not in COLUMNS:
                raise SubmissionError(f"row {i} has a column {_shown(column)} that no result has")
            kind = COLUMNS[column][0]
            fits = type(value) is str if kind == "str" else type(value) is int if kind == "Int64" else (
                type(value) in (int, float))
            if not fits:
                raise SubmissionError(f"row {i}: {column} must be {_KINDS[kind]}, it is {_shown(value)}; what does not "
                                      "apply is left out")
            if kind != "str" and abs(value) > MAX_NUMBER:
                raise SubmissionError(f"row {i}: {column} is {value:g}, beyond {MAX_NUMBER:g}")
            if kind == "str" and not (0 < len(value) <= MAX_TEXT and value.strip() == value and not obeyed(value)):
                raise SubmissionError(f"row {i}: {column} must be 1 to {MAX_TEXT} characters without spaces around "
                                      f"them and without any that a terminal would obey, it is {_shown(value)}")


_KINDS = {"str": "text", "Int64": "a whole number", "float64": "a number"}


def _check_values(table: pd.DataFrame) -> None:
    """What a metric can be, and counts and places that exist."""
    metric = table["metric"].to_numpy(object)
    value, low, high = (table[c].to_numpy() for c in ("value", "ci_low", "ci_high"))
    low, high = np.fmin(value, low), np.fmax(value, high)
    first, last = (table[c].to_numpy(float, na_value=np.nan) for c in ("layer", "layer_end"))
    sizes = np.stack([table[c].to_numpy() for c in ("applied_norm", "norm_share", "sds")])
    slack = 1e-6  # what rounding in float32 can do to a sum
    share, floor = (np.isin(metric, sorted(names)) for names in (SHARES, ATLEAST_0))
    for bad, text in (
        (share & ((low < -slack) | (high > 1 + slack)), "a share is between 0 and 1"),
        (floor & (low < -slack), "this metric is at least 0"),
        ((metric == "r2") & (high > 1 + slack), "r2 is at most 1"),
        ((first < 0) | (last > MOST_LAYERS), f"layers are 0 to {MOST_LAYERS:,}"),
        (last < first, "layer_end is not before layer"),
        (table["n_groups"].to_numpy(float, na_value=np.nan) < 1, "n_groups is at least 1"),
        ((sizes < 0).any(0), "a size is not negative"),
    ):
        wrong = np.flatnonzero(bad)
        if len(wrong):
            row = table.iloc[wrong[0]]
            raise SubmissionError(f"{len(wrong)} of {len(table)} rows: {text}. Found at row {wrong[0]} "
                                  f"({plain(row['metric'])} {row['value']:g} [{row['ci_low']:g}, {row['ci_high']:g}])")
    for column, form in _FORMS.items():
        odd = [v for v in table[column].dropna().unique() if not form.fullmatch(v)]
        if odd:
            raise SubmissionError(f"{column} must be a digest, it is {_shown(odd[0])}")


def _sample(sample: Any, i: int, n_rows: int) -> tuple[int, np.ndarray, np.ndarray]:
    if not isinstance(sample, dict) or set(sample) != {"row", "group", "score"}:
        raise SubmissionError(f"sample {i} must have row, group and score, and nothing else; it is {_shape(sample)}")
    row, groups, scores = sample["row"], sample["group"], sample["score"]
    if type(row) is not int or not 0 <= row < n_rows:
        raise SubmissionError(f"sample {i}: row must be a number from 0 to {n_rows - 1}, it is {_shown(row)}")
    lists = isinstance(groups, list) and isinstance(scores, list) and len(groups) == len(scores) > 0
    if not lists or not all(type(g) is int for g in groups) or not all(type(s) in (int, float) for s in scores):
        raise SubmissionError(f"sample {i}: group must be whole numbers and score numbers, as many of each")
    return row, np.array(scores, float), np.array(groups)


def _compare(row: pd.Series, scores: np.ndarray, groups: np.ndarray, i: int) -> None:
    if row["metric"] not in _MEANS or row["control"] in ("random_direction", "random_subspace", "random_heads"):
        raise SubmissionError(f"row {i}: {plain(row['metric'])} is no mean over examples; give samples of rows that "
                              "are: " + ", ".join(sorted(_MEANS)))
    n_groups = len(np.unique(groups))
    if len(scores) > row["n"] or (pd.notna(row["n_groups"]) and n_groups != row["n_groups"]):
        raise SubmissionError(f"row {i}: the samples are {len(scores)} in {n_groups} groups, the row has n = "
                              f"{row['n']} in {row['n_groups']}")
    seed = 0 if pd.isna(row["seed"]) else int(row["seed"])
    if not 0 <= seed < 2**32:
        raise SubmissionError(f"row {i}: seed {seed} is none; a seed is between 0 and 2**32")
    found = bootstrap_mean(scores, groups, N_BOOT, seed)
    said = row[["value", "ci_low", "ci_high"]].astype(float).to_numpy()
    given = ~np.isnan(said)
    if not np.allclose(np.array(found)[given], said[given], rtol=1e-6, atol=1e-9):
        made = ", ".join(f"{v:.6g}" for v in found)
        raise SubmissionError(f"row {i}: its samples give {made} (value, ci_low, ci_high), the row says "
                              + ", ".join(f"{v:.6g}" for v in said))


def _shape(value: Any) -> str:
    if isinstance(value, dict):
        return "an object with " + (", ".join(_shown(k) for k in list(value)[:8]) or "nothing in it")
    return f"a list of {len(value)}" if isinstance(value, list) else _shown(value)


def _shown(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, dict | list) else _shape(value)
    return plain(text if len(text) <= 80 else text[:77] + "...")
