"""What else a study measures on the model, beside its random twin, and what the best heads are needed for."""

import functools
from typing import Any

import pandas as pd

from interventions import knockout_effect
from probing import Site, identify, random_init, results_frame
from probing._sweep import correct_p_values
from tasks._study import Measure, Study

from ._report import Exhibit, Section, Table
from ._rows import cell, control_name, metric_name, pick, site_name
from ._run import Run

N_HEADS = 3  # knocked out together
SHOWN = 8  # rows of a measure in the report; all are in its CSV


def measure_stages(folder: Run, model: Any, study: Study, seed: int) -> list[pd.DataFrame]:
    """Result rows, a stage per measure; and one more where the heads that score best are knocked out."""
    twin, tables = functools.cache(lambda: random_init(model, seed)), []
    for measure in study.measures:
        def rows(measure=measure) -> pd.DataFrame:
            found = [_rows(measure, study, model, seed, model)]
            if measure.twin:
                theirs = _rows(measure, study, twin(), seed, model)  # its own controls stand beside the model's
                found.append(pick(theirs, control=None).assign(control="random_init"))
            return correct_p_values(pd.concat(found, ignore_index=True))

        tables.append(folder.stage(f"measure-{measure.name}", rows))
        if measure.heads is not None and study.changes:
            tables.append(folder.stage(f"knock-out-{measure.name}", functools.partial(
                _needed, measure, study, model, tables[-1], seed)))
    return tables


def _rows(measure: Measure, study: Study, on: Any, seed: int, model: Any) -> pd.DataFrame:
    """The rows of a measure, with what every row must say."""
    who = identify(model)
    common = {"task": study.task, "model": who.name, "revision": who.revision, "model_hash": who.digest,
              "data_hash": f"{measure.name}, seed {seed}", "split": "test", "subset": "all", "seed": seed}
    return results_frame([common | {k: v for k, v in row.items() if not _missing(v)}
                          for row in measure.rows(on, seed).to_dict("records")])


def _missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and value != value)


def best_heads(rows: pd.DataFrame, metric: str, n: int = N_HEADS) -> list[Site]:
    """The heads of the model with the highest values of a metric."""
    own = pick(rows, metric=metric, control=None, subset="all")
    top = own[own["head"].notna()].sort_values("value", ascending=False, kind="stable").head(n)
    return [Site("z", int(r.layer), int(r.head)) for r in top.itertuples()]


def _needed(measure: Measure, study: Study, model: Any, rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The best heads together, and each by itself, on the cases of the first change as they are."""
    change = study.changes[0]
    cases, heads = change.cases(change.n, seed), best_heads(rows, str(measure.heads))
    sets = [heads, *([head] for head in heads)] if len(heads) > 1 else [heads]
    names = [f"{measure.name}:" + "+".join(f"{s.layer}.{s.head}" for s in each) for each in sets]
    tables = [knockout_effect(model, cases, each, probe=name, seed=seed)
              for each, name in zip(sets, names, strict=True)]
    return pd.concat(tables, ignore_index=True).assign(task=study.task, label=change.name)


def measure_section(table: pd.DataFrame, measure: Measure, study: Study) -> Section:
    """What a measure found, with its controls, the task's picture of it, and the knock-out of its best heads."""
    rows = pick(table, positions=None, intervention=None, probe=None)
    rows = rows[rows["data_hash"].fillna("").str.startswith(f"{measure.name}, seed ")]
    exhibits = []
    if measure.picture is not None and len(rows):
        drawn = measure.picture(rows)
        exhibits.append(Exhibit(drawn.title, drawn.svg, drawn.caption, rows))
    tables = [_metric_table(rows, str(metric)) for metric in dict.fromkeys(rows["metric"])]
    cut = pick(table, intervention="knock_out")
    cut = cut[cut["probe"].fillna("").str.startswith(f"{measure.name}:")]
    if len(cut):
        tables.append(_cut_table(cut))
    return Section(measure.words.partition(". ")[0].rstrip("."), measure.words, exhibits, tables)


def _metric_table(rows: pd.DataFrame, metric: str) -> Table:
    here = pick(rows, metric=metric)
    own = pick(here, control=None).sort_values("value", ascending=False, kind="stable")
    lines = []
    for _, row in own.head(SHOWN).iterrows():
        line = {"where": _where(row), "value": cell(row)}
        same = here[here["control"].notna()]
        for column in ("layer", "head", "label", "subset"):
            same = same[(same[column] == row[column]).fillna(False) | (same[column].isna() & pd.isna(row[column]))]
        lines.append(line | {control_name(c): cell(r) for c, r in zip(same["control"], same.to_dict("records"),
                                                                      strict=True)})
    more = f" The {SHOWN} highest of {len(own)}; all are in the data." if len(own) > SHOWN else ""
    return Table(metric_name(metric).capitalize(), pd.DataFrame(lines).fillna(""),
                 f"In brackets: 95 % interval.{more}", here)


def _where(row: pd.Series) -> str:
    head = "" if pd.isna(row["head"]) else f", head {row['head']}"
    words = "the model" if pd.isna(row["layer"]) else site_name(row) + head
    return words if row["subset"] == "all" else f"{words}, {row['subset']}"


def _cut_table(rows: pd.DataFrame) -> Table:
    """The error of the answers that were right, with the heads knocked out and random ones instead."""
    error = pick(rows, metric="set_error")
    lines = []
    for probe, own in pick(error, control=None).groupby("probe", sort=False):
        of = {c: pick(error, probe=probe, control=c).iloc[0] for c in ("null", "random_heads")}
        lines.append({"heads set to their mean": str(probe).partition(":")[2].replace("+", ", "),
                      "error": cell(own.iloc[0]), "no edit": cell(of["null"]),
                      "random heads of the same layers (5–95 %)": cell(of["random_heads"])})
    return Table("Knocked out", pd.DataFrame(lines), "Error of the answers that were right before (wrong and missing "
                 "tokens per case); layer.head. In brackets: 95 % interval; of random heads, 5th to 95th percentile.",
                 rows)
