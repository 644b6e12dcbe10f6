"""Every intervention on worlds whose truth is known: `end` decides the answer, `mark` is read as easily and is unused.

    python -m benchmarks.decoy
    python -m benchmarks.decoy --models decoy --only LEACE

Writes are to flip a latent at the site where both were planted, and are scored by the share of cases that then get the
answer of the other end (`flipped`); patches between prompts that differ in both latents, by the share of the gap that
they close (`nie`). Erasers are to take a latent away, and are scored by the share of cases that keep their right answer
(`kept`; one who does not know the end is right half the time). Beside each number stands the band of 20 random edits:
the same change turned by random rotations, or random subspaces of the same rank projected out.

A method that follows the truth flips more than half of what its band leaves, or keeps at most 0.6; and does nothing
along `mark`. Some must fall short, because they move what a probe reads along, which is not where the model keeps the
latent: `expected` says so, `found` what was measured on every model.
"""

import argparse
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from numpy import ndarray
from torch import Tensor

import probing
from benchmarks.extraction import markdown
from interventions import (
    INLP,
    LEACE,
    RLACE,
    SPLINCE,
    AlterRep,
    Eraser,
    GradientEdit,
    LastToken,
    OracleLEACE,
    QuadraticLEACE,
    Scrubbing,
    activation_patching,
    applied_change,
    fit_das,
    fit_iti,
    head_sites,
    interchange_pairs,
    move_to,
    patch_from,
    project_out,
    random_like,
    reflect,
    scrub,
    steer,
)
from interventions._amnesic import as_edits, random_erasers
from interventions._last_token import Edits
from interventions._pair_run import random_subspaces
from probing import LDAProbe, LogisticProbe, MassMeanProbe, MLPProbe, Site
from tasks import decoy

LATENTS = ("end", "mark")
SITE = Site("resid_post", decoy.PLANTED_LAYER)
OTHER = {"end": "mark", "mark": "end"}


@dataclass(frozen=True)
class World:
    """A decoy model, activations to fit on, and held-out cases to report on."""

    name: str
    n: int = 1000

    @cached_property
    def model(self):
        return probing.load_model(self.name, device="cpu")

    @cached_property
    def prompts(self):
        return decoy.load(n=2 * self.n)

    @cached_property
    def X(self) -> ndarray:
        acts = probing.extract(self.model, self.prompts, [SITE], cache=False, random_init=None)
        return acts[SITE].double().numpy()

    def y(self, latent: str) -> ndarray:
        return self.prompts.labels(latent)[:, 0]

    def cases(self, latent: str):
        """Cases of a latent, right after the change what is right when the end changes: the claim under test."""
        cases = decoy.cases(latent, self.n)
        return replace(cases, right_after=decoy.cases("end", self.n).right_after)

    @cached_property
    def run(self) -> LastToken:
        cases = self.cases("end")
        return LastToken.of(self.model, cases, only=(cases.cases["split"] == "report").to_numpy())

    @cached_property
    def acts(self) -> Tensor:
        """(case, d_model) of all cases at the site."""
        return LastToken.of(self.model, self.cases("end")).logits(read=[SITE])[1][SITE]

    def code(self, latent: str, column: str) -> Tensor:
        return torch.from_numpy(self.cases(latent).cases[column].to_numpy(copy=True))

    def sign(self, latent: str) -> Tensor:
        """(case, 1) which way each case has to go."""
        return (2.0 * self.code(latent, "becomes") - 1)[:, None]

    def fitted(self, probe, latent: str):
        return probe.fit(self.X, self.y(latent))

    def means(self, latent: str) -> Tensor:
        """(class, d_model)"""
        return torch.from_numpy(np.stack([self.X[self.y(latent) == k].mean(0) for k in (0, 1)])).float()


Method = Callable[[World, str], Edits]
Build = Callable[[World, str, int], tuple[Edits, list[Edits]]]


def _added(direction: Callable[[World, str], ndarray]) -> Method:
    """Adds a unit direction until the mean of one class has the projection of the other's: one class-mean distance."""

    def method(world: World, latent: str) -> Edits:
        r = torch.from_numpy(np.asarray(direction(world, latent))).float()
        means = world.means(latent)
        return {SITE: steer(world.sign(latent) * ((means[1] - means[0]) @ r) * r)}

    return method


def _pair(probe) -> Method:
    """Moves along what the probe writes until it reads the other class's mean."""

    def method(world: World, latent: str) -> Edits:
        p = world.fitted(probe, latent)
        read, write = (torch.from_numpy(np.asarray(p.direction(pair=name))).float() for name in ("read", "write"))
        goal = (world.means(latent) @ read)[world.code(latent, "becomes")]
        return {SITE: move_to(read, goal, write)}

    return method


def _reflected(world: World, latent: str) -> Edits:
    means = world.means(latent)
    return {SITE: reflect(means[1] - means[0], means.mean(0))}


def _gradient(world: World, latent: str) -> Edits:
    probe = world.fitted(MLPProbe(), latent)
    return {SITE: GradientEdit(probe, world.code(latent, "becomes"), sure=0.99)}


def _alterrep(world: World, latent: str) -> Edits:
    return {SITE: AlterRep(_inlp(world, latent)).edit(world.code(latent, "becomes"))}


def _source(world: World, latent: str) -> Tensor:
    """(case, d_model) activations of other prompts that hold the wanted value, those of the fitting set in turn."""
    becomes, y = world.code(latent, "becomes").numpy(), world.y(latent)
    rows = np.empty(len(becomes), int)
    for k in (0, 1):
        rows[becomes == k] = np.resize(np.flatnonzero(y == k), (becomes == k).sum())
    return torch.from_numpy(world.X[rows]).float()


def _swapped(basis: Callable[[World, str], Tensor]) -> Method:
    return lambda world, latent: {SITE: patch_from(_source(world, latent), basis(world, latent))}


def _das(boundless: bool = False) -> Method:
    def method(world: World, latent: str) -> Edits:
        pairs = interchange_pairs(world.cases(latent))
        options = dict(rank=8, boundless=True, steps=200) if boundless else dict(steps=80)
        return {SITE: patch_from(_source(world, latent),
                                 fit_das(world.model, pairs, SITE, **options).subspace.basis.float()[None])}

    return method


def _mass_mean(world: World, latent: str) -> Tensor:
    means = world.means(latent)
    return (means[1] - means[0])[None, None]


def _only_changed(world: World, latent: str) -> Edits:
    """The whole state of the same prompt with only the latent changed."""
    cases = world.cases(latent)
    tokens = cases.tokens.clone()
    codes = {z: world.code(z, "becomes" if z == latent else "was").numpy() for z in LATENTS}
    rows = torch.arange(len(tokens))
    tokens[rows, cases.lengths - 2] = torch.from_numpy(decoy.question(codes["end"], codes["mark"]))
    return {SITE: patch_from(LastToken(world.model, tokens, cases.lengths).logits(read=[SITE])[1][SITE])}


def _iti(world: World, latent: str) -> Edits:
    acts = probing.extract(world.model, world.prompts, head_sites(world.model), cache=False, random_init=None)
    iti = fit_iti(acts, world.prompts, f"{latent}/answer", n_heads=4)
    return iti.edits(2.0, world.code(latent, "becomes").numpy())


WRITES: Mapping[str, Method] = {
    "patch the whole state": _only_changed,
    "steer, mass-mean": _added(lambda w, z: w.fitted(MassMeanProbe(), z).direction()),
    "steer, logistic": _added(lambda w, z: w.fitted(LogisticProbe(), z).direction(pair="read")),
    "move to mean, LDA pair": _pair(LDAProbe()),
    "move to mean, logistic pair": _pair(LogisticProbe()),
    "reflect, mass-mean": _reflected,
    "gradient of an MLP probe": _gradient,
    "AlterRep": _alterrep,
    "ITI, 4 heads": _iti,
    "swap, mass-mean": _swapped(_mass_mean),
    "swap, planted": _swapped(lambda w, z: decoy.planted(w.name)[z][None, None]),
    "swap, DAS": _das(),
    "swap, boundless DAS": _das(boundless=True),
}


def _inlp(world: World, latent: str) -> INLP:
    half = len(world.X) // 2
    y = world.y(latent)
    return INLP.fit(world.X[:half], y[:half], (world.X[half:], y[half:]))


def _projected(direction: Callable[[World, str], ndarray]) -> Callable[[World, str], Eraser]:
    def method(world: World, latent: str) -> Eraser:
        span = probing.Subspace.spanned_by(torch.from_numpy(np.asarray(direction(world, latent)))[None])
        return Eraser.onto(span, world.X.mean(0))

    return method


ERASERS: Mapping[str, Callable[[World, str], Eraser]] = {
    "project out, mass-mean": _projected(lambda w, z: w.fitted(MassMeanProbe(), z).direction()),
    "project out, logistic read": _projected(lambda w, z: w.fitted(LogisticProbe(), z).direction(pair="read")),
    "LEACE": lambda w, z: LEACE.fit(w.X, w.y(z)),
    "INLP": _inlp,
    "R-LACE": lambda w, z: RLACE.fit(w.X, w.y(z)),
    "SPLINCE, keeps the other": lambda w, z: SPLINCE.fit(w.X, w.y(z), w.y(OTHER[z])),
}


def _resampled(world: World, latent: str, span: Tensor) -> Edits:
    other = torch.randperm(len(world.acts), generator=torch.Generator().manual_seed(0))
    return {SITE: patch_from(world.acts[other], span)}


Inside = Callable[[World, str, Tensor], Edits]
INSIDE: Mapping[str, Inside] = {  # what is done to the component along the difference of means, or along a random one
    "zero, mass-mean": lambda w, z, span: {SITE: project_out(span)},
    "resample, mass-mean": _resampled,
}


def _scrubbed(world: World, latent: str) -> Scrubbing:
    return scrub(world.model, world.prompts, latent, probing.residual_sites(world.model.cfg.n_layers)[1:])


LABELLED: Mapping[str, Method] = {
    "LEACE with labels": lambda w, z: {SITE: OracleLEACE.fit(w.X, w.y(z)).edit(w.code(z, "was").numpy())},
    "quadratic LEACE": lambda w, z: {SITE: QuadraticLEACE.fit(w.X, w.y(z)).edit(w.code(z, "was").numpy())},
}
SLOW = {"swap, DAS", "swap, boundless DAS", "R-LACE"}
FALL_SHORT = {"steer, logistic", "gradient of an MLP probe", "AlterRep", "project out, logistic read"}


def _patched(verb: str) -> Callable[[World, str], dict]:
    """Clean and corrupted prompts differ in both latents; patched is what the difference of means of one spans."""

    def row(world: World, latent: str) -> dict:
        space = probing.Subspace.spanned_by(_mass_mean(world, latent)[0].double())
        table = activation_patching(world.model, decoy.pairs(world.n), [SITE], ["last"], directions=(verb,),
                                    spaces={SITE: space}, probe="mass-mean")
        nie = table[table["metric"] == "nie"]
        nie = nie.set_index(nie["control"].fillna(""))
        return {"unedited": 0.0, "value": nie.loc["", "value"], "low": nie.loc["random_direction", "ci_low"],
                "high": nie.loc["random_direction", "ci_high"]}

    return row


PATCHES: Mapping[str, Callable[[World, str], dict]] = {
    "patch along mass-mean, denoising": _patched("denoise"),
    "patch along mass-mean, noising": _patched("noise"),
}


def score(world: World, arms: list[Edits]) -> ndarray:
    """(arm, 2): share of the report cases that get the answer of the other end, and that keep their own."""
    cases = world.cases("end")
    right = [torch.from_numpy(r[world.run.rows.numpy()]) for r in (cases.right_after, cases.right_before)]

    def numbers(logits: Tensor, places: Tensor) -> Tensor:
        top = logits.argmax(-1, keepdim=True)
        return torch.cat([r[places].gather(1, top) for r in right], 1).double()

    return world.run.measure(arms, numbers).mean(1).numpy()


def outcomes(world: World, only: str = "", skip: Collection[str] = (), n_random: int = 20) -> pd.DataFrame:
    """One row per method and latent: `value`, of `flipped` for writes and `kept` for erasers, and its band."""
    rows = []

    def wanted(name: str) -> bool:
        return only.lower() in name.lower() and name not in skip

    for name, patched in PATCHES.items():
        rows += [{"method": name, "model": world.name, "latent": latent, "metric": "nie", **patched(world, latent)}
                 for latent in LATENTS if wanted(name)]
    for name, kind, build in _methods():
        if not wanted(name):
            continue
        for latent in LATENTS:
            edits, draws = build(world, latent, n_random)
            values = score(world, [{}, edits, *draws])[:, 0 if kind == "flipped" else 1]
            low, high = np.percentile(values[2:], [5, 95])
            rows.append({"method": name, "model": world.name, "latent": latent, "metric": kind, "unedited": values[0],
                         "value": values[1], "low": low, "high": high})
    return pd.DataFrame(rows)


def _methods() -> Iterator[tuple[str, str, Build]]:
    """(name, metric, what makes its edits and those of its band)."""

    def turned(method: Method) -> Build:
        def build(world: World, latent: str, n: int):
            edits = method(world, latent)
            return edits, random_like(applied_change(world.run, edits), n)

        return build

    def same_rank(fit: Callable[[World, str], Eraser]) -> Build:
        def build(world: World, latent: str, n: int):
            eraser = {SITE: fit(world, latent)}
            return as_edits(eraser), [as_edits(random_erasers(eraser, seed)) for seed in range(n)]

        return build

    def inside(method: Inside) -> Build:
        def build(world: World, latent: str, n: int):
            random = [s.basis.float()[None] for s in random_subspaces(world.X.shape[1], 1, n)]
            return method(world, latent, _mass_mean(world, latent)), [method(world, latent, span) for span in random]

        return build

    def scrubbed(world: World, latent: str, n: int):
        erasers = _scrubbed(world, latent)
        return erasers.edits(), [erasers.random(seed).edits() for seed in range(n)]

    yield from ((name, "flipped", turned(method)) for name, method in WRITES.items())
    yield from ((name, "kept", same_rank(fit)) for name, fit in ERASERS.items())
    yield from ((name, "kept", inside(method)) for name, method in INSIDE.items())
    yield from ((name, "kept", turned(method)) for name, method in LABELLED.items())
    yield "scrub every layer", "kept", scrubbed


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """One row per method: the ranges over models of each latent's value and of its band, what was expected and found.
    """
    rows = []
    for (name, metric), part in table.groupby(["method", "metric"], sort=False):
        end, mark = (part[part["latent"] == latent] for latent in LATENTS)
        if metric in ("flipped", "nie"):
            follows, still = end["value"] > (1 + end["high"]) / 2, mark["value"] <= np.maximum(0.05, mark["high"])
        else:
            follows, still = end["value"] <= 0.6, mark["value"] >= mark["unedited"] - 0.05
        found = "follows" if follows.all() else "falls short" if not follows.any() else "differs"
        rows.append({"method": name, "metric": metric, "end": _range(end["value"]),
                     "random": _range(end[["low", "high"]]), "mark": _range(mark["value"]),
                     "random ": _range(mark[["low", "high"]]),
                     "expected": "falls short" if name in FALL_SHORT else "follows",
                     "found": found if still.all() else "moves the decoy"})
    return pd.DataFrame(rows)


def _range(values: pd.Series | pd.DataFrame) -> str:
    low, high = (f"{x:.2f}" for x in (values.to_numpy().min(), values.to_numpy().max()))
    return low if low == high else f"{low} to {high}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["decoy", "decoy-1", "decoy-2"], help="(default %(default)s)")
    parser.add_argument("--only", default="", help="methods whose name contains this")
    parser.add_argument("--cases", type=int, default=1000, help="half of them to report on (default %(default)s)")
    args = parser.parse_args()
    table = pd.concat([outcomes(World(name, args.cases), args.only) for name in args.models])
    print(markdown(verdicts(table)))


if __name__ == "__main__":
    main()
