"""The erasers of `worldprobe intervene`: for every target that the cases change, at every site, one of each kind.

All targets of a site share one covariance. LEACE and SPLINCE follow from it in closed form. INLP and R-LACE search, and
are held to a budget: some thousand rows and a few dozen steps a target, which dry runs count (`seconds`).
"""

import functools
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from interventions import INLP, LEACE, RLACE, SPLINCE, Edit, Eraser
from interventions._edits import SizedEdit
from probing import LDAProbe
from probing._design import one_hot
from probing._scatter import Scatter
from tasks import LabelledPrompts

ERASERS = ("leace", "inlp", "rlace", "splince")
KEPT, SAME = 8, 0.95  # labels that SPLINCE keeps, at most; association from which one label is another by a new name
INLP_ROWS, INLP_ROUNDS = 4000, 8  # rows, and classifiers one after another
RLACE_ROWS, RLACE_STEPS = 1000, (20, 200)  # steps where many targets are erased, and where one is


def eraser_arrays(kinds: Collection[str], X: Float[ndarray, "example d_model"], prompts: LabelledPrompts, label: str,
                  wanted: Sequence[int], seed: int = 0) -> dict[str, ndarray]:
    """`KIND.read` and `KIND.write`, (target, rank, d_model) each, of erasers fitted on train: zero beyond the rank of a
    target, and for targets that are not `wanted`.

    Raises:
        ValueError: `splince`, and there is no other label to keep.
    """
    n_targets, arrays = len(prompts.targets(label)), dict[str, ndarray]()
    fits = _Fits(X, prompts, label, len(wanted), seed)
    for kind in kinds:
        found = {target: getattr(fits, kind)(target) for target in wanted}
        shape = n_targets, max((e.rank for e in found.values()), default=0), X.shape[1]
        for side in ("read", "write"):
            rows = arrays[f"{kind}.{side}"] = np.zeros(shape)
            for target, eraser in found.items():
                rows[target, : eraser.rank] = getattr(eraser, side).numpy()
    return arrays


class _Fits:
    """Erasers of single targets of a label, from the rows of one site."""

    def __init__(self, X, prompts: LabelledPrompts, label: str, n_wanted: int, seed: int):
        self.prompts, self.label, self.n_wanted, self.targets = prompts, label, n_wanted, prompts.targets(label)
        train, held = (np.flatnonzero(prompts.rows(split)) for split in ("train", "validation"))
        self.X, self.Y = X, prompts.labels(label)
        rng = np.random.default_rng(seed)
        self.rows, self.held = (np.sort(rng.permutation(rows)[:INLP_ROWS]) for rows in (train, held))
        blocks, self.columns = _class_columns(prompts, label)
        self.scatter = Scatter.of(X[train].astype(np.float64), blocks)

    def leace(self, target: int) -> Eraser:
        return LEACE.from_scatter(self.scatter.select(self.columns[f"{self.label}/{self.targets[target]}"]))

    def splince(self, target: int) -> Eraser:
        if not (keep := self.kept[self.targets[target]]):
            raise ValueError(f"splince keeps what is known of another label, and there is none beside {self.label}; "
                             "leave it out of --edits")
        return SPLINCE.from_scatter(self.scatter.select(self.columns[f"{self.label}/{self.targets[target]}"]),
                                    self.scatter.select(np.concatenate([self.columns[c] for c in keep])))

    @functools.cached_property
    def kept(self) -> dict[str, list[str]]:
        return kept_labels(self.prompts, self.label)

    def inlp(self, target: int) -> Eraser:
        y = self.Y[:, target]
        return INLP.fit(self.X[self.rows], y[self.rows], (self.X[self.held], y[self.held]), probe=LDAProbe,
                        n_iterations=INLP_ROUNDS)

    def rlace(self, target: int) -> Eraser:
        y, rows = self.Y[:, target], self.rows[:: max(1, len(self.rows) // RLACE_ROWS)]
        return RLACE.fit(self.X[rows], y[rows], len(np.unique(y[rows])) - 1, (self.X[self.held], y[self.held]),
                         n_steps=RLACE_STEPS[self.n_wanted == 1])


def kept_labels(prompts: LabelledPrompts, label: str) -> dict[str, list[str]]:
    """Target -> columns of the labels that SPLINCE keeps when it erases the target: of the label's other targets, or,
    where it has but one, of the other labels, those that go along with it most (by Cramer's V in train), `KEPT` at
    most. One that says the same is left out, because to keep it would be to keep the target.
    """
    blocks, columns = _class_columns(prompts, label)
    together, kept = blocks.T @ blocks / len(blocks), {}
    for target in prompts.targets(label):
        own = columns[f"{label}/{target}"]
        near = {c: cramers_v(together[np.ix_(own, at)]) for c, at in columns.items() if c != f"{label}/{target}"}
        kept[target] = sorted((c for c in near if 0 <= near[c] < SAME), key=lambda c: -near[c])[:KEPT]
    return kept


def _class_columns(prompts: LabelledPrompts, label: str) -> tuple[Float[ndarray, "row column"], dict[str, ndarray]]:
    """A 0/1 column per class of every target of the label, and, if it has but one, of every other label, in train; and
    which columns are whose."""
    names = [f"{label}/{t}" for t in prompts.targets(label)]
    if len(names) == 1:
        names += [f"{scheme}/{t}" for scheme in prompts.classes if scheme != label and scheme in prompts.schemes
                  for t in prompts.targets(scheme)]
    table = prompts.examples[prompts.rows("train")]
    blocks = [one_hot(table[c].to_numpy()[:, None], len(prompts.classes[c.partition("/")[0]])) for c in names]
    ends = np.cumsum([block.shape[1] for block in blocks])
    return np.concatenate(blocks, axis=1), {c: np.arange(end - block.shape[1], end)
                                            for c, block, end in zip(names, blocks, ends, strict=True)}


def cramers_v(joint: Float[ndarray, "a b"]) -> float:
    """Association of two labels from their joint shares: 0 independent, 1 either says the other; nan where one is
    constant."""
    expected = np.outer(joint.sum(1), joint.sum(0))
    seen = expected > 0
    smaller = min((joint.sum(1) > 0).sum(), (joint.sum(0) > 0).sum()) - 1
    if not smaller:
        return float("nan")
    return float((((joint - expected)[seen] ** 2 / expected[seen]).sum() / smaller) ** 0.5)


def erase(read: Float[ndarray, "case rank d_model"], write: Float[ndarray, "case rank d_model"],
          mean: Float[ndarray, " d_model"]) -> Edit:
    """x - ((x - mean) read^T) write, with the rows of each case; rows of zeros do nothing."""
    r, w, mu = (torch.from_numpy(np.ascontiguousarray(a, dtype=np.float32)) for a in (read, write, mean))

    def change(x: Tensor, rows: Tensor) -> Tensor:
        at = rows.to(r.device)
        reading = torch.einsum("bd,bkd->bk", x - mu.to(x), r[at].to(x))
        return x - torch.einsum("bk,bkd->bd", reading, w[at].to(x))

    return SizedEdit(change, len(r), len(mu))


def random_erasure(ranks: Int[ndarray, " case"], mean: Float[ndarray, " d_model"], rng: np.random.Generator) -> Edit:
    """Sets a uniformly random subspace to its mean, in every case as many dimensions of it as `ranks` says."""
    q = np.linalg.qr(rng.normal(size=(len(mean), int(ranks.max()))))[0].T
    rows = q * (np.arange(len(q)) < ranks[:, None])[..., None]
    return erase(rows, rows, mean)


def whole_eraser(arrays: Mapping[str, ndarray], kind: str, target: int) -> Eraser:
    """The eraser of one target."""
    read, write = (arrays[f"{kind}.{side}"][target] for side in ("read", "write"))
    kept = np.abs(write).sum(1) > 0
    return Eraser(torch.from_numpy(read[kept]), torch.from_numpy(write[kept]), torch.from_numpy(arrays["mean"]))


def seconds(kinds: Collection[str], n_targets: int, n_sites: int, d_model: int) -> float:
    """What fitting costs, roughly, on one core: sums of a covariance and its eigenvectors per step, 2e10 operations a
    second."""
    steps = {"leace": (0, 1), "splince": (0, 2), "inlp": (INLP_ROWS, INLP_ROUNDS),
             "rlace": (30 * RLACE_ROWS, RLACE_STEPS[n_targets == 1])}
    return n_targets * n_sites * sum(n * (rows * d_model**2 + 30 * d_model**3) / 2e10
                                     for rows, n in (steps[kind] for kind in kinds))
