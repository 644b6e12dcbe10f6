"""Do two spaces have the same neighbours? Mutual and cycle k-NN and CKNNA, by cosine, in blocks of rows.

Neighbours are found once per space; another order of the rows only renames them, so nulls cost next to nothing, and
100,000 rows need no matrix of 100,000 by 100,000.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Real
from numpy import ndarray
from scipy.sparse import csr_array
from torch import Tensor

K = 10
_CELLS = 1 << 25  # similarities in memory at a time: 128 MiB in float32
_CHUNK = 128  # columns of which only the best is looked at first

Order = Int[ndarray, " row"] | None


class Neighbours(NamedTuple):
    """The k rows nearest to each row, itself excluded, and their cosine similarities."""

    row: Int[ndarray, "row k"]
    cosine: Float[ndarray, "row k"]

    def reordered(self, order: Order) -> "Neighbours":
        """Of the same space with its rows in another order."""
        if order is None:
            return self
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        return Neighbours(place[self.row[order]], self.cosine[order])


def nearest(X: Real[ndarray, "row d_model"], k: int = K) -> Neighbours:
    """The `k` most similar other rows of every row.

    Raises:
        ValueError: Fewer than k + 2 rows, or a row of zeros, which has no direction.
    """
    n = len(X)
    if not 1 <= k <= n - 2:
        raise ValueError(f"{k} neighbours of a row need at least {k + 2} rows, there are {n}; lower k, or give "
                         "more rows")
    rows = torch.from_numpy(np.ascontiguousarray(X, np.float64 if X.dtype == np.float64 else np.float32))
    length = rows.norm(dim=1, keepdim=True)
    if not (length > 0).all():
        raise ValueError(f"row {int((length == 0).nonzero()[0, 0])} is zero and has no nearest row; drop such rows")
    rows = rows / length
    found = []
    block = max(1, _CELLS // n)
    for start in range(0, n, block):
        cosine = rows[start : start + block] @ rows.T
        cosine[torch.arange(len(cosine)), torch.arange(start, start + len(cosine))] = -torch.inf
        found.append(largest(cosine, k))
    return Neighbours(torch.cat([i for _, i in found]).numpy(), torch.cat([v for v, _ in found]).numpy())


def largest(values: Float[Tensor, "row column"], k: int) -> tuple[Float[Tensor, "row k"], Int[Tensor, "row k"]]:
    """(values, columns) of the `k` largest of every row, descending. In wide rows they are looked for in the k chunks
    of columns with the largest maxima, where they must be: five times faster than among all."""
    whole = values.shape[1] // _CHUNK * _CHUNK
    if whole < 16 * k * _CHUNK:
        return tuple(values.topk(k, dim=1))
    chunks = values[:, :whole].unflatten(1, (-1, _CHUNK))
    best = chunks.amax(2).topk(k, dim=1).indices
    columns = (best[:, :, None] * _CHUNK + torch.arange(_CHUNK)).flatten(1)
    columns = torch.cat([columns, torch.arange(whole, values.shape[1]).expand(len(values), -1)], 1)
    found, place = values.gather(1, columns).topk(k, dim=1)
    return found, columns.gather(1, place)


def mutual(a: Neighbours, b: Neighbours, order: Order = None) -> float:
    """Mean share of neighbours that a row has in both; independent spaces have k / (n - 1)."""
    row, _, _ = _shared(a, b.reordered(order))
    return len(row) / a.row.size


def cycle(a: Neighbours, b: Neighbours, order: Order = None) -> float:
    """Share of rows that are a neighbour in a of one of their neighbours in b."""
    b = b.reordered(order)
    back = np.zeros(len(a.row), bool)
    for j in b.row.T:
        back |= (a.row[j] == np.arange(len(back))[:, None]).any(1)
    return float(back.mean())


def kernel(a: Neighbours, b: Neighbours, order: Order = None) -> float:
    """Unbiased HSIC of the two similarity matrices where both have neighbours, over the geometric mean of that of each
    with itself."""
    b = b.reordered(order)
    n, (row, i, j) = len(a.row), _shared(a, b)
    cells = row, a.row[row, i]
    both = hsic_sparse(*(csr_array((values, cells), shape=(n, n)) for values in (a.cosine[row, i], b.cosine[row, j])))
    return both / np.sqrt(_with_itself(a) * _with_itself(b))


def hsic_sparse(K: csr_array, L: csr_array) -> float:
    """HSIC_1 of matrices with empty diagonals: [tr(K L) + 1'K1 1'L1 / ((n-1)(n-2)) - 2/(n-2) 1'K L1] / (n(n-3))."""
    n = K.shape[0]
    K, L = K.astype(np.float64), L.astype(np.float64)
    trace, between = K.multiply(L.T).sum(), K.sum(axis=0) @ L.sum(axis=1)
    return float((trace + K.sum() * L.sum() / ((n - 1) * (n - 2)) - 2 * between / (n - 2)) / (n * (n - 3)))


def _with_itself(a: Neighbours) -> float:
    n, k = a.row.shape
    K = csr_array((a.cosine.ravel(), (np.repeat(np.arange(n), k), a.row.ravel())), shape=(n, n))
    return hsic_sparse(K, K)


def _shared(a: Neighbours, b: Neighbours) -> tuple[ndarray, ndarray, ndarray]:
    """(row, place among the neighbours in a, place in b) of every neighbour that a row has in both."""
    if a.row.shape != b.row.shape:
        raise ValueError(f"neighbours of {a.row.shape[0]} and {b.row.shape[0]} rows (k {a.row.shape[1]} and "
                         f"{b.row.shape[1]}) cannot be compared; give the same rows to both, in one order")
    n, k = a.row.shape
    block = max(1, _CELLS // (8 * k * k))
    parts = [np.nonzero(a.row[s : s + block, :, None] == b.row[s : s + block, None]) for s in range(0, n, block)]
    row = np.concatenate([p[0] + s for p, s in zip(parts, range(0, n, block), strict=True)])
    return row, np.concatenate([p[1] for p in parts]), np.concatenate([p[2] for p in parts])
