"""Does what a reading's probes write carry the change where it works best? The span of their directions beside a
subspace that was learned to bring the change about.

At the place, site and tokens where writing did most: the subspace of few dimensions through which the activations of
the prompts that tell of the change give its answers (`fit_joint_das`), and for each kind of direction the span of what
it writes, over all cases (leading principal axes, as many). Reported are the angles between them, what patching the
witness' activation inside each does, and in all that is left of it, and what setting each to its mean breaks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interventions import patch_from, project_out
from interventions._effect_rows import row_context
from interventions._joint import JointEdits, Spot, joint_arm, joint_effect
from interventions._joint_das import fit_joint_das
from interventions._pair_run import random_subspaces
from probing import Subspace, results_frame
from tasks import Counterfactuals

MOST_RANK, REFITS, N_DRAWS, KEPT = 4, 1, 100, 0.8
Spaces = Mapping[Spot, Subspace]


def span_of(directions: Float[Tensor, "case d_model"], rank: int) -> Subspace:
    """The leading principal axes of directions, through the origin; a direction and its opposite are one axis."""
    _, _, axes = torch.linalg.svd(directions.double(), full_matrices=False)
    return Subspace(axes[:rank].contiguous())


def rank_of(directions: Float[Tensor, "case d_model"], share: float = 0.9, most: int = MOST_RANK) -> int:
    """How many axes hold this share of the directions, at most `most`."""
    size = torch.linalg.svdvals(directions.double()) ** 2
    return min(most, int((size.cumsum(0) < share * size.sum()).sum()) + 1)


def mediator_rows(run, cases: Counterfactuals, written: Mapping[str, Mapping[Spot, Float[Tensor, "case d_model"]]],
                  sources: Mapping[Spot, Float[Tensor, "case d_model"]], positions: Sequence, *, told, metrics,
                  recovered, subsets, seed: int = 0, identity=None, steps: int = 240, n_random: int = 20
                  ) -> pd.DataFrame:
    """The report, as result rows of split `report`. By `intervention`:

    - `compare`: `principal_angle`, degrees, the mean over angles and tokens, of a space (`probe`) to the learned one;
      `null`: orthogonal, 90; `random_direction`: random subspaces. The interval is the range over refits.
    - `interchange`: the witness' activation inside a space (and `..., complement`: everywhere else), as `joint_effect`.
    - `ablate`: coordinates in a space set to their mean over the cases set aside, against the old answers.

    Args:
        written: Kind of direction -> what it writes in every case, at every spot.
    """
    choose = torch.from_numpy((cases.cases["split"] == "choose").to_numpy(copy=True))
    spots = list(sources)
    rank = max(rank_of(v[s][choose]) for v in written.values() for s in spots)
    fits = [fit_joint_das(run, cases, sources, positions, rank, steps=steps, keep=keep, seed=seed + i)
            for i, keep in enumerate([1.0] + [KEPT] * REFITS)]
    name = f"das, rank {rank}"
    spaces: dict[str, Spaces] = {name: fits[0].spaces}
    for kind, v in written.items():
        spaces[kind] = {s: span_of(v[s][choose], rank) for s in spots}
    common = row_context(run, cases, [s.site for s in spots], split="report", seed=seed, **(identity or {}))
    tables = [results_frame([row for kind in written for row in _angles(
        common, kind, name, spaces[kind], [fit.spaces for fit in fits], n_random, seed)])]
    how = dict(alphas=[1.0], unit="source_goal", told=told, metrics=metrics, subsets=subsets, n_random=n_random,
               seed=seed, identity=identity)
    still = replace(cases, right_after=cases.right_before)
    means = {s: _mean(run, cases, s, positions) for s in spots}
    for kind, space in spaces.items():
        inside = {s: patch_from(sources[s], space[s].basis.float()[None]) for s in spots}
        rest = {s: _beside(sources[s], space[s]) for s in spots}
        for probe, edits in ((kind, inside), (f"{kind}, complement", rest)):
            tables.append(joint_effect(run, cases, _always(edits), positions, intervention="interchange", probe=probe,
                                       recovered=recovered, **how))
        gone = {s: project_out(space[s].basis.float()[None], means[s][None]) for s in spots}
        tables.append(joint_effect(run, still, _always(gone), positions, intervention="ablate", probe=kind,
                                   **how | {"unit": "removed", "told": None, "metrics": ()}))
    return pd.concat(tables, ignore_index=True)


def _always(edits: JointEdits):
    return lambda alpha: edits


def _beside(source: Float[Tensor, "case d_model"], space: Subspace):
    """Everything but the coordinates in a space comes from the source."""
    q = space.basis.float()

    def edit(x: Tensor, rows: Tensor) -> Tensor:
        move = source[rows].to(x) - x
        return x + move - move @ q.T.to(x) @ q.to(x)

    return edit


def _mean(run, cases: Counterfactuals, spot: Spot, positions: Sequence) -> Float[Tensor, " d_model"]:
    """Mean activation at a spot over the cases set aside."""
    seen: list[Tensor] = []

    def note(x: Tensor, rows: Tensor) -> Tensor:
        seen.append(x.double())
        return x

    aside = run.select((cases.cases["split"] == "choose").to_numpy()[run.rows.numpy()])
    aside.measure([joint_arm(aside, {spot: note}, positions)], lambda logits, places: logits[:, :1])
    return torch.cat(seen).mean(0).float()


def _angles(common: Mapping, kind: str, name: str, own: Spaces, learned: Sequence[Spaces], n_random: int, seed: int
            ) -> list[dict]:
    def mean(pairs) -> float:
        return float(np.mean([one.angles(two).mean() for one, two in pairs]))

    spots = list(own)
    values = [mean((own[s], fit[s]) for s in spots) for fit in learned]
    width, rank = own[spots[0]].basis.shape[1], own[spots[0]].rank
    draws = [random_subspaces(width, rank, max(n_random, N_DRAWS), seed + i) for i in (0, 1)]
    random = np.array([mean([pair]) for pair in zip(*draws, strict=True)])
    at = {**common, "intervention": "compare", "probe": kind, "metric": "principal_angle", "subset": f"to {name}"}
    low, high = np.percentile(random, [5, 95])
    return [{**at, "value": values[0], "ci_low": min(values), "ci_high": max(values), "n": len(values)},
            {**at, "value": 90.0, "ci_low": 90.0, "ci_high": 90.0, "n": 1, "control": "null"},
            {**at, "value": random.mean(), "ci_low": low, "ci_high": high, "n": len(random),
             "control": "random_direction"}]
