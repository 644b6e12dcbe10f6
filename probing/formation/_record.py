"""Scores recorded at steps of one's own training, or of any list of models, and read back as curves.

    scores = {"legal": legality, "board": probe_score(prompts, "board"), "": alignment_score(loss, parts)}
    for step in range(n_steps + 1):
        if step in steps:                     # 0 among them
            record("forms", step, model, scores)
        ...                                   # train
    transitions(recorded("forms"))

    pythia = {n: ("EleutherAI/pythia-70m", f"step{n}") for n in (0, 1, 8, 64, 512, 4000)}
    follow("pythia", pythia, scores)

A score takes the model and returns one number per item, always of the same items in the same order; or (gain, size) of
each group of items, whose ratio of sums it is; or several of these by name. Items, or groups, are what is resampled.
"""

import io
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from torch import nn

from tasks._files import write_whole

from .._models import load_model
from ._curve import Curve

Scores = Mapping[str, Callable[[Any], Any]]


def record(folder: str | Path, step: int, model: nn.Module, scores: Scores) -> dict[str, float]:
    """Scores the model and keeps what it scored in `folder`, once per step: a step that is there is not scored again,
    so that training which resumes records where it had stopped. Returns the value of every score.

    Inside, the model is in eval mode; its mode and the random state are given back as they were, so that training
    goes on as if nothing had been recorded.

    Args:
        scores: Name -> score; the names of one that returns several are put behind its own.
    Raises:
        ValueError: A negative step, or a score that is neither numbers of items nor (gain, size) of groups.
    """
    if step < 0:
        raise ValueError(f"steps count from 0, the untrained model, not from {step}")
    path = Path(folder) / f"step-{step:09d}.npz"
    if not path.exists():
        with _undisturbed(model):
            found = dict(pair for name, score in scores.items() for pair in _named(name, score(model)))
        if not found:
            raise ValueError("there is nothing to record; give a score, such as probe_score(prompts, label)")
        path.parent.mkdir(parents=True, exist_ok=True)
        out = io.BytesIO()
        np.savez(out, **{f"{part}.{name}": array for name, pair in found.items()  # type: ignore[arg-type]
                         for part, array in zip(("gain", "size"), pair, strict=True)})
        write_whole(path, out.getvalue())
    return {name: float((gain.sum(0) / size.sum(0)).mean()) for name, (gain, size) in _read(path).items()}


def recorded(folder: str | Path, n_boot: int = 1000, seed: int = 0) -> list[Curve]:
    """The curve of every score in a folder, in alphabetical order, over the steps that were recorded.

    Raises:
        ValueError: Nothing is recorded there, or not the same scores of the same items at every step; or too few steps
            for a curve, or none at 0.
    """
    paths = {int(m[1]): path for path in Path(folder).glob("step-*.npz")
             if (m := re.fullmatch(r"step-(\d+)\.npz", path.name))}
    if not paths:
        raise ValueError(f"nothing is recorded in {folder}; call record(folder, step, model, scores) while training")
    steps = sorted(paths)
    found = {step: _read(paths[step]) for step in steps}
    shapes = {step: {name: gain.shape for name, (gain, _) in each.items()} for step, each in found.items()}
    for step in steps:
        both = [shapes[s] for s in (step, steps[0])]
        if odd := sorted(k for k in {*both[0], *both[1]} if both[0].get(k) != both[1].get(k)):
            here, there = (shape.get(odd[0], "nothing") for shape in both)
            raise ValueError(f"{odd[0]!r} was scored on {here} at step {step} and on {there} at step {steps[0]}; score "
                             f"the same items at every step, and delete {paths[step]} to do so again")

    def over_steps(name: str, part: int) -> ndarray:
        return np.stack([found[step][name][part] for step in steps])

    return [Curve.of_groups(name, np.array(steps), over_steps(name, 0), over_steps(name, 1), n_boot, seed)
            for name in sorted(shapes[steps[0]])]


def follow(folder: str | Path, models: Mapping[int, str | Path | tuple[str, str]], scores: Scores,
           log: Callable[[str], None] = print) -> list[Curve]:
    """Records models that are there already, and returns `recorded(folder)`; those that were recorded are not loaded.

    Args:
        models: Step -> what `load_model` takes, or (Hub id, revision).
    """
    for step, name in sorted(models.items()):
        if not (Path(folder) / f"step-{step:09d}.npz").exists():
            model = load_model(name[0], revision=name[1]) if isinstance(name, tuple) else load_model(name)
            values = record(folder, step, model, scores)
            log(f"step {step}: " + "; ".join(f"{key} {value:.3f}" for key, value in values.items()))
    return recorded(folder)


def _named(name: str, found: Any) -> Iterator[tuple[str, tuple[ndarray, ndarray]]]:
    """(name, (gain, size)) of what a score returned."""
    if isinstance(found, Mapping):
        for key, part in found.items():
            yield from _named(f"{name} {key}".strip(), part)
        return
    parts = [_array(part) for part in found] if isinstance(found, tuple) else [_array(found)]
    gain = parts[0]
    size = parts[1] if len(parts) == 2 else np.ones_like(gain)
    if len(parts) > 2 or gain.ndim not in (1, 2) or gain.shape != size.shape or not len(gain):
        raise ValueError(f"the score {name!r} returned {[p.shape for p in parts]}; it returns one number per item, or "
                         "(gain, size) of every group")
    yield name, (gain, size)


def _array(values: Any) -> ndarray:
    return np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values, np.float64)


def _read(path: Path) -> dict[str, tuple[ndarray, ndarray]]:
    with np.load(path, allow_pickle=False) as arrays:
        names = [key.removeprefix("gain.") for key in arrays if key.startswith("gain.")]
        return {name: (arrays[f"gain.{name}"], arrays[f"size.{name}"]) for name in names}


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; modes of all modules and the random state as they were, after."""
    modes = {module: module.training for module in model.modules()}
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        model.eval()
        try:
            yield
        finally:
            for module, training in modes.items():
                module.training = training
