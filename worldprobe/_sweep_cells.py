"""The numbers of one cell of a sweep, computed from its row of the plan and from nothing else that is in the folder."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from interventions._steer_along import steer_along
from probing import Site, extract, load_model, results_frame
from probing._controls import baseline_rows, input_only_rows
from probing._fitting import fit_and_choose
from probing._guards import check_fits
from probing._probe_site import probe_site
from probing._question import Question
from probing._splits import splits_of
from probing._subspaces import Origin
from probing._sweep import identity_columns
from tasks import LabelledPrompts

from ._sweep_plan import probe_named, readings_of

DRAW = "draw"  # column of the rows that hold one draw of shuffled labels: for the choice of the best layer, not results


class Bench:
    """The prompts, model and activations that the cells of one group share.

    Args:
        cells: All cells of the group in the plan: the activations of all their sites are read in one pass.
        models: Name -> model, where it was loaded before; this one is added, and stands there alone.
    """

    def __init__(self, cells: pd.DataFrame, settings: Mapping[str, Any], models: dict[str, Any]):
        first = cells.iloc[0]
        self.seed, self.settings, self.name = int(first["seed"]), settings, str(first["model"])
        self.model = _loaded(self.name, settings, models)
        readings = readings_of(first["task"], self.name, settings["options"], self.model.tokenizer,
                               self.model.cfg.d_vocab)
        reading = next(r for r in readings if (r.name, r.label) == (first["reading"], first["label"]))
        self.prompts: LabelledPrompts = reading.load(int(first["prompts"]), self.seed)
        check_fits(self.model, self.prompts)
        sites = [Site.parse(text) for text in dict.fromkeys(" ".join(cells["sites"]).split())]
        acts = extract(self.model, self.prompts, sites, cache=settings["cache"], random_init=self.seed,
                       dtype=settings["dtype"], progress=lambda done, total: None)
        self.identity = {"task": self.prompts.task, **identity_columns(acts)}
        self.splits = splits_of(acts, self.prompts)
        self.acts = _Latest(acts, None if acts.random_init is None else _Latest(acts.random_init))

    def rows(self, cell: pd.Series) -> pd.DataFrame:
        """Result rows of one cell, and draws of shuffled labels, which have a number in the column `draw`."""
        made = {"baseline": self._baseline, "input_only": self._input_only, "probe": self._probe,
                "effect": self._effect}[cell["kind"]](cell)
        if isinstance(made, pd.DataFrame):
            return made.assign(**{DRAW: pd.array([None] * len(made), dtype="Int64")})
        place = {"positions": cell["reading"]} if cell["reading"] else {}
        rows = [{**self.identity, **place, **row} for row in made]
        draws = pd.array([row.pop(DRAW, None) for row in rows], dtype="Int64")
        return results_frame(rows).assign(**{DRAW: draws})

    def _baseline(self, cell: pd.Series) -> list[dict]:
        return baseline_rows(self.prompts, cell["label"], self.seed, self.splits)

    def _input_only(self, cell: pd.Series) -> list[dict]:
        return input_only_rows(self.prompts, cell["label"], {cell["probe"]: probe_named(cell["probe"])}, self.seed,
                               self.splits)

    def _probe(self, cell: pd.Series) -> Iterator[dict]:
        label, name = cell["label"], cell["probe"]
        for site in map(Site.parse, cell["sites"].split()):
            found = probe_site(self.acts, self.prompts, site, {label: [name]}, {name: probe_named(name)},
                               seed=self.seed, shuffles=self.settings["shuffles"], splits=self.splits)
            yield from found.rows
            metric = Question.of(self.prompts, label, self.splits).metric
            for i, pair in enumerate(found.null.get((label, name), ())):
                for split, value in zip(("validation", "test"), pair, strict=True):
                    yield {"stream": site.stream, "layer": site.layer, "layer_end": site.layer, "label": label,
                           "probe": name, "control": "shuffled_labels", "metric": metric, "split": split,
                           "subset": "all", "value": float(value), "n": 1, "seed": self.seed, DRAW: i}

    def _effect(self, cell: pd.Series) -> pd.DataFrame:
        label, name, site = cell["label"], cell["probe"], Site.parse(cell["sites"])
        question = Question.of(self.prompts, label, self.splits)
        (fit,) = fit_and_choose(probe_named(name), np.asarray(self.acts[site]), [question])
        fit.probe.origin_ = Origin(site, label, name)
        return steer_along(self.model, self.prompts, fit.probe.write, alphas=self.settings["doses"],
                           n_cases=self.settings["cases"], seed=self.seed)


class _Latest(Mapping):
    """Activations of which the site that was asked for last stays in memory: cells come site by site."""

    def __init__(self, acts: Any, random_init: "_Latest | None" = None):
        self._acts, self.random_init = acts, random_init
        self._held: tuple[Site, Tensor] | None = None

    def __getitem__(self, site: Site) -> Tensor:
        if self._held is None or self._held[0] != site:
            self._held = None  # two sites are never in memory at once
            self._held = site, self._acts[site]
        return self._held[1]

    def __contains__(self, site: object) -> bool:
        return site in self._acts

    def __iter__(self) -> Iterator[Site]:
        return iter(self._acts)

    def __len__(self) -> int:
        return len(self._acts)


def _loaded(name: str, settings: Mapping[str, Any], models: dict[str, Any]) -> Any:
    if name not in models:
        models.clear()  # one at a time: two may not fit
        models[name] = load_model(name, settings["device"], device_map=settings["device_map"])
    return models[name]


