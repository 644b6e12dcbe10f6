"""Every probe at every site with its controls, as rows of the results table."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray
from sklearn.base import BaseEstimator
from torch import Tensor

from tasks import LabelledPrompts

from ._controls import baseline_rows, input_only_rows
from ._fitting import Candidates, Fit, candidates, fit_and_choose, stacks, suits
from ._logistic import LogisticProbe
from ._mlp import MLPProbe
from ._progress import Progress
from ._question import Question
from ._results import MIN_DRAWS, results_frame
from ._ridge import RidgeProbe
from ._score import gains, score, value_of
from ._significance import adjusted, difference_p, permutation_p, ratio_of_sums
from ._sites import Site
from ._splits import Splits, splits_of
from ._statistics import N_BOOT
from ._threads import single_threaded, spread

CONTROLS = ("shuffled_labels", "random_init", "input_only")
FEW_TARGETS = 8  # of a label: up to here its shuffled draws are made by default, as columns of the same solve
Probes = Mapping[str, BaseEstimator | Candidates]
Sums = tuple[Float[ndarray, "group target"], Float[ndarray, "group target"]]


def default_probes() -> dict[str, BaseEstimator]:
    """Linear with a bias, linear without (the published Othello probe), and a one-hidden-layer MLP; ridge for numbers.

    The linear ones stop at a relative gradient norm of 1e-2: on board labels five times faster than the estimator's
    own 1e-3, and within 0.001 of its accuracy. Pass your own for the optimum itself.
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
        validation, and the probe fitted there. `metric` is accuracy, or r2 for numbers, unless named."""
        rows = select(self.rows, label=label, split="validation", subset="all")
        rows = select(rows, metric=metric or ("accuracy" if "accuracy" in set(rows["metric"]) else "r2"))
        rows = select(rows, probe=probe or next(iter(rows["probe"].dropna()), ""))
        if rows.empty:
            raise KeyError(f"no validation rows for label {label!r}, probe {probe!r}, metric {metric!r}; the table has "
                           f"{sorted(set(zip(self.rows['label'], self.rows['probe'].dropna(), strict=False)))}")
        top = rows.loc[rows["value"].idxmax()]
        site = next(s for s in self.sites(label, top["probe"]) if (s.stream, s.layer, getattr(s, "head", None)) == (
            top["stream"], top["layer"], None if pd.isna(top["head"]) else top["head"]))
        return site, self.probes[label, top["probe"], site]

    def sites(self, label: str, probe: str) -> list[Site]:
        """Where a probe of a label was fitted."""
        return [s for of, name, s in self.probes if (of, name) == (label, probe)]

    def compare(self, label: str, a: tuple[str, Site], b: tuple[str, Site], seed: int = 0) -> tuple:
        """(difference, low, high, p): metric of probe a minus that of b, each (probe name, site), on the same test
        groups; cluster bootstrap of the paired difference, p two-sided."""
        return paired(*(self.sums[label, *which] for which in (a, b)), seed)

    def _repr_html_(self) -> str:
        return select(self.rows, split="test", subset="all")._repr_html_()


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
            for classes, regressors for numbers.
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
    return sites


@dataclass(frozen=True)
class SiteResult:
    """Attributes:
        rows: Of all labels and probes at one site.
        probes, sums: As in `Sweep`.
        null: (label, probe name) -> the metric on validation and on test of every draw of shuffled labels.
    """

    site: Site
    rows: list[dict]
    probes: dict[tuple[str, str, Site], Any]
    sums: dict[tuple[str, str, Site], Sums]
    null: dict[tuple[str, str], Float[ndarray, "draw split"]]

    @property
    def line(self) -> str:
        """The scores of the site on test, for a log."""
        said = []
        for label, name in dict.fromkeys((r["label"], r["probe"]) for r in self.rows):
            shown = {r["control"]: r for r in self.rows if (r["label"], r["probe"], r["split"], r["subset"]) == (
                label, name, "test", "all") and r["metric"] in ("accuracy", "r2")}
            own = shown.pop(None)
            others = ", ".join(f"{control} {r['value']:.4f}" for control, r in shown.items())
            said.append(f"{label} {name} {own['value']:.4f} [{own['ci_low']:.4f}, {own['ci_high']:.4f}]"
                        + (f" ({others})" if others else ""))
        return f"{self.site}  " + "; ".join(said)


def probe_site(
    acts: Mapping[Site, Tensor],
    prompts: LabelledPrompts,
    site: Site,
    plan: Mapping[str, Sequence[str]],
    probes: Probes,
    *,
    seed: int = 0,
    controls: Sequence[str] = CONTROLS,
    shuffles: int | None = None,
    splits: Splits | None = None,
) -> SiteResult:
    """All probes of one site, with the controls that are fitted there (see `sweep`).

    Args:
        plan: Label -> names of the probes that read it; those that are not of its kind are left out.
    """
    splits = splits or splits_of(acts, prompts)
    X = np.asarray(acts[site])
    random = getattr(acts, "random_init", None) if "random_init" in controls else None
    X_random = None if random is None else np.asarray(random[site])
    asked = [Question.of(prompts, label, splits) for label in plan]
    result = SiteResult(site, [], {}, {}, {})
    cells: dict[tuple[str, str], tuple] = {}
    for name, choices in ((name, candidates(probe)) for name, probe in probes.items()):
        for questions in _alike([q for q in asked if name in plan[q.label] and suits(choices[0], q)]):
            arms = [[q, *q.shuffled(_draws(q, choices, controls, shuffles), seed)] for q in questions]
            fits = iter(fit_and_choose(choices, X, [q for each in arms for q in each]))
            twins = iter(() if X_random is None else fit_and_choose(choices, X_random, questions))
            for each in arms:
                cells[each[0].label, name] = [(q, next(fits)) for q in each], next(twins, None)
    for question in asked:
        for name in probes:
            if (question.label, name) in cells:
                _record(result, name, *cells[question.label, name], seed)
    return result


def _alike(questions: Sequence[Question]) -> Iterator[list[Question]]:
    """Questions whose answers are columns of one solve: those with as many classes."""
    for n in dict.fromkeys(q.n_classes for q in questions):
        yield [q for q in questions if q.n_classes == n]


def _draws(question: Question, choices: Candidates, controls: Sequence[str], shuffles: int | None) -> int:
    if "shuffled_labels" not in controls:
        return 0
    cheap = stacks(choices) and question.Y.shape[1] <= FEW_TARGETS
    return shuffles if shuffles is not None else MIN_DRAWS if cheap else 1


def _record(result: SiteResult, name: str, arms: Sequence[tuple[Question, Fit]], twin: Fit | None, seed: int) -> None:
    """Rows, probe, sums and null draws of one probe of one label; `arms` are the real one, then the shuffled."""
    site, (question, own), draws = result.site, arms[0], arms[1:]
    sums = gains(question, own.guess, "test")
    key = question.label, name, site
    result.probes[key], result.sums[key] = own.probe, sums
    shown = [(None, question, own), *(("shuffled_labels", *draw) for draw in draws[:1])]
    for control, asked, fit in [*shown, *((("random_init", question, twin),) if twin else ())]:
        base = dict(stream=site.stream, layer=site.layer, layer_end=site.layer, head=getattr(site, "head", None),
                    probe=name, control=control, penalty=fit.penalty)
        result.rows.extend(base | row for row in score(asked, fit.guess, seed))
    if not draws:
        return
    values = np.array([[value_of(gains(drawn, fit.guess, split)) for split in ("validation", "test")]
                       for drawn, fit in draws])
    result.null[question.label, name] = values
    if len(draws) >= MIN_DRAWS:
        p = float(permutation_p(value_of(sums), values[:, 1]))
    else:
        p = difference_p(_linear_gain(sums, gains(draws[0][0], draws[0][1].guess, "test")), seed=seed)
    row = next(r for r in result.rows if (r["label"], r["probe"], r["control"], r["metric"], r["split"], r["subset"])
               == (question.label, name, None, question.metric, "test", "all"))
    row["p_value"] = p


def _linear_gain(a: Sums, b: Sums) -> Float[ndarray, " group"]:
    """What each group adds to the metric of a minus that of b, the mean over targets."""
    return ((a[0] - b[0]) / a[1].sum(0)).mean(1)


def paired(a: Sums, b: Sums, seed: int = 0) -> tuple[float, float, float, float]:
    """(difference, low, high, two-sided p) of two metrics on the same groups."""
    gain = _linear_gain(a, b)
    value, low, high = ratio_of_sums(gain, np.full(len(gain), 1 / len(gain)), N_BOOT, seed)
    return value, low, high, min(1.0, 2 * min(difference_p(gain, seed=seed), difference_p(-gain, seed=seed)))


def best_of_layers_rows(results: Sequence[SiteResult], seed: int = 0) -> list[dict]:
    """The choice of the best site, repeated on every draw of shuffled labels: what choosing alone achieves."""
    rows = []
    for key in dict.fromkeys(key for result in results for key in result.null):
        draws = np.stack([result.null[key] for result in results if key in result.null])  # (site, draw, split)
        if draws.shape[1] < MIN_DRAWS:
            continue
        chosen = np.take_along_axis(draws, draws[:, :, :1].argmax(0)[None], 0)[0]
        for i, split in enumerate(("validation", "test")):
            low, high = np.percentile(chosen[:, i], [5, 95])
            metric = next(r["metric"] for r in results[0].rows if r["label"] == key[0]
                          and r["metric"] in ("accuracy", "r2"))
            rows.append(dict(label=key[0], probe=key[1], control="best_of_layers_null", metric=metric, split=split,
                             subset="all", value=chosen[:, i].mean(), ci_low=low, ci_high=high, n=len(chosen),
                             seed=seed))
    return rows


def correct_p_values(table: pd.DataFrame, correction: str = "benjamini_hochberg") -> pd.DataFrame:
    """The table with `p_adjusted` and the name of the correction beside every p-value, over all of its cells."""
    p = table["p_value"].to_numpy(float, na_value=np.nan)
    named = pd.Series(np.where(np.isnan(p), None, correction), index=table.index).astype("str")
    return table.assign(p_adjusted=adjusted(p, correction), correction=named)


def identity_columns(acts: Any) -> dict[str, Any]:
    """Model and data of activations, as columns of the results."""
    who = getattr(acts, "model_identity", None)
    data = getattr(acts, "identity", {}).get("prompts", {}).get("tokens")
    return {} if who is None else {
        "model": who.name, "revision": who.revision, "model_hash": who.digest, "data_hash": data}
