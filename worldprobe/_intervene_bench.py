"""One label's cases on the bench: scanned, reported with their controls, erased, and asked what mediates the answer."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interventions import (
    Dose,
    LastToken,
    OracleLEACE,
    amnesic,
    effect,
    interchange_pairs,
    patch_from,
    readout_mediator,
    set_error,
    side_effects,
    window_map,
)
from interventions._pair_run import PairRun
from probing import Site, Subspace
from tasks import Counterfactuals, LabelledPrompts

from ._intervene_arms import VERBS, Method
from ._intervene_erasers import random_erasure, whole_eraser
from ._intervene_handles import Handles, target_numbers
from ._intervene_task import Claim, Single, witnesses

N_RANDOM = 20
MEDIATORS = ("mass_mean.write", "logistic.read", "lda.read", "encoding.write")  # held against the learned subspace


class Bench:
    """One label's cases, run under edits.

    Attributes:
        handles: Directions of every case.
        single: Cases of one target, for questions about one subspace; None where no target has enough of them.
    """

    def __init__(self, model, prompts: LabelledPrompts, claim: Claim, single: Single | None,
                 weights: Mapping[Site, dict], seed: int, quick: bool):
        self.single = single
        self.model, self.prompts, self.claim, self.seed, self.quick = model, prompts, claim, seed, quick
        self.cases, self.sites = claim.cases, sorted(weights)
        self.still = replace(self.cases, right_after=self.cases.right_before)  # the answers that an erasure may break
        self.handles = Handles(self.cases, weights, prompts.targets(claim.label), lambda site: self._sources[site])

    @functools.cached_property
    def run(self) -> LastToken:
        return LastToken.of(self.model, self.cases)

    @functools.cached_property
    def _sources(self) -> Mapping[Site, Float[Tensor, "case d_model"]]:
        """The last token of the witness of every case, or of another prompt in which the label holds the new value."""
        tokens, lengths = self.twins or other_prompts(self.prompts, self.cases, self.seed)
        return LastToken(self.model, tokens, lengths).logits(read=self.sites)[1]

    @functools.cached_property
    def twins(self) -> tuple[Tensor, Tensor] | None:
        """Tokens and lengths of the witnesses."""
        found = witnesses(self.cases, self.prompts.vocabulary)
        return None if found is None else (found, self.run.lengths)

    def arm(self, m: Method) -> dict[str, Any]:
        """What `effect` and `window_map` want to know about a method."""
        return {"edit": m.edit(self.handles), "unit": VERBS[m.verb].unit, "intervention": m.verb,
                "probe": m.direction, "seed": self.seed}

    def scan(self, m: Method, windows: bool) -> pd.DataFrame:
        """Every layer (or window of layers) and dose, on the cases set aside for choosing."""
        return window_map(self.run, self.still if m.removes else self.cases, sites=self.sites,
                          alphas=m.doses(self.quick), within=VERBS[m.verb].within if windows else 1, **self.arm(m))

    def report(self, m: Method, dose: Dose, others: Mapping[str, Handles]) -> pd.DataFrame:
        """Every dose with its controls, where it was chosen, on the cases kept for reporting, and what it costs on
        prompts that it was not made for; an erasure at every layer by itself too."""
        if not m.removes:
            on = {"sites": dose.sites, "alphas": m.doses(self.quick), **self.arm(m)}
            sources = {site: patch_from(self._sources[site]) for site in dose.sites}
            table = effect(self.run, self.cases, planned=dose.alpha, others=self.handles.others(self.seed, others),
                           arms={"full_patch": sources}, **on)
            price = side_effects(self.model, self.prompts, label=self.claim.label, n_cases=len(self.cases),
                                 n_prompts=len(self.cases) // 2, n_random=N_RANDOM, **on)
            return pd.concat([table, price], ignore_index=True)
        places = [[site] for site in self.sites] + ([dose.sites] if len(dose.sites) > 1 else [])
        tables = []
        for sites in places:
            table = effect(self.run, self.still, sites=sites, alphas=m.doses(self.quick), planned=dose.alpha,
                           **self.arm(m))
            tables += [table, self.random_subspaces(m, sites, table)]
        return pd.concat(tables, ignore_index=True)

    def random_subspaces(self, m: Method, sites: Sequence[Site], table: pd.DataFrame) -> pd.DataFrame:
        """The error after random subspaces of the same rank were set to their mean, as a band: one row like that of the
        random directions, which push as far as the erasure does and are the harder test."""
        run = self.run.select((self.cases.cases["split"] == "report").to_numpy())
        right, weights = torch.from_numpy(self.still.right_after), self.handles.weights
        rng = np.random.default_rng(self.seed)
        arms = [{site: random_erasure(self.handles.ranks(site, m.verb), weights[site]["mean"], rng) for site in sites}
                for _ in range(N_RANDOM)]
        error = run.measure(arms, lambda logits, places: set_error(logits, right[run.rows[places.cpu()]])[:, None])
        draws = error.double().mean((1, 2)).numpy()
        low, high = np.percentile(draws, [5, 95])
        row = table[(table["control"] == "random_direction") & (table["metric"] == "set_error")].iloc[:1]
        return row.assign(control="random_subspace", value=draws.mean(), ci_low=min(low, draws.mean()),
                          ci_high=max(high, draws.mean()), n=N_RANDOM)

    def place(self, scans: pd.DataFrame, tables: Sequence[pd.DataFrame]) -> Site:
        """The layer at which writing does most on the cases set aside; of equals, that at which probes read best."""
        rows = scans[scans["control"].isna() & (scans["layer"] == scans["layer_end"])]
        rows = rows[~rows["intervention"].isin([v for v in VERBS if VERBS[v].removes])]
        error = rows.groupby("layer")["value"].min()
        probes = pd.concat([t for t in tables if t["intervention"].isna().all()])
        read = probes[probes["control"].isna() & (probes["label"] == self.claim.label) & (probes["subset"] == "all")
                      & (probes["metric"] == "accuracy") & (probes["split"] == "validation")]
        read = read.groupby("layer")["value"].max()
        return min(self.sites, key=lambda s: (round(error.get(s.layer, 0.0), 9), -read[s.layer], s.layer))

    def extras(self, site: Site, settings: Mapping[str, Any], others: Mapping[str, Handles]
               ) -> dict[str, Callable[[], pd.DataFrame]]:
        """What else can be asked of the cases of one target: stage -> its table."""
        found: dict[str, Callable[[], pd.DataFrame]] = {}
        if self.single is not None and "leace.read" in self.handles.weights[site]:
            found["amnesic"] = functools.partial(self.amnesic, self.single, site, others)
        if self.single is not None:
            found["mediator"] = functools.partial(self.mediator, self.single, site, settings)
        return found

    def amnesic(self, single: Single, site: Site, others: Mapping[str, Handles]) -> pd.DataFrame:
        """LEACE at one layer, beside same-rank random subspaces, other labels and the label given back."""
        w, t = self.handles.weights[site], single.number
        restored = OracleLEACE(torch.from_numpy(w["means"][t].T.copy()), torch.from_numpy(w["share"][t]),
                               torch.from_numpy(w["mean"]), tuple(range(len(w["share"][t]))))
        return amnesic(self.run if single.cases is self.cases else self.model, single.cases,
                       {site: whole_eraser(w, "leace", t)}, probe="leace", restored={site: restored},
                       others={f"other_label:{n}": {site: whole_eraser(h.weights[site], "leace", 0)}
                               for n, h in others.items() if len(h.weights[site]["means"]) == 1},
                       n_random=N_RANDOM, seed=self.seed, identity={"label": single.label})

    def mediator(self, single: Single, site: Site, settings: Mapping[str, Any]) -> pd.DataFrame:
        """Probe directions of one target and the learned subspace of one layer, held against each other. The classes
        are those that occur in the cases."""
        w, table = self.handles.weights[site], single.cases.cases
        first, *rest = np.union1d(table["was"], table["becomes"])
        rows = {name: w[name][single.number] for name in MEDIATORS if name in w}
        spaces = {n: Subspace.spanned_by(torch.from_numpy(of[rest] - of[first])) for n, of in rows.items()}
        pairs = interchange_pairs(single.cases, sources=self.prompts if single.cases is not self.cases else None,
                                  seed=self.seed)
        run = PairRun(self.model, pairs, site)
        return readout_mediator(run, run.pairs, site, spaces, rank=len(rest), n_refits=settings["refits"],
                                steps=settings["steps"], n_random=N_RANDOM, seed=self.seed,
                                identity={"label": single.label})


def other_prompts(prompts: LabelledPrompts, cases: Counterfactuals, seed: int) -> tuple[Tensor, Tensor]:
    """For every case another prompt, drawn from the test split, whose label holds what the case's is to become:
    tokens (case, pos), up to the labelled one, and lengths (case,)."""
    rng, table = np.random.default_rng(seed), prompts.examples
    codes, split = prompts.labels(cases.scheme), prompts.rows("test")
    target, rows = target_numbers(cases, prompts.targets(cases.scheme)), np.empty(len(cases), int)
    for i, (t, code) in enumerate(zip(target, cases.cases["becomes"], strict=True)):
        there = np.flatnonzero(split & (codes[:, t] == code))
        if not len(there):
            raise ValueError(f"no prompt of the test split has {cases.cases['target'].iat[i]} = {code} to patch from; "
                             "ask for more prompts")
        rows[i] = rng.choice(there)
    chosen = torch.from_numpy(rows)
    prompt, pos = (torch.from_numpy(table[c].to_numpy(copy=True))[chosen] for c in ("prompt", "pos"))
    return prompts.tokens[prompt], pos + 1
