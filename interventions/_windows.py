"""Which layers, which tokens, and how much: scans over windows of layers and doses, and maps of layers x positions."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd

from probing._results import MIN_DRAWS, results_frame
from probing._significance import benjamini_hochberg, paired_difference
from probing._sites import Site
from tasks._prompts import Counterfactuals

from ._arms import Directions, EditAt
from ._controls import random_like
from ._effect import edit_maker
from ._effect_rows import EffectRows, mean_over, row_context
from ._last_token import LastToken
from ._measures import Measure, Measures, Score
from ._metrics import set_error
from ._places import Positions
from ._runs import applied_change, counted_by, on_split, placed, positions_name
from ._sequences import Sequences


def windows(n_layers: int) -> list[tuple[int, int]]:
    """(first, last) of every contiguous window of layers, last included: n (n + 1) / 2 of them."""
    return [(first, last) for first in range(n_layers) for last in range(first, n_layers)]


def window_map(
    model,
    cases: Counterfactuals,
    directions: Directions | None = None,
    *,
    alphas: Sequence[float | int],
    unit: str,
    intervention: str,
    probe: str,
    edit: EditAt | None = None,
    sites: Sequence[Site] | None = None,
    positions: Positions = -1,
    within: int | None = None,
    score: Score = set_error,
    split: str = "choose",
    seed: int = 0,
    identity: Mapping[str, object] | None = None,
) -> pd.DataFrame:
    """The score of an edit over every contiguous window of `sites` (one per layer) and every dose, beside the null.

    A scan to choose from, without controls: report what was chosen with `effect`, on the other cases. Arguments as in
    `effect`.

    Args:
        within: Only windows of at most this many layers; 1 gives the map of layers x doses.
    """
    make, sites = edit_maker(directions, edit, sites)
    sites = sorted(sites, key=lambda site: site.layer)
    if len({site.layer for site in sites}) < len(sites):
        raise ValueError(f"a window wants one site per layer, got {', '.join(map(str, sites))}; one stream at a time")
    run = on_split(model, cases, split, positions)
    spans = [sites[first : last + 1] for first, last in windows(len(sites)) if last - first < (within or len(sites))]
    wanted = list(product(spans, alphas))
    measures = Measures(run, cases, score)
    arms = [placed(run, {site: make(site, alpha) for site in span}, positions) for span, alpha in wanted]
    values = run.measure(arms, measures)[..., 0].numpy()
    common = row_context(run, cases, sites, split=split, seed=seed, probe=probe, unit=unit, intervention=intervention,
                         positions=positions_name(positions), identity=identity)
    rows = EffectRows(common, cases.cases["group"].to_numpy()[run.rows.numpy()], seed)
    rows.mean(measures.null()[:, 0], metric=measures.names[0], control="null", alpha=None, unit=None)
    for (span, alpha), each in zip(wanted, values, strict=True):
        rows.mean(each, metric=measures.names[0], alpha=alpha, layer=span[0].layer, layer_end=span[-1].layer)
    return results_frame(rows.rows)


def position_map(
    model,
    cases: Counterfactuals,
    directions: Directions | None = None,
    *,
    positions: Mapping[str, Positions] | Sequence[int],
    alpha: float | int = 1.0,
    unit: str,
    intervention: str,
    probe: str,
    edit: EditAt | None = None,
    sites: Sequence[Site] | None = None,
    n_random: int = 20,
    score: Score | None = set_error,
    metrics: Sequence[str] | Mapping[str, Measure] = (),
    split: str = "report",
    seed: int = 0,
    identity: Mapping[str, object] | None = None,
) -> pd.DataFrame:
    """One dose of an edit at every site alone, and at every position: layers x positions, as result rows.

    Every cell (`stream`, `layer`, `positions`) has its null, its band of random directions and, per metric,
    METRIC_difference to the null with a p-value, that of Benjamini and Hochberg over the cells beside it. Arguments as
    in `effect`.

    Args:
        positions: Name -> positions as in `At` (`{"subject": cases.cases["pos:subject"]}`), or plain numbers.
    Raises:
        ValueError: A position lies outside its prompt; fewer than 20 random directions.
    """
    make, sites = edit_maker(directions, edit, sites)
    if n_random < MIN_DRAWS:
        raise ValueError(f"a random band needs at least {MIN_DRAWS} draws, n_random is {n_random}; raise it")
    named = positions if isinstance(positions, Mapping) else {positions_name(p): p for p in positions}
    whole = Sequences.of(model.model, cases) if isinstance(model, LastToken) else model
    run = on_split(whole, cases, split, None)
    measures = Measures(run, cases, score, metrics)
    common = row_context(run, cases, sites, split=split, seed=seed, unit=unit, probe=probe, alpha=alpha,
                         intervention=intervention, identity=identity)
    rows = EffectRows(common, cases.cases["group"].to_numpy()[run.rows.numpy()], seed)
    null = measures.null()
    for which, metric in enumerate(measures.names):
        rows.mean(null[:, which], metric=metric, control="null", alpha=None, unit=None, stream=None, layer=None,
                  layer_end=None, head=None)
    differences: list[tuple[dict, str, tuple]] = []
    for site, (name, where) in product(sites, named.items()):
        cell = {"stream": site.stream, "layer": site.layer, "layer_end": site.layer, "head": site.head,
                "positions": name}
        change = applied_change(run, {site: make(site, alpha)}, where)
        draws = [placed(run, arm, where, counted_by(where)) for arm in random_like(change, n_random, seed)]
        own, *random = run.measure([placed(run, {site: make(site, alpha)}, where), *draws], measures).numpy()
        for which, metric in enumerate(measures.names):
            rows.mean(own[:, which], metric=metric, **cell)
            rows.band(mean_over(np.stack(random)[..., which]), metric=metric, control="random_direction", **cell)
            if (there := ~np.isnan(null[:, which])).any():
                differences.append((cell, metric, paired_difference(
                    own[there, which], null[there, which], rows.groups[there], seed=seed)))
    _differences(rows, differences)
    return results_frame(rows.rows)


def _differences(rows: EffectRows, differences: Sequence[tuple[dict, str, tuple]]) -> None:
    for metric in dict.fromkeys(metric for _, metric, _ in differences):
        of = [(cell, found) for cell, name, found in differences if name == metric]
        adjusted = benjamini_hochberg(np.array([found[3] for _, found in of])).tolist()
        for (cell, (*found, p)), corrected in zip(of, adjusted, strict=True):
            rows.add(tuple(found), len(rows.groups), metric=f"{metric}_difference", control="null", p_value=p,
                     p_adjusted=corrected, correction="benjamini_hochberg", n_groups=len(set(rows.groups)), **cell)


class Dose(NamedTuple):
    """A window of layers and a dose, with the score they had where they were chosen."""

    stream: str
    layer: int
    layer_end: int
    alpha: float
    value: float

    @property
    def sites(self) -> list[Site]:
        return [Site(self.stream, layer) for layer in range(self.layer, self.layer_end + 1)]


def best_dose(table: pd.DataFrame, metric: str = "set_error", within: int | None = None) -> Dose:
    """The window and dose of lowest `metric` among the edits of a table of `choose` rows (of equals, the smallest dose
    and then the narrowest window). Report it with `effect(..., split="report")`.

    Args:
        within: Only windows of at most this many layers.
    Raises:
        ValueError: Nothing to choose from: no edit of that metric on the choose split.
    """
    chosen_from = table[(table["metric"] == metric) & (table["split"] == "choose") & table["control"].isna()
                        & table["intervention"].notna()]
    width = chosen_from["layer_end"] - chosen_from["layer"]
    if within is not None:
        chosen_from, width = chosen_from[width < within], width[width < within]
    if chosen_from.empty:
        raise ValueError(f"no edit with metric {metric!r} on split 'choose' in a table of {len(table)} rows; make one "
                         "with window_map(...)")
    order = chosen_from.assign(dose=chosen_from["alpha"].abs(), width=width).sort_values(
        ["value", "dose", "width", "layer"], kind="stable")
    best = order.iloc[0]
    return Dose(best["stream"], int(best["layer"]), int(best["layer_end"]), float(best["alpha"]), float(best["value"]))
