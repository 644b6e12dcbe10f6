"""The clean and the corrupted run of prompt pairs, and what patches from the one into the other gain."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from probing._sites import Site
from probing._statistics import bootstrap_mean
from probing._subspaces import Subspace
from tasks._pairs import PromptPairs

from ._controls import random_like
from ._edits import Edit, patch_from
from ._places import At, Positions, check_editable, width_of
from ._sequences import Arm, Sequences

Metric = Callable[[Tensor, Tensor], Tensor]
Where: TypeAlias = Sequence[int | str] | Mapping[str, Positions] | Tensor | None
Cell: TypeAlias = tuple[tuple[Site, ...], str]
DIRECTIONS = {"denoise": ("corrupted", "clean"), "noise": ("clean", "corrupted")}  # base, and what is patched in
SMALL_GAP = 0.1  # standard deviations of the metric; a smaller gap says nothing of what closes it


class Patched(NamedTuple):
    """What the patch of one cell does.

    Attributes:
        sites: Patched together.
        gains: (arm, case) how far the metric moves towards the run that is patched in; the first arm is the patch, the
            others are the same change turned by random rotations.
        applied_norm, norm_share: Mean size of the change at a token, and as a share of what was there.
    """

    sites: tuple[Site, ...]
    positions: str
    gains: Float[ndarray, "arm case"]
    applied_norm: float
    norm_share: float


def answer_difference(pairs: PromptPairs) -> Metric:
    """The default metric: mean logit of the answers that are right for the clean prompt alone, minus that of those
    that are right for the corrupted one alone, in nats.

    Raises:
        ValueError: A pair has no such answers.
    """
    ours, theirs = (torch.from_numpy(a & ~b) for a, b in ((pairs.right_clean, pairs.right_corrupted),
                                                          (pairs.right_corrupted, pairs.right_clean)))
    if len(bad := (~(ours.any(1) & theirs.any(1))).nonzero()[:, 0].tolist()):
        raise ValueError(f"in {len(bad)} of {len(pairs)} pairs (first: {bad[:5]}) no answer is right for one prompt "
                         "alone, so their logit difference has no gap; leave these pairs out, or give a metric")

    def logit_difference(logits: Tensor, places: Tensor) -> Tensor:
        sides = (side[places].to(logits) for side in (ours, theirs))
        right, wrong = ((logits * side).sum(-1) / side.sum(-1) for side in sides)
        return right - wrong

    return logit_difference


class PatchRun:
    """Both runs of the pairs of one split whose metric has a gap.

    Attributes:
        pairs: The pairs that are left of those `given`; `numbers` (case,) says where they stand there.
        runs: `clean` and `corrupted` -> their `Sequences`.
        values: The same names -> (case,) the metric of the unedited run.
        gap: (case,) clean minus corrupted.
        n_dropped: Pairs left out since their gap is below 0.1 standard deviations of the metric (over both runs).
    """

    def __init__(self, model, pairs: PromptPairs, metric: Metric | None = None, split: str = "report", *,
                 keep_bytes: int = 2**30, **options):
        inside = np.flatnonzero(pairs.cases["split"] == split)
        if not len(inside):
            raise ValueError(f"no pair of split {split!r}; there are {sorted(set(pairs.cases['split']))}")
        self.model, self.split, self.keep_bytes = model, split, keep_bytes
        if next(model.parameters()).device.type == "cpu":
            options = {"batch_tokens": 2**11} | options  # what fits into its caches is done in two thirds of the time
        self.given, self._metric = pairs, metric or answer_difference(pairs)
        self.metric = getattr(self._metric, "__name__", "metric")
        self._load(inside, options)
        kept = self._with_gap()
        self.n_dropped = len(inside) - len(kept)
        if self.n_dropped:
            self._load(inside[kept], options)

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def groups(self) -> ndarray:
        return self.pairs.cases["group"].to_numpy(dtype=str)

    def _load(self, numbers: ndarray, options: dict) -> None:
        self.numbers, self.pairs = numbers, self.given.select(numbers)
        self.runs = {name: self._run(name, options) for name in ("clean", "corrupted")}
        self.values = {name: self.score(run, [{}])[0] for name, run in self.runs.items()}
        self.gap = self.values["clean"] - self.values["corrupted"]

    def _run(self, name: str, options: dict) -> Sequences:
        return Sequences(self.model, getattr(self.pairs, name), self.pairs.lengths, positions=self.pairs.answers_at,
                         **options)

    def _with_gap(self) -> ndarray:
        """Which pairs have a gap.

        Raises:
            ValueError: None has, or their mean cannot be told from zero: then no ratio to it means anything.
        """
        scale = np.concatenate(list(self.values.values())).std()
        kept = np.flatnonzero(np.abs(self.gap) >= max(SMALL_GAP * scale, np.finfo(float).tiny))
        low, high = bootstrap_mean(self.gap[kept], self.groups[kept])[1:] if len(kept) else (0, 0)
        if low <= 0 <= high:
            means = " and ".join(f"{x.mean():.3g} ({name})" for name, x in self.values.items())
            raise ValueError(f"the metric {self.metric} has no gap between the runs: {means} on average of "
                             f"{len(self.gap)} pairs; take a metric, or pairs, that the two runs differ in")
        return kept

    def score(self, run: Sequences, arms: Sequence[Arm]) -> Float[ndarray, "arm case"]:
        """The metric of every arm and case of one of the runs."""
        return run.measure(arms, lambda logits, places: self.measure(logits, places)[:, None])[..., 0].numpy()

    def measure(self, logits: Tensor, places: Tensor) -> Float[Tensor, " batch"]:
        """The metric of some cases; it is given their numbers among the pairs that the caller holds."""
        values = self._metric(logits, torch.from_numpy(self.numbers)[places.cpu()])
        if values.shape != (len(logits),) or not values.isfinite().all():
            raise ValueError(f"the metric {self.metric} gave {tuple(values.shape)} for {len(logits)} cases"
                             f"{'' if values.isfinite().all() else ', not all finite'}; wanted one number per case")
        return values.double()

    def where(self, positions: Where) -> dict[str, Positions]:
        """Name -> positions of one cell, see `activation_patching`.

        Raises:
            ValueError: A position is outside its prompt, or has a name that the pairs do not know.
        """
        given, every = self.given, torch.arange(len(self.given))
        if positions is None:
            n, same = int(given.lengths.min()), bool((given.lengths == given.lengths[0]).all())
            positions = range(n) if same else range(-n, 0)
        if isinstance(positions, Tensor):
            named = {str(j): column for j, column in enumerate(positions.reshape(len(positions), -1).T)}
        elif isinstance(positions, Mapping):
            named = dict(positions)
        else:
            named = {"last" if p == -1 else str(p): _named(given, p) if isinstance(p, str) else p for p in positions}
        if not named:
            raise ValueError("no position to patch; name some, such as [-1], or leave positions out for every one")
        for at in named.values():
            At(_unchanged, at).places(every, given.lengths)
        return {name: at[self.numbers] if isinstance(at, Tensor) and at.ndim and len(at) == len(given) else at
                for name, at in named.items()}

    def read(self, name: str, sites: Sequence[Site]) -> dict[Site, Float[Tensor, "case pos width"]]:
        """Activations of one of the runs, unedited."""
        acts = self.runs[name].read(list(dict.fromkeys(whole(site) for site in sites)))
        return {site: head_of(self.model, acts[whole(site)], site.head) for site in sites}

    def patch(self, cells: Sequence[Cell], where: Mapping[str, Positions], directions: Sequence[str] = ("denoise",), *,
              spaces: Mapping[Site, Subspace] | None = None, n_random: int = 20, seed: int = 0
              ) -> dict[str, list[Patched]]:
        """Direction -> what the patch of every cell (sites that are patched together, name of their positions) does."""
        for site in {site for sites, _ in cells for site in sites}:
            check_editable(self.model, site, _unchanged)
        out: dict[str, list[Patched]] = {direction: [] for direction in directions}
        for some in self.in_memory(cells, n_random):
            acts = {name: self.read(name, _sites(some)) for name in self.runs}
            at = {name: self.touched(where[name]) for name in dict.fromkeys(name for _, name in some)}
            for direction in directions:
                base, source = (acts[name] for name in DIRECTIONS[direction])
                edits, changes = {}, {}
                for site in _sites(some):
                    any_of = sum(at[name] for sites, name in some if site in sites).clamp_max(1)
                    edits[site], changes[site] = _edits(site, base[site], source[site], any_of,
                                                        (spaces or {}).get(site), n_random, seed)
                arms = [{site: At(edits[site][k], where[name], "token") for site in sites} for sites, name in some
                        for k in range(1 + n_random)]
                gains = self.gain(direction, arms).reshape(len(some), -1, len(self))
                for (sites, name), each in zip(some, gains, strict=True):
                    size = np.mean([size_of(base[site], changes[site], at[name]) for site in sites], 0)
                    out[direction].append(Patched(sites, name, each, *size.tolist()))
        return out

    def gain(self, direction: str, arms: Sequence[Arm]) -> Float[ndarray, "arm case"]:
        """What arms of the base run gain towards the other."""
        base, _ = DIRECTIONS[direction]
        return self.towards(direction, self.score(self.runs[base], arms))

    def towards(self, direction: str, values: Float[ndarray, "arm case"]) -> Float[ndarray, "arm case"]:
        """How far the metric has moved from the base run towards the other; what rounding may have moved is 0."""
        before = self.values[DIRECTIONS[direction][0]]
        rounding = min(16 * torch.finfo(next(self.model.parameters()).dtype).eps, 1e-5) * np.abs(before).max()
        moved = np.where(np.abs(values - before) <= rounding, 0.0, values - before)
        return moved if direction == "denoise" else -moved

    def touched(self, positions: Positions) -> Float[Tensor, "case pos one"]:
        """1 at the tokens that are named, else 0."""
        touched = torch.zeros(self.pairs.clean.shape)
        touched[At(_unchanged, positions).places(torch.arange(len(self)), self.pairs.lengths)] = 1
        return touched[..., None]

    def in_memory(self, cells: Sequence[Cell], n_random: int) -> Iterator[list[Cell]]:
        """The cells, as many at a time as fit into `keep_bytes` with the activations of both runs at their sites and
        the random rotations (of one site, if that is more)."""
        widths = [[width_of(self.model, s) or self.model.cfg.d_model for s in (whole(site), site)]
                  for site in _sites(cells)]
        most = self.keep_bytes // max(8 * self.pairs.clean.numel() * of_all + 8 * n_random * own**2
                                      for of_all, own in widths)
        some: list[Cell] = []
        for cell in cells:
            if some and len({whole(site) for site in _sites([*some, cell])}) > most:
                yield some
                some = []
            some.append(cell)
        yield some


def _sites(cells: Sequence[Cell]) -> list[Site]:
    return list(dict.fromkeys(site for sites, _ in cells for site in sites))


def _edits(site: Site, base: Tensor, source: Tensor, touched: Tensor, space: Subspace | None, n_random: int,
           seed: int) -> tuple[list[Edit], Float[Tensor, "case pos width"]]:
    """The patch and random changes of its norm, their constants by token; and what the patch changes."""
    change = (source - base) * touched.to(base)
    basis = None if space is None else space.basis.to(change)
    change = change if basis is None else change @ basis.T @ basis
    patch = patch_from(source.flatten(0, 1), None if basis is None else basis[None])
    drawn = random_like({site: change.flatten(0, 1)}, n_random, seed) if n_random else []
    return [patch, *(arm[site] for arm in drawn)], change


def size_of(base: Tensor, change: Tensor, touched: Tensor) -> tuple[float, float]:
    """Mean norm of the change over the tokens touched, and as a share of the norm of what was there."""
    where = touched[..., 0].bool().to(base.device)
    size, norm = (x[where].double().norm(dim=-1) for x in (change, base))
    return float(size.mean()), float((size / norm.clamp_min(1e-30)).mean())


def whole(site: Site) -> Site:
    """The site of all heads, where one is asked for."""
    return replace(site, head=None)


def head_of(model, acts: Tensor, head: int | None) -> Tensor:
    """One head's part of what all heads gave, or everything."""
    return acts if head is None else acts.unflatten(-1, (model.cfg.n_heads, -1))[..., head, :]


def _named(pairs: PromptPairs, name: str) -> Positions:
    if name in ("all", "last"):
        return None if name == "all" else -1
    if f"pos:{name}" not in pairs.cases:
        known = ["all", "last", *(c.removeprefix("pos:") for c in pairs.cases if c.startswith("pos:"))]
        raise ValueError(f"there is no position {name!r}, but {', '.join(known)}; to name one, add an integer column "
                         f"pos:{name} to the cases")
    return torch.from_numpy(pairs.cases[f"pos:{name}"].to_numpy(copy=True))


def _unchanged(x: Tensor, rows: Tensor) -> Tensor:
    return x
