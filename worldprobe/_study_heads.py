"""Heads that read a label best, all pushed at the last token while the cases of a change are answered: inference-time
intervention, beside as many other heads, random directions in the same heads, and the prompt that tells of the change.

Source: Li et al., arXiv:2306.03341.
"""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from interventions import ITI, fit_iti, head_sites, iti_effect
from interventions._measures import Measures
from interventions._runs import on_split
from probing import Site, bootstrap_mean, extract, identify, random_init, results_frame
from tasks import LabelledPrompts
from tasks._study import Change, Heads, Study

from ._report import Section, Table
from ._rows import cell, control_name, lower_is_better, pick, with_interval
from ._run import Run
from ._study_change_report import NAMES, judged_by
from ._study_changes import METRICS, slug

DOSES = (1.0, 2.0, 4.0, 8.0, 15.0)  # standard deviations along each head's direction; 15 is the paper's
SHOWN = 8  # heads in the report
ACCURACY = "head_accuracy"
CONTROLS = ("random_heads", "random_direction", "sign_flip")


def head_stages(folder: Run, model: Any, study: Study, seed: int, quick: bool
                ) -> tuple[list[pd.DataFrame], pd.DataFrame]:
    """(result rows, the scans that doses were chosen from), two stages for each set of heads.

    Rows: how well every head reads the label (metric `head_accuracy`; `positions` is the name of the change), and what
    pushing the best of them does at every dose (`label` as in `pushed`).
    """
    tables, scans, changes = [], [], {change.name: change for change in study.changes}
    for asked in study.heads:
        bench = HeadBench(model, study, asked, changes[asked.change], asked.quick if quick else asked.n, seed)
        name = f"heads-{slug(asked.change)}"
        scans.append(folder.stage(f"{name}-scan", bench.scan))
        tables.append(folder.stage(name, bench.report))
        folder.log(f"{asked.change}: {finding(tables[-1], scans[-1], bench.change)}")
    return tables, pd.concat(scans, ignore_index=True) if scans else pd.DataFrame()


def pushed(change: Change) -> str:
    """The column `label` of rows in which heads are pushed."""
    return f"{change.name} by heads"


class HeadBench:
    """The heads of a model, read and pushed on the cases of one change."""

    def __init__(self, model: Any, study: Study, asked: Heads, change: Change, n: int, seed: int):
        self.model, self.study, self.asked, self.change, self.n, self.seed = model, study, asked, change, n, seed

    @functools.cached_property
    def prompts(self) -> LabelledPrompts:
        return self.asked.load(self.n, self.seed)

    @functools.cached_property
    def cases(self):
        return self.change.cases(self.change.n, self.seed + 1)

    @property
    def column(self) -> str:
        return f"{self.asked.label}/{self.prompts.targets(self.asked.label)[0]}"

    def read(self, model: Any) -> tuple[ITI, Mapping[Site, Float[Tensor, "example d_head"]]]:
        """The heads of a model that read the label best, and what all its heads compute."""
        sites = head_sites(model)
        acts = extract(model, self.prompts, sites, cache=False, random_init=None)
        return fit_iti(acts, self.prompts, self.column, n_heads=min(self.asked.n_heads, max(1, len(sites) // 4))), acts

    @functools.cached_property
    def own(self) -> tuple[ITI, Mapping[Site, Float[Tensor, "example d_head"]]]:
        return self.read(self.model)

    def scan(self) -> pd.DataFrame:
        """Every dose, on the cases set aside for choosing."""
        run, iti = on_split(self.model, self.cases, "choose"), self.own[0]
        measures, towards = Measures(run, self.cases, None, METRICS), self.cases.cases["becomes"].to_numpy()
        found = run.measure([iti.edits(alpha, towards) for alpha in DOSES], measures).nanmean(1)
        return pd.DataFrame([{"label": pushed(self.change), "alpha": alpha, "metric": metric, "value": float(value)}
                             for alpha, row in zip(DOSES, found, strict=True)
                             for metric, value in zip(measures.names, row, strict=True)])

    def report(self) -> pd.DataFrame:
        """The accuracy of every head, and every dose with its controls on the cases kept for reporting."""
        who, rows = identify(self.model), []
        for control, net in ((None, self.model), ("random_init", random_init(self.model, self.seed))):
            rows += self.accuracies(*(self.own if control is None else self.read(net)), control)
        common = {"task": self.study.task, "model": who.name, "revision": who.revision, "model_hash": who.digest,
                  "data_hash": f"heads of {self.change.name}, {self.n} prompts of seed {self.seed}", "seed": self.seed,
                  "positions": self.change.name, "metric": ACCURACY, "split": "test", "subset": "all"}
        table = iti_effect(self.model, self.cases, self.own[0], alphas=DOSES, metrics=METRICS, seed=self.seed,
                           identity={"task": self.study.task, "label": pushed(self.change)})
        return pd.concat([results_frame([common | row for row in rows]), table], ignore_index=True)

    def accuracies(self, iti: ITI, acts: Mapping[Site, Float[Tensor, "example d_head"]], control: str | None
                   ) -> list[dict]:
        """How often the side of the midpoint between the class means, along each head's direction, is the right one on
        test prompts."""
        y, test = self.prompts.examples[self.column].to_numpy(), self.prompts.rows("test")
        groups, rows = self.prompts.examples["group"].to_numpy()[test], []
        for site, theta in iti.theta.items():
            z = (acts[site].float() @ theta).numpy()
            middle = np.mean([z[~test & (y == k)].mean() for k in (0, 1)])
            value, low, high = bootstrap_mean(((z > middle) == (y == 1))[test].astype(float), groups, seed=self.seed)
            rows.append({"stream": site.stream, "layer": site.layer, "layer_end": site.layer, "head": site.head,
                         "control": control, "value": float(value), "ci_low": float(low), "ci_high": float(high),
                         "n": int(test.sum()), "n_groups": len(np.unique(groups))})
        return rows


def chosen_dose(scans: pd.DataFrame, change: Change) -> float:
    """The dose that did most on the cases set aside."""
    tried = pick(scans, label=pushed(change), metric=judged_by(change))
    sign = -1 if lower_is_better(judged_by(change)) else 1
    return float(tried["alpha"].iloc[int(np.argmax(sign * tried["value"].to_numpy()))])


def finding(table: pd.DataFrame, scans: pd.DataFrame, change: Change) -> str:
    """What pushing the heads did, beside the same number of others, in a sentence."""
    metric, alpha = judged_by(change), chosen_dose(scans, change)
    rows = pick(table, label=pushed(change), metric=metric, subset="all")
    own = pick(rows, control=None, alpha=alpha).iloc[0]
    band = pick(rows, control="random_heads", alpha=alpha).iloc[0]
    idle = pick(rows, control="null").iloc[0]
    n = int(str(own["probe"]).split(" of ")[1].split()[0])
    words = ("more than" if own["ci_low"] > band["ci_high"] else "less than" if own["ci_high"] < band["ci_low"] else
             "no more than")
    return (f"the {n} heads that read it best, pushed by {alpha:g} standard deviations at the last token: "
            f"{NAMES[metric]} {cell(own)}, {words} as many other heads do ({with_interval(*_three(band))}, 5th to 95th "
            f"percentile of {band['n']} draws); without a push {idle['value']:.3f}")


def head_section(table: pd.DataFrame, scans: pd.DataFrame, asked: Heads, change: Change) -> Section:
    """What the heads read, and what pushing the best of them does."""
    rows, metric = pick(table, label=pushed(change), subset="all"), judged_by(change)
    if rows.empty:
        return Section(f"Heads pushed: {change.words}", ["Nothing was pushed."])
    told = pick(table, label=change.name, metric=metric, subset="all", control="told")
    lines = []
    for alpha in sorted(pick(rows, control=None)["alpha"].dropna().unique()):
        here = pick(rows, metric=metric, alpha=alpha)
        line = {"dose": f"{alpha:g}", "these heads": cell(pick(here, control=None).iloc[0])}
        line |= {_words(control): cell(pick(here, control=control).iloc[0]) for control in CONTROLS
                 if len(pick(here, control=control))}
        lines.append(line | {"KL": f"{pick(rows, metric='kl', control=None, alpha=alpha)['value'].iloc[0]:.2f}"})
    idle = pick(rows, metric=metric, control="null").iloc[0]
    ceiling = f" The prompt that tells of it: {cell(told.iloc[0])}." if len(told) else ""
    accuracy = pick(table, metric=ACCURACY, positions=change.name)
    said = finding(table, scans, change)
    return Section(
        f"Heads pushed: {change.words}",
        [f"{said[0].upper()}{said[1:]}. The dose was chosen on one half of the cases and is reported on the other."
         f"{ceiling}"],
        (), [Table(f"{NAMES[metric].capitalize()}, by dose", pd.DataFrame(lines),
                   f"Doses in standard deviations along each head's direction, the difference of its class means; "
                   f"without a push {cell(idle)}. Other heads and random directions: 5th to 95th percentile.", rows),
             _accuracy_table(accuracy, asked)])


def _accuracy_table(rows: pd.DataFrame, asked: Heads) -> Table:
    own = pick(rows, control=None).sort_values("value", ascending=False, kind="stable")
    twin = pick(rows, control="random_init")
    lines = [{"head": f"{r.layer}.{r.head}", "accuracy": with_interval(r.value, r.ci_low, r.ci_high)}
             for r in own.head(SHOWN).itertuples()]
    return Table(f"How well heads read {asked.label}", pd.DataFrame(lines), f"layer.head; on test prompts, along the "
                 f"difference of class means. The {min(SHOWN, len(own))} best of {len(own)}. With random weights the "
                 f"best head has {twin['value'].max():.3f}. In brackets: 95 % interval.", rows)


def _words(control: str) -> str:
    return {"random_heads": "other heads", "sign_flip": "pushed the other way"}.get(control, control_name(control))


def _three(row: pd.Series) -> tuple[float, float, float]:
    return row["value"], row["ci_low"], row["ci_high"]
