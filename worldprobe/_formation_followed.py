"""Curves of the six alignments of a model beside those of its behaviour and its probes: which is first?

The curve of a relation is the mean over linear layers; every layer has one of its own, too. A matrix of zeros, as in
blocks that start as the identity, aligns with nothing: it counts as much as the rotated eigenvectors of the same layer
at the first checkpoint where there is something to align, so that its coming to life is no alignment.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from probing.formation import Curve, alignment_gains, coincidences, order, transitions
from tasks._study import Study

from ._study_dynamics import transition_table

RELATIONS = tuple((side, relation) for side in ("out", "in") for relation in ("RGA", "RWA", "GWA"))
LAYER_DRAWS = 200
COUNTS = {"leads": "lead", "follows": "follow", "cannot be told": "cannot be told from it",
          "does not grow": "do not grow"}

Aligned = Mapping[int, pd.DataFrame]  # step -> alignments of every part of the prompts


@dataclass(frozen=True)
class Relation:
    """One of the six, at (step, part, layer); the null of rotated eigenvectors at (step, layer)."""

    name: str
    layers: Sequence[str]
    values: Float[ndarray, "step part layer"]
    null: Float[ndarray, "step layer"]
    null_low: Float[ndarray, "step layer"]
    null_high: Float[ndarray, "step layer"]


class Followed:
    """Curves of behaviour, probes and alignments of one model, and the lags between them.

    Attributes:
        alignments: One row per step, part, layer, relation and side, with `gain`, what it has grown by since step 0.
        relations: The six, layer by layer.
        curves: Of the six, mean over layers.
        first: Transitions of behaviour and probes, see `transition_table`.
        transitions: Those of the six.
        lags: One row per pair of a relation and a probe or behaviour: see `probing.formation.coincidence`.
        by_layer: Transitions of every layer and relation, and their order to every probe and behaviour.
        answers: Which is first, a line per probe or behaviour; `headlines`: those of the first behaviour and of the
            probe that gains most.
    """

    def __init__(self, study: Study, aligned: Aligned, others: Sequence[tuple[dict, Curve]], seed: int):
        self.study, self.steps = study, np.array(sorted(aligned))
        self.alignments = with_gains(aligned)
        self.relations = [relation_of(aligned, side, relation) for side, relation in RELATIONS]
        self.curves = [mean_curve(r, self.steps, seed) for r in self.relations]
        against = [curve for about, curve in others if about["kind"] in ("behaviour", "probe")]
        self.first = transition_table(others, seed)
        self.transitions = pd.DataFrame(transitions(self.curves, seed))
        self.lags = coincidences(self.curves, against, seed)
        self.by_layer = self._by_layer([curve.name for curve in against], seed)
        every = pd.concat([self.first, self.transitions], ignore_index=True)
        answers = {name: answer(rows, every) for name, rows in self.lags.groupby("other", sort=False)}
        first = pd.concat([headline(self.first, kind) for kind in ("behaviour", "probe")])["curve"]
        self.answers = list(answers.values())
        self.headlines = [answers[name] for name in first] or self.answers

    def _by_layer(self, against: Sequence[str], seed: int) -> pd.DataFrame:
        rows = self.first.set_index("curve")
        parts = []
        for relation in self.relations:
            curves = [Curve.of_groups(layer, self.steps, values, np.ones_like(values), LAYER_DRAWS, seed)
                      for layer, values in zip(relation.layers, np.moveaxis(relation.values, 2, 0), strict=True)]
            own = pd.DataFrame(transitions(curves, seed)).assign(null=relation.null[-1], relation=relation.name)
            parts += [own.assign(other=name, order=[order(row, rows.loc[name]) for _, row in own.iterrows()])
                      for name in against]
        return pd.concat(parts, ignore_index=True).rename(columns={"curve": "layer"})


def headline(first: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The row of the first behaviour, or of the probe that gains most; none where nothing grows."""
    rows = first[(first["kind"] == kind) & (first["gain"] > 0)]
    return rows.head(1) if kind == "behaviour" else rows.sort_values("gain", kind="stable").tail(1)


def relation_of(aligned: Aligned, side: str, relation: str) -> Relation:
    """One relation over the steps; layers where there is never anything to align are left out."""
    rows = pd.concat([part.assign(step=step) for step, part in aligned.items()])
    rows = rows[(rows["side"] == side) & (rows["relation"] == relation)]
    steps, layers = sorted(aligned), list(dict.fromkeys(rows["layer"]))
    by_part = rows.set_index(["step", "part", "layer"])["value"].unstack("layer")[layers]
    values = np.stack([by_part.loc[step].to_numpy(float) for step in steps])
    first = rows[rows["part"] == 0].set_index(["step", "layer"])
    nulls = {name: _filled(first[name].unstack("layer").loc[steps, layers].to_numpy(float))
             for name in ("null", "null_low", "null_high")}
    values = np.where(np.isnan(values), nulls["null"][:, None], values)
    there = np.isfinite(values).all((0, 1))
    return Relation(f"{side}-{relation}", [layer for layer, ok in zip(layers, there, strict=True) if ok],
                    values[..., there], **{name: null[:, there] for name, null in nulls.items()})


def mean_curve(relation: Relation, steps: ndarray, seed: int = 0) -> Curve:
    """Mean over layers, parts of the prompts resampled."""
    return Curve.of_groups(relation.name, steps, relation.values, np.ones_like(relation.values), seed=seed)


def with_gains(aligned: Aligned) -> pd.DataFrame:
    """All steps in one table, every value beside that at step 0.

    Raises:
        ValueError: Checkpoints of different architectures.
    """
    start = aligned[0]
    parts = [alignment_gains(now[now["part"] == part], start[start["part"] == part]).assign(step=step)
             for step, now in aligned.items() for part in now["part"].unique()]
    return pd.concat(parts, ignore_index=True)


def answer(lags: pd.DataFrame, about: pd.DataFrame) -> str:
    """Whether alignments lead or follow one probe (or behaviour), in a line."""
    rows = about.drop_duplicates("curve").set_index("curve")
    name = str(lags["other"].iloc[0])
    if (lags["order"] == "nothing to lead").any():
        return f"{name} does not grow in training, so nothing leads or follows it."
    said = []
    for kind, words in COUNTS.items():
        here = lags[lags["order"] == kind]["curve"]
        places: dict[str, list[str]] = {}
        for curve in here:
            own = rows.loc[curve]
            where = "" if kind == "does not grow" else f", halfway {steps_between(own)}"
            places.setdefault(where, []).append(f"{curve} ({own['gain']:+.2f})")
        if len(here):
            said.append(f"{len(here)} {words}: " + "; ".join(", ".join(who) + where for where, who in places.items()))
    return f"{name} is halfway {steps_between(rows.loc[name])}. Of the six alignments {'. '.join(said)}."


def steps_between(row: Any) -> str:
    """Between which checkpoints a curve is halfway, in words."""
    if row["halfway_from"] == 0:
        return f"before step {row['halfway_to']:,.0f}"
    return f"between steps {row['halfway_from']:,.0f} and {row['halfway_to']:,.0f}"


def _filled(table: Float[ndarray, "step layer"]) -> Float[ndarray, "step layer"]:
    """Missing entries before the first are that first one."""
    return pd.DataFrame(table).bfill().to_numpy()
