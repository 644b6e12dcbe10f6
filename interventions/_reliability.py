"""Does an edit change what it should, and nothing else, by probes that had no part in making it.

    probes = validators(X, {"end": y, "mark": z}, rows=~for_edit, used=for_edit)     # another split, another family
    table = reliability(run, cases, {site: edit}, probes, site, ...)
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped
from numpy import ndarray
from sklearn.base import BaseEstimator, clone

from probing._mlp import MLPProbe
from probing._results import results_frame
from probing._sites import Site
from probing._statistics import group_sums, interval
from tasks._prompts import Counterfactuals

from ._effect_rows import EffectRows, row_context
from ._last_token import Edits
from ._runs import Arm, Run, read_last

Distribution = Float[ndarray, "... case value"]
Validator = Callable[[ndarray], ndarray]
PARTS = ("completeness", "selectivity", "cause", "isolate")


def validators(
    X: Shaped[ndarray, "example width"],
    labels: Mapping[str, Int[ndarray, " example"]],
    rows: Bool[ndarray, " example"],
    used: Bool[ndarray, " example"],
    probe: BaseEstimator | None = None,
) -> dict[str, Validator]:
    """Label -> function from activations to the probability of each class, learned on `rows`.

    Args:
        used: Examples that the edit was made from.
        probe: A classifier of another family than the one that made the edit; an MLP, unless given.
    Raises:
        ValueError: An example is in both: a probe would confirm what it helped to make.
    """
    if (both := rows & used).any():
        raise ValueError(f"{int(both.sum())} examples made the edit and would judge it (first: "
                         f"{np.flatnonzero(both)[:5]}); learn the validation probes on others")
    maker = MLPProbe(lr=0.01) if probe is None else probe
    fitted = {label: clone(maker).fit(X[rows], y[rows]) for label, y in labels.items()}
    return {label: each.predict_proba for label, each in fitted.items()}


def total_variation(p: Distribution, q: Float[ndarray, "..."]) -> Float[ndarray, "... case"]:
    """Half the sum of |p - q|: 0 for equal distributions, 1 for disjoint ones."""
    return np.abs(p - q).sum(-1) / 2


def completeness(q: Distribution, target: Int[ndarray, " case"] | None) -> Float[ndarray, "... case"]:
    """How far the edited label is where the edit should bring it: 1 - TV(q, one-hot of `target`), or, for an edit that
    takes the label away (`target` None), 1 - TV(q, uniform) / (1 - 1 / K)."""
    k = q.shape[-1]
    if target is None:
        return 1 - total_variation(q, np.full(k, 1 / k)) / (1 - 1 / k)
    return 1 - total_variation(q, np.eye(k)[target])


def selectivity_of(q: Distribution, before: Distribution) -> Float[ndarray, "... case"]:
    """How far another label stays where it was: 1 - TV(q, before) / (the largest TV to `before` there is)."""
    return 1 - total_variation(q, before) / (1 - before.min(-1))


def harmonic_mean(a: Float[ndarray, "*more"], b: Float[ndarray, "*more"]) -> Float[ndarray, "*more"]:
    """2ab / (a + b), 0 where both are 0."""
    return 2 * a * b / np.where(a + b > 0, a + b, 1)


def reliability(
    run: Run,
    cases: Counterfactuals,
    edits: Edits | Arm,
    probes: Mapping[str, Validator],
    site: Site,
    *,
    intervention: str,
    probe: str,
    removes: bool = False,
    draws: Sequence[Edits | Arm] = (),
    alpha: float | int | None = None,
    unit: str | None = None,
    split: str = "report",
    seed: int = 0,
    identity: Mapping[str, object] | None = None,
) -> pd.DataFrame:
    """What validation probes read of the last token at `site` after an edit, as result rows:

    - `completeness` of the edited label, `selectivity` of the others (their mean), `reliability`, the harmonic mean;
    - `cause`, the share of cases whose edited label now reads `becomes`; `isolate`, that of the other labels that read
      as before; `disentangle`, the mean of the two. No edit has `isolate` 1, so 0.5 is what an edit has to beat.

    Controls: `null`, without the edit; `random_direction`, the mean over `draws` with their 5th to 95th percentile.

    Args:
        probes: Label -> `Validator`, see `validators`; that of the edited label under the name `cases.scheme`.
        removes: The edit takes the label away rather than writing `becomes`; then without cause and disentangle.
        draws: Random edits of the same norm, see `random_like`.
    Raises:
        ValueError: No probe of the edited label, or of no other one.
    Source: Canby et al., arXiv:2408.15510 (completeness, selectivity, reliability); RAVEL, Huang et al.,
        arXiv:2402.17700 (cause, isolate, disentangle), which asks the model instead of probes.
    """
    if cases.scheme not in probes or len(probes) < 2:
        raise ValueError(f"wanted a probe of {cases.scheme!r} and of at least one other label, came: "
                         f"{', '.join(probes) or 'none'}; add it")
    run = run.select((cases.cases["split"] == split).to_numpy()[run.rows.numpy()])
    becomes = cases.cases["becomes"].to_numpy()[run.rows.numpy()]
    acts = read_last(run, [{}, edits, *draws], [site])[site].float().numpy(force=True)
    read = {label: np.stack([np.asarray(q(x), float) for x in acts]) for label, q in probes.items()}
    own = read.pop(cases.scheme)
    numbers = {
        "completeness": completeness(own, None if removes else becomes),
        "selectivity": np.mean([selectivity_of(q, q[0]) for q in read.values()], axis=0),
        "cause": (own.argmax(-1) == becomes).astype(float),
        "isolate": np.mean([q.argmax(-1) == q[0].argmax(-1) for q in read.values()], axis=0),
    }
    common = row_context(run, cases, [site], split=split, seed=seed, probe=probe, intervention=intervention,
                         identity=identity)
    rows = EffectRows(common, cases.cases["group"].to_numpy()[run.rows.numpy()], seed)
    pairs: dict[str, tuple[str, str, Callable]] = {
        "reliability": ("completeness", "selectivity", harmonic_mean),
        "disentangle": ("cause", "isolate", lambda a, b: (a + b) / 2)}
    shown = [name for name in (*PARTS, *pairs) if not (removes and name in ("cause", "disentangle"))]
    none: dict[str, object] = {"alpha": None, "unit": None, "control": "null"}
    dose: dict[str, object] = {"alpha": alpha, "unit": unit}
    for metric in shown:
        for arm, columns in enumerate((none, dose)):
            if metric in pairs:
                _of_means(rows, [numbers[part][arm] for part in pairs[metric][:2]], pairs[metric][2], metric, columns)
            else:
                rows.mean(numbers[metric][arm], metric=metric, **columns)
        if len(draws):
            means = [numbers[part][2:].mean(1) for part in pairs[metric][:2]] if metric in pairs else []
            values = pairs[metric][2](*means) if means else numbers[metric][2:].mean(1)
            rows.band(values, metric=metric, control="random_direction", **dose)
    return results_frame(rows.rows)


def _of_means(rows: EffectRows, parts: Sequence[Float[ndarray, " case"]], number: Callable, metric: str,
              columns: Mapping) -> None:
    """A row of a function of two means, with a cluster bootstrap."""
    sums, count = group_sums(np.stack(parts, 1), rows.groups), group_sums(np.ones(len(parts[0])), rows.groups)
    found = interval(lambda w: number(*((w @ sums) / (w @ count)[:, None]).T), len(sums), seed=rows.seed)
    rows.add(found, len(parts[0]), n_groups=len(sums), metric=metric, **columns)
