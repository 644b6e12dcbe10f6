"""Every probe at every site with its controls, as rows of the results table."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from torch import Tensor

from tasks import LabelledPrompts

from ._controls import baseline_rows, input_only_rows
from ._extract import prompts_identity
from ._fitting import Candidates, candidates, suits
from ._logistic import LogisticProbe
from ._mlp import MLPProbe
from ._probe_site import CONTROLS, Probes, SiteResult, Sums, best_of_layers_rows, paired, probe_site
from ._progress import Progress
from ._question import Question
from ._results import results_frame
from ._ridge import RidgeProbe
from ._significance import adjusted
from ._sites import Site
from ._splits import splits_of
from ._subspaces import Origin
from ._summary import as_html, as_text, summary
from ._threads import single_threaded, spread
from ._views import view


def default_probes() -> dict[str, BaseEstimator]:
    """Linear with a bias, linear without (the published Othello probe), and a one-hidden-layer MLP; ridge for numbers.

    The linear ones stop where every objective is certified to be within 1 % of its optimum: that moves accuracies on
    board labels by less than 0.001. Pass your own for the optimum itself.
    """
    return {"logistic": LogisticProbe(tol=1e-2), "logistic_no_bias": LogisticProbe(bias=False, tol=1e-2),
            "mlp": MLPProbe(lr=0.01), "ridge": RidgeProbe()}


@dataclass(frozen=True)
class Sweep:
    """What `sweep` returns: the rows, and the fitted probes they came from.

    Attributes:
        rows: Results table; a row whose `control` is missing is a probe, the others are its controls.
        probes: (label, probe name, site) -> fitted estimator.
        sums: The same keys -> (gain, size) of every test group, whose ratio is the probe's accuracy (or r2).
    """

    rows: pd.DataFrame
    probes: Mapping[tuple[str, str, Site], BaseEstimator] = field(default_factory=dict, repr=False)
    sums: Mapping[tuple[str, str, Site], Sums] = field(default_factory=dict, repr=False)

    def best(self, label: str, probe: str | None = None, metric: str | None = None) -> tuple[Site, BaseEstimator]:
        """The site where `probe` (the first of the label, unless one is named) reads `label` best, chosen on
        validation, and the probe fitted there, which knows so (`origin_`). `metric` is accuracy, or r2 for numbers,
        unless named."""
        rows = select(self.rows, label=label, split="validation", subset="all")
        rows = select(rows, metric=metric or ("accuracy" if "accuracy" in set(rows["metric"]) else "r2"))
        rows = select(rows, probe=probe or next(iter(rows["probe"].dropna()), ""))
        if rows.empty:
            raise KeyError(f"no validation rows for label {label!r}, probe {probe!r}, metric {metric!r}; the table has "
                           f"{sorted(set(zip(self.rows['label'], self.rows['probe'].dropna(), strict=False)))}")
        top = rows.loc[rows["value"].idxmax()]
        site = next(s for s in self.sites(label, top["probe"]) if (s.stream, s.layer, getattr(s, "head", None)) == (
            top["stream"], top["layer"], None if pd.isna(top["head"]) else top["head"]))
        found = self.probes[label, top["probe"], site]
        found.origin_ = Origin(site, label, top["probe"])
        return site, found

    def sites(self, label: str, probe: str) -> list[Site]:
        """Where a probe of a label was fitted."""
        return [s for of, name, s in self.probes if (of, name) == (label, probe)]

    def compare(self, label: str, a: tuple[str, Site], b: tuple[str, Site], seed: int = 0) -> tuple:
        """(difference, low, high, p): metric of probe a minus that of b, each (probe name, site), on the same test
        groups; cluster bootstrap of the paired difference, p two-sided."""
        return paired(self.sums[label, *a], self.sums[label, *b], seed)

    def summary(self) -> pd.DataFrame:
        """One row per label and probe: the site chosen on validation, its score, and every control (`summary`)."""
        return summary(self.rows)

    def to_frame(self) -> pd.DataFrame:
        """The results table, `rows`."""
        return self.rows

    def plot(self, label: str | None = None, **options) -> Any:
        """The score by layer with every control, as a figure: `worldprobe.plot(sweep, label)`."""
        return view("plot")(self, label, **options)

    def report(self, *effects: pd.DataFrame, out: str | Path = "report.html", **options) -> Path:
        """Writes one HTML file about the sweep, and about `effects` if there are some: `worldprobe.report(...)`."""
        return view("report")(self, *effects, out=out, **options)

    def __repr__(self) -> str:
        return as_text(self.rows) if len(self.rows) else "Sweep: no rows"

    def _repr_html_(self) -> str:
        return as_html(self.rows) if len(self.rows) else "Sweep: no rows"


def select(table: pd.DataFrame, **where) -> pd.DataFrame:
    """Rows whose columns equal the given values; `control` is missing (the real thing) unless it is given."""
    where.setdefault("control", None)
    keep = np.ones(len(table), bool)
    for column, value in where.items():
        keep &= (table[column].isna() if value is None else (table[column] == value).fillna(False)).to_numpy(bool)
    return table[keep]


def best(sweep: Sweep, label: str | None = None, probe: str | None = None) -> BaseEstimator:
    """The fitted probe of the site chosen on validation (of the first label and probe, unless they are named)."""
    return sweep.best(label or str(sweep.rows["label"].iloc[0]), probe)[1]


def readable_labels(prompts: LabelledPrompts) -> list[str]:
    """Schemes of `prompts` that are labels to probe, not shortcut predictions of one."""
    predictions = {s for names in prompts.shortcuts.values() for s in names}
    return [s for s in prompts.schemes if s not in predictions]


def sweep(
    acts: Mapping[Site, Tensor],
    prompts: LabelledPrompts,
    labels: Sequence[str] | None = None,
    probes: Probes | None = None,
    *,
    sites: Sequence[Site] | None = None,
    controls: Sequence[str] = CONTROLS,
    shuffles: int | None = None,
    correction: str = "benjamini_hochberg",
    workers: int | None = None,
    seed: int = 0,
    log: Callable[[str], None] | None = None,
) -> Sweep:
    """Fit every probe for every label at every site, on train, and score it with its controls on validation and test.

    Controls, in the same table: the majority class (or mean) per target, and per target and position; the task's
    shortcuts; the same probe on the input alone (`input_only`: token, position, bag of tokens), on shuffled labels
    (whole groups exchange theirs), and on a randomly initialised model of the same architecture, where `acts` has
    one. Where shuffled labels were drawn at least 20 times, `best_of_layers_null` repeats the whole choice of penalty
    and layer on each draw: mean, 5th and 95th percentile of the chosen score, on validation and on test.

    A p-value stands in the row of a probe's accuracy (r2) on test: by permutation where labels were drawn at least 20
    times, else from a cluster bootstrap of the paired difference to the probe on shuffled labels; `p_adjusted`
    corrects for the number of such cells in the table.

    Args:
        acts: Activations of `prompts`, as `extract` returns them (rows in the order of `prompts.examples`).
        labels: Label schemes; by default all that are not shortcut predictions.
        probes: Name -> unfitted estimator with `fit(X, Y)` and `predict(X)` for many targets, or several of them, such
            as one per penalty, of which the best on validation is kept for each label and site. Classifiers are used
            for classes, regressors for numbers. A `fit` that takes `validation` is given that split, to stop on.
        sites: By default all of `acts`.
        shuffles: Draws of shuffled labels. By default 20 where they are cheap (a probe that solves all draws at once,
            up to 8 targets), else 1.
        correction: benjamini_hochberg, holm or none.
        workers: Sites at a time, each on one thread; by default one per core. No bit of the result depends on it.
    Raises:
        ValueError: Nothing to fit: no labels, one class in train, activations of other prompts, a split without rows.
        KeyError: No such label or site.
    """
    labels, named = list(labels or readable_labels(prompts)), {n: candidates(p) for n, p in (
        probes or default_probes()).items()}
    adjusted(np.zeros(0), correction)  # an unknown name stops here, not after an hour
    sites = check_inputs(acts, prompts, labels, named, sites)
    splits = splits_of(acts, prompts)
    with single_threaded():
        rows = [row for label in labels for row in baseline_rows(prompts, label, seed, splits)]
    work: list[Callable[[], Any]] = [] if "input_only" not in controls else [
        partial(input_only_rows, prompts, label, {name: choices}, seed, splits)
        for label in labels for name, choices in named.items()]
    work += [partial(probe_site, acts, prompts, site, dict.fromkeys(labels, list(named)), named, seed=seed,
                     controls=controls, shuffles=shuffles, splits=splits) for site in sites]
    results: list[SiteResult] = []
    with Progress("probing sites", len(sites), (lambda done, total: None) if log else None) as advance:
        for found in spread(lambda each: each(), work, workers):
            if isinstance(found, SiteResult):
                results.append(found)
                rows += found.rows
                advance(1)
                if log:
                    log(found.line)
            else:
                rows += found
    rows += best_of_layers_rows(results, seed)
    table = results_frame([{**identity_columns(acts), "task": prompts.task, **row} for row in rows])
    return Sweep(correct_p_values(table, correction), {k: v for r in results for k, v in r.probes.items()},
                 {k: v for r in results for k, v in r.sums.items()})


def check_inputs(acts: Any, prompts: LabelledPrompts, labels: Sequence[str], probes: Mapping[str, Candidates],
                 sites: Iterable[Site] | None) -> list[Site]:
    """The sites to sweep, once prompts, labels, probes and activations go together."""
    if not labels:
        raise ValueError(f"there is no label to probe: {prompts.task!r} has the schemes {prompts.schemes}; name "
                         "labels, or add a column `scheme/target` to the examples")
    train = prompts.rows("train")
    for label in labels:
        question = Question.of(prompts, label)
        if len(values := np.unique(question.Y[train])) < 2:
            one = prompts.classes[label][int(values[0])] if question.n_classes else values[0]
            raise ValueError(f"{label!r} is {one!r} in every training row, there is nothing to fit; give more prompts, "
                             "or leave the label out")
        if not any(suits(choices[0], question) for choices in probes.values()):
            kind = "classifier" if question.n_classes else "regressor (such as RidgeProbe)"
            raise ValueError(f"{label!r} needs a {kind}, the probes are {', '.join(probes) or 'none'}; add one")
    sites = list(acts) if sites is None else list(sites)
    if missing := [str(s) for s in sites if s not in acts]:
        raise KeyError(f"no activations of {', '.join(missing)}; there are {', '.join(map(str, acts))}")
    if not sites:
        raise ValueError("there is no site to probe; extract(model, prompts, sites=[...]) reads some")
    n = getattr(acts, "n_examples", None) or len(acts[sites[0]])
    if n != len(prompts):
        raise ValueError(f"the activations have {n} rows, the prompts {len(prompts)} examples: they are of other "
                         "prompts; pass those that were given to extract")
    identity = getattr(acts, "identity", {})
    if "examples" in (read := identity.get("prompts", {})):
        now = prompts_identity(prompts, identity.get("pool"))
        if changed := [field for field in now if now[field] != read[field]]:
            raise ValueError(f"the activations are of other prompts: {', '.join(changed)} differ; pass the prompts "
                             "that were given to extract (other labels and splits are fine)")
    return sites


def correct_p_values(table: pd.DataFrame, correction: str = "benjamini_hochberg") -> pd.DataFrame:
    """The table with `p_adjusted` and the name of the correction beside every p-value, over all of its cells."""
    p = table["p_value"].to_numpy(float, na_value=np.nan)
    named = pd.Series(correction, index=table.index, dtype="str").where(~np.isnan(p))
    return table.assign(p_adjusted=adjusted(p, correction), correction=named)


def identity_columns(acts: Any) -> dict[str, Any]:
    """Model and data of activations, as columns of the results."""
    who = getattr(acts, "model_identity", None)
    data = getattr(acts, "identity", {}).get("prompts", {}).get("tokens")
    return {} if who is None else {
        "model": who.name, "revision": who.revision, "model_hash": who.digest, "data_hash": data}
