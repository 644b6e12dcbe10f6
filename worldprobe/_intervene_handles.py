"""What the probes of a label learned at every site, and from it the directions of every case.

A direction is named PROBE.read, PROBE.write or PROBE.pair: read along it and move along it, or (a pair) read along the
one and move along the other.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor, nn

from probing import MLPProbe, Site, class_means, encoding_patterns
from tasks import Counterfactuals, LabelledPrompts

from ._intervene_erasers import eraser_arrays

Arrays = Mapping[str, ndarray]
NETWORK = ("fc_.weight", "fc_.bias", "out_.weight", "out_.bias", "mean_", "scale_")  # what an MLP probe learned


def site_arrays(X: Float[ndarray, "example d_model"], prompts: LabelledPrompts, label: str, probes: Mapping[str, Any],
                wanted: Sequence[int], seed: int, erasers: Collection[str] = ()) -> dict[str, ndarray]:
    """What the edits of one label need from one site, fitted on train. Arrays (target, class, d_model) but `mean`
    (d_model,), `share` (target, class), the `erasers` (see `eraser_arrays`), fitted for the targets `wanted`, and the
    weights of an MLP probe, `mlp.*`.
    """
    train, n = prompts.rows("train"), len(prompts.classes[label])
    inside, Y = X[train].astype(np.float64), prompts.labels(label)[train]
    shuffled = np.random.default_rng(seed).permutation(Y)
    arrays = {"mean": inside.mean(0), "means": np.nan_to_num(class_means(inside, Y, n)),
              "shuffled": np.nan_to_num(class_means(inside, shuffled, n)),
              "share": (Y[:, :, None] == np.arange(n)).mean(0)}
    for name, probe in probes.items():
        if isinstance(probe, MLPProbe):
            arrays |= network_arrays(name, probe)
            continue
        for side in ("read", "write"):
            arrays[f"{name}.{side}"] = _by_class(np.asarray(getattr(probe, f"{side}_"), np.float64), Y.shape[1], n)
    arrays["encoding.write"] = encoding_patterns(inside, Y, n, prompts.examples["pos"].to_numpy()[train])
    return arrays | eraser_arrays(erasers, X, prompts, label, wanted, seed)


def _by_class(rows: ndarray, n_targets: int, n_classes: int) -> Float[ndarray, "target class d_model"]:
    """A row per class, so that every contrast is a difference of two."""
    rows = rows.reshape(n_targets, -1, rows.shape[-1])
    return np.concatenate([-rows / 2, rows / 2], axis=1) if n_classes == 2 else rows


def network_arrays(name: str, probe: MLPProbe) -> dict[str, ndarray]:
    """An MLP probe as arrays, `NAME.fc_.weight` and so on."""
    found = {key: _inside(probe, key).detach().numpy() for key in NETWORK}
    return {f"{name}.{key}": array for key, array in (found | {"classes_": np.asarray(probe.classes_)}).items()}


def network(arrays: Arrays, name: str) -> MLPProbe:
    """The MLP probe of `network_arrays`."""
    found = {key: torch.from_numpy(arrays[f"{name}.{key}"].copy()) for key in NETWORK}
    probe, classes = MLPProbe(hidden=len(found["fc_.bias"])), arrays[f"{name}.classes_"]
    for layer in ("fc_", "out_"):
        weight = found[f"{layer}.weight"]
        setattr(probe, layer, nn.Linear(*weight.T.shape).requires_grad_(False))
        getattr(probe, layer).load_state_dict({"weight": weight, "bias": found[f"{layer}.bias"]})
    probe.mean_, probe.scale_, probe.classes_ = found["mean_"], found["scale_"], classes
    probe.n_targets_, probe.n_features_in_ = len(found["out_.bias"]) // len(classes), len(found["mean_"])
    return probe


def _inside(probe: MLPProbe, key: str) -> Tensor:
    for part in key.split("."):
        probe = getattr(probe, part)
    return probe


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

    def ranks(self, site: Site, verb: str) -> Int[ndarray, " case"]:
        """Dimensions that an erasure takes from every case."""
        if f"{verb}.write" not in self.weights[site]:
            return np.full(len(self.target), self.weights[site]["means"].shape[1] - 1)
        return (np.abs(self.weights[site][f"{verb}.write"]).sum(-1) > 0).sum(-1)[self.target]

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


def tensor(array: ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
