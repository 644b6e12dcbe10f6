"""Ways to change one disc inside the model, all made from what the probes of a layer learned.

Every method is written for whole sets of cases: row i of a direction belongs to case i.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from interventions import Edit, move_to
from probing import Site
from tasks import Counterfactuals, othello
from tasks.othello._engine import BLACK

COLOUR_OF = {BLACK: (0, 1, 2), 1 - BLACK: (2, 1, 0)}  # theirs, empty, mine -> white, empty, black, by player to move


class Handles:
    """Directions of every case at every site.

    Args:
        weights: Site -> arrays of `worldprobe._othello.site_arrays`.
        targets: Names of the squares, in the order of the arrays.
        seed: Of the other squares that serve as a control.
    """

    def __init__(self, cases: Counterfactuals, weights: Mapping[Site, Mapping[str, ndarray]], targets: Sequence[str],
                 seed: int = 0):
        number = {name: i for i, name in enumerate(targets)}
        self.weights, self.cases = weights, cases
        self.square = np.array([number[t] for t in cases.cases["target"]])
        self.was, self.becomes = cases.cases["was"].to_numpy(), cases.cases["becomes"].to_numpy()
        before, _ = othello.board_codes(cases)
        self.other = _other_squares(before, self.square, self.was, seed)
        colours = np.array([COLOUR_OF[mover] for mover in othello.to_move(cases)])
        self.colour_was = colours[np.arange(len(colours)), self.was]
        self.colour_becomes = colours[np.arange(len(colours)), self.becomes]

    def contrast(self, site: Site, name: str, square=None, codes=None) -> Float[ndarray, "case d_model"]:
        """Difference of two classes of an array (square, class, d_model): what the square becomes less what it was."""
        array = self.weights[site][name]
        square = self.square if square is None else square
        was, becomes = (self.was, self.becomes) if codes is None else codes
        return array[square, becomes] - array[square, was]

    def plane(self, site: Site) -> Tensor:
        """Span of the patterns of a case's square, mine and theirs against empty: (case, 2, d_model)."""
        patterns = self.weights[site]["mine_theirs.encoding"][self.square]
        return tensor(patterns[:, [0, 2]] - patterns[:, [1]])

    def mean(self, site: Site) -> Tensor:
        """Mean activation over the training examples: (d_model,)."""
        return tensor(self.weights[site]["mean"])

    def scale(self) -> float:
        """Median length of the encoding patterns over sites: the natural size of one flip."""
        patterns = [self.contrast(site, "mine_theirs.encoding") for site in self.weights]
        return float(np.median(np.linalg.norm(patterns, axis=-1)))

    def controls(self, edit: str) -> dict[str, dict[Site, Tensor]]:
        """`other_target`: the same change of another square that holds the same disc. `other_label`, of flips: the
        change of this square along the black/white labels, which the model is said not to use. (Both schemes share the
        class `empty`, so for an erasure the other label is the same edit and no control.)"""
        found = {"other_target": {s: tensor(self.contrast(s, "mine_theirs.encoding", self.other))
                                  for s in self.weights}}
        if edit == "flip":
            codes = self.colour_was, self.colour_becomes
            found["other_label"] = {s: tensor(self.contrast(s, "black_white.encoding", codes=codes))
                                    for s in self.weights}
        return found

    def source(self, method: "Method") -> dict:
        """The keyword of `effect` and `window_map` that holds the edit: `directions` or `edit`."""
        direction, edit = method.direction, method.edit
        if direction is not None:
            return {"directions": {s: tensor(direction(self, s)) for s in self.weights}}
        assert edit is not None, "a method has one of the two"
        return {"edit": lambda site, alpha: edit(self, site, alpha)}


@dataclass(frozen=True)
class Method:
    """A way to write a disc. Either `direction` (added alpha times) or `edit` (free of scale: alpha = 1 arrives)."""

    name: str
    unit: str
    words: str
    doses: Callable[[Handles], Sequence[float]]
    direction: Callable[[Handles, Site], ndarray] | None = None
    edit: Callable[[Handles, Site, float], Edit] | None = None


def _published(handles: Handles, site: Site) -> ndarray:
    column = handles.weights[site]["mine_theirs.coef_no_bias"][handles.square, handles.becomes]
    return column / np.linalg.norm(column, axis=1, keepdims=True)


def _published_doses(handles: Handles) -> Sequence[float]:
    return [float(f"{factor * handles.scale():.2g}") for factor in (0.25, 0.5, 1.0, 2.0)]


def _to_class_mean(handles: Handles, site: Site, alpha: float) -> Edit:
    read = handles.contrast(site, "mine_theirs.means")
    goal = handles.weights[site]["mine_theirs.means"][handles.square, handles.becomes]
    return move_to(tensor(read), tensor((goal * read).sum(1)), alpha=alpha)


def _to_mean_margin(handles: Handles, site: Site, alpha: float) -> Edit:
    w = handles.weights[site]
    s, was, becomes = handles.square, handles.was, handles.becomes
    scores = w["mine_theirs.scores"][s, becomes]  # mean scores of all classes where the square holds the new state
    rows = np.arange(len(s))
    margin = scores[rows, becomes] - scores[rows, was]
    offset = w["mine_theirs.intercept"][s, becomes] - w["mine_theirs.intercept"][s, was]
    return move_to(tensor(handles.contrast(site, "mine_theirs.coef")), tensor(margin - offset),
                   tensor(handles.contrast(site, "mine_theirs.encoding")), alpha)


METHODS = (
    Method("logistic_no_bias", "absolute", "adds the unit vector of the new state's column of the bias-free probe "
           "(Nanda et al. 2023)", _published_doses, direction=_published),
    Method("mass_mean", "class-mean distance", "moves the projection on the difference of class means to the mean of "
           "the new state", lambda _: (0.5, 1.0, 1.5, 2.0), edit=_to_class_mean),
    Method("encoding", "pattern length", "adds the square's own pattern of the encoding model, all other squares held "
           "fixed", lambda _: (0.5, 1.0, 1.5, 2.0, 3.0),
           direction=lambda handles, site: handles.contrast(site, "mine_theirs.encoding")),
    Method("oblique", "probe margin", "moves along the encoding pattern until the logistic probe's margin is that of "
           "the new state's mean", lambda _: (0.5, 1.0, 1.5, 2.0), edit=_to_mean_margin),
)


def _other_squares(before: ndarray, square: ndarray, was: ndarray, seed: int) -> ndarray:
    """For every case another square that holds the same state, at random."""
    rng = np.random.default_rng(seed)
    same = before == was[:, None]
    same[np.arange(len(square)), square] = False
    same[~same.any(1)] = True  # nothing else holds it: any square
    return (rng.random(same.shape) * same).argmax(1)


def tensor(array: ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
