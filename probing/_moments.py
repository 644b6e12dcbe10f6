"""Running moments of one site: counts, sums, Gram and cross moments with many labels at once, kept per fold.

Everything closed-form is solved from them: ridge with all penalties, mass-mean, LDA, the encoding model, low-rank
probes, PCA, whitening, erasure; and cross-validated, as leaving a fold out is a subtraction. No activation is kept.

Sums run over x - c, c being the mean of the first batch: a residual stream has a few massive dimensions whose offset,
squared, would swallow their variance. Products are formed in float64: one symmetric product per fold of a batch costs
less than the conversion it would save, and float32 products cannot be right to better than 1e-7 of the offset squared.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, Num, Shaped
from numpy import ndarray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ._label_block import LabelBlock
from ._scatter import Scatter

SUMS = ("n", "x", "xx", "fourth", "third", "xy", "y", "yy")
FORMAT = "worldprobe moments 1"


class Moments:
    """Float64 sums over the rows of one site, per fold.

    Args:
        columns: Names of the label columns that come with every update, as in `Design.columns`.
        folds: Names of the folds. A name such as `train/2` is fold 2 of `train`.
        label_shift: (column,) subtracted from the labels, for precision; whole numbers near the mean of the first
            batch unless given, so that counts of classes stay exact.

    Attributes:
        shift: (d_model,) c, which is subtracted from the activations; the mean of the first batch.
        n: (fold,) rows.
        x, xx, xy: (fold, d_model), (fold, d_model, d_model), (fold, d_model, column) sums of u = x - c, of u u^T,
            and of u v^T with v = y - label_shift.
        y, yy: (fold, column), (fold, column, column) sums of v and v v^T.
        third, fourth: (fold, d_model), (fold,) sums of |u|^2 u and |u|^4, for Ledoit-Wolf shrinkage.
    """

    n: Tensor
    x: Tensor
    xx: Tensor
    xy: Tensor
    y: Tensor
    yy: Tensor
    third: Tensor
    fourth: Tensor

    def __init__(self, columns: Sequence[str] = (), folds: Sequence[str] = ("all",),
                 label_shift: Float[Tensor, " column"] | None = None):
        self.columns, self.folds = tuple(columns), tuple(folds)
        if len(set(self.columns)) < len(self.columns) or len(set(self.folds)) < len(self.folds) or not self.folds:
            raise ValueError("names of columns and of folds must be unique, and there is at least one fold")
        self.shift: Any = None  # a tensor from the first rows on, as are the sums
        self.label_shift: Any = label_shift

    @property
    def n_rows(self) -> int:
        return 0 if self.shift is None else int(self.n.sum())

    @property
    def d_model(self) -> int | None:
        """Width of the site; None before the first update."""
        return None if self.shift is None else len(self.shift)

    def update(self, X: Num[Tensor, "row d_model"] | Num[ndarray, "row d_model"],
               Y: Shaped[Tensor, "row column"] | Shaped[ndarray, "row column"] | None = None,
               fold: Int[Tensor, " row"] | Int[ndarray, " row"] | None = None) -> "Moments":
        """Add rows; their labels and the index of their fold (0 unless given). Returns self.

        Raises:
            ValueError: Labels or folds are missing or do not fit the names given at the start.
        """
        X, labels, fold = torch.as_tensor(X), self._labels(len(X), Y), self._fold(len(X), fold)
        if len(X):
            if self.label_shift is None:
                self.label_shift = labels.mean(0).round()
            block = LabelBlock(labels, self.label_shift, fold, len(self.folds), float64_device(X))
            self.add_activations(X, block)
            self.add_labels(block)
        return self

    def add_activations(self, X: Num[Tensor, "row d_model"], block: LabelBlock) -> None:
        """The part of an update that needs activations; `add_labels` is the other. Sites share a block's labels."""
        self._start(X)
        u, v = torch.sub(block.gather(X), self.shift, out=block.workspace(X.shape[1])), block.labels
        for fold, rows in block.slices():
            one_fold, square = u[rows], torch.linalg.vector_norm(u[rows], dim=1).square_()
            self.x[fold] += one_fold.sum(0)
            self.xx[fold] += _product(one_fold, one_fold)
            self.third[fold] += square @ one_fold
            self.fourth[fold] += square @ square
            self.xy[fold, :, : v.shape[1]] += _product(one_fold, v[rows])
        if block.n_marks:
            self.xy[:, :, v.shape[1] :] += block.by_mark(u).mT

    def add_labels(self, block: LabelBlock) -> None:
        v, m = block.labels, block.labels.shape[1]
        for fold, rows in block.slices():
            self.n[fold] += len(v[rows])
            self.y[fold, :m] += v[rows].sum(0)
            self.yy[fold, :m, :m] += _product(v[rows], v[rows])
        if block.n_marks:
            crossed, pairs = block.by_mark(v), block.pairs_of_marks()
            self.y[:, m:] += pairs.diagonal(dim1=1, dim2=2)
            self.yy[:, m:, m:] += pairs
            self.yy[:, m:, :m] += crossed
            self.yy[:, :m, m:] += crossed.mT

    def complete_labels(self, columns: Sequence[str], kept: Int[Tensor, " column"],
                        owner: Int[Tensor, " column"]) -> "Moments":
        """Moments of more label columns: those of these stay, at `kept`, and every owner is 1 minus the columns that
        name it (-1 for none). The activations' sums are shared, not copied."""
        full = Moments(columns, self.folds)
        if self.shift is None:
            return full

        def spread(x: Tensor) -> Tensor:
            wide, owned = x.new_zeros(*x.shape[:-1], len(columns)), (owner >= 0).to(x.device)
            wide[..., kept.to(x.device)] = x
            return wide.index_add_(-1, owner.to(x.device)[owned], -x[..., owned])

        for name in ("shift", "n", "x", "xx", "third", "fourth"):
            setattr(full, name, getattr(self, name))
        full.xy, full.y, full.yy = spread(self.xy), spread(self.y), spread(spread(self.yy).mT.contiguous())
        full.label_shift = spread(self.label_shift)
        full.label_shift[owner[owner >= 0].unique().to(full.shift.device)] += 1
        return full

    def merge(self, other: "Moments") -> "Moments":
        """Moments of the rows of both, as new moments; the shift is that of the first.

        The same parts merged in the same order give the same bits, whoever made them.

        Raises:
            ValueError: The two have other columns, folds or widths.
        """
        for what in ("columns", "folds"):
            mine, theirs = getattr(self, what), getattr(other, what)
            if mine != theirs:
                differs = next((f"{a} and {b}" for a, b in zip(mine, theirs, strict=False) if a != b), "their number")
                raise ValueError(f"moments with different {what} do not add up (first difference: {differs}); stream "
                                 "all parts with the same prompts, labels and folds")
        first, second = (self, other) if self.shift is not None else (other, self)
        merged = Moments(self.columns, self.folds)
        if first.shift is None:
            return merged
        if second.shift is not None and len(first.shift) != len(second.shift):
            raise ValueError(f"moments of width {len(first.shift)} and {len(second.shift)} do not add up; merge the "
                             "parts of one site")
        merged.shift, merged.label_shift = first.shift, first.label_shift
        moved = second and second.shift is not None and second.shifted_to(first.shift, first.label_shift)
        for name in SUMS:
            mine = getattr(first, name)
            setattr(merged, name, mine + moved[name].to(mine.device) if moved else mine.clone())
        return merged

    def shifted_to(self, shift: Float[Tensor, " d_model"], label_shift: Float[Tensor, " column"]) -> dict[str, Tensor]:
        """The sums, as if `shift` and `label_shift` had been subtracted from the start."""
        sums = {name: getattr(self, name) for name in SUMS}
        return shift_sums(sums, self.shift - shift.to(self.shift.device),
                          self.label_shift - label_shift.to(self.label_shift.device))

    def scatter(self, folds: str | Sequence[str] | None = None, without: str | Sequence[str] = ()) -> Scatter:
        """Means and scatter of all rows, or of some folds (`train` means `train/0`, `train/1`, ...), but for others.

        Raises:
            ValueError: There is no such fold, or it has no rows.
        """
        chosen = [f for f in self.which(folds) if f not in self.which(without)]
        if self.shift is None or not (n := int(self.n[chosen].sum())):
            raise ValueError(f"no rows in {[self.folds[f] for f in chosen]}; update the moments with some first")
        sums = {name: getattr(self, name)[chosen].sum(0, keepdim=True) for name in SUMS}
        dx, dy = sums["x"][0] / n, sums["y"][0] / n
        central = {name: s[0].cpu().numpy() for name, s in shift_sums(sums, -dx, -dy).items()}
        return Scatter(n, (self.shift + dx).cpu().numpy(), (self.label_shift.to(dy.device) + dy).cpu().numpy(),
                       central["xx"], central["xy"], central["yy"], float(central["fourth"]), self.columns)

    def which(self, folds: str | Sequence[str] | None) -> list[int]:
        """Indices of folds by name; `train` stands for every `train/...`."""
        if folds is None:
            return list(range(len(self.folds)))
        found = []
        for name in [folds] if isinstance(folds, str) else folds:
            named = [i for i, fold in enumerate(self.folds) if fold == name or fold.startswith(f"{name}/")]
            if not named:
                raise ValueError(f"no fold {name!r}; there are {', '.join(self.folds)}")
            found += named
        return sorted(set(found))

    def save(self, path: str | Path) -> None:
        """Write as safetensors, whole or not at all."""
        path = Path(path)
        if self.shift is None:
            raise ValueError(f"nothing to save in {path}: these moments have no rows; update them first")
        tensors = {name: getattr(self, name).cpu().contiguous() for name in (*SUMS, "shift", "label_shift")}
        header = {"format": FORMAT, "columns": json.dumps(self.columns), "folds": json.dumps(self.folds)}
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        save_file(tensors, part, header)
        part.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> "Moments":
        """Moments as saved.

        Raises:
            ValueError: The file holds something else.
        """
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise ValueError(f"{path} holds no moments (format {header.get('format')!r}, wanted {FORMAT!r}); "
                                 "Moments.save writes such files")
            moments = cls(json.loads(header["columns"]), json.loads(header["folds"]))
            for name in (*SUMS, "shift", "label_shift"):
                setattr(moments, name, file.get_tensor(name).clone())  # aligned: products depend on it, in the last bit
        return moments

    def __repr__(self) -> str:
        return (f"Moments({self.n_rows} rows x {self.d_model or '?'}, {len(self.columns)} label columns, "
                f"folds {', '.join(self.folds)})")

    def _start(self, X: Tensor) -> None:
        """Fix the shift and the shapes at the first rows."""
        if self.shift is not None:
            if X.shape[1] != len(self.shift):
                raise ValueError(f"activations have width {X.shape[1]}, these moments {len(self.shift)}; one site each")
            return
        device = float64_device(X)
        self.shift, self.label_shift = X.to(device).double().mean(0), self.label_shift.to(device)
        folds, d, m = len(self.folds), X.shape[1], len(self.columns)
        shapes = dict(n=(), x=(d,), xx=(d, d), fourth=(), third=(d,), xy=(d, m), y=(m,), yy=(m, m))
        for name, shape in shapes.items():
            setattr(self, name, torch.zeros(folds, *shape, dtype=torch.float64, device=device))

    def _labels(self, n: int, Y) -> Tensor:
        labels = torch.zeros(n, 0) if Y is None else torch.as_tensor(Y).cpu()
        if labels.shape != (n, len(self.columns)):
            raise ValueError(f"labels must be ({n} rows, {len(self.columns)} columns), as the activations and the "
                             f"names of columns say, not {tuple(labels.shape)}")
        return labels.double()

    def _fold(self, n: int, fold) -> Tensor:
        if fold is None and len(self.folds) > 1:
            raise ValueError(f"these moments have folds {', '.join(self.folds)}; say which fold each row belongs to")
        return torch.zeros(n, dtype=torch.long) if fold is None else torch.as_tensor(fold).cpu().long()


def shift_sums(sums: dict[str, Tensor], dx: Float[Tensor, " d_model"],
               dy: Float[Tensor, " column"]) -> dict[str, Tensor]:
    """Sums over u + dx and v + dy from sums over u and v."""
    n, x, xx, y = sums["n"], sums["x"], sums["xx"], sums["y"]
    nx, ny = n[:, None], n[:, None, None]
    along, size = x @ dx, dx @ dx  # sum of u.dx; |dx|^2
    trace, bent = xx.diagonal(dim1=1, dim2=2).sum(1), xx @ dx
    return {
        "n": n,
        "x": x + nx * dx,
        "xx": xx + x[:, :, None] * dx + dx[:, None] * x[:, None] + ny * torch.outer(dx, dx),
        "fourth": (sums["fourth"] + 4 * (bent @ dx) + n * size**2 + 4 * (sums["third"] @ dx) + 2 * size * trace
                   + 4 * size * along),
        "third": (sums["third"] + 2 * bent + size * x + (trace + 2 * along + n * size)[:, None] * dx),
        "xy": sums["xy"] + dx[:, None] * y[:, None] + x[:, :, None] * dy + ny * torch.outer(dx, dy),
        "y": y + nx * dy,
        "yy": sums["yy"] + y[:, :, None] * dy + dy[:, None] * y[:, None] + ny * torch.outer(dy, dy),
    }


def float64_device(X: Tensor) -> torch.device:
    """Where X is, or the CPU if that has no float64."""
    return torch.device("cpu") if X.device.type == "mps" else X.device


def _product(u: Float[Tensor, "row left"], v: Float[Tensor, "row right"]) -> Float[Tensor, "left right"]:
    """u^T v; on the CPU through numpy, which does half the work where v is u."""
    return torch.from_numpy(u.numpy().T @ v.numpy()) if u.device.type == "cpu" else u.T @ v
