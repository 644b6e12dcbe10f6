"""The labels of one batch, prepared once for all sites that are read in it."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int, Num
from scipy.sparse import csr_array
from torch import Tensor


class LabelBlock:
    """Labels of a batch less their shift, sorted by fold.

    Args:
        marks, n_marks: Columns beyond those of `labels`, `n_marks` of them, which are 0 but for the few that `marks`
            names in each row, where they are 1: positions, say. A product with a matrix of such columns is mostly one
            with zeros; here every row is added where it belongs.

    Attributes:
        labels: (row, column) float64, without the marks.
    """

    def __init__(self, labels: Float[Tensor, "row column"], shift: Float[Tensor, " column"], fold: Int[Tensor, " row"],
                 n_folds: int, device: torch.device | None = None, marks: Int[Tensor, "row mark"] | None = None,
                 n_marks: int = 0):
        if len(fold) != len(labels) or len(fold) and not 0 <= int(fold.min()) <= int(fold.max()) < n_folds:
            raise ValueError(f"folds are {len(labels)} indices from 0 to {n_folds - 1}, not {fold.tolist()[:5]}")
        order = fold.argsort(stable=True)
        self.labels = (labels[order] - shift.to(labels.device)).to(device)
        self.order, self.counts = order.to(device), torch.bincount(fold, minlength=n_folds).tolist()
        self.n_marks = n_marks
        self._rows: dict[int, Tensor] = {}
        if n_marks and marks is not None:
            where = marks[order].numpy()
            of_row = np.arange(len(where)).repeat(where.shape[1])
            shape, ones = (n_folds * n_marks, len(where)), np.ones(where.size)
            cell = (fold[order].numpy()[:, None] * n_marks + where).ravel()
            self._marked = csr_array((ones, (cell, of_row)), shape=shape)
            self._among = csr_array((ones, (of_row, where.ravel())), shape=(len(where), n_marks))

    def gather(self, X: Num[Tensor, "row d_model"]) -> Num[Tensor, "row d_model"]:
        """Rows in the order of the labels."""
        return X.to(self.order.device)[self.order]

    def workspace(self, width: int) -> Float[Tensor, "row width"]:
        """Float64 rows to write to, the same for every site: fresh pages cost more than the conversion."""
        if width not in self._rows:
            self._rows[width] = torch.empty(len(self.order), width, dtype=torch.float64, device=self.order.device)
        return self._rows[width]

    def slices(self) -> Iterator[tuple[int, slice]]:
        """(fold, its rows in sorted order) of every fold that has rows."""
        start = 0
        for fold, count in enumerate(self.counts):
            if count:
                yield fold, slice(start, start + count)
            start += count

    def by_mark(self, u: Float[Tensor, "row width"]) -> Float[Tensor, "fold mark width"]:
        """Sums of sorted rows over each mark of each fold."""
        if u.device.type == "cpu":
            sums = torch.from_numpy(self._marked @ u.numpy())
        else:  # as a product: adding by index is not in a fixed order there
            sums = torch.from_numpy(self._marked.toarray()).to(u.device) @ u
        return sums.view(len(self.counts), self.n_marks, u.shape[1])

    def pairs_of_marks(self) -> Float[Tensor, "fold mark mark"]:
        """How often two marks stand in one row."""
        counts = torch.from_numpy((self._marked @ self._among).toarray())
        return counts.view(len(self.counts), self.n_marks, self.n_marks).to(self.labels.device)
