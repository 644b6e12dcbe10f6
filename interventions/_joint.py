"""Several tokens of a prompt edited together, each by an edit of its own: effects as result rows, as of `effect`.

    spots = {Spot("resid_post", 2, part=0): first, Spot("resid_post", 2, part=1): second}       # directions per case
    make = lambda alpha: {spot: steer(v, alpha) for spot, v in spots.items()}
    table = joint_effect(Sequences.of(model, cases), cases, make, [first_token, second_token], alphas=[1.0], ...)

The controls turn all that is added, at all tokens, by one rotation: every token keeps its norm, and the tokens keep
their angles to one another.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from probing._results import MIN_DRAWS, results_frame
from probing._sites import Site
from tasks._prompts import Counterfactuals

from ._arms import Measured
from ._controls import random_like, rescaled
from ._doses import sizes
from ._edits import Edit, compose, steer
from ._effect_rows import EffectRows, mean_over, row_context
from ._last_token import LastToken
from ._measured_rows import dose_rows, nie_rows, planned_rows, undosed_rows
from ._measures import Measure, Measures
from ._metrics import set_error
from ._places import At, Positions
from ._runs import Arm, Run


@dataclass(frozen=True)
class Spot(Site):
    """A site at one of the tokens that are edited together."""

    part: int = 0

    @property
    def site(self) -> Site:
        return Site(self.stream, self.layer, self.head)


SMALLEST_GAP = 1e-3  # of the metric, between no edit and the ceiling, of which shares are taken

JointEdits = Mapping[Spot, Edit]
JointDirections = Mapping[Spot, Float[Tensor, "#case _"]]
MakeJoint = Callable[[float], JointEdits]


def joint_arm(run: Run, edits: JointEdits, positions: Sequence[Positions]) -> Arm:
    """The edits as an arm of the run, that of part i at `positions[i]`.

    Args:
        positions: Of every part: one token for all cases, or one for each (case,).
    Raises:
        ValueError: A part without a token, or with several.
    """
    if bad := [spot for spot in edits if not spot.part < len(positions)]:
        raise ValueError(f"there is an edit of part {bad[0].part}, but tokens for {len(positions)}; give one for each")
    if any(p is None or torch.as_tensor(p).ndim > 1 for p in positions):
        raise ValueError("a part is one token of every case; give a number, or one for each case")
    by_site: dict[Site, list[tuple[Spot, Edit]]] = {}
    for spot, edit in edits.items():
        by_site.setdefault(spot.site, []).append((spot, edit))
    if isinstance(run, LastToken):
        return {site: compose(*(edit for _, edit in each)) for site, each in by_site.items()}
    return {site: [At(edit, positions[spot.part]) for spot, edit in each] for site, each in by_site.items()}


def joint_effect(
    run: Run,
    cases: Counterfactuals,
    make: MakeJoint,
    positions: Sequence[Positions] = (-1,),
    *,
    alphas: Sequence[float | int],
    unit: str,
    intervention: str,
    probe: str,
    others: Mapping[str, JointDirections] | None = None,
    full_patch: JointEdits | None = None,
    told: Float[Tensor, "case d_vocab"] | None = None,
    unedited: Float[Tensor, "case d_vocab"] | None = None,
    metrics: Sequence[str] | Mapping[str, Measure] = (),
    recovered: Sequence[str] = (),
    subsets: Mapping[str, Bool[ndarray, " case"]] | None = None,
    planned: float | int | None = None,
    n_random: int = 20,
    split: str = "report",
    seed: int = 0,
    identity: Mapping[str, object] | None = None,
) -> pd.DataFrame:
    """What edits of several tokens, made together, do to the next token: rows and controls as of `effect`.

    Args:
        run: Of all the cases: a `LastToken` where all parts are the last token, else `Sequences`.
        make: Dose -> edit of every spot. What it adds is measured in the run.
        others: Name of a control -> directions per spot, brought to the applied norm of the edit spot by spot.
        full_patch: The whole activations of another prompt, as the control `full_patch`, and what `nie` is a share of.
        told: Logits of prompts that tell of the change, unedited: control `told`, the ceiling.
        unedited: Logits of the cases from another run, which this one must agree with.
        recovered: Metrics of which `METRIC_recovery` is reported too, where there is a ceiling: (edited - unedited) /
            (told - unedited), a ratio of means.
        subsets: Name -> cases, for which all is reported again.
        planned: The dose whose error is held against every control.
    Raises:
        ValueError: Fewer than 20 random directions, no case in the split, a dose that was not measured.
    Source: ours; one token alone is `effect`.
    """
    if n_random < MIN_DRAWS:
        raise ValueError(f"a random band needs at least {MIN_DRAWS} draws, n_random is {n_random}; raise it")
    if planned is not None and planned not in alphas:
        raise ValueError(f"the planned dose {planned:g} is not among {', '.join(f'{a:g}' for a in alphas)}; add it")
    run = _inside(run, cases, split)
    measures = Measures(run, cases, set_error, metrics)
    apart = 0.0 if unedited is None else float((measures.unedited - unedited[run.rows]).abs().max())
    if apart > 0.01:
        raise ValueError(f"the unedited run is {apart:.3g} off the logits given for these cases; the model or the "
                         "prompts are not what they were")
    found = _measured(run, measures, make, positions, alphas, others or {}, full_patch, n_random, seed)
    if told is not None:
        found.fixed["told"] = measures(told[run.rows], torch.arange(len(run))).numpy()
    clean = set_error(measures.unedited, measures.before).double().numpy(force=True)
    sites = sorted({spot.site for spot in make(float(alphas[0]))})
    common = row_context(run, cases, sites, split=split, seed=seed, unit=unit, probe=probe, intervention=intervention,
                         **{"positions": "joint", **(identity or {})})
    everywhere = {"all": np.ones(len(cases), bool), **(subsets or {})}
    table: list[dict] = []
    for name, inside in everywhere.items():
        here = inside[run.rows.numpy()]
        if here.any():
            rows = EffectRows(common | {"subset": name}, _groups(run, cases)[here], seed)
            table += _rows(_of_cases(found, here), rows,
                           clean[here], cases.cases["becomes"].to_numpy()[run.rows.numpy()][here], alphas, planned,
                           recovered)
    return results_frame(table)


def joint_scan(run: Run, cases: Counterfactuals, arms: Sequence[tuple[Mapping[str, object], JointEdits]],
               positions: Sequence[Positions] = (-1,), *, metrics: Sequence[str] | Mapping[str, Measure] = (),
               split: str = "choose", seed: int = 0, identity: Mapping[str, object] | None = None) -> pd.DataFrame:
    """Error and metrics of many edits beside those of none, without controls: rows to choose from.

    Args:
        arms: What each edit is called (columns of the results: stream, layer, alpha, probe, ...), and the edit.
    """
    run = _inside(run, cases, split)
    measures = Measures(run, cases, set_error, metrics)
    values = run.measure([joint_arm(run, edits, positions) for _, edits in arms], measures).numpy()
    sites = sorted({spot.site for _, edits in arms for spot in edits})
    common = row_context(run, cases, sites, split=split, seed=seed, **{"positions": "joint", **(identity or {})})
    rows, null = EffectRows(common, _groups(run, cases), seed), measures.null()
    for which, metric in enumerate(measures.names):
        rows.mean(null[:, which], metric=metric, control="null", intervention=arms[0][0].get("intervention"),
                  stream=None, layer=None, layer_end=None)
        for (columns, _), each in zip(arms, values, strict=True):
            rows.mean(each[:, which], metric=metric, **columns)
    return results_frame(rows.rows)


def _inside(run: Run, cases: Counterfactuals, split: str) -> Run:
    inside = (cases.cases["split"] == split).to_numpy()[run.rows.numpy()]
    if not inside.any():
        raise ValueError(f"no case of split {split!r}; there are {sorted(set(cases.cases['split']))}")
    return run.select(inside)


def _groups(run: Run, cases: Counterfactuals) -> ndarray:
    return cases.cases["group"].to_numpy()[run.rows.numpy()]


def _measured(run: Run, measures: Measures, make: MakeJoint, positions: Sequence[Positions], alphas, others: Mapping,
              full_patch: JointEdits | None, n_random: int, seed: int) -> Measured:
    norm: dict[Spot, Tensor] = {}
    changes: list[dict[Spot, Tensor]] = [{} for _ in alphas]
    edited = [_noting(make(float(a)), change, norm, int(run.rows.max()) + 1)
              for a, change in zip(alphas, changes, strict=True)]
    values = _numbers(run, measures, [*edited, *([full_patch] if full_patch else [])], positions)
    found = Measured(measures.names, {"null": measures.null()}, {"full_patch": values[-1]} if full_patch else {},
                     values[: len(edited)])
    for alpha, change in zip(alphas, changes, strict=True):
        one: dict[str, JointEdits] = {"sign_flip": {spot: steer(v, -1.0) for spot, v in change.items()}}
        for name, given in others.items():
            one[name] = {s: steer(rescaled(given[s][: len(v)], v)) for s, v in change.items()}
        by_site: dict[Site, Tensor] = dict(change.items())
        draws = random_like(by_site, n_random, seed, -1.0 if alpha < 0 else 1.0)
        values = _numbers(run, measures, [*one.values(), *draws], positions)
        found.controls.append(dict(zip(one, values, strict=False)))
        found.bands.append({"random_direction": values[len(one) :]})
        found.sizes.append(sizes(by_site, dict(norm.items())))
    return found


def _numbers(run: Run, measures: Measures, arms: Sequence, positions: Sequence[Positions]
             ) -> Float[ndarray, "arm case number"]:
    return run.measure([joint_arm(run, edits, positions) for edits in arms], measures).numpy()


def _noting(edits: JointEdits, added: dict[Spot, Tensor], norm: dict[Spot, Tensor], n: int) -> JointEdits:
    """Edits that also write down what they add, and the norms of what they add it to: (n, width) and (n, 1)."""

    def noting(spot: Spot, edit: Edit) -> Edit:
        def noted(x: Tensor, rows: Tensor) -> Tensor:
            new = edit(x, rows)
            for into, said in ((added, new - x), (norm, x.float().norm(dim=-1, keepdim=True))):
                if spot not in into:
                    into[spot] = said.new_zeros(n, said.shape[-1])
                into[spot][rows] = said
            return new

        return noted

    return {spot: noting(spot, edit) for spot, edit in edits.items()}


def _of_cases(found: Measured, here: Bool[ndarray, " case"]) -> Measured:
    """What was measured, of some of the cases."""
    def part(of: Mapping) -> dict:
        return {name: values[..., here, :] for name, values in of.items()}

    return replace(found, unedited=part(found.unedited), fixed=part(found.fixed), edited=found.edited[:, here],
                   controls=[part(c) for c in found.controls], bands=[part(b) for b in found.bands])


def _rows(found: Measured, rows: EffectRows, clean: Float[ndarray, " case"], becomes: ndarray, alphas, planned,
          recovered: Sequence[str]) -> list[dict]:
    undosed_rows(rows, found, clean, None)
    for i, alpha in enumerate(alphas):
        dose_rows(rows, found, i, alpha)
    if planned is not None:
        planned_rows(rows, found, 0, list(alphas).index(planned), alpha=planned)
    if "full_patch" in found.fixed and rows.common["subset"] == "all":  # it has subsets of its own
        nie_rows(rows, found, 0, alphas, becomes)
    if "told" in found.fixed:
        for metric in recovered:
            _recovery_rows(rows, found, found.names.index(metric), alphas)
    return rows.rows


def _recovery_rows(rows: EffectRows, found: Measured, which: int, alphas: Sequence[float | int]) -> None:
    """Shares of the gap between the unedited prompt and the one that tells of the change; none where they are alike."""
    null, gap = found.unedited["null"][:, which], found.fixed["told"][:, which] - found.unedited["null"][:, which]
    metric, there = f"{found.names[which]}_recovery", ~np.isnan(gap)
    if not there.any() or abs(mean_gap := float(gap[there].mean())) < SMALLEST_GAP:
        return
    for value, name in ((0, "null"), (1, "told")):
        rows.exactly(value, metric=metric, control=name, alpha=None, unit=None)
    for name, values in found.fixed.items():
        if name != "told":
            rows.ratio(values[:, which] - null, gap, metric=metric, control=name, alpha=None, unit=None)
    for i, alpha in enumerate(alphas):
        arms: list[tuple[str | None, ndarray]] = [(None, found.edited[i]), *found.controls[i].items()]
        for control, values in arms:
            rows.ratio(values[:, which] - null, gap, metric=metric, control=control, alpha=alpha, **found.sizes[i])
        draws = mean_over(found.bands[i]["random_direction"][..., which] - null) / mean_gap
        rows.band(draws, metric=metric, control="random_direction", alpha=alpha, **found.sizes[i])
