"""Which layers, and how much: a scan on the cases set aside for choosing."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from probing._results import results_frame
from probing._sites import Site
from tasks._prompts import Counterfactuals

from ._effect import Directions, EditAt, Score, Table, against, edit_maker, on_split, row_context
from ._metrics import set_error


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
    score: Score = set_error,
    split: str = "choose",
    seed: int = 0,
    identity: Mapping[str, object] | None = None,
) -> pd.DataFrame:
    """The score of an edit over every contiguous window of `sites` (one per layer) and every dose, beside the null.

    A scan to choose from, without controls: report what was chosen with `effect`, on the other cases. Arguments as in
    `effect`.
    """
    make, sites = edit_maker(directions, edit, sites)
    sites = sorted(sites, key=lambda site: site.layer)
    if len({site.layer for site in sites}) < len(sites):
        raise ValueError(f"a window wants one site per layer, got {', '.join(map(str, sites))}; one stream at a time")
    run = on_split(model, cases, split)
    spans = [sites[first : last + 1] for first, last in windows(len(sites))]
    wanted = [(span, alpha) for span in spans for alpha in alphas]
    new = against(run, cases.right_after, score)
    arms = [{}, *({site: make(site, alpha) for site in span} for span, alpha in wanted)]
    null, *values = run.measure(arms, lambda logits, places: new(logits, places)[:, None])[..., 0].numpy()
    common = row_context(run, cases, sites, split=split, seed=seed, identity=identity, probe=probe, unit=unit,
                         intervention=intervention)
    table = Table(common, cases, run, null, score, seed)
    table.mean(null, metric=table.metric, control="null", alpha=None, unit=None)
    for (span, alpha), each in zip(wanted, values, strict=True):
        table.mean(each, metric=table.metric, alpha=alpha, layer=span[0].layer, layer_end=span[-1].layer)
    return results_frame(table.rows)


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
