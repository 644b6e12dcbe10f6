"""One checkpoint of a model: what it does, and what the linear probe reads at every layer, as sums per group.

Every score is a row of results and a pair (gain, size) of sums per group and target, whose ratio it is, so that curves
over checkpoints can be resampled group by group.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from probing import LogisticProbe, Site, extract, identify, load_model, residual_sites, results_frame
from probing._controls import baseline_rows, input_only_rows
from probing._fitting import candidates, fit_and_choose
from probing._question import Question
from probing._score import Guess, gains
from probing._splits import disjoint_splits, splits_of
from probing._statistics import group_sums, interval
from probing._threads import spread
from tasks import LabelledPrompts
from tasks._study import Behaviour, Reading, Study

from ._rows import pick
from ._study_readings import PROBES

SPLITS = ("validation", "test")
FINAL = ":final"  # ends the name of the probe of the last checkpoint, read out at another one


class Score(NamedTuple):
    """Columns of a row, its sums of every group, and how many cells were scored."""

    row: dict[str, Any]
    gain: Float[ndarray, "group target"]
    size: Float[ndarray, "group target"]
    n: int


def probe_of(prompts: LabelledPrompts, label: str) -> str:
    """The linear probe that follows a label through training."""
    return "logistic" if prompts.classes.get(label) else "ridge"


def read_checkpoint(path: Path, study: Study, followed: Sequence[Reading], prompts: Mapping[str, LabelledPrompts],
                    n: int, seed: int, final: Mapping[str, ndarray]) -> tuple[pd.DataFrame, dict[str, ndarray]]:
    """(one row per score, the sums of row i as `i.gain` and `i.size`); where `final` is empty, the weights of the
    probes too, which are what `final` is for other checkpoints.

    Args:
        n: Items of behaviour.
    """
    model = load_model(path)
    scores: list[Score] = []
    weights: dict[str, ndarray] = {}
    if study.behaviour is not None:
        about = {"data_hash": f"{n} {study.behaviour.items} of seed {seed}", "split": "test"}
        scores += [s._replace(row=about | s.row) for s in behaviour_scores(study.behaviour, model, n, seed)]
    for reading in followed:
        scores += reading_scores(model, reading, prompts[reading.name], seed, final, weights)
    common = {"task": study.task, "model_hash": identify(model).digest, "subset": "all", "seed": seed}
    rows = [common | s.row | _number(s, seed) for s in scores]
    sums = {f"{i}.{name}": part for i, s in enumerate(scores) for name, part in (("gain", s.gain), ("size", s.size))}
    return results_frame(rows), sums | ({} if final else weights)


def behaviour_scores(asked: Behaviour, model: Any, n: int, seed: int) -> Iterator[Score]:
    """Every metric, and what somebody without the model gets. Items without a metric count nothing."""
    items = asked.measure(model, n, seed)
    columns: list[tuple[str, str, str | None]] = [(metric, metric, None) for metric in asked.metrics]
    columns += [(metric, column, f"shortcut:{column}") for metric, column in asked.baselines.items()]
    for metric, column, control in columns:
        value, group = items[column].to_numpy(float), items["group"].to_numpy()
        weight = items[asked.weights[metric]].to_numpy(float) if metric in asked.weights else np.ones(len(items))
        weight = np.where(np.isnan(value), 0.0, weight)
        if weight.any():
            gain, size = (group_sums(a[:, None], group) for a in (np.where(weight > 0, value, 0) * weight, weight))
            yield Score({"metric": metric, "control": control}, gain, size, int((weight > 0).sum()))


def reading_scores(model: Any, reading: Reading, prompts: LabelledPrompts, seed: int, final: Mapping[str, ndarray],
                   weights: dict[str, ndarray]) -> list[Score]:
    """At every layer: the probe fitted there, the same on shuffled labels, and the final probe, scored on the true
    labels and on the shuffled ones. Weights of the probes are put into `weights`."""
    acts = extract(model, prompts, residual_sites(model.cfg.n_layers), cache=False, random_init=None)
    name = probe_of(prompts, reading.label)
    real = Question.of(prompts, reading.label, splits_of(acts, prompts))
    shuffled = real.shuffled(1, seed)[0]
    choices = candidates(PROBES[name])
    base = {"positions": reading.name, "label": reading.label, "metric": real.metric,
            "data_hash": acts.identity["prompts"]["tokens"]}

    def of_site(site: Site) -> tuple[list[Score], dict[str, ndarray]]:
        X = np.asarray(acts[site])
        own, null = fit_and_choose(choices, X, [real, shuffled])
        key = f"{reading.name}.{site}"
        last = final_guess(X, final, key) if final else own.guess
        where = base | {"stream": site.stream, "layer": site.layer, "layer_end": site.layer}
        made = [_score(where | {"probe": probe, "control": control, "split": split, "penalty": penalty}, question,
                       guess) for split in SPLITS for probe, control, penalty, question, guess in (
            (name, None, own.penalty, real, own.guess), (name, "shuffled_labels", null.penalty, shuffled, null.guess),
            (name + FINAL, None, None, real, last), (name + FINAL, "shuffled_labels", None, shuffled, last))]
        kept = {f"{key}.coef": own.probe.coef_, f"{key}.intercept": own.probe.intercept_}
        return made, kept | ({f"{key}.classes": own.probe.classes_} if real.n_classes else {})

    scores: list[Score] = []
    for made, kept in spread(of_site, list(acts)):
        scores += made
        weights |= kept
    return scores


def final_guess(X: Float[ndarray, "example d_model"], final: Mapping[str, ndarray], key: str) -> Guess:
    """What the final probe says of these states."""
    coef, intercept = final[f"{key}.coef"], final[f"{key}.intercept"]
    if f"{key}.classes" in final:
        answer = LogisticProbe.from_weights(coef, intercept, final[f"{key}.classes"]).predict(X)
    else:
        answer = X @ coef.T + intercept
    return Guess(np.asarray(answer).reshape(len(X), -1))


def model_free_rows(followed: Sequence[Reading], study: Study, prompts: Mapping[str, LabelledPrompts], seed: int,
                    causal: bool) -> pd.DataFrame:
    """Majorities, shortcuts and the input alone: the same at every checkpoint."""
    rows: list[dict] = []
    for reading in followed:
        read, label = prompts[reading.name], reading.label
        name, splits = probe_of(read, label), disjoint_splits(read, causal)
        alone = input_only_rows(read, label, {name: candidates(PROBES[name])}, seed, splits)
        found = baseline_rows(read, label, seed, splits) + alone + [r | {"probe": name + FINAL} for r in alone]
        metric = Question.of(read, label, splits).metric
        rows += [{"task": study.task, "positions": reading.name} | row for row in found
                 if row["subset"] == "all" and row["metric"] == metric]
    return results_frame(rows)


def chosen(rows: pd.DataFrame, reading: str) -> pd.Series:
    """The row of the linear probe on test at the layer that is best on validation, of rows of one checkpoint."""
    mine = pick(rows, positions=reading, control=None)
    mine = mine[~mine["probe"].str.endswith(FINAL)]
    best = pick(mine, split="validation").sort_values("value", ascending=False, kind="stable").iloc[0]
    return pick(mine, split="test", stream=best["stream"], layer=best["layer"]).iloc[0]


def _score(row: dict[str, Any], question: Question, guess: Guess) -> Score:
    split = row["split"]
    return Score(row, *gains(question, guess, split), int(question.splits[split].sum()) * question.Y.shape[1])


def _number(score: Score, seed: int) -> dict[str, Any]:
    """Value and interval, the mean over targets of ratios of sums."""
    value, low, high = interval(lambda w: ((w @ score.gain) / (w @ score.size)).mean(1), len(score.gain), seed=seed)
    return {"value": float(value), "ci_low": float(low), "ci_high": float(high), "n": score.n,
            "n_groups": int((score.size > 0).any(1).sum())}
