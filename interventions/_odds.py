"""Odds against a control mapping: would the same method have found a handle for answers that mean nothing?"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from probing._results import MIN_DRAWS, results_frame
from tasks._prompts import Counterfactuals

from ._controls import random_like
from ._effect_rows import EffectRows, row_context
from ._last_token import Edits
from ._measures import Measures
from ._places import Positions
from ._runs import applied_change, counted_by, on_split, placed, positions_name


def control_mapping(cases: Counterfactuals, seed: int = 0) -> Counterfactuals:
    """The same cases with an arbitrary token as the answer of each class, one that is never right in any of them.

    Whatever learns from answers (`fit_das` on `interchange_pairs` of these) learns what can be learned from nothing.

    Raises:
        ValueError: Every token is right somewhere.
    Source: CausalGym (Arora et al., arXiv:2402.12560).
    """
    was, becomes = cases.cases["was"].to_numpy(), cases.cases["becomes"].to_numpy()
    classes = np.unique(np.r_[was, becomes])
    free = np.flatnonzero(~(cases.right_before | cases.right_after).any(0))
    free = free[free > 0]  # token 0 is padding
    if len(free) < len(classes):
        raise ValueError(f"{len(free)} tokens are never right, {len(classes)} classes want one each; ask about fewer "
                         "classes")
    tokens = np.random.default_rng(seed).permutation(free)[: len(classes)]
    before, after = (np.eye(cases.right_before.shape[1], dtype=bool)[tokens[np.searchsorted(classes, codes)]]
                     for codes in (was, becomes))
    return replace(cases, right_before=before, right_after=after, kind=f"{cases.kind}, arbitrary answers")


def odds_selectivity(
    model,
    cases: Counterfactuals,
    edits: Edits,
    control: Edits,
    *,
    intervention: str,
    probe: str,
    alpha: float | int | None = None,
    unit: str | None = None,
    positions: Positions = -1,
    n_random: int = 20,
    split: str = "report",
    seed: int = 0,
    identity: Mapping[str, object] | None = None,
) -> pd.DataFrame:
    """`odds_ratio` (see `log_odds_ratio`), and `odds_selectivity`: that of the edit on these cases minus that of
    `control`, which the same method made from `control_mapping(cases, seed)`, on those. Result rows beside `null` (0)
    and the band of random directions of the edit's norm, scored both ways.

    Raises:
        ValueError: Fewer than 20 random directions; no case in the split.
    """
    if n_random < MIN_DRAWS:
        raise ValueError(f"a random band needs at least {MIN_DRAWS} draws, n_random is {n_random}; raise it")
    run = on_split(model, cases, split, positions)
    drawn = random_like(applied_change(run, edits, positions), n_random, seed)
    draws = [placed(run, arm, positions, counted_by(positions)) for arm in drawn]
    odds = []
    for own, of in ((edits, cases), (control, control_mapping(cases, seed))):
        measures = Measures(run, of, None, ["odds_ratio"])
        odds.append(run.measure([placed(run, own, positions), *draws], measures)[..., 1].numpy())
    common = row_context(run, cases, list(edits), split=split, seed=seed, probe=probe, intervention=intervention,
                         positions=positions_name(positions), identity=identity)
    rows = EffectRows(common, cases.cases["group"].to_numpy()[run.rows.numpy()], seed)
    dose = {"alpha": alpha, "unit": unit}
    for metric, values in (("odds_ratio", odds[0]), ("odds_selectivity", odds[0] - odds[1])):
        rows.mean(values[0], metric=metric, **dose)
        rows.exactly(0, metric=metric, control="null", alpha=None, unit=None)
        rows.band(np.nanmean(values[1:], axis=1), metric=metric, control="random_direction", **dose)
    return results_frame(rows.rows)
