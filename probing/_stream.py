"""Reading a model into running moments: one forward pass, no activation on disk."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, Shaped
from numpy import ndarray

from tasks import LabelledPrompts

from ._design import Design, fold_names
from ._forward import Kept, make_reader
from ._models import check_numerics
from ._models import random_init as with_random_weights
from ._moments import LabelBlock, Moments, float64_device
from ._plan import Batch
from ._pooling import Pool
from ._progress import Progress
from ._reading import plan_reading
from ._sites import Site


class StreamedMoments(Mapping):
    """Site -> Moments of what was read at it.

    Attributes:
        random_init: The same of the same architecture with random weights, or None.
    """

    def __init__(self, moments: Mapping[Site, Moments], random_init: "StreamedMoments | None" = None):
        self._moments, self.random_init = dict(moments), random_init

    def __getitem__(self, site: Site) -> Moments:
        return self._moments[site]

    def __iter__(self) -> Iterator[Site]:
        return iter(self._moments)

    def __len__(self) -> int:
        return len(self._moments)

    def merge(self, other: "StreamedMoments") -> "StreamedMoments":
        """Moments of the examples of both parts, site by site.

        Raises:
            ValueError: The parts have other sites, labels or folds, or just one has a random-weights control.
        """
        if list(self) != list(other) or (self.random_init is None) != (other.random_init is None):
            raise ValueError(f"parts of one reading have the same sites and controls; these have {list(map(str, self))}"
                             f" and {list(map(str, other))}")
        control = self.random_init.merge(other.random_init) if self.random_init and other.random_init else None
        return StreamedMoments({site: self[site].merge(other[site]) for site in self}, control)

    def save(self, folder: str | Path) -> None:
        """One safetensors file per site in `folder`, those of the control in `folder/random_init`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for site, moments in self.items():
            moments.save(folder / f"{site}.safetensors")
        if self.random_init is not None:
            self.random_init.save(folder / "random_init")

    @classmethod
    def load(cls, folder: str | Path) -> "StreamedMoments":
        """Moments as saved, sites in order.

        Raises:
            FileNotFoundError: There are none in the folder.
        """
        folder = Path(folder)
        sites = sorted((Site.parse(file.stem), file) for file in folder.glob("*.safetensors"))
        if not sites:
            raise FileNotFoundError(f"no moments in {folder}; StreamedMoments.save writes one file per site")
        control = cls.load(folder / "random_init") if (folder / "random_init").is_dir() else None
        return cls({site: Moments.load(file) for site, file in sites}, control)

    def __repr__(self) -> str:
        first = next(iter(self._moments.values()), None)
        return f"StreamedMoments({len(self)} sites, each {first})"


def stream(model, prompts: LabelledPrompts, sites: Sequence[Site] | None = None,
           labels: Sequence[str] | None = None, *, nuisance: Sequence[str] = (),
           folds: int | Shaped[ndarray, " example"] = 5, seed: int = 0, pool: Pool = None,
           random_init: int | None = 0, part: tuple[int, int] = (0, 1), batch_size: int | None = None,
           progress: Callable[[int, int], None] | None = None) -> StreamedMoments:
    """Running moments of every site against all labels, from one forward pass that keeps no activation.

    Memory is that of the sums: 8 (d_model + columns) d_model bytes per site and fold, whatever the number of prompts.

    Args:
        sites: The embedding and the stream after every block, unless given.
        labels: Label schemes; all but the shortcuts' predictions, unless given.
        nuisance: Columns of `prompts.examples` to be held fixed by the encoding model, such as `pos`.
        folds: Group folds of the training split, named `train/0` and so on, beside `validation` and `test`; or the
            name of each example's fold.
        seed: Of the dealing of groups to folds.
        random_init: Seed of the random-weights control, reachable as `.random_init`; None skips it.
        part: (i, n) reads the i-th of n parts of the prompts, for n workers. Merged in order, the same parts give the
            same bits wherever they were read; other cuts differ by rounding.
        pool, batch_size, progress: As in `extract`.
    Raises: As `extract`; ValueError for labels that are not finite and folds that do not fit.
    """
    if np.ndim(folds) == 0:
        fold, names = fold_names(prompts, int(folds), seed)
    else:
        named, fold = np.unique(np.asarray(folds).astype(str), return_inverse=True)
        names = tuple(named.tolist())
        if len(fold) != len(prompts):
            raise ValueError(f"folds name the fold of each of {len(prompts)} examples, there are {len(fold)}")
    design = Design.of(prompts, labels, nuisance)
    rows = _part(prompts, *part)
    mine = replace(prompts, examples=prompts.examples.iloc[rows].reset_index(drop=True), subsets={})
    reading = plan_reading(model, mine, sites, batch_size, pool)
    check_numerics(model, prompts.tokens, prompts.lengths)
    total = reading.n_prompts * (1 if random_init is None else 2)
    with Progress("streaming moments", total, progress) as advance:

        def read(reader) -> Iterator[tuple[Batch, Kept]]:
            for group in reading.read(reader, {i: [batch] for i, batch in enumerate(reading.batches)}, advance):
                yield from zip(group.batches, group.kept, strict=True)

        summed = functools.partial(_sum, design=design, fold=fold, names=names, rows=rows)
        control = None
        if random_init is not None:
            untrained = with_random_weights(model, random_init)
            control = StreamedMoments(summed(read(make_reader(untrained, reading.sites, reading.reader.road))))
        return StreamedMoments(summed(read(reading.reader)), control)


def _sum(batches: Iterator[tuple[Batch, Kept]], design: Design, fold: Int[ndarray, " example"],
         names: Sequence[str], rows: Int[ndarray, " row"]) -> dict[Site, Moments]:
    """Moments of every site; what concerns labels alone is summed once and shared."""
    moments: dict[Site, Moments] = {}
    kept_columns, shift = [design.columns[i] for i in design.kept], torch.from_numpy(design.shift)
    for batch, kept in batches:
        examples = rows[batch.rows.numpy()]
        labels, marks, of_fold = map(torch.from_numpy, (design.block(examples), design.marks(examples), fold[examples]))
        device = float64_device(next(iter(kept.values())))
        block = LabelBlock(labels, shift[: labels.shape[1]], of_fold, len(names), device, marks, design.n_mark_columns)
        for site, acts in kept.items():
            if site not in moments:
                moments[site] = Moments(kept_columns, names, shift)
            moments[site].add_activations(acts, block)
        next(iter(moments.values())).add_labels(block)
    first, kept_at, owner = next(iter(moments.values())), *map(torch.from_numpy, (design.kept, design.owner))
    for other in moments.values():
        other.n, other.y, other.yy = first.n.clone(), first.y, first.yy  # which are then written out for each
    return {site: one.complete_labels(design.columns, kept_at, owner) for site, one in moments.items()}


def _part(prompts: LabelledPrompts, i: int, n: int) -> Int[ndarray, " row"]:
    """Rows of the i-th of n parts: prompts that have examples, dealt in turn."""
    if not 0 <= i < n:
        raise ValueError(f"part is (i, n) with 0 <= i < n, not {(i, n)}")
    prompt = prompts.examples["prompt"].to_numpy()
    _, order = np.unique(prompt, return_inverse=True)
    if not (rows := np.flatnonzero(order % n == i)).size:
        raise ValueError(f"part {i} of {n} has no prompts; there are {len(np.unique(prompt))}, choose fewer parts")
    return rows
