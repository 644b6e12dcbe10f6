"""Inference-time intervention: the heads that read a label best, each pushed along its own direction, token by token.

    acts = probing.extract(model, prompts, head_sites(model))
    iti = fit_iti(acts, prompts, "end/answer", n_heads=4)
    run = LastToken.of(model, cases)
    run.generate(iti.edits(alpha=5), n_tokens=20, every_token=True)       # z + alpha sigma theta at every new token
    table = iti_effect(run, cases, iti, alphas=[1, 2, 5])                 # the next token, with every control
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int, Shaped
from numpy import ndarray
from sklearn.base import BaseEstimator, clone
from torch import Tensor

from probing._logistic import LogisticProbe
from probing._sites import Site
from tasks._prompts import Counterfactuals, LabelledPrompts

from ._edits import Edit, steer
from ._effect import effect
from ._heads import random_heads, with_band
from ._measures import Measure, Score
from ._metrics import set_error

Source = Literal["mass_mean", "probe"]


@dataclass(frozen=True, eq=False)
class ITI:
    """Heads chosen for a label of two classes, and how to push every head towards the second.

    Attributes:
        heads: The chosen heads, the best first.
        theta: {head: (d_head,)} unit vectors, of all heads; zero where the classes have one mean.
        sigma: {head: standard deviation of z . theta}, of all heads.
        table: One row per head, the best first: `layer`, `head`, `accuracy` of its probe on validation, `distance` of
            the class means along theta in units of `sigma`, `sigma`, `chosen`.
        source: Where theta comes from.
    """

    heads: tuple[Site, ...]
    theta: Mapping[Site, Float[Tensor, " d_head"]] = field(repr=False)
    sigma: Mapping[Site, float] = field(repr=False)
    table: pd.DataFrame = field(repr=False)
    source: str

    def directions(self, towards: Int[ndarray, " case"] | int = 1) -> dict[Site, Float[Tensor, "case d_head"]]:
        """sigma theta of every chosen head, (case|1, d_head): the push of one standard deviation towards class 0 or 1
        (`towards`, one for all cases or one each)."""
        sign = _sign(towards)
        return {head: sign * self.sigma[head] * self.theta[head] for head in self.heads}

    def edits(self, alpha: float | int, towards: Int[ndarray, " case"] | int = 1) -> dict[Site, Edit]:
        """z + alpha sigma theta at every chosen head: an arm of `LastToken`, or of `Sequences`. It acts on the last
        token, and with `generate(..., every_token=True)` on every generated one, as in the paper."""
        return {head: steer(push, alpha) for head, push in self.directions(towards).items()}

    def random_heads(self, n_draws: int, towards: Int[ndarray, " case"] | int = 1,
                     seed: int = 0) -> list[dict[Site, Float[Tensor, "case d_head"]]]:
        """`directions` of random sets of as many of the other heads, each along its own theta, with the norms of the
        chosen."""
        others = [head for head in self.theta if head not in self.heads]
        sets, sign = random_heads(others, len(self.heads), n_draws, seed), _sign(towards)
        return [{other: sign * self.sigma[head] * self.theta[other]
                 for head, other in zip(self.heads, drawn, strict=True)} for drawn in sets]


def fit_iti(
    acts: Mapping[Site, Float[Tensor, "example d_head"]],
    prompts: LabelledPrompts,
    label: str,
    *,
    n_heads: int,
    source: Source = "mass_mean",
    probe: BaseEstimator | None = None,
) -> ITI:
    """The heads whose probes are most accurate on validation, and a direction for every head.

    Args:
        acts: `z` of single heads, as from `extract(model, prompts, head_sites(model))`.
        label: Column of the examples with two classes: `end/answer`.
        n_heads: How many heads are chosen. Of equally accurate ones, those whose class means lie farthest apart.
        source: theta is the difference of class means, over training and validation, or what the probe reads with.
        probe: Fitted per head on the training split; a logistic one unless given.
    Raises:
        ValueError: A site that is not one head; more heads wanted than there are; a label without two classes.
    Source: Li et al., arXiv:2306.03341; `utils.py` of github.com/likenneth/honest_llama, where sigma is that of all
        activations; ours leaves the test split out. The order of equally accurate heads is ours.
    """
    if wrong := [str(site) for site in acts if site.stream != "z" or site.head is None]:
        raise ValueError(f"wanted activations of single heads, got {', '.join(wrong[:3])}; extract "
                         "head_sites(model), which are Site('z', layer, head)")
    if not 1 <= n_heads <= len(acts):
        raise ValueError(f"n_heads must lie in 1..{len(acts)}, the heads that were read, not {n_heads}")
    classes, y = np.unique(prompts.examples[label].to_numpy(), return_inverse=True)
    if len(classes) != 2:
        raise ValueError(f"{label!r} has {len(classes)} classes ({classes.tolist()[:5]}), wanted 2; choose a label of "
                         "two, or make one of class against rest")
    train, validation = prompts.rows("train"), prompts.rows("validation")
    rows, theta, sigma = [], {}, {}
    for site in acts:
        X = acts[site].float().numpy()
        fitted = clone(LogisticProbe(tol=1e-2) if probe is None else probe).fit(X[train], y[train])
        X_used, y_used = X[train | validation].astype(np.float64), y[train | validation]
        apart = X_used[y_used == 1].mean(0) - X_used[y_used == 0].mean(0)
        direction = apart if source == "mass_mean" else np.asarray(fitted.read_, np.float64).reshape(-1)
        unit = direction / (np.linalg.norm(direction) or 1.0)
        spread = float((X_used @ unit).std())
        theta[site], sigma[site] = torch.from_numpy(unit).float(), spread
        rows.append({"layer": site.layer, "head": site.head, "accuracy": float((fitted.predict(X[validation])
                                                                                == y[validation]).mean()),
                     "distance": float(apart @ unit / (spread or 1.0)), "sigma": spread, "site": site})
    table = pd.DataFrame(rows).sort_values(["accuracy", "distance"], ascending=False, kind="stable", ignore_index=True)
    table["chosen"] = np.arange(len(table)) < n_heads
    return ITI(tuple(table["site"][:n_heads]), theta, sigma, table.drop(columns="site"), source)


def iti_effect(
    model,
    cases: Counterfactuals,
    iti: ITI,
    *,
    alphas: Sequence[float | int],
    n_random: int = 20,
    score: Score = set_error,
    metrics: Sequence[str] | Mapping[str, Measure] = (),
    split: str = "report",
    seed: int = 0,
    identity: Mapping[str, object] | None = None,
) -> pd.DataFrame:
    """What pushing the chosen heads of the last token towards the class that each case `becomes` does to the next
    token: the rows of `effect`, whose controls push the same heads along random directions by as much (and the other
    way), and the band `random_heads`: as many heads that were not chosen, each along its own theta, by as much.

    Args:
        alphas: Doses in standard deviations along theta (unit `sd`).
        metrics: More numbers, as in `effect`.
    Raises:
        ValueError: Cases whose `becomes` is neither 0 nor 1; as `effect`; fewer heads left than were chosen.
    """
    towards = cases.cases["becomes"].to_numpy()
    sets = iti.random_heads(n_random, towards, seed)
    table = effect(model, cases, iti.directions(towards), alphas=alphas, unit="sd", intervention="iti",
                   probe=f"{iti.source} of {len(iti.heads)} heads", n_random=n_random, score=score, metrics=metrics,
                   split=split, seed=seed, identity=identity)
    arms = {alpha: [{head: steer(push, alpha) for head, push in drawn.items()} for drawn in sets] for alpha in alphas}
    return with_band(table, model, cases, arms, control="random_heads", score=score, metrics=metrics, split=split)


def _sign(towards: Shaped[ndarray, " case"] | int) -> Float[Tensor, "case 1"]:
    codes = np.atleast_1d(np.asarray(towards))
    if not np.isin(codes, (0, 1)).all():
        raise ValueError(f"towards must be class 0 or 1, it holds {np.unique(codes).tolist()[:5]}")
    return torch.as_tensor(2.0 * codes - 1, dtype=torch.float32)[:, None]
