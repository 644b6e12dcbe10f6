"""Amnesic probing: is what an eraser takes out of the activations something that the model answers with?"""

from collections.abc import Mapping
from itertools import chain

import numpy as np
import pandas as pd
import torch

from probing._results import results_frame
from probing._sites import Site
from probing._subspaces import Subspace
from tasks._prompts import Counterfactuals

from ._controls import random_like
from ._edits import compose, steer
from ._effect_rows import EffectRows, row_context
from ._erasers import Eraser
from ._last_token import Edits
from ._leace import OracleLEACE
from ._measures import against
from ._metrics import kl, top1_right
from ._places import Positions
from ._runs import Arm, applied_change, counted_by, on_split, placed, positions_name

Erasers = Mapping[Site, Eraser]


def amnesic(
    model,
    cases: Counterfactuals,
    erasers: Erasers,
    *,
    probe: str,
    others: Mapping[str, Erasers] | None = None,
    restored: Mapping[Site, OracleLEACE] | None = None,
    positions: Positions = -1,
    n_random: int = 20,
    split: str = "report",
    seed: int = 0,
    identity: Mapping[str, object] | None = None,
) -> pd.DataFrame:
    """What the model still answers after the erasure, at all sites together: result rows.

    `accuracy`, the share of cases whose likeliest token is among those that are right before any change, and `kl`,
    KL(unedited || erased) of the next token in nats. The dose, in the unit `rank`, counts dimensions over all sites.
    Only an effect outside the bands says something of the label. Beside it:

    - `null`: nothing is erased.
    - `random_subspace`: uniformly random subspaces of the same rank, projected out about the same mean.
    - `random_coordinates`: the same with that many coordinates.
    - `random_direction`: the change that the erasure made, turned by a random rotation, so of equal applied norm.
      Bands: mean over draws, 5th to 95th percentile, n draws.
    - each of `others` (an eraser of another label, say).
    - `label_restored`: after the erasure every case is given back what its own label predicts of the activation. An
      effect that this does not undo came from something else that left with the label.

    Args:
        model: A model, or the `LastToken` or `Sequences` of these cases.
        positions: Which tokens are erased, see `At`; the last one unless given.
        probe: Name of the eraser, for the rows.
        restored: Oracle erasers of the label whose codes are `was` in the cases, fitted at the same sites.
    Raises:
        ValueError: Fewer than 20 draws; erasers that take nothing; no case in the split.
    Source: Elazar et al., arXiv:2006.00995. Their random directions are uniform in a cube; to give the property back
        they train the output layer anew on a one-hot label, which needs the last layer and a training set.
    """
    if n_random < 20:
        raise ValueError(f"a random band needs at least 20 draws, n_random is {n_random}; raise it")
    sites, rank = list(erasers), sum(eraser.rank for eraser in erasers.values())
    if not rank:
        raise ValueError("the erasers take no dimension at any site: the label was not found there; look at how they "
                         "were fitted")
    run = on_split(model, cases, split, positions)
    unedited = run.logits()
    right = against(run, cases.right_before, top1_right)

    def numbers(logits, places):
        price = kl(unedited[places.to(unedited.device)], logits).double()
        return torch.stack([right(logits, places), price], dim=-1)

    edits = as_edits(erasers)
    arms: dict[str | None, Edits] = {"null": {}, None: edits}
    arms |= {name: as_edits(each) for name, each in (others or {}).items()}
    if restored is not None:
        was = cases.cases["was"].to_numpy()
        arms["label_restored"] = {site: compose(edit, steer(restored[site].shift(was))) for site, edit in edits.items()}
    drawn = {"random_subspace": [as_edits(random_erasers(erasers, seed + i)) for i in range(n_random)],
             "random_coordinates": [as_edits(random_erasers(erasers, seed + i, axes=True)) for i in range(n_random)]}
    bands: dict[str, list[Arm]] = {name: [placed(run, e, positions) for e in of] for name, of in drawn.items()}
    bands["random_direction"] = [placed(run, e, positions, counted_by(positions))
                                 for e in random_like(applied_change(run, edits, positions), n_random, seed)]
    every = [*(placed(run, e, positions) for e in arms.values()), *chain(*bands.values())]
    values = run.measure(every, numbers).numpy()
    common = row_context(run, cases, sites, split=split, seed=seed, identity=identity, probe=probe,
                         intervention="erase", alpha=rank, unit="rank", positions=positions_name(positions))
    rows = EffectRows(common, cases.cases["group"].to_numpy()[run.rows.numpy()], seed)
    for which, metric in enumerate(("accuracy", "kl")):
        for name, of_arm in zip(arms, values, strict=False):
            dose = {"alpha": None, "unit": None} if name == "null" else {}
            rows.mean(of_arm[:, which], metric=metric, control=name, **dose)
        for name, of_draws in zip(bands, np.split(values[len(arms) :], len(bands)), strict=True):
            rows.band(of_draws[..., which].mean(1), metric=metric, control=name)
    return results_frame(rows.rows)


def as_edits(erasers: Erasers) -> Edits:
    return {site: eraser.edit() for site, eraser in erasers.items()}


def random_erasers(erasers: Erasers, seed: int = 0, axes: bool = False) -> dict[Site, Eraser]:
    """Orthogonal erasers of as many dimensions about the same means: uniformly random ones, or random coordinates."""
    rng, drawn = np.random.default_rng(seed), {}
    for site, eraser in erasers.items():
        d = len(eraser.mean)
        rows = np.eye(d)[rng.permutation(d)[: eraser.rank]] if axes else rng.normal(size=(eraser.rank, d))
        span = torch.from_numpy(rows)
        drawn[site] = Eraser.onto(Subspace.spanned_by(span) if eraser.rank else Subspace(span), eraser.mean)
    return drawn
