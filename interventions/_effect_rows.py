"""Result rows of effects under construction: what they share, means with their intervals, bands over draws."""

from collections.abc import Mapping, Sequence

import numpy as np
import xxhash
from jaxtyping import Bool, Float, Shaped
from numpy import ndarray

from probing._models import identify
from probing._sites import Site
from probing._statistics import bootstrap_mean, bootstrap_ratio
from tasks._prompts import Counterfactuals

from ._runs import Run


def row_context(run: Run, cases: Counterfactuals, sites: Sequence[Site], *, identity=None, **columns) -> dict:
    """The columns that all rows of one call share."""
    known = identify(run.model)
    heads = {s.head for s in sites}
    return {"task": cases.task, "model": known.name, "revision": known.revision, "model_hash": known.digest,
            "data_hash": cases_digest(cases), "label": cases.scheme, "subset": "all",
            "stream": "+".join(dict.fromkeys(s.stream for s in sites)), "layer": min(s.layer for s in sites),
            "layer_end": max(s.layer for s in sites), "head": heads.pop() if len(heads) == 1 else None, **columns,
            **(identity or {})}


def cases_digest(cases: Counterfactuals) -> str:
    """xxh3_128 over tokens, lengths, the table of cases and both sets of answers."""
    digest = xxhash.xxh3_128(f"{cases.task} {cases.kind} {cases.scheme}".encode())
    table = cases.cases.to_csv(index=False).encode()
    arrays = (cases.tokens.numpy(), cases.lengths.numpy(), cases.right_before, cases.right_after)
    for part in (table, *(f"{a.dtype}{a.shape}".encode() + np.ascontiguousarray(a).tobytes() for a in arrays)):
        digest.update(part)
    return digest.hexdigest()


class EffectRows:
    """Rows of one study; `common` holds the columns that all of them share, `groups` (case,) what is resampled
    together. Cases in which a number does not exist (NaN) are left out of it, and `n` says how many were not."""

    def __init__(self, common: Mapping[str, object], groups: Shaped[ndarray, " case"], seed: int = 0):
        self.rows: list[dict] = []
        self.common, self.groups, self.seed = dict(common), groups, seed

    def add(self, interval: tuple, n: int, **columns) -> None:
        """A row with its (value, low, high)."""
        value, low, high = map(float, interval)
        self.rows.append({**self.common, "value": value, "ci_low": low, "ci_high": high, "n": n, **columns})

    def mean(self, values: Shaped[ndarray, " case"], **columns) -> None:
        """Mean over cases, with a cluster bootstrap."""
        if (there := ~np.isnan(values)).any():
            groups = self.groups[there]
            self.add(bootstrap_mean(values[there], groups, seed=self.seed), int(there.sum()),
                     n_groups=len(np.unique(groups)), **columns)

    def ratio(self, numerator: Shaped[ndarray, " case"], denominator: Shaped[ndarray, " case"], **columns) -> None:
        """Ratio of means, with a cluster bootstrap."""
        there = ~np.isnan(numerator) & ~np.isnan(denominator)
        groups = self.groups[there]
        self.add(bootstrap_ratio(numerator[there], denominator[there], groups, seed=self.seed), int(there.sum()),
                 n_groups=len(np.unique(groups)), **columns)

    def exactly(self, value: float | int, **columns) -> None:
        """A number that holds by definition, for every case."""
        self.add((value, value, value), len(self.groups), n_groups=len(np.unique(self.groups)), **columns)

    def band(self, draws: Float[ndarray, " draw"], **columns) -> None:
        """Mean over random draws, with their 5th and 95th percentile; `n` counts draws."""
        draws = draws[~np.isnan(draws)]
        if len(draws):
            mean, (low, high) = draws.mean(), np.percentile(draws, [5, 95])
            self.add((mean, min(low, mean), max(high, mean)), len(draws), **columns)


def mean_over(values: Float[ndarray, "*more case"], where: Bool[ndarray, " case"] | None = None
              ) -> Float[ndarray, "*more"]:
    """Means over the cases in which a number exists; NaN where there is none."""
    values = values if where is None else values[..., where]
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(there, values, 0).sum(-1) / there.sum(-1)
