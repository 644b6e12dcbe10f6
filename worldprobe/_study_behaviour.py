"""What the model of a study does untouched, beside somebody without it and its randomly initialised twin."""

from typing import Any

import numpy as np
import pandas as pd

from probing import bootstrap_mean, bootstrap_ratio, identify, random_init, results_frame
from tasks._study import Behaviour, Study

from ._report import Section, Table
from ._rows import cell, control_name, metric_name, pick


def behaviour_rows(model: Any, study: Study, seed: int, *, n: int | None = None, twin: bool = True) -> pd.DataFrame:
    """Means of every metric over items, of the model, of the baselines that need none, and of the twin with random
    weights (control `random_init`)."""
    asked, who = study.behaviour, identify(model)
    if asked is None:
        return results_frame([])
    n = n or asked.n
    items = asked.measure(model, n, seed)
    rows = [_row(items, asked, metric, metric, None, seed) for metric in asked.metrics]
    rows += [_row(items, asked, metric, column, f"shortcut:{column}", seed)
             for metric, column in asked.baselines.items()]
    if twin:
        random = asked.measure(random_init(model, seed), n, seed)
        rows += [_row(random, asked, metric, metric, "random_init", seed) for metric in asked.metrics]
    common = {"task": study.task, "model": who.name, "revision": who.revision, "model_hash": who.digest,
              "data_hash": f"{n} {asked.items} of seed {seed}", "split": "test", "subset": "all", "seed": seed}
    return results_frame([common | row for row in rows if row])


def _row(items: pd.DataFrame, asked: Behaviour, metric: str, column: str, control: str | None, seed: int) -> dict:
    """One metric; {} where no item has it."""
    value, group = items[column].to_numpy(float), items["group"].to_numpy()
    weight = items[asked.weights[metric]].to_numpy(float) if metric in asked.weights else None
    there = ~np.isnan(value) & (weight > 0 if weight is not None else True)
    if not there.any():
        return {}
    value, group = value[there], group[there]
    if weight is None:
        mean, low, high = bootstrap_mean(value, group, seed=seed)
    else:
        mean, low, high = bootstrap_ratio(value * weight[there], weight[there], group, seed=seed)
    return {"metric": metric, "control": control, "value": float(mean), "ci_low": float(low), "ci_high": float(high),
            "n": int(there.sum()), "n_groups": len(np.unique(group))}


def behaviour_section(table: pd.DataFrame, study: Study) -> Section | None:
    """A table of the metrics, with what somebody without the model gets."""
    asked = study.behaviour
    if asked is None:
        return None
    rows = pick(table, metric=list(asked.metrics), intervention=None, label=None, split="test")
    rows = rows[~rows["revision"].fillna("").str.startswith("step ")]  # checkpoints have a section of their own
    shown = []
    for metric, words in asked.metrics.items():
        here = pick(rows, metric=metric)
        line = {"what": words, "this model": "".join(cell(r) for _, r in pick(here, control=None).iterrows())}
        for _, row in here[here["control"].notna()].iterrows():
            kind = "without a model" if row["control"].startswith("shortcut:") else control_name(row["control"])
            line[kind] = cell(row)
        shown.append(line | {asked.items: f"{here['n'].max():,}"})
    frame = pd.DataFrame(shown).fillna("")
    order = [c for c in ("what", "this model", "without a model", control_name("random_init"), asked.items)
             if c in frame]
    first = pick(rows, metric=next(iter(asked.metrics)), control=None).iloc[0]
    return Section("What it does", f"{metric_name(first['metric']).capitalize()}: {cell(first)}.", (), [
        Table("Behaviour, untouched", frame[order], "In brackets: 95 % interval, percentile bootstrap over groups.",
              rows)])
