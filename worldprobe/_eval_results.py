"""Board rows as Hugging Face evaluation results: files for the folder .eval_results of a model's repository.

The Hub shows them once the data set that they name is registered there as a benchmark, with these task ids in its
eval.yaml; its documentation is huggingface.co/docs/hub/eval-results.
"""

import re
from collections.abc import Mapping

import pandas as pd
import yaml  # type: ignore[import-untyped]

from ._every_eval_ever import _safe, model_id

_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")


def eval_results(rows: pd.DataFrame, metadata: Mapping, dataset: str | None = None) -> dict[str, str]:
    """Path -> YAML: hf/MODEL/.eval_results/worldprobe-TASK.yaml, an entry per score and per effect.

    Args:
        dataset: ORG/NAME of the benchmark on the Hub; by default worldprobe/TASK.
    Raises:
        ValueError: `dataset` is not of that form.
    """
    if dataset is not None and not _ID.fullmatch(dataset):
        raise ValueError(f"a data set on the Hub is named ORG/NAME, not {dataset!r}")
    found = {}
    for (task, model), of in rows.groupby(["task", "model"], sort=False):
        entries = [entry for _, row in of.iterrows() for entry in _entries(row, dataset or f"worldprobe/{task}")]
        if entries:
            name = "--".join(map(_safe, model_id(model)))
            found[f"hf/{name}/.eval_results/worldprobe-{_safe(str(task))}.yaml"] = yaml.safe_dump(
                entries, sort_keys=False, allow_unicode=True)
    return found


def _entries(row: pd.Series, dataset: str) -> list[dict]:
    what = "-".join(_safe(str(row[c])) for c in ("label", "place", "probe") if pd.notna(row[c]))
    found = []
    if pd.notna(row["score"]):
        notes = f"{row['metric']} at {row['where']}, 95 % interval {row['score_low']:.4g} to {row['score_high']:.4g}"
        if pd.notna(row["control"]):
            notes += f"; strongest control ({row['control_name']}) {row['control']:.4g}"
        found.append(_entry(dataset, f"read-{what}", row["score"], notes))
    if pd.notna(row["effect"]):
        notes = (f"{row['effect_metric']}, {row['edit']} at {row['edit_where']}, 95 % interval {row['effect_low']:.4g} "
                 f"to {row['effect_high']:.4g}; random directions {row['band_low']:.4g} to {row['band_high']:.4g}")
        found.append(_entry(dataset, f"write-{what}", row["effect"], notes))
    return found


def _entry(dataset: str, task: str, value: float, notes: str) -> dict:
    return {"dataset": {"id": dataset, "task_id": task}, "value": float(value), "notes": notes}
