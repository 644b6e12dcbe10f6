"""The changes of a study: one fact is written into the activations of some tokens, at one or another place.

For every change and every place: what the place's readings write is learned from their training prompts at every site;
every way to write is tried at every site and dose on one half of the cases, and reported with its controls, where it
did most there, on the other half, the best direction of every verb at all doses; the best way is reported at every
other site, too; and whole activations are patched from prompts that tell of the change. Everything is a stage of the
run folder.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interventions import LastToken, Sequences, patch_from, top1_right
from interventions._joint import JointEdits, Spot, joint_arm, joint_effect, joint_scan
from interventions._metrics import ANSWER_METRICS
from interventions._places import Positions
from interventions._runs import Run as ModelRun
from interventions._tails import tails
from probing import Site, extract, residual_sites
from probing._threads import single_threaded
from tasks import Counterfactuals, LabelledPrompts
from tasks._positions import NAMED
from tasks._study import Change, Changed, Part, Study

from ._intervene_arms import tensor
from ._intervene_task import witnesses
from ._rows import lower_is_better, pick
from ._run import Run
from ._study_directions import PATCH, PartDirections, Way, direction_arrays, ways_of
from ._study_mediator import mediator_rows

N_RANDOM = 20
MOST_NUMBERS = 2**24  # of next-token probabilities that are kept of a change
SOLVED = "solved"  # the subset of cases whose first choice is right before the change


def flips(logits: Float[Tensor, "case d_vocab"], unedited: Tensor, before: Tensor, after: Tensor
          ) -> Float[Tensor, " case"]:
    """1 where the first choice is right after the change and was not so unedited, else 0."""
    return top1_right(logits, after) * (1 - top1_right(unedited, after))


METRICS = {"flip_rate": flips, "log_odds": ANSWER_METRICS["log_odds"], "mass_after": ANSWER_METRICS["mass_after"]}
RECOVERED = ("flip_rate", "log_odds", "mass_after")


class Chosen(NamedTuple):
    """A way to write at a site and dose, and how it did where it was chosen: what the change is judged by (lower is
    better), and log-odds of the new answers."""

    way: Way
    site: Site
    alpha: float
    score: float
    odds: float

    @property
    def rank(self) -> tuple:
        """Lower is better: the score, then the odds, then the smaller dose."""
        return self.score, -self.odds, abs(self.alpha)


def change_stages(folder: Run, model, study: Study, prompts: Mapping[str, LabelledPrompts], seed: int, quick: bool
                  ) -> tuple[list[pd.DataFrame], pd.DataFrame, dict[str, Changed]]:
    """(tables to report, the scans they were chosen from, change -> next tokens before and after).

    Args:
        prompts: Reading -> its prompts, for the readings that the changes write.
    """
    learned = Learned(folder, model, study, prompts, seed)
    tables, scans, changed = list[pd.DataFrame](), list[pd.DataFrame](), dict[str, Changed]()
    for change in study.changes:
        bench = Bench(folder, model, change, learned, seed, quick)
        found: dict[str, Chosen] = {}
        for place in change.places:
            best, *more = bench.place(place)
            tables += more[0]
            scans += more[1]
            found[place] = best
        place = min(found, key=lambda p: found[p].rank)
        if bench.witness is not None and not quick:
            tables.append(bench.mediator(place, found[place]))
        changed[change.name] = bench.changed(place, found[place])
    return tables, pd.concat(scans, ignore_index=True) if scans else pd.DataFrame(), changed


class Learned:
    """What readings write at every site, learned once per reading."""

    def __init__(self, folder: Run, model, study: Study, prompts: Mapping[str, LabelledPrompts], seed: int):
        self.folder, self.model, self.prompts, self.seed = folder, model, prompts, seed
        self.labels = {r.name: r.label for r in study.readings}
        self.sites = residual_sites(model.cfg.n_layers)
        self._known: dict[str, dict[Site, dict]] = {}

    def numeric(self, reading: str) -> bool:
        return not self.prompts[reading].classes.get(self.labels[reading])

    def targets(self, reading: str) -> list[str]:
        return self.prompts[reading].targets(self.labels[reading])

    def arrays(self, reading: str) -> dict[Site, dict[str, np.ndarray]]:
        """Site -> `direction_arrays`; a stage per site."""
        if reading in self._known:
            return self._known[reading]
        data = self.prompts[reading]
        acts = functools.cache(lambda: extract(self.model, data, self.sites, random_init=None))

        def learn(site: Site) -> dict[str, np.ndarray]:
            with single_threaded():
                return direction_arrays(np.asarray(acts()[site]), data, self.labels[reading], self.seed)

        self._known[reading] = {site: self.folder.stage(f"directions-{slug(reading)}-{site}",
                                                        functools.partial(learn, site)) for site in self.sites}
        return self._known[reading]


class Bench:
    """The cases of one change, run under edits.

    Attributes:
        cases: Drawn with `seed` + 1: never the prompts that directions were learned from.
        witness: (case, pos) prompts that tell of the change, where there are some.
    """

    def __init__(self, folder: Run, model, change: Change, learned: Learned, seed: int, quick: bool):
        self.folder, self.model, self.change, self.learned = folder, model, change, learned
        self.seed, self.quick, self.sites = seed, quick, learned.sites
        self.cases: Counterfactuals = change.cases(change.n, seed + 1)
        some = next(iter(change.places.values()))[0]
        self.witness = witnesses(self.cases, learned.prompts[some.reading].vocabulary)

    @functools.cached_property
    def logits(self) -> Float[Tensor, "case d_vocab"]:
        """Unedited."""
        return LastToken.of(self.model, self.cases).logits()

    @functools.cached_property
    def told(self) -> Float[Tensor, "case d_vocab"] | None:
        """Logits of the witnesses: the ceiling."""
        if self.witness is None:
            return None
        return LastToken(self.model, self.witness, self._lengths).logits()

    @functools.cached_property
    def solved(self) -> np.ndarray:
        """(case,) whether the unedited first choice is right."""
        return top1_right(self.logits, torch.from_numpy(self.cases.right_before)).bool().numpy(force=True)

    @property
    def _lengths(self) -> Tensor:
        return self.cases.lengths[torch.as_tensor(self.cases.cases["prompt"].to_numpy(copy=True))]

    def place(self, place: str) -> tuple[Chosen, list[pd.DataFrame], list[pd.DataFrame]]:
        """(what did most on the cases set aside, tables to report, scans) of one place."""
        at = Place(self, place)
        scans = {way: self._stage(place, f"scan-{way.name}", functools.partial(at.scan, way)) for way in at.ways}
        by = self.change.by
        chosen = {way: best_of(scan, way, by) for way, scan in scans.items()}
        best, tables = min(chosen.values(), key=lambda c: c.rank), []
        followed = {verb: min((c for c in chosen.values() if c.way.verb == verb), key=lambda c: c.rank).way
                    for verb in dict.fromkeys(way.verb for way in chosen)}  # at all doses, with all controls
        for way, one in chosen.items():
            doses = way.doses[self.quick] if way in followed.values() else sorted({1.0, one.alpha})  # 1 compares ways
            tables.append(self._stage(place, f"report-{way.name}", functools.partial(
                at.report, way, one.site, doses, one.alpha)))
            self.folder.log(f"{self.change.name}, {place}, {way.verb} {way.direction}: "
                            + headline(tables[-1], one.site, one.alpha, by))
        elsewhere = [best_of(scans[best.way], best.way, by, site) for site in at.varying if site != best.site]
        for one in elsewhere:
            tables.append(self._stage(place, f"at-{one.site}", functools.partial(
                at.report, one.way, one.site, [one.alpha], None, False)))
        if self.witness is not None:
            tables.append(self._stage(place, "patch", at.patches))
            self.folder.log(f"{self.change.name}, {place}: {at.said_of_patches(tables[-1])}")
        return best, tables, list(scans.values())

    def mediator(self, place: str, best: Chosen) -> pd.DataFrame:
        """The directions held against a learned subspace, where writing did most."""
        at = Place(self, place)
        kinds = dict.fromkeys(way.direction for way in at.ways if way.verb == "steer")
        written = {kind: {spot: tensor(at.directions[spot].written(kind)) for spot in at.spots(best.site)}
                   for kind in kinds}
        return self._stage(place, "mediator", lambda: mediator_rows(
            at.run, self.cases, written, {spot: at.sources[spot] for spot in at.spots(best.site)}, at.positions,
            told=self.told, metrics=METRICS, recovered=RECOVERED, subsets={SOLVED: self.solved}, seed=self.seed,
            n_random=N_RANDOM, identity=at.identity))

    def changed(self, place: str, best: Chosen) -> Changed:
        """Next tokens before and after the edit that did most."""
        inside = np.flatnonzero((self.cases.cases["split"] == "report").to_numpy())
        rows = inside[: max(1, MOST_NUMBERS // self.logits.shape[1])]
        at = Place(self, place)

        def probabilities() -> dict[str, Tensor]:
            run = at.run.select(np.isin(at.run.rows.numpy(), rows))
            edited = run.logits(joint_arm(run, at.edits(best.way, best.site, best.alpha), at.positions))
            found = {"before": self.logits[rows], "after": edited}
            found |= {} if self.told is None else {"told": self.told[rows]}
            return {name: x.float().softmax(-1).cpu() for name, x in found.items()}

        found = self.folder.stage(f"{slug(self.change.name)}-next-tokens", probabilities)
        return Changed(self.cases, rows, found["before"], found["after"], found.get("told"), place, best.way.verb,
                       best.way.direction, best.site.stream, best.site.layer, float(best.alpha))

    def _stage(self, place: str, what: str, make) -> pd.DataFrame:
        return self.folder.stage(f"{slug(self.change.name)}-{slug(place)}-{what}", make)


class Place:
    """One place of a change: the tokens that are edited together, and the edits.

    Attributes:
        positions: Of every part.
        varying: Sites at which the activations of all parts vary.
    """

    def __init__(self, bench: Bench, name: str):
        self.bench, self.name, self.parts = bench, name, list(bench.change.places[name])
        learned = bench.learned
        numeric = [learned.numeric(part.reading) for part in self.parts]
        self.ways = ways_of(numeric, bench.quick)
        self.positions = [position(part, bench.cases) for part in self.parts]
        self.directions = {Spot(s.stream, s.layer, part=i): PartDirections(
            part, bench.cases, learned.targets(part.reading), learned.arrays(part.reading)[s], numeric[i])
            for s in bench.sites for i, part in enumerate(self.parts)}
        self.varying = [s for s in bench.sites if all(self.directions[spot].varies for spot in self.spots(s))]
        if not self.varying:
            raise ValueError(f"the activations at {name} never vary, at no site: nothing can be read or written there")

    def spots(self, site: Site) -> list[Spot]:
        return [Spot(site.stream, site.layer, part=i) for i in range(len(self.parts))]

    @functools.cached_property
    def run(self) -> ModelRun:
        """The cheapest run that can be edited here."""
        return tails(self.bench.model, self.bench.cases, self.positions)

    @functools.cached_property
    def sources(self) -> dict[Spot, Float[Tensor, "case d_model"]]:
        """Activations of the witnesses at these tokens."""
        assert self.bench.witness is not None, "patches want witnesses"
        lengths, found = self.bench._lengths, dict[Spot, Tensor]()
        at = [lengths + p if isinstance(p, int) else torch.as_tensor(p) for p in self.positions]
        for places, acts in Sequences(self.bench.model, self.bench.witness, lengths).stream(self.bench.sites):
            for site, x in acts.items():
                for spot in self.spots(site):
                    here = x[torch.arange(len(places)), at[spot.part][places]]
                    found.setdefault(spot, here.new_zeros(len(lengths), here.shape[-1]))[places] = here
        return found

    def edits(self, way: Way, site: Site, alpha: float) -> JointEdits:
        if way.verb == "patch":
            return {spot: patch_from(self.sources[spot]) for spot in self.spots(site)}
        return {spot: self.directions[spot].edit(way, alpha) for spot in self.spots(site)}

    def scan(self, way: Way) -> pd.DataFrame:
        """Every site and dose, on the cases set aside for choosing."""
        arms = [({"stream": site.stream, "layer": site.layer, "layer_end": site.layer, "alpha": float(alpha),
                  "unit": way.unit, "probe": way.direction, "intervention": way.verb}, self.edits(way, site, alpha))
                for site in self.varying for alpha in way.doses[self.bench.quick]]
        return joint_scan(self.run, self.bench.cases, arms, self.positions, metrics=METRICS, seed=self.bench.seed,
                          identity=self.identity)

    def report(self, way: Way, site: Site, alphas: Sequence[float], planned: float | None, controlled: bool = True
               ) -> pd.DataFrame:
        """Doses at one site, on the cases kept for reporting."""
        return joint_effect(
            self.run, self.bench.cases, lambda alpha: self.edits(way, site, alpha), self.positions, alphas=alphas,
            unit=way.unit, intervention=way.verb, probe=way.direction, others=self.others(site) if controlled else {},
            full_patch=self.edits(PATCH, site, 1.0) if controlled and self.bench.witness is not None else None,
            told=self.bench.told, unedited=self.bench.logits, metrics=METRICS, recovered=RECOVERED,
            subsets={SOLVED: self.bench.solved},
            planned=planned, n_random=N_RANDOM, seed=self.bench.seed, identity=self.identity)

    def patches(self) -> pd.DataFrame:
        """Whole activations from the witnesses, at every site."""
        return pd.concat([self.report(PATCH, site, [1.0], None, False) for site in self.bench.sites],
                         ignore_index=True)

    def others(self, site: Site) -> dict[str, dict[Spot, Tensor]]:
        """Directions that should do nothing: of shuffled labels, of other targets."""
        found: dict[str, dict[Spot, Tensor]] = {"shuffled_labels": {
            spot: torch.from_numpy(self.directions[spot].shuffled()).float() for spot in self.spots(site)}}
        other = {spot: self.directions[spot].other_target(self.bench.seed) for spot in self.spots(site)}
        if all(rows is not None for rows in other.values()):
            found["other_target"] = {spot: torch.from_numpy(rows).float() for spot, rows in other.items()}
        return found

    def said_of_patches(self, table: pd.DataFrame) -> str:
        by = self.bench.change.by
        flips = by in ("set_error", "flip_rate")
        rows = pick(table, control=None, metric="flip_rate" if flips else by, subset=SOLVED if flips else "all")
        return f"whole activations patched {'flip' if flips else by.replace('_', ' ')} " + ", ".join(
            f"{r.value:.2f} ({r.stream}.{r.layer})" for r in rows.itertuples())

    @property
    def identity(self) -> dict[str, str]:
        return {"label": self.bench.change.name, "positions": self.name}


def position(part: Part, cases: Counterfactuals) -> Positions:
    """Where a part is: -1, or one token of every case.

    Raises:
        KeyError: The cases name no such position.
    """
    if isinstance(part.positions, int):
        return part.positions
    if (column := f"{NAMED}{part.positions}") not in cases.cases:
        known = ", ".join(c.removeprefix(NAMED) for c in cases.cases if c.startswith(NAMED)) or "none"
        raise KeyError(f"the cases name no position {part.positions!r}, but {known}")
    return torch.as_tensor(cases.cases[column].to_numpy(copy=True))


def best_of(scan: pd.DataFrame, way: Way, by: str, site: Site | None = None) -> Chosen:
    """The site and dose of a scan (or the dose at one site) that did most, as `by` counts it; of equals that of the
    highest odds of the new answers, then the smallest dose."""
    rows = scan[scan["control"].isna()]
    if site is not None:
        rows = rows[(rows["stream"] == site.stream) & (rows["layer"] == site.layer)]
    wide = rows.pivot(index=["stream", "layer", "alpha"], columns="metric", values="value").reset_index()
    sign = 1 if lower_is_better(by) else -1
    found = [Chosen(way, Site(r["stream"], int(r["layer"])), float(r["alpha"]), sign * float(r[by]),
                    float(r.get("log_odds", 0.0))) for r in wide.to_dict("records")]
    return min(found, key=lambda c: c.rank)


def headline(table: pd.DataFrame, site: Site, alpha: float, by: str = "set_error") -> str:
    """What an edit did, for the log."""
    flips = by in ("set_error", "flip_rate")
    rows = pick(table, metric="flip_rate" if flips else by, subset=SOLVED if flips else "all")
    if rows.empty:
        return "no case of the half kept for reporting is solved"
    own = rows[rows["control"].isna() & (rows["alpha"] == alpha)].iloc[0]
    band = rows[(rows["control"] == "random_direction") & (rows["alpha"] == alpha)].iloc[0]
    told = rows[rows["control"] == "told"]
    ceiling = f", told {told['value'].iloc[0]:.3f}" if len(told) else ""
    said = f"{site}, dose {alpha:g}: {own['value']:.3f} [{own['ci_low']:.3f}, {own['ci_high']:.3f}]"
    if flips:
        return f"{said} of {own['n']} solved cases flip, random directions {band['value']:.3f}{ceiling}"
    null = rows[rows["control"] == "null"]["value"].iloc[0]
    return f"{said} {by.replace('_', ' ')}, unedited {null:.3f}, random directions {band['value']:.3f}{ceiling}"


def slug(name: str) -> str:
    """As part of the name of a stage."""
    return re.sub(r"[^\w.+=]+", "-", name).strip("-.") or "unnamed"


