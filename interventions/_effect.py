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

from ._arms import Arms, Controls, Directions, EditAt
from ._doses import AT_KL, Reference, dose_grid
from ._edits import steer
from ._effect_rows import EffectRows, row_context
from ._last_token import Edits
from ._measured_rows import dose_curve_rows, dose_rows, nie_rows, planned_rows, undosed_rows
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
    at_kl: float = AT_KL,
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
      and for those of each class that is written (subset `becomes=1`); cases in which it moves the outcome by less than
      a tenth of a standard deviation are left out, and n says how many are not.

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
        at_kl: Side effect, in nats, at which edits are compared: the default doses hold the one that costs as much.
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
        own = {"edit": edit, "sites": sites, "others": others, "arms": arms, "other_layers": other_layers or None,
               "other_positions": other_positions or None, "random_init": random_init or None, "references": references,
               "ideal_null": ideal_null, "metrics": metrics or None, "outcome": outcome, "planned": planned,
               "curve": curve or None, "score": None if score is set_error else score,
               "split": None if split == "report" else split,
               "intervention": None if intervention == "steer" else intervention}
        if given := [name for name, value in own.items() if value is not None]:
            raise ValueError(f"with a subspace effect sets {', '.join(given)} itself; leave them out, or pass cases "
                             "and directions")
        return steer_along(model, cases, directions, alphas=alphas, unit=unit, probe=probe, positions=positions,
                           at_kl=at_kl, n_random=n_random, seed=seed, identity=identity)
    if isinstance(cases, LabelledPrompts):
        raise ValueError("labelled prompts go with a subspace, effect(model, prompts, probe.write); directions and "
                         "edits want counterfactual cases, such as tasks.othello.cases(), or those of any prompts: "
                         "interventions.prompt_cases(prompts, label, model.cfg.d_vocab)")
    make, sites = edit_maker(directions, edit, sites)
    if n_random < MIN_DRAWS:
        raise ValueError(f"a random band needs at least {MIN_DRAWS} draws, n_random is {n_random}; raise it, or use "
                         "window_map to scan without controls")
    run = on_split(model, cases, split, positions)
    measures = Measures(run, cases, score, metrics)
    arm = Arms(run, cases, measures, make, sites, directions, positions)
    alphas = dose_grid(arm.price, at=at_kl) if alphas is None else list(alphas)
    _check_summary(measures.names, outcome, planned, alphas)
    found = arm.measure(alphas, Controls(n_random, others or {}, arms or {}, other_layers, other_positions,
                                         random_init), references, seed)
    common = row_context(run, cases, sites, split=split, seed=seed, unit=unit or "absolute", probe=probe or "given",
                         intervention=intervention, positions=positions_name(positions), identity=identity)
    rows = EffectRows(common, cases.cases["group"].to_numpy()[run.rows.numpy()], seed)
    clean = None if score is None else against(run, cases.right_before, score)(
        measures.unedited, torch.arange(len(run))).cpu().numpy()
    undosed_rows(rows, found, clean, None if ideal_null is None else np.broadcast_to(
        np.asarray(ideal_null, float), len(cases))[run.rows.numpy()])
    for i, alpha in enumerate(alphas):
        dose_rows(rows, found, i, alpha)
    which = found.names.index(outcome or found.names[0])
    if planned is not None:
        planned_rows(rows, found, which, list(alphas).index(planned), alpha=planned)
    if "full_patch" in found.fixed:
        nie_rows(rows, found, which, alphas, cases.cases["becomes"].to_numpy()[run.rows.numpy()])
    if curve:
        dose_curve_rows(rows, found, which, alphas, at_kl)
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


def _check_summary(names: Sequence[str], outcome: str | None, planned: float | int | None,
                   alphas: Sequence[float | int]) -> None:
    if outcome is not None and outcome not in names:
        raise ValueError(f"the outcome {outcome!r} is not measured, {', '.join(names)} are; name it in metrics too")
    if planned is not None and planned not in alphas:
        raise ValueError(f"the planned dose {planned:g} is not among the doses {', '.join(f'{a:g}' for a in alphas)}; "
                         "add it to alphas")
