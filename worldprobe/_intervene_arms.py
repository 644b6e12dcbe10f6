"""Edits of every case, made from what the probes of a label learned at every site.

A direction is named PROBE.read, PROBE.write or PROBE.pair: read along it and move along it, or (a pair) read along the
one and move along the other. An edit is named by its verb. A method is a verb with a direction.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from interventions import LEACE, Edit, move_to, project_out, steer
from interventions._edits import SizedEdit
from probing import LDAProbe, LogisticProbe, MassMeanProbe, Site, class_means, encoding_patterns
from tasks import Counterfactuals, LabelledPrompts

from ._cli import no_such

Arrays = Mapping[str, ndarray]
READERS = {"mass_mean": MassMeanProbe(), "logistic": LogisticProbe(tol=1e-4), "lda": LDAProbe()}
SIDES = ("read", "write", "pair")


def site_arrays(X: Float[ndarray, "example d_model"], prompts: LabelledPrompts, label: str, probes: Mapping[str, Any],
                wanted: Sequence[int], seed: int) -> dict[str, ndarray]:
    """What the edits of one label need from one site, fitted on train. Arrays (target, class, d_model) but `mean`
    (d_model,) and the erasers `leace.read`, `leace.write` (target, class - 1, d_model), which are zero for targets
    that are not `wanted`.
    """
    train, n = prompts.rows("train"), len(prompts.classes[label])
    X, Y, pos = X[train].astype(np.float64), prompts.labels(label)[train], prompts.examples["pos"].to_numpy()[train]
    shuffled = np.random.default_rng(seed).permutation(Y)
    arrays = {"mean": X.mean(0), "means": np.nan_to_num(class_means(X, Y, n)),
              "shuffled": np.nan_to_num(class_means(X, shuffled, n)),
              "share": (Y[:, :, None] == np.arange(n)).mean(0)}
    for name, probe in probes.items():
        for side in ("read", "write"):
            arrays[f"{name}.{side}"] = _by_class(np.asarray(getattr(probe, f"{side}_"), np.float64), Y.shape[1], n)
    arrays["encoding.write"] = encoding_patterns(X, Y, n, pos)
    for side in ("read", "write"):
        arrays[f"leace.{side}"] = np.zeros((Y.shape[1], n - 1, X.shape[1]))
    for target in wanted:
        eraser = LEACE.fit(X, Y[:, target])
        for side in ("read", "write"):
            arrays[f"leace.{side}"][target, : eraser.rank] = getattr(eraser, side).numpy()
    return arrays


def _by_class(rows: ndarray, n_targets: int, n_classes: int) -> Float[ndarray, "target class d_model"]:
    """A row per class, so that every contrast is a difference of two."""
    rows = rows.reshape(n_targets, -1, rows.shape[-1])
    return np.concatenate([-rows / 2, rows / 2], axis=1) if n_classes == 2 else rows


class Handles:
    """Directions of every case at every site.

    Args:
        weights: Site -> `site_arrays`.
        targets: Names of the targets, in the order of the arrays.
        sources: Site -> (case, d_model), the last token of a prompt in which the label holds what it is to become.
    """

    def __init__(self, cases: Counterfactuals, weights: Mapping[Site, Arrays], targets: Sequence[str],
                 sources: Callable[[Site], Float[Tensor, "case d_model"]]):
        self.weights, self.sources = weights, sources
        self.target = target_numbers(cases, targets)
        self.was, self.becomes = cases.cases["was"].to_numpy(), cases.cases["becomes"].to_numpy()

    def contrast(self, site: Site, name: str, target: Int[ndarray, " case"] | None = None
                 ) -> Float[ndarray, "case d_model"]:
        """What the class that a target gets has more of than the class it had."""
        rows, target = self.weights[site][name], self.target if target is None else target
        return rows[target, self.becomes] - rows[target, self.was]

    def pair(self, site: Site, direction: str) -> tuple[ndarray, ndarray]:
        """(what is read, what is moved along), each (case, d_model)."""
        probe, side = direction.split(".")
        read, write = (side, side) if side != "pair" else ("read", "write")
        return self.contrast(site, f"{probe}.{read}"), self.contrast(site, f"{probe}.{write}")

    def rank(self, site: Site, verb: str) -> int:
        """Dimensions that an erasure takes from every case."""
        if verb == "leace":
            return int((np.abs(self.weights[site]["leace.write"][self.target]).sum(-1) > 0).sum(-1).max())
        return self.weights[site]["means"].shape[1] - 1

    def others(self, seed: int, more: Mapping[str, "Handles"]) -> dict[str, dict[Site, Tensor]]:
        """Directions that should do nothing, by the name of the control: of shuffled labels, of another target of
        the label (where it has several), of the other labels in `more`."""
        found = {"shuffled_labels": {s: tensor(self.contrast(s, "shuffled")) for s in self.weights}}
        n = len(next(iter(self.weights.values()))["means"])
        if n > 1:
            step = np.random.default_rng(seed).integers(1, n, len(self.target))
            other = (self.target + step) % n
            found["other_target"] = {s: tensor(self.contrast(s, "means", other)) for s in self.weights}
        for name, handles in more.items():
            found[f"other_label:{name}"] = {s: tensor(handles.contrast(s, "means")) for s in self.weights}
        return found


def target_numbers(cases: Counterfactuals, targets: Sequence[str]) -> Int[ndarray, " case"]:
    number = {name: i for i, name in enumerate(targets)}
    return np.array([number[t] for t in cases.cases["target"]])


@dataclass(frozen=True)
class Verb:
    """A way to edit.

    Attributes:
        words: What it does, for the report.
        removes: Whether it takes the feature away (necessity) or writes it (sufficiency).
        sides: Which directions it makes sense with; () for an edit that has one of its own.
        doses: All of them, and those of a quick run.
        make: (handles, site, direction, dose) -> edit.
    """

    words: str
    unit: str
    removes: bool
    sides: Sequence[str]
    doses: tuple[Sequence[float], Sequence[float]]
    make: Callable[[Handles, Site, str, float], Edit]


@dataclass(frozen=True)
class Method:
    """A verb with a direction."""

    verb: str
    direction: str

    @property
    def name(self) -> str:
        """As in the names of stages."""
        return self.verb if self.direction == self.verb else f"{self.verb}-{self.direction}"

    @property
    def removes(self) -> bool:
        return VERBS[self.verb].removes

    def doses(self, quick: bool) -> Sequence[float]:
        return VERBS[self.verb].doses[quick]

    def edit(self, handles: Handles) -> Callable[[Site, float], Edit]:
        """As `effect` and `window_map` want it."""
        return lambda site, alpha: VERBS[self.verb].make(handles, site, self.direction, float(alpha))


def _steer(handles: Handles, site: Site, direction: str, alpha: float) -> Edit:
    read, write = handles.pair(site, direction)
    apart = (handles.contrast(site, "means") * read).sum(1) / (write * read).sum(1)
    return steer(tensor(apart[:, None] * write), alpha)


def _move_to(handles: Handles, site: Site, direction: str, alpha: float) -> Edit:
    read, write = handles.pair(site, direction)
    goal = handles.weights[site]["means"][handles.target, handles.becomes]
    return move_to(tensor(read), tensor((goal * read).sum(1)), tensor(write), alpha)


def _patch(handles: Handles, site: Site, direction: str, alpha: float) -> Edit:
    source = handles.sources(site)
    read, write = (tensor(x) for x in handles.pair(site, direction))
    return move_to(read, (source.to(read) * read).sum(1), write, alpha)


def _project_out(handles: Handles, site: Site, direction: str, alpha: float) -> Edit:
    rows = handles.weights[site][direction][handles.target]
    return project_out(tensor(rows[:, 1:] - rows[:, :1]), tensor(handles.weights[site]["mean"]))


def _leace(handles: Handles, site: Site, direction: str, alpha: float) -> Edit:
    w = handles.weights[site]
    read, write, mean = (tensor(x) for x in (w["leace.read"][handles.target], w["leace.write"][handles.target],
                                             w["mean"]))

    def erase(x: Tensor, rows: Tensor) -> Tensor:
        r, along = read[rows.to(read.device)].to(x), write[rows.to(write.device)].to(x)
        return x - torch.einsum("bk,bkd->bd", torch.einsum("bd,bkd->bk", x - mean.to(x), r), along)

    return SizedEdit(erase, len(read), len(mean))


VERBS = {
    "steer": Verb("adds the direction, as long as the class means are apart along it", "class_mean", False,
                  ("read", "write"), ((0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0), (0.5, 1.0, 2.0, 4.0)), _steer),
    "move_to": Verb("moves along the direction until the reading is that of the new class's mean", "class_goal", False,
                    SIDES, ((0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0), (0.5, 1.0, 1.5)), _move_to),
    "patch": Verb("moves along the direction until the reading is that of another prompt, in which the label holds the "
                  "new value", "source_goal", False, SIDES,
                  ((0.25, 0.5, 0.75, 1.0), (0.5, 1.0)), _patch),
    "project_out": Verb("sets the reading to its mean", "removed", True, ("read", "write"), ((1.0,), (1.0,)),
                        _project_out),
    "leace": Verb("takes away all that a linear probe can read (LEACE)", "removed", True, (), ((1.0,), (1.0,)), _leace),
}
DIRECTIONS = ("mass_mean.write", "logistic.read", "encoding.write", "lda.pair")
QUICK_DIRECTIONS = ("mass_mean.write", "logistic.read")
POSSIBLE = ("mass_mean.write", *(f"{p}.{side}" for p in ("logistic", "lda") for side in SIDES), "encoding.write")


def methods(verbs: Sequence[str] | None, directions: Sequence[str] | None, quick: bool = False) -> list[Method]:
    """Every verb with every direction that it makes sense with; all of either unless named.

    Raises:
        ValueError: No such verb or direction, or none goes with the other.
    """
    for what, given, known in (("edit", verbs, VERBS), ("direction", directions, POSSIBLE)):
        if wrong := [name for name in given or () if name not in known]:
            raise ValueError(no_such(what, wrong[0], known))
    directions = directions or (QUICK_DIRECTIONS if quick else DIRECTIONS)
    found = []
    for verb in verbs or VERBS:
        sides = VERBS[verb].sides
        found += [Method(verb, d) for d in directions if d.split(".")[1] in sides]
        found += [Method(verb, verb)] if not sides else []
        if not any(m.verb == verb for m in found):
            raise ValueError(f"{verb} goes with directions {', '.join('*.' + s for s in sides)}, not with "
                             f"{', '.join(directions)}; name one of them in --directions")
    return found


def readers(found: Sequence[Method]) -> dict[str, Any]:
    """The probes that the directions of some methods come from, by name; at least one, to say what can be read."""
    named = {m.direction.partition(".")[0] for m in found}
    return {name: probe for name, probe in READERS.items() if name in named} or {"logistic": READERS["logistic"]}


def tensor(array: ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
