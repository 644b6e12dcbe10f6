"""The short call: what a probe reads, written into the prompts of its task, with every control."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probing._extract import extract
from probing._sites import Site
from probing._subspaces import Subspace
from probing._sweep import readable_labels
from tasks._prompts import Counterfactuals, LabelledPrompts

from ._doses import AT_KL, Reference, unit_vectors
from ._edits import patch_from
from ._last_token import LastToken
from ._metrics import ANSWER_METRICS, set_error
from ._places import Positions
from ._side_effects import side_effects
from ._task_cases import Answers, class_difference, prompt_cases, task_cases, twins

REFERENCE = 4096  # training examples that class means and variances are taken from
NO_ANSWERS = ("entropy", "flip_rate")  # metrics that need none


def steer_along(
    model,
    prompts: LabelledPrompts,
    space: Subspace,
    *,
    cases: Counterfactuals | None = None,
    site: Site | None = None,
    label: str | None = None,
    answers: Answers | None = None,
    unrelated: LabelledPrompts | None = None,
    alphas: Sequence[float | int] | None = None,
    unit: str | None = None,
    probe: str | None = None,
    positions: Positions = -1,
    at_kl: float = AT_KL,
    n_cases: int = 200,
    n_random: int = 20,
    seed: int = 0,
    identity: Mapping[str, object] | None = None,
) -> pd.DataFrame:
    """The effect of moving a label inside a subspace, such as `probe.write`: result rows of `effect`, and those of
    `side_effects` on other prompts.

    Every case is moved along P dmu, with P the projection onto the subspace and dmu the difference of class means of
    what its label becomes and what it was, among training examples: at dose 1, in the unit `class_mean`, the mean of
    the one class is moved onto that of the other as far as the subspace goes. For one direction r that is (dmu.r) r.

    Beside the controls of `effect` (random directions, anywhere and inside the principal components; sign flip;
    neighbouring layers and the position before; random weights): `orthogonal_complement`, what dmu has outside the
    subspace; `shuffled_labels`, class means of shuffled labels; `other_target` and `other_label:NAME`; `full_patch`,
    where the task knows another prompt in which the label holds what it is to become.

    Args:
        cases: What to change; by default the cases of the prompts' task (see `task_cases`), else their test examples.
        site, label: Where and what; by default what the probe says.
        answers: Token ids right for class 0 and class 1, for prompts whose task has no cases.
        unrelated: Prompts on which side effects are measured; by default the test examples.
        alphas, unit, positions, at_kl, n_random, seed, identity: As in `effect`; `unit` is `sd` for a label without
            classes.
    Raises:
        ValueError: Neither the subspace nor the call says site and label; another width than the site.
    """
    site, label = site or space.site, label or space.label
    if site is None or label is None:
        raise ValueError("the subspace does not say where it was found and for which label; take it from "
                         "probing.best(sweep), or pass steer_along(..., site=Site('resid_post', 3), label='end')")
    cases = cases or task_cases(prompts, label, n_cases, seed) or prompt_cases(
        prompts, label, model.cfg.d_vocab, answers, n_cases, seed)
    known = _Known(model, prompts, site, seed)
    reference = known.reference(label, cases)
    if space.basis.shape[1] != reference.acts.shape[1]:
        raise ValueError(f"the subspace is {space.basis.shape[1]} wide, {site} is {reference.acts.shape[1]} wide; pass "
                         "the site that the probe was fitted at")
    dmu = reference.difference
    along = space.basis[:1].float() if dmu is None else space.project(dmu.to(space.basis)).float()
    unit = unit or ("sd" if dmu is None else "class_mean")
    directions = {site: unit_vectors(along, unit, reference)}
    others = known.others(label, cases)
    if dmu is not None and space.rank < len(along.T):
        others["orthogonal_complement"] = {site: dmu - space.project(dmu.to(space.basis)).to(dmu)}
    told, last = _told(cases), isinstance(positions, int) and positions == -1
    from ._effect import effect  # which calls this function

    study: dict[str, Any] = dict(unit=unit, probe=probe or space.name or "given", n_random=n_random, seed=seed)
    table = effect(
        model, cases, directions, alphas=alphas, positions=positions, others=others, intervention="steer",
        references={site: reference}, other_layers=_neighbours(model, site), random_init=True, identity=identity,
        other_positions=(-2,) if last and cases.lengths.min() > 1 else (),
        arms=_full_patch(model, cases, prompts, site, seed) if last else {},
        metrics=list(ANSWER_METRICS) if told else NO_ANSWERS, outcome="log_odds" if told else "kl",
        planned=1.0 if alphas is None or 1 in alphas else None, curve=alphas is None or max(alphas) > 0,
        at_kl=at_kl, score=set_error if told else None, **study)
    rest = unrelated or replace(prompts, examples=prompts.examples[prompts.rows("test")], subsets={})
    doses = sorted(table["alpha"].dropna().unique().tolist())
    prices = side_effects(model, rest, directions, alphas=doses, intervention="steer", label=label, n_prompts=n_cases,
                          identity=identity, **study)
    return pd.concat([table, prices], ignore_index=True)


class _Known:
    """Training examples of the prompts at a site: what their labels look like there."""

    def __init__(self, model, prompts: LabelledPrompts, site: Site, seed: int):
        train = np.flatnonzero(prompts.rows("train"))
        rows = np.sort(np.random.default_rng(seed).permutation(train)[:REFERENCE])
        self.prompts = replace(prompts, examples=prompts.examples.iloc[rows].reset_index(drop=True), subsets={})
        self.acts = extract(model, self.prompts, [site], cache=False, random_init=None, progress=_silent)[site]
        self.site, self.rng = site, np.random.default_rng(seed)

    def reference(self, label: str, cases: Counterfactuals) -> Reference:
        return Reference(self.acts, self.difference(label, cases) if self.prompts.classes.get(label) else None)

    def difference(self, label: str, cases: Counterfactuals, shuffle: bool = False) -> Float[Tensor, "case width"]:
        codes = self.prompts.labels(label)
        return class_difference(self.acts, self.rng.permutation(codes) if shuffle else codes,
                                self.prompts.targets(label), cases)

    def others(self, label: str, cases: Counterfactuals) -> dict[str, dict[Site, Tensor]]:
        """Directions that should do nothing: of shuffled labels, of another target, of other labels with the same
        classes to exchange."""
        classes, found = self.prompts.classes, dict[str, Tensor]()
        if classes.get(label):
            found["shuffled_labels"] = self.difference(label, cases, shuffle=True)
            if len(names := self.prompts.targets(label)) > 1:
                shift = dict(zip(names, names[1:] + names[:1], strict=True))
                moved = cases.cases.assign(target=cases.cases["target"].map(shift))
                found["other_target"] = self.difference(label, replace(cases, cases=moved))
        for other in readable_labels(self.prompts):
            if other != label and len(classes.get(other, ())) == len(classes.get(label, ())) > 0:
                names = self.prompts.targets(other)
                target = cases.cases["target"].where(cases.cases["target"].isin(names), names[0])
                found[f"other_label:{other}"] = self.difference(other, replace(
                    cases, cases=cases.cases.assign(target=target)))
        return {name: {self.site: v} for name, v in found.items()}


def _full_patch(model, cases: Counterfactuals, prompts: LabelledPrompts, site: Site, seed: int) -> dict:
    tokens = twins(cases, prompts, seed)
    if tokens is None:
        return {}
    run = LastToken(model, tokens, cases.lengths[torch.as_tensor(cases.cases["prompt"].to_numpy(copy=True))])
    return {"full_patch": {site: patch_from(run.logits(read=[site])[1][site])}}


def _neighbours(model, site: Site) -> list[int]:
    return [layer for layer in (site.layer - 1, site.layer + 1) if 0 <= layer < model.cfg.n_layers]


def _told(cases: Counterfactuals) -> bool:
    """Whether there are answers that the change should exchange."""
    changes = (cases.right_before != cases.right_after).any(1)
    return bool(changes[(cases.cases["split"] == "report").to_numpy()].any())


def _silent(done: int, total: int) -> None:
    pass
