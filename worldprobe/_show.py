"""What was measured, in one call: a figure, or a page with verdicts, for a sweep, effects, or tables read from disk."""

from pathlib import Path
from typing import TypeAlias

import pandas as pd

from interventions._summary import main_metric
from probing import Sweep
from probing._summary import SCORES, model_name
from worldprobe._cite import BIBTEX, papers_of
from worldprobe._effect_plots import dose_curves, erased_answers, erasure_by_layer
from worldprobe._ink import Plot
from worldprobe._plots import accuracy_by_layer
from worldprobe._report import Section, write_report
from worldprobe._rows import pick
from worldprobe._run import versions
from worldprobe._sections import effect_section, headline, probe_section
from worldprobe._verdicts import NECESSITY, verdicts

Found: TypeAlias = Sweep | pd.DataFrame
_SAME_CASES = ("Of several layers and doses the best on these cases is named: its interval does not know of that "
               "choice. An edit counts only beyond doing nothing and beyond random directions of the same length.")


def plot(found: Found, label: str | None = None, metric: str | None = None, intervention: str | None = None) -> Plot:
    """Of a sweep the score by layer with every control, of effects the dose-response curve with its random band and its
    price (of erasures, what is left of the answers).

    Args:
        found: A sweep, what `interventions.effect` returns, or a results table that was read from a file.
        label: Which label; the first of the table, unless named.
        metric: Accuracy or r2 of a probe, `interventions.main_metric` of effects, unless named.
        intervention: Which edit of a table that has several; a table of probes and edits shows its probes unless an
            edit is named.
    Raises:
        ValueError: The table is empty.
        KeyError: It has no such label, metric or edit.
    """
    rows = _rows(found)
    if intervention is None and rows["intervention"].isna().any():
        label = label or _labels(rows)[0]
        return accuracy_by_layer(rows, label, metric or score_of(rows, label))
    verb = intervention or str(rows["intervention"].dropna().iloc[0])
    rows = rows if label is None else pick(rows, label=label)
    here = pick(rows, intervention=verb)
    if verb == "erase":
        return erased_answers(rows, metric or "accuracy")
    if verb in NECESSITY:
        return erasure_by_layer(rows, metric or main_metric(here))
    return dose_curves(rows, verb, metric or main_metric(here))


def report(*found: Found, out: str | Path = "report.html", title: str | None = None) -> Path:
    """Writes one self-contained HTML file: verdicts (reads, is used, is enough), the numbers behind them, a section per
    label, and every figure with its data. Returns its path.

    Args:
        found: A sweep, effects, or both: `report(sweep, effects)`.
        out: The file; its folder is made.
        title: `What MODEL knows of TASK, and uses`, unless given.
    Raises:
        ValueError: Nothing was given.
    """
    if not found:
        raise ValueError("there is nothing to report; pass a sweep, what interventions.effect returned, or both")
    rows = pd.concat([_rows(each) for each in found], ignore_index=True)
    edits = rows["intervention"].notna()
    effect = main_metric(rows) if edits.any() else "set_error"
    labels = _labels(rows) if not edits.all() else []
    edited = list(map(str, rows.loc[edits, "label"].dropna().unique()))
    said = {label: verdicts(_of(rows, label), label, score_of(rows, label), effect)
            for label in dict.fromkeys([*labels, *edited])}
    sections = [probe_section(rows, label, heading=f"What the states say of {label}", metric=score_of(rows, label))
                for label in labels]
    sections += [_effects(rows, label, effect) for label in edited]
    numbers = pd.concat([headline(_of(rows, label), label, score_of(rows, label), effect) for label in labels]
                        or [headline(rows, "", effect_metric=effect)])
    path = Path(out)
    models = [model_name(m) for m in rows["model"].dropna().unique() if "random weights" not in str(m)]
    task = ", ".join(map(str, rows["task"].dropna().unique()))
    return write_report(
        path, title=title or f"What {', '.join(models) or 'the model'} knows of {task}, and uses", verdicts=said,
        numbers=numbers.drop_duplicates("what"), sections=sections,
        run={"citation": "\n".join([BIBTEX, "", *papers_of(rows)]), "versions": versions(),
             "hashes": {f"{kind} {i}": value for kind in ("model_hash", "data_hash")
                        for i, value in enumerate(rows[kind].dropna().unique(), 1)}})


def score_of(rows: pd.DataFrame, label: str) -> str:
    """The metric of a label's probes: accuracy of classes, r2 of numbers."""
    there = set(pick(rows, label=label, intervention=None)["metric"])
    return next((m for m in SCORES if m in there), SCORES[0])


def _rows(found: Found) -> pd.DataFrame:
    rows = found.rows if isinstance(found, Sweep) else found
    if rows.empty:
        raise ValueError("the table has no rows; there is nothing to show")
    return rows


def _labels(rows: pd.DataFrame) -> list[str]:
    return list(map(str, rows.loc[rows["intervention"].isna() & rows["probe"].notna(), "label"].dropna().unique()))


def _of(rows: pd.DataFrame, label: str) -> pd.DataFrame:
    """The rows of one label, and those of none, such as what the model can do."""
    return rows[(rows["label"] == label).fillna(False).to_numpy(bool) | rows["label"].isna().to_numpy()]


def _effects(rows: pd.DataFrame, label: str, metric: str) -> Section:
    here = pick(rows, label=label)
    here = here[here["intervention"].notna()]
    text = () if (here["split"] == "choose").any() else _SAME_CASES
    return effect_section(here, heading=f"What the model does with {label}", text=text, metric=metric)
