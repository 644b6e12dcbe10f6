"""Readout or mediator: does the direction that a probe reads carry the cause of the answer?

    table = readout_mediator(model, interchange_pairs(tasks.decoy.cases("end")), Site("resid_post", 1))
    print(verdict(table))

A label can be read along one direction, written along another, and the model may use a third. For one label at one
site the report puts side by side what a probe reads along, what it writes along, and the subspace that was learned to
change the answers (`fit_das`): the principal angles between them, how well each is read, what ablating each breaks, and
what an interchange along each brings about; every number beside that of random subspaces.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from numpy import ndarray

from probing._lda import LDAProbe
from probing._logistic import LogisticProbe
from probing._results import results_frame
from probing._sites import Site
from probing._statistics import bootstrap_mean
from probing._subspaces import Subspace

from ._das import DAS, das_effect, das_name, fit_das
from ._edits import project_out, steer
from ._interchange import InterchangePairs
from ._pair_run import PairRun, PairTable, random_subspaces

KEPT = 0.8  # share of the training groups that a refit sees


def readout_mediator(
    model,
    pairs: InterchangePairs,
    site: Site,
    spaces: Mapping[str, Subspace] | None = None,
    *,
    rank: int = 1,
    n_random: int = 20,
    n_refits: int = 4,
    seed: int = 0,
    identity: Mapping[str, object] | None = None,
    **training,
) -> pd.DataFrame:
    """The report, as result rows of split `report` (and the training rows of `das_effect`). `probe` names the space:
    `logistic.read` and `logistic.write` unless others are given, and the learned one, `das, rank 1`. By `intervention`:

    - `compare`: metric `principal_angle`, in degrees, the mean over the angles (each is `principal_angle_1`, ... where
      there are several), between the space and the one that `subset` names (`to das, rank 1`). Control
      `random_direction`: random subspaces of these ranks; `null`: orthogonal ones, 90. The interval is the range over
      `n_refits` more fits, each from another start on 80 % of the training groups; spaces that are given stay.
    - `read`: `accuracy` with which the label is read, by LDA, from the coordinates in the space alone. `null`: the
      majority; `random_direction`: from random subspaces of equal rank.
    - `ablate`: `answers_kept`, the share of the model's right answers after the coordinates were set to their mean over
      the training prompts (is it needed?). `null`: no edit; `random_direction`: the same change turned into random
      subspaces, norms kept; `random_subspace`: random subspaces of equal rank ablated.
    - `interchange`: `iia`, as in `das_effect` (is it enough?), with its controls, and `complement`: all but the space
      is taken from the source.

    Args:
        model: A model, or the `PairRun` of these pairs and site.
        spaces: Name -> what to compare with the learned subspace (`probe.read`, `probe.write`, ...), at this site. When
            missing, a logistic probe is fitted on the prompts of the pairs that are not reported on.
        training: Arguments of `fit_das`.
    Raises:
        ValueError: A space of another width than the site; fewer than 20 random draws; no refit.
    """
    if n_refits < 1:
        raise ValueError(f"the angles' interval is a range over refits, n_refits is {n_refits}; ask for 1 or more")
    run = model if isinstance(model, PairRun) else PairRun(model, pairs, site)
    width = run.acts.shape[1]
    if wrong := [f"{name} ({s.basis.shape[1]})" for name, s in (spaces or {}).items() if s.basis.shape[1] != width]:
        raise ValueError(f"{site} is {width} wide, but not {', '.join(wrong)}; fit the probe at this site")
    found = fit_das(run, pairs, site, rank, seed=seed, **training)
    name = das_name(found.subspace.rank, training.get("boundless", False))
    fits = [_fitted(run, spaces, name, found)]
    for refit in range(n_refits):
        part = PairRun.like(run, _subset(pairs, seed + 1 + refit))
        again = fit_das(part, part.pairs, site, rank, seed=seed + 1 + refit, **training)
        fits.append(_fitted(part, spaces, name, again))
    table = PairTable(run, "report", seed, **(identity or {}))
    for a, b in combinations(fits[0], 2):
        _compare(table, a, b, [(fit[a], fit[b]) for fit in fits], n_random, seed)
    for each, space in fits[0].items():
        frames = random_subspaces(width, space.rank, n_random, seed)
        _read(table, run, each, space, frames)
        _ablate(table, run, each, space, frames)
        if each != name:
            _interchange(table, run, each, space, frames)
        moves, q = [run.source(j) - run.base() for j in range(pairs.sources.shape[1])], space.basis.to(run.acts)
        rest = [{site: steer(move - move @ q.T @ q)} for move in moves]
        table.mean(run.expected([rest], "report")[0, ..., 0], probe=each, intervention="interchange", metric="iia",
                   control="complement")
    learned = das_effect(run, pairs, site, rank, found=found, n_random=n_random, seed=seed, identity=identity,
                         **training)
    return results_frame([*table.rows, *learned.to_dict("records")])


def _fitted(run: PairRun, spaces: Mapping[str, Subspace] | None, name: str, learned: DAS) -> dict[str, Subspace]:
    if spaces is None:
        X, y = _rows(run, _for_fitting(run.pairs))
        probe = LogisticProbe().fit(X, y)
        spaces = {"logistic.read": probe.read, "logistic.write": probe.write}
    return {each: Subspace(s.basis.double().cpu()) for each, s in [*spaces.items(), (name, learned.subspace)]}


def _subset(pairs: InterchangePairs, seed: int) -> InterchangePairs:
    """Pairs that have a random part of their training groups, and prompts that none of the pairs uses left out."""
    training = pairs.bases["part"] == "train"
    groups = np.unique(pairs.bases["group"][training].to_numpy(dtype=str))
    gone = np.random.default_rng(seed).permutation(groups)[round(KEPT * len(groups)) :]
    left_out = training.to_numpy() & np.isin(pairs.bases["group"].to_numpy(dtype=str), gone)
    parts = pairs.parts.copy()
    parts[pairs.bases["prompt"].to_numpy()[left_out]] = "left out"
    return replace(pairs, parts=parts, bases=pairs.bases.assign(part=np.where(left_out, "left out",
                                                                              pairs.bases["part"]).astype(object)))


def _for_fitting(pairs: InterchangePairs) -> Bool[ndarray, " prompt"]:
    return np.isin(pairs.parts, ("train", "validation"))


def _rows(run: PairRun, where: Bool[ndarray, " prompt"]) -> tuple[ndarray, ndarray]:
    return run.acts[torch.from_numpy(where)].double().numpy(force=True), run.pairs.values[where]


def _compare(table: PairTable, a: str, b: str, fits: list[tuple[Subspace, Subspace]], n_random: int, seed: int) -> None:
    angles = np.stack([one.angles(two).numpy() for one, two in fits])  # (fit, angle)
    width, ranks = fits[0][0].basis.shape[1], [s.rank for s in fits[0]]
    null = [random_subspaces(width, rank, max(n_random, 100), seed + i) for i, rank in enumerate(ranks)]
    random = np.stack([one.angles(two).numpy() for one, two in zip(*null, strict=True)])
    numbers = {"principal_angle": (angles.mean(1), random.mean(1))}
    if angles.shape[1] > 1:
        numbers |= {f"principal_angle_{i + 1}": (angles[:, i], random[:, i]) for i in range(angles.shape[1])}
    for metric, (values, draws) in numbers.items():
        common = dict(probe=a, intervention="compare", metric=metric, subset=f"to {b}")
        table.add(values[0], values.min(), values.max(), len(values), **common)
        table.draws(draws, control="random_direction", **common)
        table.add(90, 90, 90, 1, control="null", **common)


def _read(table: PairTable, run: PairRun, name: str, space: Subspace, frames: list[Subspace]) -> None:
    X, y = _rows(run, _for_fitting(run.pairs))
    inside = run.pairs.inside("report")
    bases = run.pairs.bases["prompt"].to_numpy()[inside]
    X_new, y_new = run.acts[torch.from_numpy(bases.copy())].double().numpy(force=True), run.pairs.values[bases]

    def right(space: Subspace) -> Float[ndarray, " base"]:
        basis = space.basis.double().numpy(force=True)
        return (LDAProbe().fit(X @ basis.T, y).predict(X_new @ basis.T) == y_new).astype(float)

    values, counts = np.unique(y, return_counts=True)
    common = dict(probe=name, intervention="read", metric="accuracy", subset="all")
    _mean(table, right(space), **common)
    _mean(table, (y_new == values[counts.argmax()]).astype(float), control="null", **common)
    table.draws(np.array([right(frame).mean() for frame in frames]), control="random_direction", **common)


def _ablate(table: PairTable, run: PairRun, name: str, space: Subspace, frames: list[Subspace]) -> None:
    mean = run.acts[torch.from_numpy(_for_fitting(run.pairs))].mean(0)
    q, common = space.basis.to(run.acts), dict(probe=name, intervention="ablate", metric="answers_kept", subset="all")
    coordinates = (mean - run.base()) @ q.T
    turned = [{run.site: steer(coordinates @ frame.basis.to(q))} for frame in frames]
    ablated = [{run.site: project_out(s.basis.to(q)[None], mean[None])} for s in (space, *frames)]
    before = run.score([{}, *ablated, *turned], "report")[:, :, 1, 0]
    _mean(table, before[1], **common)
    _mean(table, before[0], control="null", **common)
    table.draws(before[2 : 2 + len(frames)].mean(1), control="random_subspace", **common)
    table.draws(before[2 + len(frames) :].mean(1), control="random_direction", **common)


def _mean(table: PairTable, values: Float[ndarray, " base"], **columns) -> None:
    value, low, high = bootstrap_mean(values, table.groups, seed=table.seed)
    table.add(value, low, high, len(values), n_groups=len(np.unique(table.groups)), **columns)


def _interchange(table: PairTable, run: PairRun, name: str, space: Subspace, frames: list[Subspace]) -> None:
    common = dict(probe=name, intervention="interchange", metric="iia")
    table.mean(run.interchange([space], "report")[0, ..., 0], **common)
    table.mean(run.unedited("report")[..., 0], control="null", **common)
    table.band(run.expected([run.turned(space, f) for f in frames], "report")[..., 0], control="random_direction",
               **common)
    table.band(run.interchange(frames, "report")[..., 0], control="random_subspace", **common)
