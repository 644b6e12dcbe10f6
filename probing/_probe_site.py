"""All probes of one site with the controls that are fitted there, and what they add up to over sites."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from sklearn.base import BaseEstimator
from torch import Tensor

from tasks import LabelledPrompts

from ._fitting import Candidates, Fit, candidates, fit_and_choose, stacks, suits
from ._question import Question
from ._results import MIN_DRAWS
from ._score import gains, score, value_of
from ._significance import difference_p, permutation_p, ratio_of_sums
from ._sites import Site
from ._splits import Splits, splits_of
from ._statistics import N_BOOT

CONTROLS = ("shuffled_labels", "random_init", "input_only")
FEW_TARGETS = 8  # of a label: up to here its shuffled draws are made by default, as columns of the same solve
Probes = Mapping[str, BaseEstimator | Candidates]
Sums = tuple[Float[ndarray, "group target"], Float[ndarray, "group target"]]


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
    cells: dict[tuple[str, str], tuple[list[tuple[Question, Fit]], Fit | None]] = {}
    for name, choices in ((name, candidates(probe)) for name, probe in probes.items()):
        for questions in _alike([q for q in asked if name in plan[q.label] and suits(choices[0], q)]):
            arms = [[q, *q.shuffled(_draws(q, choices, controls, shuffles), seed)] for q in questions]
            fits = iter(fit_and_choose(choices, X, [q for each in arms for q in each]))
            twins = iter(() if X_random is None else fit_and_choose(choices, X_random, questions))
            for each in arms:
                cells[each[0].label, name] = [(q, next(fits)) for q in each], next(twins, None)
    for question in asked:
        for name in probes:
            if cell := cells.get((question.label, name)):
                _record(result, name, cell[0], cell[1], seed)
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
        p = difference_p(linear_gain(sums, gains(draws[0][0], draws[0][1].guess, "test")), seed=seed)
    row = next(r for r in result.rows if (r["label"], r["probe"], r["control"], r["metric"], r["split"], r["subset"])
               == (question.label, name, None, question.metric, "test", "all"))
    row["p_value"] = p


def linear_gain(a: Sums, b: Sums) -> Float[ndarray, " group"]:
    """What each group adds to the metric of a minus that of b, the mean over targets."""
    return ((a[0] - b[0]) / a[1].sum(0)).mean(1)


def paired(a: Sums, b: Sums, seed: int = 0) -> tuple[float, float, float, float]:
    """(difference, low, high, two-sided p) of two metrics on the same groups."""
    gain = linear_gain(a, b)
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
