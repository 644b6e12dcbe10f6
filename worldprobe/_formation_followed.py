"""Curves of the six alignments of a model beside those of its behaviour and its probes: which is first?

The curve of a relation is the mean over linear layers; every layer has one of its own, too. A matrix of zeros, as in
blocks that start as the identity, aligns with nothing: it counts as much as the rotated eigenvectors of the same layer
at the first checkpoint where there is something to align, so that its coming to life is no alignment.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from probing.formation import Curve, alignment_gains, coincidences, transitions
from tasks._study import Study

from ._study_dynamics import transition_table

RELATIONS = tuple((side, relation) for side in ("out", "in") for relation in ("RGA", "RWA", "GWA"))
LAYER_DRAWS = 200

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
        by_layer: The same for every layer: one row per layer, relation and probe or behaviour.
        answers: Which is first, a line per probe or behaviour.
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
        self.by_layer = self._by_layer(against, seed)
        every = pd.concat([self.first, self.transitions], ignore_index=True)
        self.answers = [answer(rows, every) for _, rows in self.lags.groupby("other", sort=False)]

    def _by_layer(self, against: Sequence[Curve], seed: int) -> pd.DataFrame:
        few = [Curve(c.name, c.steps, c.values, c.draws[:LAYER_DRAWS]) for c in against]
        parts = []
        for relation in self.relations:
            curves = [Curve.of_groups(layer, self.steps, values, np.ones_like(values), LAYER_DRAWS, seed)
                      for layer, values in zip(relation.layers, np.moveaxis(relation.values, 2, 0), strict=True)]
            own = transitions(curves, seed).assign(null=relation.null[-1])
            lags = coincidences(curves, few, seed)[["curve", "other", "lag", "lag_low", "lag_high", "spacing"]]
            parts.append(own.merge(lags, on="curve").rename(columns={"curve": "layer"}).assign(relation=relation.name))
        table = pd.concat(parts, ignore_index=True)
        sharp = self.first.set_index("curve")["sharp"].astype(bool)
        return table.assign(order=[order(row, bool(row["sharp"]), bool(sharp[row["other"]]))
                                   for _, row in table.iterrows()])


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


def order(lag: Mapping, sharp: bool, other_sharp: bool) -> str:
    """Whether an alignment leads or follows: `leads`, `follows`, `cannot be told`; or `no step` of its own, `nothing to
    lead` where the other has none."""
    if not other_sharp:
        return "nothing to lead"
    if not sharp:
        return "no step"
    return "leads" if lag["lag_high"] < 0 else "follows" if lag["lag_low"] > 0 else "cannot be told"


def answer(lags: pd.DataFrame, about: pd.DataFrame) -> str:
    """Whether alignments lead or follow one probe (or behaviour), in a line."""
    rows = about.drop_duplicates("curve").set_index("curve")
    name = str(lags["other"].iloc[0])
    if not bool(rows.loc[name, "sharp"]):
        return f"{name}: has no step of its own, so nothing leads or follows it."
    parts, found = [], []
    for _, lag in lags.iterrows():
        own = rows.loc[lag["curve"]]
        found.append(order(lag, bool(own["sharp"]), True))
        size = f"{lag['lag']:+.2f} decades [{lag['lag_low']:+.2f}, {lag['lag_high']:+.2f}]"
        words = {"cannot be told": "cannot be told from it", "no step": "has no step of its own"}.get(found[-1],
                                                                                                   found[-1])
        parts.append(f"{lag['curve']} {words}" + ("" if found[-1] == "no step" else f" ({size})"))
    counts = ", ".join(f"{found.count(kind)} {words}" for kind, words in (
        ("leads", "lead"), ("follows", "follow"), ("cannot be told", "cannot be told from it"),
        ("no step", "without a step of their own")) if kind in found)
    between = "{:,.0f} and {:,.0f}".format(*rows.loc[name, ["between_from", "between_to"]])
    return f"{name} rises between steps {between}; of the six alignments {counts}: {'; '.join(parts)}."


def _filled(table: Float[ndarray, "step layer"]) -> Float[ndarray, "step layer"]:
    """Missing entries before the first are that first one."""
    return pd.DataFrame(table).bfill().to_numpy()
