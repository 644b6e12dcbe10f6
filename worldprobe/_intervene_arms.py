"""Edits of every case, made from what the probes of a label learned at every site.

An edit is named by its verb, a direction as in `worldprobe._intervene_handles`. A method is a verb with a direction.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from interventions import Edit, GradientEdit, move_to, project_out, steer
from probing import LDAProbe, LogisticProbe, MassMeanProbe, MLPProbe, Site
from tasks import LabelledPrompts

from ._cli import no_such
from ._intervene_erasers import ERASERS, erase, kept_labels
from ._intervene_handles import Handles, network, tensor

READERS = {"mass_mean": MassMeanProbe(), "logistic": LogisticProbe(tol=1e-4), "lda": LDAProbe(),
           "mlp": MLPProbe(hidden=256)}
SIDES = ("read", "write", "pair")


@dataclass(frozen=True)
class Verb:
    """A way to edit.

    Attributes:
        words: What it does, for the report.
        removes: Whether it takes the feature away (necessity) or writes it (sufficiency).
        sides: Which directions it makes sense with; () for an edit that has one of its own.
        own: The name of that one, if it is not the verb's.
        doses: All of them, and those of a quick run.
        make: (handles, site, direction, dose) -> edit.
        within: Layers in a window at most, where every layer is a search of its own.
    """

    words: str
    unit: str
    removes: bool
    sides: Sequence[str]
    doses: tuple[Sequence[float], Sequence[float]]
    make: Callable[[Handles, Site, str, float], Edit]
    own: str | None = None
    within: int | None = None


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


def _reflect(handles: Handles, site: Site, direction: str, alpha: float) -> Edit:
    means = handles.weights[site]["means"][handles.target]
    case = np.arange(len(handles.target))
    midpoint = (means[case, handles.was] + means[case, handles.becomes]) / 2
    read, write = handles.pair(site, direction)
    return move_to(tensor(read), tensor((midpoint * read).sum(1)), tensor(write), 2 * alpha)


def _gradient(handles: Handles, site: Site, direction: str, alpha: float) -> Edit:
    probe = network(handles.weights[site], direction)
    to = torch.from_numpy(np.searchsorted(probe.classes_, handles.becomes))
    return GradientEdit(probe, to, torch.from_numpy(handles.target), sure=alpha, step=0.05, max_steps=40)


def _erase(handles: Handles, site: Site, direction: str, alpha: float) -> Edit:
    w = handles.weights[site]
    return erase(w[f"{direction}.read"][handles.target], w[f"{direction}.write"][handles.target], w["mean"])


def _eraser(words: str) -> Verb:
    return Verb(words, "removed", True, (), ((1.0,), (1.0,)), _erase)


VERBS = {
    "steer": Verb("adds the direction, as long as the class means are apart along it", "class_mean", False,
                  ("read", "write"), ((0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0), (0.5, 1.0, 2.0, 4.0)), _steer),
    "move_to": Verb("moves along the direction until the reading is that of the new class's mean", "class_goal", False,
                    SIDES, ((0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0), (0.5, 1.0, 1.5)), _move_to),
    "patch": Verb("moves along the direction until the reading is that of another prompt, in which the label holds the "
                  "new value", "source_goal", False, SIDES,
                  ((0.25, 0.5, 0.75, 1.0), (0.5, 1.0)), _patch),
    "reflect": Verb("mirrors the reading at the midpoint of the class means", "mirror", False, SIDES,
                    ((0.5, 0.75, 1.0, 1.25, 1.5), (0.5, 1.0, 1.5)), _reflect),
    "gradient": Verb("goes down the gradient of an MLP probe's loss until the probe reads the new class with that "
                     "probability, all other targets as before", "sure", False, (),
                     ((0.5, 0.9, 0.99, 0.999), (0.9,)), _gradient, "mlp", 2),
    "project_out": Verb("sets the reading to its mean", "removed", True, ("read", "write"), ((1.0,), (1.0,)),
                        _project_out),
    "leace": _eraser("takes away all that a linear probe can read and moves as little as can be (LEACE)"),
    "inlp": _eraser("takes away what linear classifiers read, one after another, at most eight (INLP)"),
    "rlace": _eraser("takes away the few dimensions that the best linear classifier misses most, found by a search of "
                     "few steps (R-LACE)"),
    "splince": _eraser("takes away as much as LEACE and keeps what is known of the labels that go along with it most "
                       "(SPLINCE)"),
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
        found += [Method(verb, VERBS[verb].own or verb)] if not sides else []
        if not any(m.verb == verb for m in found):
            raise ValueError(f"{verb} goes with directions {', '.join('*.' + s for s in sides)}, not with "
                             f"{', '.join(directions)}; name one of them in --directions")
    return found


def suitable(found: Sequence[Method], prompts: LabelledPrompts, labels: Sequence[str]) -> list[Method]:
    """Those that can be made for these labels: SPLINCE needs another label to keep."""
    lonely = any(not kept for label in labels for kept in kept_labels(prompts, label).values())
    return [m for m in found if not (m.verb == "splince" and lonely)]


def readers(found: Sequence[Method]) -> dict[str, Any]:
    """The probes that the directions of some methods come from, by name; at least a linear one, to say what can be
    read."""
    named = {m.direction.partition(".")[0] for m in found}
    named |= set() if named & (set(READERS) - {"mlp"}) else {"logistic"}
    return {name: probe for name, probe in READERS.items() if name in named}


def erasers(found: Sequence[Method]) -> list[str]:
    """The kinds of erasers that some methods want fitted."""
    return [kind for kind in ERASERS if any(m.verb == kind for m in found)]
