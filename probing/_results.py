"""The results table: one row, one number, and no number without what makes it honest.

What does not apply to a row is missing, never zero. A row is the real thing where `control` is missing; otherwise it
is that control. `validate` refuses a probe without its controls and an effect without its null, its random band and
its interval. On disk: see `write_results`.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import compress

import numpy as np
import pandas as pd

SCHEMA_VERSION = 3  # 2 had no place and size of an edit; 1 no p-values, penalty and input-only control
COLUMNS = {
    "task": ("str", "the task, as in tasks.load(name)"),
    "model": ("str", "the model, as in probing.load_model(name); missing for controls that need no model"),
    "revision": ("str", "revision or checkpoint of the model"),
    "stream": ("str", "resid_pre, resid_mid, resid_post, ...; the embedding is resid_pre of layer 0"),
    "layer": ("Int64", "layer from 0; of a window, the first"),
    "layer_end": ("Int64", "last layer of the window; equal to layer where there is one layer"),
    "head": ("Int64", "attention head, where the site is that of one head"),
    "label": ("str", "label scheme that is read or changed, e.g. mine_theirs"),
    "probe": ("str", "probe, or where the direction of an edit comes from, e.g. logistic, encoding"),
    "control": ("str", "missing for the real thing; else majority, shuffled_labels, shortcut:NAME, null, ..."),
    "intervention": ("str", "missing for a probe; else the verb: flip, erase, steer, patch, ..."),
    "alpha": ("float64", "dose of the edit, in `unit`"),
    "unit": ("str", "absolute, natural (class pattern distances), sd, norm, ..."),
    "positions": ("str", "tokens that are read or edited: last, all, 3, -2, ..., or the name of a place"),
    "applied_norm": ("float64", "size of the edit, mean norm of what it adds at a token, in activation units"),
    "norm_share": ("float64", "the same as a share of the norm of the activation it is added to"),
    "class_distances": ("float64", "the same in distances between the class means along its direction"),
    "sds": ("float64", "the same in standard deviations of activations along its direction"),
    "metric": ("str", "accuracy, f1, r2, set_error, recovery, ..."),
    "split": ("str", "train, validation, test; of edits choose or report"),
    "subset": ("str", "all, occupied, pos=11, target=c4, ..."),
    "value": ("float64", "the number"),
    "ci_low": ("float64", "low end of the 95 % interval; of a random band, the 5th percentile of the draws"),
    "ci_high": ("float64", "high end of the 95 % interval; of a random band, the 95th percentile of the draws"),
    "n": ("Int64", "targets scored; of a random band, draws"),
    "n_groups": ("Int64", "groups that the interval resamples"),
    "seed": ("Int64", "seed of whatever was random"),
    "penalty": ("float64", "C or alpha of the probe, chosen on validation where there were several"),
    "p_value": ("float64", "how likely so extreme a value is where there is nothing"),
    "p_adjusted": ("float64", "the p-value after `correction` over all cells of the table that have one"),
    "correction": ("str", "benjamini_hochberg, holm, bonferroni (tcav) or none"),
    "model_hash": ("str", "digest of the weights that were run"),
    "data_hash": ("str", "digest of the prompts or cases"),
}
_SAID = ("applied_norm", "norm_share", "class_distances", "sds", "value", "ci_low", "ci_high", "n", "n_groups",
         "penalty", "p_value", "p_adjusted", "correction", "model_hash", "data_hash")
KEY = [c for c in COLUMNS if c not in _SAID]
MIN_DRAWS = 20  # random directions behind a band
BANDS = ("random_direction", "random_heads")  # what an effect is held against; the latter where heads are cut
_MODEL_FREE = ("majority", "majority_by_position", "shortcut:", "input_only", "ideal_null")
_SAME_SCORE = ["task", "label", "metric", "split", "subset"]
_WINDOW = ["stream", "layer", "layer_end"]
_SHOWN = 3  # offending rows named per rule


class ResultsError(ValueError):
    """The table breaks a rule of the results; the message names rows and says what to add."""


def results_frame(rows: Iterable[Mapping]) -> pd.DataFrame:
    """A results table from one mapping per row; columns that a row lacks, or holds as None, are missing.

    Raises:
        ResultsError: A row has a column that no result has.
    """
    return _typed(pd.DataFrame(list(rows)), fill=True)


def validate(table: pd.DataFrame, version: int = SCHEMA_VERSION) -> pd.DataFrame:
    """The table with its columns in order and their types, once every rule holds.

    Rules: known columns; no empty table; finite values; `n`; task, metric, split, subset and fingerprints; intervals
    that contain their value (of the real thing and of random bands; other controls may go without); no two rows of
    one key; every probe beside the same score of majority, of shuffled labels, of a randomly initialised model, of the
    input alone (the same probe) and of each shortcut that the table has for its label; every effect beside `null` and
    the `random_direction` band (at least 20 draws; `random_heads` where heads are cut) of the same edit. A `null` that
    leaves probe, layers or dose missing holds for all of them. p-values are between 0 and 1, and each names its
    correction.

    Args:
        version: Schema under which the table was made: version 1 asked for no score of the input alone.
    Raises:
        ResultsError: With every broken rule, the first rows that break it, and what to add.
    """
    table = _typed(table, fill=False).reset_index(drop=True)
    if table.empty:
        raise ResultsError("a results table needs at least one row, it has none; run the study before saving it")
    codes = _codes(table)
    rules = (_numbers, partial(_context, codes), _intervals, partial(_keys, codes), partial(_probes, version, codes),
             _chances, partial(_effects, codes))
    problems = [_problem(table, bad, text) for rule in rules for bad, text in rule(table) if bad.any()]
    if problems:
        raise ResultsError("\n".join(problems))
    return table


def _typed(table: pd.DataFrame, fill: bool) -> pd.DataFrame:
    if unknown := [c for c in table if c not in COLUMNS]:
        raise ResultsError(f"unknown columns {unknown}; a result has {', '.join(COLUMNS)}. Rename or drop them; what "
                           "describes the whole table goes into the metadata of write_results")
    if [(c, t) for c, t in table.dtypes.items()] == [(c, t) for c, (t, _) in COLUMNS.items()]:
        return table
    missing = [c for c in COLUMNS if c not in table]
    if missing and not fill:
        raise ResultsError(f"columns {missing} are missing; build the table with results_frame(rows), which adds them")
    try:
        nothing = pd.Series(np.nan, index=table.index)
        return pd.DataFrame({c: _as(table[c] if c in table else nothing, dtype) for c, (dtype, _) in COLUMNS.items()})
    except (TypeError, ValueError) as error:
        column = next(c for c, (dtype, _) in COLUMNS.items() if c in table and not _fits(table[c], dtype))
        raise ResultsError(f"column {column!r} must be {COLUMNS[column][0]}: {error}") from error


def _as(values: pd.Series, dtype: str) -> pd.Series:
    return values if values.dtype == dtype else values.astype(dtype)


def _fits(values: pd.Series, dtype: str) -> bool:
    try:
        values.astype(dtype)
    except (TypeError, ValueError):
        return False
    return True


def _problem(table: pd.DataFrame, bad: np.ndarray, text: str) -> str:
    rows = np.flatnonzero(bad)
    named = "; ".join(f"row {i} ({_describe(table.iloc[i])})" for i in rows[:_SHOWN])
    return f"{len(rows)} of {len(table)} rows: {text} Found at {named}{' ...' if len(rows) > _SHOWN else ''}"


def _describe(row: pd.Series) -> str:
    return " ".join(f"{c}={row[c]}" for c in KEY if pd.notna(row[c]) and c not in ("revision", "seed"))


Rule = Iterator[tuple[np.ndarray, str]]


def _numbers(table: pd.DataFrame) -> Rule:
    yield ~np.isfinite(table["value"].to_numpy()), "the value is not a finite number; leave out rows that do not apply."
    yield table["n"].isna().to_numpy() | (table["n"].fillna(1) < 1).to_numpy(), "n is missing or below 1; say how many."


def _context(codes: "Codes", table: pd.DataFrame) -> Rule:
    for column in ("task", "metric", "split", "subset"):
        yield _lacks(codes, column), f"{column} is missing; name it."
    studied = ~_lacks(codes, "probe") | ~_lacks(codes, "intervention")
    yield studied & _lacks(codes, "label"), "label is missing; name the scheme that is read or changed."
    real = _lacks(codes, "control")
    siteless = _lacks(codes, "stream") | _lacks(codes, "layer") | _lacks(codes, "layer_end")
    yield real & studied & siteless, "stream, layer or layer_end is missing; name the site."
    yield ~_lacks(codes, "alpha") & _lacks(codes, "unit"), "a dose without its unit; set unit beside alpha."
    yield table["data_hash"].isna().to_numpy(), "data_hash is missing; set the digest of the prompts or cases."
    model_free = table["control"].fillna("").str.startswith(_MODEL_FREE).to_numpy()
    yield ~model_free & _lacks(codes, "model"), "model is missing; only controls that need no model may leave it out."
    yield ~model_free & table["model_hash"].isna().to_numpy(), "model_hash is missing; set the digest of the weights."


def _intervals(table: pd.DataFrame) -> Rule:
    value, low, high = (table[c].to_numpy() for c in ("value", "ci_low", "ci_high"))
    control = table["control"]
    needed = (control.isna() | control.isin(BANDS)).to_numpy(bool)
    given = ~np.isnan(low) & ~np.isnan(high)
    yield needed & ~given, "the interval is missing; set ci_low and ci_high (see bootstrap_mean)."
    yield np.isnan(low) != np.isnan(high), "one end of the interval is missing; set both or neither."
    yield np.isinf(low) | np.isinf(high), "the interval is infinite; resample more groups, or leave the row out."
    slack = 1e-9 * np.maximum(1, np.abs(value))  # a mean of equal values is off by a rounding
    outside = (value < low - slack) | (value > high + slack)
    yield outside, "the interval does not contain the value; compute both from the same examples."


def _keys(codes: "Codes", table: pd.DataFrame) -> Rule:
    _, which, times = np.unique(_joined(list(codes.values())), return_inverse=True, return_counts=True)
    yield times[which] > 1, f"the same key twice ({', '.join(KEY)}); keep one of them."


def _chances(table: pd.DataFrame) -> Rule:
    for column in ("p_value", "p_adjusted"):
        p = table[column].fillna(0).to_numpy()
        yield (p < 0) | (p > 1), f"{column} is not between 0 and 1."
    lone = (table["p_value"].notna() & (table["p_adjusted"].isna() | table["correction"].isna())).to_numpy()
    yield lone, "a p-value without its correction over the table; set p_adjusted and correction (see correct_p_values)."


def _probes(version: int, codes: "Codes", table: pd.DataFrame) -> Rule:
    real = _lacks(codes, "intervention") & _lacks(codes, "control")
    nameless = _lacks(codes, "probe")
    scored = ~_lacks(codes, "label")
    yield real & nameless & scored, "a label is scored, but by what? Set probe, or for a baseline control."
    probes = real & ~nameless
    control = table["control"].fillna("").astype(object).to_numpy()
    fix = "add that control with the same {0}, or drop the row."
    for name in ("majority", "shuffled_labels", "random_init", "input_only")[: 3 if version == 1 else None]:
        exact = [*_SAME_SCORE, "probe"] if name != "majority" else _SAME_SCORE
        bad = probes & ~_beside(codes, control == name, exact, ["model", "revision"])
        yield bad, f"a probe without its control {name!r}; " + fix.format(", ".join(["model", *exact]))
    edited = ~_lacks(codes, "intervention")
    for name in sorted({c for c in control if c.startswith("shortcut:")}):
        rows = (control == name) & ~edited
        due = probes & _beside(codes, rows, ["task", "label"], [])
        bad = due & ~_beside(codes, rows, _SAME_SCORE, ["model", "revision"])
        yield bad, f"a probe without the control {name!r} of its label; " + fix.format(", ".join(_SAME_SCORE))


def _effects(codes: "Codes", table: pd.DataFrame) -> Rule:
    metric = table["metric"].fillna("")
    of_doses = metric.str.startswith("alpha").to_numpy(bool)  # no edit has no such dose
    edits, bands = ~_lacks(codes, "intervention"), table["control"].isin(BANDS).to_numpy(bool)
    effects = edits & _lacks(codes, "control") & ~of_doses
    same, arm = ["model", "revision", "intervention", *_SAME_SCORE], ["probe", *_WINDOW, "alpha", "unit", "positions"]
    null = edits & (table["control"] == "null").fillna(False).to_numpy(bool)
    bad = effects & ~_beside(codes, null, same, arm)
    yield bad, f"an effect without its 'null' (no edit); add one with the same {', '.join(same)}, and arm or none."
    bad = effects & ~_beside(codes, edits & bands, [*same, *arm], [])
    yield bad, (f"an effect without its 'random_direction' band; add one with the same {', '.join([*same, *arm])}: "
                "mean of the draws, their 5th and 95th percentile, and n = draws.")
    contrasts = metric.str.endswith(("_difference", "_over_band")).to_numpy(bool)  # n counts cases there
    few = bands & (table["n"].fillna(MIN_DRAWS) < MIN_DRAWS).to_numpy(bool) & ~contrasts
    yield few, f"a band of fewer than {MIN_DRAWS} random draws; draw at least {MIN_DRAWS}."


Codes = Mapping[str, np.ndarray]  # column -> a number per row, equal where the values are, -1 where there is none


def _codes(table: pd.DataFrame) -> Codes:
    return {c: pd.factorize(table[c])[0].astype(np.int64) for c in KEY}


def _lacks(codes: Codes, column: str) -> np.ndarray:
    return codes[column] < 0


def _beside(codes: Codes, controls: np.ndarray, exact: list[str], optional: list[str]) -> np.ndarray:
    """Which rows have a row among `controls` that agrees on `exact`, and on those of `optional` that the control
    states; missing agrees with missing: (row,)."""
    found, where = np.zeros(len(controls), bool), np.flatnonzero(controls)
    stated = np.array([codes[c][where] >= 0 for c in optional], bool).reshape(len(optional), len(where)).T
    for pattern in set(map(tuple, stated.tolist())):
        rows = where[(stated == pattern).all(1)]
        key = _joined([codes[c] for c in (*exact, *compress(optional, pattern))])
        found |= np.isin(key, key[rows])
    return found


def _joined(columns: list[np.ndarray]) -> np.ndarray:
    """One number per row, equal where all columns are: (row,)."""
    key, size = np.zeros(len(columns[0]), np.int64), 1
    for code in columns:
        n = int(code.max()) + 2
        if size * n >= 2**62:
            _, key = np.unique(key, return_inverse=True)
            size = int(key.max()) + 1
        key, size = key * n + code + 1, size * n
    return key
