"""Distributed alignment search at several tokens together: the subspaces through which another prompt's activations,
token by token, bring about its answers.

    found = fit_joint_das(run, cases, {Spot("resid_post", 2): sources}, [positions], rank=2)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from probing._sites import Site
from probing._subspaces import Subspace
from tasks._prompts import Counterfactuals

from ._das import LOOK, SURE, _qf
from ._edits import patch_from
from ._joint import Spot, joint_arm
from ._pair_run import cross_entropy
from ._places import At, Positions, inside
from ._runs import Run


@dataclass(frozen=True)
class JointDAS:
    """Learned subspaces.

    Attributes:
        spaces: Of every spot.
        history: Every 10 steps: `step`, `loss` and `validation`, cross-entropy in nats. The step of lowest `validation`
            was kept.
    """

    spaces: Mapping[Spot, Subspace]
    history: pd.DataFrame


def fit_joint_das(
    run: Run,
    cases: Counterfactuals,
    sources: Mapping[Spot, Float[Tensor, "case d_model"]],
    positions: Sequence[Positions] = (-1,),
    rank: int = 1,
    *,
    steps: int = 120,
    patience: int = 4,
    batch_size: int = 32,
    lr: float = 0.05,
    validation: float = 0.2,
    keep: float = 1.0,
    seed: int = 0,
) -> JointDAS:
    """Per spot R with R^T R = I, such that x + R R^T (s - x), written at all spots, gives the answers that are right
    after the change. Trained on the cases of split `choose`, as `fit_das` is, with whole sequences. Every source tells
    of a change, none of the case's own fact: what merely pushes to the new answer is learned as well.

    Args:
        run: Of all the cases.
        sources: Activations s, such as those of prompts that tell of the change.
        validation: Share of the groups that choose the step.
        keep: Share of the other groups that are seen, for refits.
    Raises:
        ValueError: Fewer than 2 groups to train on, or a rank that does not fit.
    """
    width = min(s.shape[1] for s in sources.values())
    if not 1 <= rank <= width:
        raise ValueError(f"rank must be between 1 and the width {width}, it is {rank}")
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    train, held = _halves(cases, validation, keep, rng)
    W = {spot: _qf(torch.randn(s.shape[1], rank, generator=generator)).to(s).requires_grad_()
         for spot, s in sources.items()}
    momentum = {spot: torch.zeros_like(w) for spot, w in W.items()}
    looked, history, losses, best, waited = run.select(np.isin(run.rows.numpy(), held)), [], [], math.inf, 0
    kept = {spot: w.detach().clone() for spot, w in W.items()}
    for step in range(1, steps + 1):
        loss = _loss(run, cases, sources, positions, W, rng.permutation(train)[:batch_size])
        gradients = torch.autograd.grad(loss, list(W.values()))
        losses.append(loss.item())
        share = (1 + math.cos(math.pi * (step - 1) / steps)) / 2
        with torch.no_grad():
            for (spot, w), g in zip(W.items(), gradients, strict=True):
                turn = g - w @ (w.T @ g + g.T @ w) / 2  # what the gradient has of rotation
                momentum[spot] = m = 0.9 * momentum[spot] + turn / turn.norm().clamp_min(1e-30)
                w.copy_(_qf(w - lr * share * m / m.norm().clamp_min(1e-30)))
        if step % LOOK and step < steps:
            continue
        seen = _validation(looked, cases, sources, positions, W)
        history.append({"step": step, "loss": float(np.mean(losses)), "validation": seen})
        sure = max(seen, *losses) < SURE
        waited, losses = (0 if seen < 0.99 * best else waited + 1), []
        if seen < best:
            best, kept = seen, {spot: w.detach().clone() for spot, w in W.items()}
        if waited >= patience or sure:
            break
    return JointDAS({spot: Subspace(_qf(w).T.contiguous().cpu()) for spot, w in kept.items()}, pd.DataFrame(history))


def _halves(cases: Counterfactuals, validation: float, keep: float, rng: np.random.Generator
            ) -> tuple[Int[ndarray, " train"], Int[ndarray, " held"]]:
    """Cases to train on, and cases that choose the step: other groups of the half set aside."""
    group = cases.cases["group"].to_numpy(dtype=str)
    choose = (cases.cases["split"] == "choose").to_numpy()
    groups = rng.permutation(np.unique(group[choose]))
    n_held = max(1, round(validation * len(groups)))
    seen = groups[n_held:][: max(1, round(keep * (len(groups) - n_held)))]
    if len(groups) < 2:
        raise ValueError(f"learning a subspace needs at least 2 groups set aside for choosing, there are {len(groups)}")
    return (np.flatnonzero(choose & np.isin(group, seen)), np.flatnonzero(choose & np.isin(group, groups[:n_held])))


def _validation(run: Run, cases: Counterfactuals, sources: Mapping, positions: Sequence[Positions], W: Mapping
                ) -> float:
    right = torch.from_numpy(cases.right_after)
    edits = {spot: patch_from(sources[spot], w.detach().T[None]) for spot, w in W.items()}
    return float(run.measure([joint_arm(run, edits, positions)], lambda logits, places: cross_entropy(
        logits, right[run.rows[places.cpu()]])[:, None].double()).mean())


def _loss(run: Run, cases: Counterfactuals, sources: Mapping[Spot, Tensor], positions: Sequence[Positions],
          W: Mapping[Spot, Tensor], rows: Int[ndarray, " batch"]) -> Tensor:
    """Mean cross-entropy of some cases under the interchange, with gradients for W alone."""
    prompt = cases.cases["prompt"].to_numpy()[rows]
    lengths, right, losses = cases.lengths[torch.from_numpy(prompt)], torch.from_numpy(cases.right_after), []
    for length in lengths.unique().tolist():
        mine = torch.from_numpy(rows)[lengths == length]
        at = lengths[lengths == length]
        tokens = cases.tokens[torch.from_numpy(cases.cases["prompt"].to_numpy()[mine.numpy()])][:, :length]
        hooks = [(site.hook, _swap(site, {s: w for s, w in W.items() if s.site == site}, sources, positions, mine, at))
                 for site in dict.fromkeys(spot.site for spot in W)]
        with torch.enable_grad(), run.model.hooks(fwd_hooks=hooks):
            logits = run.model(tokens.to(next(run.model.parameters()).device))[:, -1]
        losses.append(cross_entropy(logits, right[mine]))
    return torch.cat(losses).mean()


def _swap(site: Site, W: Mapping[Spot, Tensor], sources: Mapping[Spot, Tensor], positions: Sequence[Positions],
          rows: Int[Tensor, " batch"], lengths: Int[Tensor, " batch"]):
    def swap(acts: Tensor, hook=None) -> Tensor:
        new = acts.detach().clone()  # nothing below the site is learned
        there = inside(new, site)
        for spot, w in W.items():
            index, pos = At(lambda x, rows: x, positions[spot.part]).places(rows, lengths)
            x = there[index, pos]
            there[index, pos] = x + (sources[spot][rows].to(x) - x) @ w @ w.T
        return new

    return swap
