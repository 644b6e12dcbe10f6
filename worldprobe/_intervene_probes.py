"""What can be read at every layer, with its controls, and the directions that the edits are made from."""

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from probing import Site, extract, results_frame
from probing._controls import baseline_rows, input_only_rows
from probing._probe_site import probe_site
from probing._splits import splits_of
from probing._sweep import correct_p_values, identity_columns
from probing._threads import single_threaded
from tasks import LabelledPrompts

from ._intervene_handles import site_arrays, target_numbers
from ._intervene_task import Claim
from ._run import Run


def learn(folder: Run, stage: Callable, model, prompts: LabelledPrompts, asked: Sequence[Claim],
          probes: Mapping[str, Any], erasers: Collection[str],
          seed: int) -> tuple[dict[str, dict[Site, dict]], list[pd.DataFrame]]:
    """(label -> site -> `site_arrays`, tables of the probes with their controls), two stages per site."""
    sites = [Site("resid_post", layer) for layer in range(model.cfg.n_layers)]
    names = [claim.label for claim in asked]

    @functools.cache
    def acts():
        return extract(model, prompts, sites, random_init=seed)

    @functools.cache
    def fitted(site: Site):
        with single_threaded():
            return probe_site(acts(), prompts, site, dict.fromkeys(names, list(probes)), probes, seed=seed,
                              splits=splits_of(acts(), prompts))

    def table(rows: Sequence[Mapping]) -> pd.DataFrame:
        common = {**identity_columns(acts()), "task": prompts.task}
        return correct_p_values(results_frame([{**common, **row} for row in rows]))

    def baselines() -> pd.DataFrame:
        splits = splits_of(acts(), prompts)
        with single_threaded():
            return table([row for label in names for row in (
                *baseline_rows(prompts, label, seed, splits),
                *input_only_rows(prompts, label, {n: [p] for n, p in probes.items()}, seed, splits))])

    def arrays(site: Site) -> dict[str, np.ndarray]:
        X, found = np.asarray(acts()[site]), fitted(site).probes
        with single_threaded():
            return {f"{c.label}/{name}": array for c in asked for name, array in site_arrays(
                X, prompts, c.label, {n: found[c.label, n, site] for n in probes},
                np.unique(target_numbers(c.cases, prompts.targets(c.label))).tolist(), seed, erasers).items()}

    tables, weights = [stage("baselines", baselines)], {name: dict[Site, dict]() for name in names}
    for site in sites:
        tables.append(stage(f"probes-{site}", lambda site=site: table(fitted(site).rows)))
        for key, array in stage(f"weights-{site}", functools.partial(arrays, site)).items():
            label, _, name = key.partition("/")
            weights[label].setdefault(site, {})[name] = array
        folder.log(f"probes at {site}: " + ", ".join(f"{r.label} {r.probe} {r.value:.3f}" for r in _scores(tables[-1])))
    return weights, tables


def _scores(table: pd.DataFrame) -> Iterator:
    return table[table["control"].isna() & (table["metric"] == "accuracy") & (table["split"] == "test")
                 & (table["subset"] == "all")].itertuples()
