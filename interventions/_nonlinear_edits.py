"""Edits that follow a probe which is not one direction: a circle, an onion, a network."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from numpy import ndarray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from probing._circular import CircularProbe, on_circle
from probing._mlp import MLPProbe
from probing._onion import OnionProbe

from ._edits import Edit, SizedEdit, _PerCase, steer


def circular_edit(probe: CircularProbe, to: float | int | Shaped[ndarray, " case"], *, radius: float | int = 1.0,
                  rest: Literal["own", "mean"] = "own") -> Edit:
    """x moved within the plane of a circular probe, and no further than needed, onto the point of label `to`.

        x' = x + R^+ (radius c(to) - (R x + b)),  c(t) = (cos, sin)(2 pi k t / p)

    Labels off the data (between two weekdays) and other radii are points as good as any.

    Args:
        to: One label, or (case,), in units of the label.
        radius: 1 is the circle that the probe was fitted to, 0 its centre: the circle ablated.
        rest: What is left outside the plane: x's `own`, or the training `mean`, as in the published code. That one
            asks whether the circle is enough, as everything else is taken away.
    Source: Engels et al., arXiv:2405.14860, intervention/circle_finding_utils.py, whose probe has no intercept b.
    """
    check_is_fitted(probe)
    goal = _PerCase("to", torch.from_numpy(radius * np.atleast_2d(on_circle(to, probe.period, probe.frequency))), 2)
    fitted = (probe.read_, probe.intercept_, probe.mean_)
    R, b, mean = (torch.from_numpy(np.asarray(a, dtype=np.float64)) for a in fitted)
    back = torch.linalg.pinv(R)

    def change(x: Tensor, rows: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        read, write = R.to(x.device, dtype), back.to(x.device, dtype)
        start = x.to(dtype) if rest == "own" else mean.to(x.device, dtype).expand_as(x)
        gap = goal.at(start, rows) - (start @ read.T + b.to(x.device, dtype))
        return (start + gap @ write.T).to(x.dtype)

    return SizedEdit(change, len(goal.values), R.shape[1])


def magnitude_edit(probe: OnionProbe, position: int, old, new) -> Edit:
    """x + gamma_t (E[new] - E[old]): `position` of an onion holds token `new` instead of `old`, one each or (case,).

    Source: Csordas et al., arXiv:2408.10920; see `OnionProbe.replacement`.
    """
    return steer(torch.from_numpy(np.asarray(probe.replacement(position, old, new))))


@dataclass(frozen=True)
class GradientEdit:
    """x moved down the gradient of an MLP probe's loss until the probe reads class `to` of a target.

        x <- x - step s g / ||g||,   g = grad_x (-log p(to | x) - keep sum_others log p(what they read before | x))

    with s the spread of activations by the probe's own measure, ||scale_||, so that `step` is scale-free. A row
    stops at the first step where its target is read as `to` with probability `sure` at least; other rows go on, at
    most `max_steps`. Some may not arrive: `arrived` says which, and belongs beside every effect.

    Args:
        to: Places in the probe's `classes_`, one for all cases or (case,).
        target: Which target of the probe is edited, one for all cases or (case,).
        keep: Weight of the other targets, which should read what they read.
    Source: Li et al., arXiv:2210.13382, section 4.1: gradient descent on the cross-entropy of the edited board, with
        a fixed step and number of steps.
    """

    probe: MLPProbe
    to: int | Int[Tensor, " case"]
    target: int | Int[Tensor, " _"] = 0
    keep: float | int = 1.0
    step: float | int = 0.02
    sure: float | int = 0.9
    max_steps: int = 200

    def __post_init__(self):
        check_is_fitted(self.probe)
        (to, target), n_classes = self._constants(), len(self.probe.classes_)
        if int(to.min()) < 0 or int(to.max()) >= n_classes:
            raise ValueError(f"to must be places in classes_ {self.probe.classes_.tolist()}, 0 to {n_classes - 1}; got "
                             f"{to.unique().tolist()[:5]}")
        if int(target.min()) < 0 or int(target.max()) >= self.probe.n_targets_:
            raise ValueError(f"the probe has targets 0 to {self.probe.n_targets_ - 1}, target "
                             f"{target.unique().tolist()[:5]} came")
        if 1 < len(to) != len(target) > 1:
            raise ValueError(f"to is given for {len(to)} cases, target for {len(target)}; give one of each per case, "
                             "or one for all")
        if not (self.step > 0 and 0 < self.sure < 1 and self.max_steps > 0):
            raise ValueError(f"wanted step > 0, 0 < sure < 1, max_steps > 0; got {self.step}, {self.sure}, "
                             f"{self.max_steps}")

    @property
    def n_cases(self) -> int:
        return max(map(len, self._constants()))

    @property
    def width(self) -> int:
        return len(self.probe.mean_)

    def __call__(self, x: Float[Tensor, "row d_model"], rows: Int[Tensor, " row"]) -> Float[Tensor, "row d_model"]:
        if x.shape[-1] != self.width:
            raise ValueError(f"the probe reads {self.width} dimensions, the activations are {x.shape[-1]} wide; fit "
                             "the probe on this model and site")
        moved, (to, target) = x.detach().clone().float(), self._of(rows)
        was, going = self._log_probabilities(moved).argmax(1), torch.arange(len(x), device=x.device)
        length = self.step * self._spread
        for _ in range(self.max_steps):
            gradient, reading = self._gradient(moved[going], to[going], target[going], was[going])
            short = reading < self.sure
            if not short.any():
                break
            gradient, going = gradient[short], going[short]
            moved[going] = moved[going] - length * gradient / gradient.norm(dim=-1, keepdim=True).clamp_min(1e-30)
        return torch.where((moved == x.float()).all(-1, keepdim=True), x, moved.to(x.dtype))

    def arrived(self, x: Float[Tensor, "row d_model"], rows: Int[Tensor, " row"]) -> Bool[Tensor, " row"]:
        """Whether the probe reads `to` of each of these activations with probability `sure`: of edited ones, whether
        the edit arrived."""
        return _reading(self._log_probabilities(x.float()), *self._of(rows)) >= self.sure

    def _constants(self) -> tuple[Int[Tensor, " to"], Int[Tensor, " target"]]:
        return torch.atleast_1d(torch.as_tensor(self.to)), torch.atleast_1d(torch.as_tensor(self.target))

    def _of(self, rows: Int[Tensor, " row"]) -> tuple[Int[Tensor, " row"], Int[Tensor, " row"]]:
        """`to` and `target` of every row."""
        if self.n_cases > 1 and int(rows.max()) >= self.n_cases:
            raise ValueError(f"to and target are given for {self.n_cases} cases, but case {int(rows.max())} was asked "
                             "for; give one per case, or one for all")
        to, target = (v.to(rows.device)[rows] if len(v) > 1 else v.to(rows.device).expand(len(rows))
                      for v in self._constants())
        return to, target

    @cached_property
    def _spread(self) -> float:
        """Length of an activation that is one standard deviation from the mean in every coordinate."""
        return float(self.probe.scale_.double().norm())

    def _hidden(self, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row hidden"]:
        """What goes into the ReLU."""
        probe = self.probe
        return F.linear((x - probe.mean_.to(x)) / probe.scale_.to(x), probe.fc_.weight.to(x), probe.fc_.bias.to(x))

    def _scores(self, hidden: Float[Tensor, "row hidden"]) -> Float[Tensor, "row class target"]:
        """Log-probabilities."""
        scores = F.linear(F.relu(hidden), self.probe.out_.weight.to(hidden), self.probe.out_.bias.to(hidden))
        return scores.view(len(hidden), len(self.probe.classes_), self.probe.n_targets_).log_softmax(1)

    def _log_probabilities(self, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row class target"]:
        return self._scores(self._hidden(x))

    def _gradient(self, x: Float[Tensor, "row d_model"], to: Int[Tensor, " row"], target: Int[Tensor, " row"],
                  was: Int[Tensor, "row target"]) -> tuple[Float[Tensor, "row d_model"], Float[Tensor, " row"]]:
        """The gradient of every row's loss, by hand: batches are small, and autograd would take most of the time. And
        with what probability `to` is read."""
        hidden = self._hidden(x)
        log_p = self._scores(hidden)
        wanted, weight = was.clone(), torch.full(was.shape, float(self.keep), device=x.device)
        wanted.scatter_(1, target[:, None], to[:, None])
        weight.scatter_(1, target[:, None], 1.0)
        blame = log_p.exp()
        blame.scatter_add_(1, wanted[:, None], -torch.ones_like(blame[:, :1]))
        back = (blame * weight[:, None]).flatten(1) @ self.probe.out_.weight.to(x) * (hidden > 0)
        return back @ self.probe.fc_.weight.to(x) / self.probe.scale_.to(x), _reading(log_p, to, target)


def _reading(log_p: Float[Tensor, "row class target"], to: Int[Tensor, " row"],
             target: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
    return log_p[torch.arange(len(log_p), device=log_p.device), to, target].exp()
