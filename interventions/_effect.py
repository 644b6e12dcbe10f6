"""The effect of an edit on the next token, as result rows: every dose beside its null, random bands and price."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy import ndarray

from probing._results import MIN_DRAWS, results_frame
from probing._sites import Site
from probing._subspaces import Subspace
from tasks._prompts import Counterfactuals, LabelledPrompts

from ._arms import Arms, Controls, Directions, EditAt, Measured
from ._contrasts import contrast_rows
from ._dose_curve import curve_rows
from ._doses import Reference, dose_grid
from ._edits import steer
from ._effect_rows import EffectRows, mean_over, row_context
from ._last_token import Edits
from ._measures import Measure, Measures, Score, against
from ._metrics import set_error
from ._places import Positions
from ._runs import on_split, positions_name


def effect(
    model,
    cases: Counterfactuals | LabelledPrompts,
    directions: Directions | Subspace | None = None,
    *,
    alphas: Sequence[float | int] | None = None,
    unit: str | None = None,
    intervention: str = "steer",
    probe: str | None = None,
    edit: EditAt | None = None,
    sites: Sequence[Site] | None = None,
    positions: Positions = -1,
    n_random: int = 20,
    others: Mapping[str, Directions] | None = None,
    arms: Mapping[str, Edits] | None = None,
    other_layers: Sequence[int] = (),
    other_positions: Sequence[int] = (),
    random_init: bool = False,
    references: Mapping[Site, Reference] | None = None,
    ideal_null: Float[ndarray, " case"] | float | None = None,
    score: Score | None = set_error,
    metrics: Sequence[str] | Mapping[str, Measure] = (),
    outcome: str | None = None,
    planned: float | int | None = None,
    curve: bool = False,
    split: str = "report",
    seed: int = 0,
    identity: Mapping[str, object] | None = None,
) -> pd.DataFrame:
    """What an edit, at all `sites` together, does to the next token: result rows.

    The short call is `effect(model, prompts, probe.write)`: a subspace instead of directions, and labelled prompts or
    cases. It fills in all that is not given, see `steer_along`.

    Per dose, for the edit and for each control: the score against the answers that are right after the change
    (`set_error`), its ratio to the null (`error_ratio`, a ratio of means), the price, KL(unedited || edited) of the
    next token in nats (`kl`), and each of `metrics`. The controls:

    - `null`: no edit; `clean`: no edit, against the old answers; `ideal_null`, where given.
    - `random_direction`: the whole edit turned by a random rotation, `n_random` times. Every case and site keeps its
      applied norm, and sites and cases keep their angles to one another, so that a push that adds up over layers has
      a control that adds up too. Value: mean over draws; interval: 5th to 95th percentile of the draws; n: draws.
    - `random_in_components`: the same inside the principal components of the `references`, where there are some.
    - `sign_flip`: the same change, subtracted.
    - each of `others` (another target's direction, another label's), brought to the applied norm of the edit.
    - `other_layer:3`, `other_position:-2`: the same change there instead.
    - `random_init`: the same change in the same architecture with random weights (`random_init_null`: no edit there).
    - each of `arms`, as it is and without a dose, such as `full_patch`: the whole activation from another prompt. Where
      that is there, `nie` is the share of its effect on the outcome that the edit has (a ratio of means), for all cases
      and for those of each class that is written (subset `becomes=1`).

    Args:
        model: A model, or the `LastToken` or `Sequences` of these cases, so that several calls share their prefix.
        directions: Per site, (case|1, width); added `alpha` times.
        alphas: Doses; -4 to 4, doubled outwards until the KL is above 1 nat, unless given.
        unit: What one dose is, for the rows; `absolute`, unless given.
        edit: Instead of directions: the edit of a site at a dose (`move_to`, ...). Its applied change is measured in
            the run, and the controls have that norm.
        sites: Edited together; all sites of `directions` when missing.
        positions: Which tokens are edited, see `At`; the last one unless given. Constants of edits count cases.
        references: What doses are measured against; gives the rows their size in class-mean distances and standard
            deviations.
        score: (logits, right) -> per case, lower is better; None where no answers are known.
        metrics: More numbers: log_odds, iia, flip_rate, mass_before, mass_after, mass_sum, top1_valid, entropy; or
            {name: function of (logits, unedited logits, right_before, right_after)}.
        outcome: The metric of contrasts, curve and nie; the score, unless given.
        planned: The dose whose outcome is held against every control (see `contrast_rows`).
        curve: Sum up the dose-response curve (see `curve_rows`).
        split: Which cases: `choose` or `report`. Layers and doses are picked on the former only.
        identity: Overrides for columns such as task, model, revision, model_hash, data_hash, positions; else taken from
            the model and the cases.
    Raises:
        ValueError: Both, or none, of `directions` and `edit`; fewer than 20 random directions; no case in the split.
    """
    if isinstance(directions, Subspace):
        from ._steer_along import steer_along  # which calls this function

        if isinstance(cases, Counterfactuals):
            raise ValueError("a subspace wants labelled prompts, from which the size of a dose is learned; pass "
                             "prompts, and these cases as steer_along(model, prompts, space, cases=cases)")
        return steer_along(model, cases, directions, alphas=alphas, unit=unit, probe=probe, positions=positions,
                           n_random=n_random, seed=seed, identity=identity)
    if isinstance(cases, LabelledPrompts):
        raise ValueError("labelled prompts go with a subspace, effect(model, prompts, probe.write); directions and "
                         "edits want counterfactual cases, such as tasks.othello.cases()")
    make, sites = edit_maker(directions, edit, sites)
    if n_random < MIN_DRAWS:
        raise ValueError(f"a random band needs at least {MIN_DRAWS} draws, n_random is {n_random}; raise it, or use "
                         "window_map to scan without controls")
    run = on_split(model, cases, split, positions)
    measures = Measures(run, cases, score, metrics)
    arm = Arms(run, cases, measures, make, sites, directions, positions)
    alphas = dose_grid(arm.price) if alphas is None else list(alphas)
    found = arm.measure(alphas, Controls(n_random, others or {}, arms or {}, other_layers, other_positions,
                                         random_init), references, seed)
    common = row_context(run, cases, sites, split=split, seed=seed, unit=unit or "absolute", probe=probe or "given",
                         intervention=intervention, positions=positions_name(positions), identity=identity)
    rows = EffectRows(common, cases.cases["group"].to_numpy()[run.rows.numpy()], seed)
    clean = None if score is None else against(run, cases.right_before, score)(
        measures.unedited, torch.arange(len(run))).cpu().numpy()
    _undosed_rows(rows, found, clean, None if ideal_null is None else np.broadcast_to(
        np.asarray(ideal_null, float), len(cases))[run.rows.numpy()])
    for i, alpha in enumerate(alphas):
        _dose_rows(rows, found, i, alpha)
    which = found.names.index(outcome or found.names[0])
    if planned is not None:
        _planned_rows(rows, found, which, list(map(float, alphas)).index(float(planned)), alpha=planned)
    if "full_patch" in found.fixed:
        _nie_rows(rows, found, which, alphas, cases.cases["becomes"].to_numpy()[run.rows.numpy()])
    if curve:
        _curve(rows, found, which, alphas)
    return results_frame(rows.rows)


def edit_maker(directions: Directions | None, edit: EditAt | None, sites) -> tuple[EditAt, list[Site]]:
    if directions is not None and edit is not None:
        raise ValueError("give either directions (added alpha times) or edit, (site, alpha) -> edit; not both")
    given = directions or {}
    sites = list(given if sites is None else sites)
    if not sites:
        raise ValueError("no site to edit; pass sites=[Site('resid_post', 3), ...]")
    if edit is not None:
        return edit, sites
    if absent := [str(s) for s in sites if s not in given]:
        raise ValueError(f"no direction for {', '.join(absent)}; there are {', '.join(map(str, given)) or 'none'}")
    return (lambda site, alpha: steer(given[site], alpha)), sites


def ratio_name(metric: str) -> str:
    return "error_ratio" if metric == "set_error" else f"{metric}_ratio"


def _has_ratio(found: Measured, which: int) -> bool:
    """Whether a metric is a score, which is divided by its null."""
    return which == 0 and found.names[0] != "kl" and bool(found.unedited["null"][:, 0].any())


def _undosed_rows(rows: EffectRows, found: Measured, clean: Float[ndarray, " case"] | None,
                  ideal: Float[ndarray, " case"] | None) -> None:
    """Rows of whatever has no dose."""
    plain = {"alpha": None, "unit": None}
    for which, metric in enumerate(found.names):
        null = found.unedited["null"][:, which]
        if metric == "kl":
            rows.exactly(0, metric="kl", control="null", **plain)
        else:
            rows.mean(null, metric=metric, control="null", **plain)
        if which == 0 and clean is not None:
            rows.mean(clean, metric=metric, control="clean", **plain)
            if ideal is not None:
                rows.mean(ideal, metric=metric, control="ideal_null", **plain)
        for name, values in {**found.unedited, **found.fixed}.items():
            if name != "null":
                rows.mean(values[:, which], metric=metric, control=name, **plain)
    if _has_ratio(found, 0):
        rows.exactly(1, metric=ratio_name(found.names[0]), control="null", **plain)


def _dose_rows(rows: EffectRows, found: Measured, i: int, alpha: float | int) -> None:
    """Rows of one dose: the edit, its controls, its bands."""
    arms = [(None, found.edited[i]), *found.controls[i].items()]
    own, equal = found.sizes[i], {k: found.sizes[i][k] for k in ("applied_norm", "norm_share")}
    for name, values in arms:
        columns = {"alpha": alpha, "control": name, **(own if name is None else equal)}
        for which, metric in enumerate(found.names):
            rows.mean(values[:, which], metric=metric, **columns)
        if _has_ratio(found, 0) and name != "random_init":
            rows.ratio(values[:, 0], found.unedited["null"][:, 0], metric=ratio_name(found.names[0]), **columns)
    for name, draws in found.bands[i].items():
        columns = {"alpha": alpha, "control": name, **equal}
        for which, metric in enumerate(found.names):
            rows.band(mean_over(draws[..., which]), metric=metric, **columns)
        if _has_ratio(found, 0):
            ratio = mean_over(draws[..., 0]) / found.unedited["null"][:, 0].mean()
            rows.band(ratio, metric=ratio_name(found.names[0]), **columns)


def _planned_rows(rows: EffectRows, found: Measured, which: int, i: int, **columns) -> None:
    """Contrasts of one dose with everything. That with random weights is of what the edit does in either model."""
    null, metric = found.unedited["null"][:, which], found.names[which]
    rivals = {"null": null} | {name: values[:, which] for name, values in {**found.fixed, **found.controls[i]}.items()}
    if "random_init" in rivals:
        rivals["random_init"] = rivals["random_init"] - found.unedited["random_init_null"][:, which] + null
    bands = {name: draws[..., which] for name, draws in found.bands[i].items()}
    contrast_rows(rows, metric, found.edited[i][:, which], rivals, bands, **columns)


def _nie_rows(rows: EffectRows, found: Measured, which: int, alphas: Sequence[float | int],
              becomes: ndarray) -> None:
    """Normalised effect of every dose: (edited - null) / (full_patch - null), sums over cases."""
    null, full = found.unedited["null"][:, which], found.fixed["full_patch"][:, which]
    subsets = {"all": np.ones(len(null), bool)} | {f"becomes={c}": becomes == c for c in np.unique(becomes)}
    for subset, inside in subsets.items():
        there = inside & np.isfinite(full - null)
        if not there.any() or not (full - null)[there].sum():
            continue
        rows.exactly(0, metric="nie", control="null", subset=subset, alpha=None, unit=None)
        for i, alpha in enumerate(alphas):
            columns = {"metric": "nie", "subset": subset, "alpha": alpha}
            gain = np.where(there, found.edited[i][:, which] - null, np.nan)
            rows.ratio(gain, np.where(there, full - null, np.nan), **columns, **found.sizes[i])
            draws = found.bands[i]["random_direction"][..., which]
            rows.band((draws - null)[:, there].sum(1) / (full - null)[there].sum(), control="random_direction",
                      **columns)


def _curve(rows: EffectRows, found: Measured, which: int, alphas: Sequence[float | int]) -> None:
    two = [which, found.names.index("kl")]
    values = found.edited[..., two].transpose(2, 0, 1)
    draws = np.stack([bands["random_direction"][..., two] for bands in found.bands], 1).transpose(3, 1, 0, 2)
    curve_rows(rows, alphas, found.names[which], values, draws, found.unedited["null"][:, two].T)
