"""`worldprobe reproduce in_context`: do states come to lie as a graph does that only the prompt tells of?

Small networks read walks over a ring of ten words. In a quarter of the walks the words stand in their usual order; in
the others they are dealt out anew. Measured on walks of the second kind, cut after more and more words, each word asked
after the same cut: what the network says comes next, beside the best reader there can be; whether its states lie as the
ring of the walk does, or still as the usual one; and whether answers follow when a state is moved along the ring in the
plane in which it is drawn. Beside them: random weights, rings named at random, random directions of equal length.

After Park et al., arXiv:2501.00070, who read means over the tokens of a walk in pretrained models.
"""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from interventions import LastToken, patch_from
from probing import extract, load_model, random_init
from probing._statistics import bootstrap_mean
from probing.formation import Curve, coincidences, dirichlet_energy, graph_modes, map_directions, traced
from tasks import _walks as world
from tasks._files import write_whole

from ._report import write_report
from ._run import open_run

SEEDS = 3
LENGTHS = (0, 1, 2, 4, 8, 16, 32, 64, world.LENGTH - 1)
N_WALKS, QUICK_WALKS, QUICK_STEPS = 40, 16, 900
N_RANDOM = 20
FAR = 3  # steps along the ring from the word that stands there to the one it is moved to, at least

PerWalk = Float[ndarray, " walk"]


def reproduce(out: str | Path, *, seed: int = 0, quick: bool = False, log: Callable[[str], None] = print) -> Path:
    """Trains three networks, measures them, writes `checks.json` and `report.html`, returns the path of the former.

    Args:
        seed: Of the walks that are measured, and of the networks.
        quick: One network of 900 steps for three of 1,600, and a third of the walks.
    """
    from ._in_context_report import checks, sections

    folder = open_run(out, {"experiments": "in_context", "seed": seed, "quick": quick}, log=log)
    found: dict[str, list[pd.DataFrame]] = {}
    for each in range(seed * SEEDS, seed * SEEDS + (1 if quick else SEEDS)):
        reader = folder.path / "readers" / f"seed-{each}"
        world.train_reader(reader, each, QUICK_STEPS if quick else world.N_STEPS,
                           lambda line, each=each: folder.log(f"network {each}, {line}"))  # type: ignore[misc]
        measured = Measured(reader, QUICK_WALKS if quick else N_WALKS, each)
        for name in ("said", "structure", "moved", "order"):
            rows = folder.stage(f"{name}-{each}", getattr(measured, name))
            found.setdefault(name, []).append(rows.assign(seed=each))
    tables = {name: pd.concat(rows, ignore_index=True) for name, rows in found.items()}
    drawn = folder.stage("drawing", Measured(folder.path / "readers" / f"seed-{seed * SEEDS}", 8, seed).drawing)
    held = [{"id": i, **check} for i, check in enumerate(checks(tables), 1)]
    path = folder.path / "checks.json"
    write_whole(path, (json.dumps(held, indent=1) + "\n").encode())
    about = folder.environment()
    write_report(folder.path / "report.html", title="A graph traced in context", checks=held,
                 summary=[" ".join(__doc__.split("\n\n")[1].split())], sections=sections(tables, drawn),
                 run={"command": shlex.join(about.pop("command")), "configuration": dict(folder.config), **about})
    return path


def plan(*, seed: int = 0, quick: bool = False) -> str:
    """What `reproduce` would do."""
    nets, steps = (1, QUICK_STEPS) if quick else (SEEDS, world.N_STEPS)
    n = QUICK_WALKS if quick else N_WALKS
    return "\n".join([f"{nets} network{'s' * (nets > 1)} of {world.SHAPE['n_layers']} layers, {steps:,} steps of "
                      f"{world.BATCH} walks, seed {seed * SEEDS} on",
                      f"{n} walks, cut after {', '.join(map(str, LENGTHS))} words, {world.NODES} words asked each",
                      f"every layer moved along the ring, and along {N_RANDOM} random planes",
                      "memory: about 1 GB", f"time: roughly {2 if quick else 10} minutes on one core"])


class Measured:
    """One network on walks it has not seen, in rings of their own.

    Args:
        reader: Directory of the network.
        lengths: Words before each cut; 0 is the word that is asked alone.
    """

    def __init__(self, reader: str | Path, n_walks: int, seed: int = 0, lengths: Sequence[int] = LENGTHS):
        self.reader, self.seed, self.lengths = reader, seed, list(lengths)
        self.walks = world.walks(n_walks, max(lengths), [7, seed], usual=0.0)
        self.prompts = world.asked(self.walks, lengths)
        self.shape = (n_walks, len(self.lengths), self.walks.ring.shape[1])
        self.graph = world.neighbours(self.shape[2])
        self.by_word = np.argsort(self.walks.ring, 1)  # the node of every word
        self._kept: dict[str, Any] = {}

    @property
    def models(self) -> Mapping[str, Any]:
        if not self._kept:
            model = load_model(self.reader)
            acts = extract(model, self.prompts, cache=False, random_init=None)
            fresh = random_init(model, self.seed)
            self._kept = {"trained": (model, acts),
                          "untrained": (fresh, extract(fresh, self.prompts, cache=False, random_init=None))}
        return self._kept

    def states(self, who: str, site: Any) -> Float[ndarray, "walk length node d_model"]:
        return np.asarray(self.models[who][1][site], np.float64).reshape(*self.shape, -1)

    def chances(self, who: str) -> Float[ndarray, "walk length node word"]:
        """Of the word after each prompt."""
        logits = LastToken(self.models[who][0], self.prompts.tokens, self.prompts.lengths).logits()
        return logits.double().softmax(-1).numpy().reshape(*self.shape, -1)

    def best(self) -> Float[ndarray, "walk length node word"]:
        """Chances for the best reader of the same words."""
        tokens, lengths = self.prompts.tokens.numpy(), self.prompts.lengths.numpy()
        out = np.empty((len(tokens), self.shape[2]))
        for n in np.unique(lengths):
            rows = lengths == n
            out[rows] = world.posterior_prediction(tokens[rows, :n], nodes=self.shape[2])
        return out.reshape(*self.shape, -1)

    def on_ring(self, table: Float[ndarray, "node node"]) -> Float[ndarray, "walk node word"]:
        """A table of node by node, with the words that stand at the second one."""
        return np.moveaxis(table[:, self.by_word], 1, 0)

    def said(self) -> pd.DataFrame:
        """One row per reader and length: `nats` lost against one who knows the ring, and the chances given to the two
        words next to the last one, on the ring of the walk (`traced`) and on the usual one (`usual`), means over words
        and walks."""
        exact, near = self.on_ring(world.steps(self.shape[2])), self.on_ring(self.graph)
        usual, rows = self.graph[self.walks.ring], []
        for reader, p in {"network": self.chances("trained"), "best": self.best(),
                          "untrained": self.chances("untrained")}.items():
            nats = (exact * np.log(exact)).sum(-1)[:, None] - np.einsum("wnv,wlnv->wln", exact, np.log(p))
            values = {"nats": nats, "traced": np.einsum("wnv,wlnv->wln", near, p),
                      "usual": np.einsum("wnv,wlnv->wln", usual, p)}
            for i, length in enumerate(self.lengths):
                row: dict[str, Any] = dict(reader=reader, length=length, n=len(p))
                for name, each in values.items():
                    row |= _mean(name, each[:, i].mean(-1))
                rows.append(row)
        return pd.DataFrame(rows)

    def structure(self) -> pd.DataFrame:
        """`traced` of every layer and length, one row each: of the ring of the walk and of the usual one, of the
        network and of one with random weights."""
        in_usual_order = self.by_word[:, None, :, None]
        rows = []
        for who, (_, acts) in self.models.items():
            for site in acts:
                X = self.states(who, site)
                for graph, states in (("traced", X), ("usual", np.take_along_axis(X, in_usual_order, 2))):
                    about = dict(network=who, site=str(site), graph=graph)
                    rows += [about | dict(length=length) | traced(states[:, i], self.graph, seed=self.seed)
                             for i, length in enumerate(self.lengths)]
        return pd.DataFrame(rows)

    def order(self) -> pd.DataFrame:
        """Which comes first with more and more words, the ring in the states of a layer or in what is said? One row per
        layer, see `probing.formation.coincidence`: steps are words, and of a layer 1 - energy is what rises."""
        n, _, nodes = self.shape
        steps, ones = np.array(self.lengths), np.ones((len(self.lengths), n))
        said = np.einsum("wnv,wlnv->lw", self.on_ring(self.graph), self.chances("trained")) / nodes
        behaviour = Curve.of_groups("answers", steps, said, ones, seed=self.seed)
        curves = []
        for site in self.models["trained"][1]:
            X = self.states("trained", site)
            smooth = np.stack([1 - dirichlet_energy(X[:, i], self.graph) for i in range(len(steps))])
            curves.append(Curve.of_groups(str(site), steps, smooth, ones, seed=self.seed))
        return coincidences(curves, [behaviour], self.seed)

    def moved(self) -> pd.DataFrame:
        """What becomes of the answer to one word when its state is moved to that of a word at least 3 steps away, after
        every block and cut. One row per arm (of `random` and `any ring`, per draw):

        - `patch`: to that state altogether.
        - `map`: within the plane in which the ring of the walk is drawn; `usual`: in that of the usual ring.
        - `random`: along random directions between the states, by as much as `map`.
        - `any ring`: as `map`, for a ring with its nodes named at random, its own neighbours counted. States near a
          word also say that word, as walks stay: that much a plane moves of any ring.

        Columns: `moved`, chances that leave the old word's neighbours for those of the new one, with its interval over
        walks (both neighbours of both words count, so 0 to about 1.4); `norm` of the change.
        """
        model, acts = self.models["trained"]
        rng = np.random.default_rng([self.seed, 3])
        shift = rng.integers(FAR, self.shape[2] - FAR + 1, self.shape)
        n, lengths, nodes = self.shape
        own = np.tile(np.arange(nodes), (n, 1))
        named = [own, *(np.argsort(rng.random((n, nodes)), 1) for _ in range(N_RANDOM))]  # node -> place on a ring
        goals = [self._goal(place, shift) for place in named]
        run = LastToken(model, self.prompts.tokens, self.prompts.lengths)
        rows: list[dict] = []
        for site in [site for site in acts if site.stream == "resid_post"]:
            X = self.states("trained", site)
            arms = self._arms(X, goals, named, rng)
            edits = [{site: patch_from(torch.from_numpy((X + c).reshape(-1, X.shape[-1])).float())} for _, c, _ in arms]
            p = run.logits_many([{}, *edits]).double().softmax(-1).numpy().reshape(-1, *self.shape, nodes)
            for (arm, change, gained), after in zip(arms, p[1:], strict=True):
                values = ((after - p[0]) * gained).sum(-1).mean(-1)
                rows += [dict(site=str(site), length=length, arm=arm, n=n) | _mean("moved", values[:, i])
                         | dict(norm=float(np.linalg.norm(change[:, i], axis=-1).mean()))
                         for i, length in enumerate(self.lengths)]
        return pd.DataFrame(rows)

    def _goal(self, place: Int[ndarray, "walk node"], shift: Int[ndarray, "walk length node"]
              ) -> tuple[Int[ndarray, "walk length node"], Float[ndarray, "walk length node word"]]:
        """Where every node is moved to, `shift` places on along the ring; 1 at the words next to that node, -1 at those
        next to the old one."""
        walk = np.arange(len(place))[:, None, None]
        target = np.argsort(place, 1)[walk, (place[:, None] + shift) % place.shape[1]]
        by_word = np.take_along_axis(place, self.by_word, 1)
        near = self.graph[place[:, :, None], by_word[:, None]]
        return target, near[walk, target] - near[:, None]

    def _arms(self, X: Float[ndarray, "walk length node d_model"], goals: Sequence[tuple], named: Sequence[ndarray],
              rng: np.random.Generator) -> list[tuple[str, ndarray, ndarray]]:
        """(name, change of every state, what is counted) of every arm, the patch first."""
        modes = graph_modes(self.graph)
        (target, gained), change = goals[0], _towards(X, goals[0][0])
        on_map = _within(map_directions(X, modes), change)
        arms = [("patch", change, gained), ("map", on_map, gained),
                ("usual", _within(map_directions(X, modes[self.walks.ring][:, None]), change), gained)]
        size = np.linalg.norm(on_map, axis=-1, keepdims=True)
        for _ in range(N_RANDOM):
            mixed = rng.normal(size=(*self.shape, 2))
            random = _within(map_directions(X, mixed - mixed.mean(2, keepdims=True)), change)
            arms.append(("random", random * size / np.linalg.norm(random, axis=-1, keepdims=True), gained))
        for place, (target, counted) in zip(named[1:], goals[1:], strict=True):
            plane = map_directions(X, modes[place][:, None])
            arms.append(("any ring", _within(plane, _towards(X, target)), counted))
        return arms

    def drawing(self) -> pd.DataFrame:
        """Where the states of the first walk lie, on their own two principal components, after the last block but one:
        one row per length and node, with the word that stands there."""
        site = [site for site in self.models["trained"][1] if site.stream == "resid_post"][-2]
        rows = []
        for length, states in zip(self.lengths, self.states("trained", site)[0], strict=True):
            centred = states - states.mean(0)
            place = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
            rows += [dict(site=str(site), length=length, node=node, word=int(self.walks.ring[0, node]), x=x, y=y)
                     for node, (x, y) in enumerate(place / np.linalg.norm(place, axis=1).max())]
        return pd.DataFrame(rows)


def _towards(X: Float[ndarray, "walk length node d_model"], target: Int[ndarray, "walk length node"]) -> ndarray:
    """The change that takes every state to that of its target."""
    return np.take_along_axis(X, target[..., None], 2) - X


def _within(directions: Float[ndarray, "*c d_model two"], change: Float[ndarray, "*c node d_model"]) -> ndarray:
    """The part of a change that lies in the plane of its context."""
    return (change @ directions) @ np.swapaxes(directions, -1, -2)


def _mean(name: str, values: PerWalk) -> dict[str, float]:
    """With its 95 % interval over walks."""
    mean, low, high = bootstrap_mean(values, np.arange(len(values)))
    return {name: float(mean), f"{name}_low": float(low), f"{name}_high": float(high)}
