"""TCAV: does a class follow a concept? Directional derivatives along concept vectors, tested, and confirmed by adding.

    probes = {site: CAVProbe(repeats=100).fit(acts[site], is_striped) for site in sites}
    table = tcav(model, zebras, {"striped": probes})
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.stats import ttest_ind_from_stats
from torch import Tensor

from probing._cav import CAVProbe
from probing._results import MIN_DRAWS, results_frame
from probing._sites import Site
from tasks._prompts import Counterfactuals

from ._caches import map_cache
from ._edits import steer
from ._effect_rows import EffectRows, row_context
from ._last_token import Edits, LastToken
from ._measures import Score, against
from ._metrics import PerCase
from ._places import check_editable, inside
from ._runs import on_split

Probes = Mapping[Site, CAVProbe]


def class_logit(logits: Float[Tensor, "case d_vocab"], right: Bool[Tensor, "case d_vocab"]) -> PerCase:
    """Mean logit of the right tokens: that of the class, where one token stands for it."""
    right = right.to(logits.device)
    return logits.where(right, 0).sum(-1) / right.sum(-1)


def last_token_gradients(
    run: LastToken, sites: Sequence[Site], score: Score
) -> dict[Site, Float[Tensor, "case width"]]:
    """d score / d activation at the last token, at every site, from one pass forwards and one back per batch.

    Args:
        score: (logits (batch, d_vocab), places (batch,)) -> (batch,), as in `LastToken.measure`.
    """
    for site in sites:
        check_editable(run.model, site, lambda x, rows: x)
    out: dict[Site, Tensor] = {}
    leaves: dict[Site, Tensor] = {}

    def add_a_leaf(site: Site):
        def hook(acts: Tensor, hook) -> Tensor:
            acts = acts.clone(memory_format=torch.contiguous_format)
            last = inside(acts, site)[:, -1]
            leaves[site] = torch.zeros_like(last).requires_grad_()
            last += leaves[site]
            return acts

        return hook

    for batch in run._batches:
        with torch.no_grad():
            cache = map_cache(run._prefix(batch)) if run.shares_prefix else None
        with torch.enable_grad(), run.model.hooks(fwd_hooks=[(site.hook, add_a_leaf(site)) for site in sites]):
            logits = run._forward(batch.tokens if cache is None else batch.tokens[:, -1:], cache)
            slopes = torch.autograd.grad(score(logits, batch.places).sum(), [leaves[site] for site in sites])
        for site, slope in zip(sites, slopes, strict=True):
            if site not in out:
                out[site] = slope.new_zeros(len(run), slope.shape[-1])
            out[site][batch.places.to(slope.device)] = slope
    return out


def tcav(
    model,
    cases: Counterfactuals,
    concepts: Mapping[str, Probes],
    *,
    score: Score = class_logit,
    alphas: Sequence[float | int] = (1.0,),
    split: str = "report",
    seed: int = 0,
    identity: Mapping[str, object] | None = None,
) -> pd.DataFrame:
    """How a class hangs on concepts, at the last token of inputs of that class: result rows, `label` the concept.

    With S = d score / dx . v for a CAV v, first order (`intervention` tcav, no dose):

    - `tcav`: share of the cases with S > 0, mean over the concept's CAVs. Its p-value is that of Welch's two-sided
      t-test of the CAVs' shares against those of the random CAVs, `p_adjusted` after Bonferroni over layers and
      concepts. It takes the cases as they are and the CAVs as independent, and is small too easily: look at the
      interval, which resamples cases, and at the controls, `null` 0.5; the band `random_direction` of
      random-against-random CAVs; the band `placebo` of random sets in the concept's place, whose CAVs share their
      examples as those of a concept do.
    - `slope`: mean of S, in units of the score per natural dose. A share says nothing of size: a slope that is always
      positive and tiny has tcav 1. Nor does a slope of a steep step: where the model is saturated, only adding tells.

    And for each dose, the same by adding: alpha times the unit CAV times the distance between the means of the concept
    and of the pool along the CAVs (`intervention` steer, unit `natural`), random CAVs by as much:

    - `share_rising`: share of the cases whose score rises; `rise`: how much the score rises. `null` 0.

    Args:
        model: A model, or the `LastToken` of these cases; select the inputs of one class there, if not all are.
        concepts: Name -> site -> `CAVProbe` with at least 20 repeats, fitted on other prompts.
        score: (logits, right_after) -> per case, differentiable; by default the logit of the class, the tokens
            `right_after`.
    Raises:
        ValueError: Fewer than 20 CAVs, or CAVs that are zero; a probe of another width; no case in the split.
    Source: Kim et al., arXiv:1711.11279. Placebos, slopes and the addition are ours.
    """
    run = on_split(model, cases, split)
    if not isinstance(run, LastToken):
        raise ValueError("wanted a model or the LastToken of these cases; build it with LastToken.of(model, cases)")
    probes = {(name, site): probe for name, by_site in concepts.items() for site, probe in by_site.items()}
    for (name, site), probe in probes.items():
        _check(run, name, site, probe)
    scored = against(run, cases.right_after, score)

    def scores(arms: Sequence[Edits]) -> Float[ndarray, "arm case"]:
        return run.measure(arms, lambda logits, places: scored(logits, places)[:, None])[..., 0].numpy()

    slopes, before = last_token_gradients(run, list(dict.fromkeys(site for _, site in probes)), scored), scores([{}])
    table: list[dict] = []
    for (name, site), probe in probes.items():
        common = row_context(run, cases, [site], split=split, seed=seed, probe="cav", positions="last",
                             identity={"label": name, **(identity or {})})
        rows = EffectRows(common, cases.cases["group"].to_numpy()[run.rows.numpy()], seed)
        natural = abs(float((probe.cavs_ @ probe.write_[0]).mean()))
        real, random, placebos = (natural * cavs for cavs in (probe.cavs_, probe.random_cavs_, probe.placebo_cavs_))
        _first_order(rows, slopes[site].double().cpu().numpy(), real, random, placebos, n_tests=len(probes))
        pushes = np.concatenate([real, random])
        for alpha in alphas:
            rise = scores([{site: steer(torch.from_numpy(v), alpha)} for v in pushes]) - before
            _added(rows, rise[: len(real)], rise[len(real) :], alpha=float(alpha))
        table += rows.rows
    return results_frame(table)


def _first_order(rows: EffectRows, slopes: Float[ndarray, "case width"], cavs: Float[ndarray, "cav width"],
                 random: Float[ndarray, "cav width"], placebos: Float[ndarray, "placebo cav width"],
                 n_tests: int) -> None:
    real, drawn, placed = (np.tensordot(slopes, v, (-1, -1)) for v in (cavs, random, placebos))
    p = _t_test((real > 0).mean(0), (drawn > 0).mean(0))
    tested = {"p_value": p, "p_adjusted": min(1.0, p * n_tests), "correction": "bonferroni"}
    for metric, null, of in (("tcav", 0.5, lambda s: s > 0), ("slope", 0.0, lambda s: s)):
        columns = {"intervention": "tcav", "metric": metric}
        rows.mean(of(real).mean(1), **columns, **(tested if metric == "tcav" else {}))
        rows.exactly(null, control="null", **columns)
        rows.band(of(drawn).mean(0), control="random_direction", **columns)
        if len(placebos):
            rows.band(of(placed).mean((0, 2)), control="placebo", **columns)


def _added(rows: EffectRows, real: Float[ndarray, "arm case"], drawn: Float[ndarray, "arm case"], alpha: float) -> None:
    for metric, of in (("share_rising", lambda rise: rise > 0), ("rise", lambda rise: rise)):
        columns = {"intervention": "steer", "metric": metric, "alpha": alpha, "unit": "natural"}
        rows.mean(of(real).mean(0), **columns)
        rows.exactly(0, control="null", **columns)
        rows.band(of(drawn).mean(1), control="random_direction", **columns)


def _t_test(a: Float[ndarray, " cav"], b: Float[ndarray, " cav"]) -> float:
    """Welch's two-sided t-test; where neither family varies, 1 if both have one share and else 0."""
    spread = [x.std(ddof=1) if np.ptp(x) else 0.0 for x in (a, b)]  # of equal numbers, std may leave a rounding
    if not any(spread):
        return float(a[0] == b[0])
    return float(ttest_ind_from_stats(a.mean(), spread[0], len(a), b.mean(), spread[1], len(b), equal_var=False).pvalue)


def _check(run: LastToken, name: str, site: Site, probe: CAVProbe) -> None:
    check_editable(run.model, site, steer(torch.from_numpy(probe.write_[0])))
    if len(probe.cavs_) < MIN_DRAWS:
        raise ValueError(f"{len(probe.cavs_)} CAVs of {name!r} at {site} make no test; fit with "
                         f"CAVProbe(repeats={MIN_DRAWS}) or more")
    if n := sum(int((np.linalg.norm(cavs, axis=-1) == 0).sum())
                for cavs in (probe.cavs_, probe.random_cavs_, probe.placebo_cavs_)):
        raise ValueError(f"{n} CAVs of {name!r} at {site} are zero and point nowhere; fit with a smaller tol, or a "
                         "larger C")
