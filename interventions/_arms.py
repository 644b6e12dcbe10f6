"""Every arm of a study at every dose: the edit, and its controls of equal applied norm."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from probing._models import random_init
from probing._sites import Site
from tasks._prompts import Counterfactuals

from ._controls import Change, components, random_in, random_like, rescaled
from ._doses import Reference, sizes
from ._edits import Edit, steer
from ._last_token import Edits
from ._measures import Measures
from ._places import Positions
from ._runs import Added, Run, counted_by, n_rows, norms, placed, recording
from ._sequences import Sequences

Directions = Mapping[Site, Float[Tensor, "#case _"]]
EditAt = Callable[[Site, float], Edit]
Numbers = Float[ndarray, "case number"]


@dataclass(frozen=True)
class Controls:
    """Which controls are run beside the random directions and the flipped sign, as in the arguments of `effect`."""

    n_random: int = 20
    others: Mapping[str, Directions] = field(default_factory=dict)
    arms: Mapping[str, Edits] = field(default_factory=dict)
    other_layers: Sequence[int] = ()
    other_positions: Sequence[int] = ()
    random_init: bool = False


@dataclass
class Measured:
    """Numbers of all arms, named in `names`. Of `controls` and `bands` one array per dose; `unedited` are the runs
    without an edit, of the model and of the controls that have runs of their own; `fixed` knows no dose."""

    names: list[str]
    unedited: dict[str, Numbers]
    fixed: dict[str, Numbers]
    edited: Float[ndarray, "dose case number"]
    controls: list[dict[str, Numbers]] = field(default_factory=list)
    bands: list[dict[str, Float[ndarray, "draw case number"]]] = field(default_factory=list)
    sizes: list[dict[str, float | None]] = field(default_factory=list)


class Arms:
    """An edit of the cases of a run, at all `sites` together.

    Args:
        make: (site, dose) -> edit.
        directions: What `make` adds `dose` times, where that is all it does; else the change is measured.
    """

    def __init__(self, run: Run, cases: Counterfactuals, measures: Measures, make: EditAt, sites: Sequence[Site],
                 directions: Directions | None = None, positions: Positions = -1):
        self.run, self.cases, self.measures, self.make, self.sites = run, cases, measures, make, list(sites)
        self.positions, self.by = positions, counted_by(positions)
        self.directions = directions if self.by == "case" else None

    def price(self, alpha: float) -> float:
        """Mean KL of the edit at a dose."""
        arm = placed(self.run, self.edits(alpha), self.positions)
        return float(self.run.measure([arm], self.measures)[0, :, self.measures.names.index("kl")].mean())

    def edits(self, alpha: float | int) -> Edits:
        return {site: self.make(site, alpha) for site in self.sites}

    def measure(self, alphas: Sequence[float | int], controls: Controls,
                references: Mapping[Site, Reference] | None = None, seed: int = 0) -> Measured:
        """All arms at all doses, those of one dose together."""
        norm: Added = {}
        changes, edited = self._apply(alphas, norm)
        fixed = self.run.measure([placed(self.run, e, self.positions) for e in controls.arms.values()], self.measures)
        found = Measured(self.measures.names, {"null": self.measures.null()},
                         dict(zip(controls.arms, fixed.numpy(), strict=True)), edited)
        spaces = None if references is None else {s: components(references[s].acts) for s in self.sites}
        elsewhere = self._elsewhere(controls, seed)
        found.unedited |= {f"{name}_null": other.measures.null() for name, other in elsewhere.items() if other.is_own}
        for alpha, change in zip(alphas, changes, strict=True):
            sign = -1.0 if alpha < 0 else 1.0
            bands = {"random_direction": random_like(change, controls.n_random, seed, sign)}
            if spaces is not None:
                bands["random_in_components"] = random_in(spaces, change, controls.n_random, seed, sign)
            one = self._one_each(change, controls)
            values = self._numbers([*one.values(), *(arm for band in bands.values() for arm in band)])
            found.controls.append(dict(zip(one, values, strict=False)))
            found.controls[-1] |= {name: other.numbers(change) for name, other in elsewhere.items()}
            parts = values[len(one) :].reshape(len(bands), controls.n_random, *values.shape[1:])
            found.bands.append(dict(zip(bands, parts, strict=True)))
            found.sizes.append(sizes(change, norm, references))
        return found

    def _apply(self, alphas: Sequence[float | int], norm: Added) -> tuple[list[Added], ndarray]:
        """Per dose what is added, {site: (row, width)} over all rows; and the numbers of the edit."""
        still, arms = norms(self.run, self.sites, norm, self.positions), [self.edits(a) for a in alphas]
        if self.directions is not None:
            n, v = n_rows(self.run, self.positions), self.directions
            changes = [{s: a * v[s].expand(max(n, len(v[s])), -1) for s in self.sites} for a in alphas]
            ready = [placed(self.run, edits, self.positions) for edits in arms]
        else:
            changes = [{} for _ in alphas]
            ready = [recording(self.run, e, into, self.positions) for e, into in zip(arms, changes, strict=True)]
        return changes, self.run.measure([still, *ready], self.measures).numpy()[1:]

    def _one_each(self, change: Change, controls: Controls) -> dict[str, Edits]:
        """The controls that are one arm of the same run."""
        found: dict[str, Edits] = {"sign_flip": {s: steer(change[s], -1.0) for s in self.sites}}
        for name, given in controls.others.items():
            found[name] = {s: steer(rescaled(self._rows(given[s], len(change[s])), change[s])) for s in self.sites}
        for layer in controls.other_layers:
            found[f"other_layer:{layer}"] = self._at_layer(change, layer)
        return found

    def _rows(self, given: Tensor, n: int) -> Tensor:
        """Vectors of cases (or one) as rows of a change."""
        if self.by == "token" and len(given) > 1:
            given = given.repeat_interleave(self.run.tokens.shape[1], dim=0)
        return given if len(given) == 1 else given[:n]

    def _at_layer(self, change: Change, layer: int) -> Edits:
        if len(self.sites) > 1:
            raise ValueError(f"other_layers moves the change of one site, {len(self.sites)} are edited; leave it out")
        (site,) = self.sites
        return {Site(site.stream, layer, site.head): steer(change[site])}

    def _numbers(self, edits: Sequence[Edits]) -> Float[ndarray, "arm case number"]:
        arms = [placed(self.run, each, self.positions, self.by) for each in edits]
        return self.run.measure(arms, self.measures).numpy()

    def _elsewhere(self, controls: Controls, seed: int) -> dict[str, "_Elsewhere"]:
        """The controls that need a run of their own."""
        rows, found = self.run.rows.numpy(), dict[str, _Elsewhere]()
        if controls.other_positions:
            if self.by != "case":
                raise ValueError("other_positions moves the change of one token per case, several are edited; leave it "
                                 "out")
            whole = self.run if isinstance(self.run, Sequences) else Sequences.of(self.run.model, self.cases, only=rows)
            found = {f"other_position:{p}": _Elsewhere(whole, self.measures, p) for p in controls.other_positions}
        if controls.random_init:
            twin = type(self.run).of(random_init(self.run.model, seed), self.cases, only=rows)
            measures = self.measures.of(twin, self.cases)
            found["random_init"] = _Elsewhere(twin, measures, self.positions, is_own=True)
        return found


@dataclass
class _Elsewhere:
    """A run in which a change is put instead; `is_own` where it is of another model."""

    run: Run
    measures: Measures
    positions: Positions
    is_own: bool = False

    def numbers(self, change: Change) -> Numbers:
        arm = placed(self.run, {site: steer(v) for site, v in change.items()}, self.positions,
                     counted_by(self.positions))
        return self.run.measure([arm], self.measures)[0].numpy()
