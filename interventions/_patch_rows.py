"""Patches as result rows: the normalised indirect effect of every cell, its band, and its significance in the map."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from probing._models import identify
from probing._results import results_frame
from probing._statistics import bootstrap_mean, bootstrap_ratio, group_sums
from probing._sweep import correct_p_values

from ._patch_run import Patched, PatchRun

N_FLIPS = 10_000  # random sign flips behind a p-value: of 500 cells the smallest one still survives Holm


class PatchTable:
    """Rows under construction. Metric `nie`, the normalised indirect effect

        NIE = sum(patched - corrupted) / sum(clean - corrupted)

    of a patch into the corrupted run; of one into the clean run, (clean - patched) in the numerator. 0: the patch does
    nothing, 1: it closes the whole gap. A ratio of means, with its cluster-bootstrap interval.

    p-values are two-sided, of sign-flip tests over groups: that the patch gains nothing, or no more than random changes
    of its norm gain on average; the larger of the two.
    """

    def __init__(self, run: PatchRun, seed: int = 0, identity: Mapping[str, object] | None = None, **common):
        known, pairs = identify(run.model), run.pairs
        self.run, self.seed, self.rows, self._tests = run, seed, list[dict](), list[tuple[int, ndarray]]()
        self.common = {"task": pairs.task, "model": known.name, "revision": known.revision, "model_hash": known.digest,
                       "data_hash": run.given.digest, "label": pairs.label, "split": run.split, "seed": seed,
                       "subset": "all", **common, **(identity or {})}
        self._groups, self._nulls = run.groups, set[tuple[str, str]]()
        for name, values in run.values.items():
            self._add(bootstrap_mean(values, self._groups, seed=seed), len(run), metric=run.metric, control=name,
                      n_groups=len(np.unique(self._groups)))
        n = run.n_dropped
        self._add((n, n, n), len(run) + n, metric="dropped", control="no_gap")

    def cell(self, intervention: str, patched: Patched, subset: str = "all", **columns) -> None:
        """Of one cell: the patch, its band and, once per subset, the null."""
        run, gap, first, last = self.run, self.run.gap, patched.sites[0], patched.sites[-1]
        own, *drawn = patched.gains
        common = {"intervention": intervention, "metric": "nie", "subset": subset, "positions": patched.positions,
                  "stream": first.stream, "layer": first.layer, "layer_end": last.layer, "head": first.head, **columns}
        n_groups = len(np.unique(self._groups))
        if (intervention, subset) not in self._nulls:
            self._nulls.add((intervention, subset))
            self._add((0, 0, 0), len(run), n_groups=n_groups, intervention=intervention, metric="nie", subset=subset,
                      control="null")
        self._tests.append((len(self.rows), patched.gains))
        self._add(bootstrap_ratio(own, gap, self._groups, seed=self.seed), len(run), n_groups=n_groups,
                  applied_norm=patched.applied_norm, norm_share=patched.norm_share, **common)
        if drawn:
            draws = np.stack(drawn).sum(1) / gap.sum()
            mean, (low, high) = draws.mean(), np.percentile(draws, [5, 95])
            self._add((mean, min(low, mean), max(high, mean)), len(draws), control="random_direction", **common)

    def frame(self, correction: str = "benjamini_hochberg") -> pd.DataFrame:
        """The result rows, p-values corrected over all cells of the table."""
        own = np.stack([gains[0] for _, gains in self._tests], 1)
        drawn = np.stack([gains[1:].mean(0) if len(gains) > 1 else 0 * gains[0] for _, gains in self._tests], 1)
        nothing, no_more = (sign_flip_p(group_sums(x, self._groups), self.seed) for x in (own, own - drawn))
        further = own.sum(0) * (own - drawn).sum(0) > 0  # away from zero, not between zero and the band
        for (row, _), p in zip(self._tests, np.where(further, np.maximum(nothing, no_more), 1.0), strict=True):
            self.rows[row]["p_value"] = p
        return correct_p_values(results_frame(self.rows), correction)

    def _add(self, interval: tuple, n: int, **columns) -> None:
        value, low, high = map(float, interval)
        self.rows.append({**self.common, "value": value, "ci_low": low, "ci_high": high, "n": n, **columns})


def sign_flip_p(sums: Float[ndarray, "group cell"], seed: int = 0, n_flips: int = N_FLIPS) -> Float[ndarray, " cell"]:
    """Two-sided p-values that the sums over groups are symmetric about zero: the share of random sign flips of whole
    groups whose total is at least as far from zero, the observed one counted."""
    rng, observed = np.random.default_rng(seed), np.abs(sums.sum(0))
    as_far = observed - 1e-9 * np.abs(sums).sum(0)  # a tie is one whatever the order of summation
    hits = np.ones(sums.shape[1])
    for n in np.diff(np.append(np.arange(0, n_flips, 500), n_flips)):
        hits += (np.abs(rng.choice([-1.0, 1.0], (n, len(sums))) @ sums) >= as_far).sum(0)
    return hits / (1 + n_flips)
