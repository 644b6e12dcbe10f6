"""Results of a sweep at a glance: for every label and probe the site chosen on validation, beside its controls."""

import numpy as np
import pandas as pd

from tasks._html import Html, table

SCORES = ("accuracy", "r2")  # a probe's metric: of classes, of numbers
_EMBEDDING = ("resid_pre", 0)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per label and probe: its score on test at the site that was best on validation, and its controls.

    Columns: `label`, `probe`, `site`, `metric`, `value`, `ci_low`, `ci_high`, `n_groups`; the strongest control, at
    whatever site it scored best, `control`, `control_value`, `control_low`, `control_high`; `above`, whether the
    probe's interval lies above that control's; then a column per control with its best score. The probe on the
    embedding counts as a control, `embedding`; `input_only` is that of the probe of the label that reads most from the
    input: what any of them finds there is no news.

    Args:
        rows: Results table of a sweep, `sweep.rows` or read from a file.
    Raises:
        ValueError: The table has no score of a probe on the test split.
    """
    scores = rows[rows["metric"].isin(SCORES) & (rows["subset"] == "all") & rows["intervention"].isna()]
    probes = scores[scores["control"].isna() & scores["layer"].notna()]
    found = [_line(scores, chosen) for _, group in probes.groupby(["label", "probe"], sort=False)
             if (chosen := _chosen(group)) is not None]
    if not found:
        raise ValueError(f"the table has no score of a probe on the test split; it has {len(rows)} rows, of metric "
                         f"{', '.join(map(str, rows['metric'].dropna().unique()[:6])) or 'none'}")
    return pd.DataFrame(found)


def as_text(rows: pd.DataFrame) -> str:
    """The summary as lines of text."""
    lines = [("label", "probe", "where", "score", "strongest control", "above it?"), *_cells(summary(rows))]
    widths = [max(len(line[i]) for line in lines) for i in range(6)]
    return "\n".join(["Sweep: " + _about(rows), *("  " + "  ".join(
        cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines), _note()])


def as_html(rows: pd.DataFrame) -> Html:
    """The summary as a table for a notebook, a column per control."""
    short = summary(rows)
    controls = list(short.columns[short.columns.get_loc("above") + 1 :])
    shown = [(*cells, *(_number(v) for v in short.iloc[i][controls])) for i, cells in enumerate(_cells(short))]
    columns = ("label", "probe", "where", "score [95 %]", "strongest control", "above it?", *map(_words, controls))
    return table(columns, shown, "Sweep: " + _about(rows), _note())


def _chosen(group: pd.DataFrame) -> pd.Series | None:
    """The test row of the site that did best on validation; of the best on test where there is no validation."""
    test, validation = group[group["split"] == "test"], group[group["split"] == "validation"]
    for _, row in validation.sort_values("value", ascending=False, kind="stable").iterrows():
        if len(there := test[_same(test, row, "stream", "layer", "head")]):
            return there.iloc[0]
    return test.loc[test["value"].idxmax()] if len(test) else None


def _line(scores: pd.DataFrame, best: pd.Series) -> dict:
    here = scores[_same(scores, best, "label", "metric", "split")]
    own = here["probe"].isna() | _same(here, best, "probe") | (here["control"] == "input_only").fillna(False)
    controls = here[own & here["control"].notna()]
    if (best["stream"], best["layer"]) != _EMBEDDING:
        at = (here["stream"] == _EMBEDDING[0]) & (here["layer"] == _EMBEDDING[1]) & here["control"].isna() & own
        controls = pd.concat([controls, here[at.fillna(False).astype(bool)].assign(control="embedding")])
    controls = controls.sort_values("value", ascending=False, kind="stable").drop_duplicates("control")
    line = {"label": best["label"], "probe": best["probe"], "site": _site(best), "metric": best["metric"],
            "value": best["value"], "ci_low": best["ci_low"], "ci_high": best["ci_high"],
            "n_groups": best.get("n_groups"), "control": None, "control_value": np.nan, "control_low": np.nan,
            "control_high": np.nan, "above": None}
    if len(controls):
        top = controls.iloc[0]
        line |= {"control": top["control"], "control_value": top["value"], "control_low": top["ci_low"],
                 "control_high": top["ci_high"], "above": bool(best["ci_low"] > top["ci_high"])}
    return line | dict(zip(controls["control"], controls["value"], strict=True))


def _same(rows: pd.DataFrame, row: pd.Series, *columns: str) -> np.ndarray:
    keep = np.ones(len(rows), bool)
    for column in (c for c in columns if c in rows):
        match = rows[column].isna() if pd.isna(row[column]) else rows[column] == row[column]
        keep &= match.fillna(False).to_numpy(bool)
    return keep


def _site(row: pd.Series) -> str:
    head = row.get("head")
    return f"{row['stream']}.{row['layer']}" + ("" if head is None or pd.isna(head) else f".{head}")


def _cells(short: pd.DataFrame) -> list[tuple[str, ...]]:
    cells: list[tuple[str, ...]] = []
    for row in short.to_dict("records"):
        control = "none was run" if row["control"] is None else (
            f"{_words(row['control'])} {_interval(row, 'control_value', 'control_low', 'control_high')}")
        verdict = {True: "above", False: "not above", None: ""}[row["above"]]
        cells.append((str(row["label"]), str(row["probe"]), row["site"],
                      f"{row['metric']} {_interval(row, 'value', 'ci_low', 'ci_high')}", control, verdict))
    return cells


def _about(rows: pd.DataFrame) -> str:
    models = [model_name(m) for m in rows["model"].dropna().unique() if "random weights" not in str(m)]
    sites = rows[rows["layer"].notna()].drop_duplicates(["stream", "layer"])
    return (f"{', '.join(map(str, rows['task'].dropna().unique()))}, model {', '.join(models) or 'unknown'}, "
            f"{len(sites)} sites, {len(rows):,} rows")


def model_name(name: str) -> str:
    """The name of a model as it was asked for; of a directory far away, its last folder."""
    return name.rstrip("/").rpartition("/")[2] if name.startswith("/") else name


def _note() -> str:
    return ("Test split, 95 % intervals by group; the site was chosen on validation, each control is at its strongest "
            "site. What a probe reads need not be used: interventions.effect.")


def _interval(row: dict, value: str, low: str, high: str) -> str:
    return f"{_number(row[value])} [{_number(row[low])}, {_number(row[high])}]"


def _number(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.3f}"


def _words(control: str) -> str:
    return control.replace("_", " ").replace(":", ": ")
