"""How alike are two representations of the same rows? Numbers that forget rotation and scale, one function each.

    mutual_knn(A, B)          # k / (n - 1) where nothing is shared
    debiased_cka(A, B)        # 0 where nothing is shared, whatever n and the widths
    compare_layers(...)       # every layer pair, and the best of them beside the best of permuted rows

A (n, p) and B (n, q) have paired rows. Every metric is a summary of each space and a comparison of two summaries that
takes another order of the rows of B: nulls repeat only the comparison.

Source: Huh et al., arXiv:2405.07987 (neighbours, CKNNA, the choice of the best layer pair); Song et al. 2012, eq. 5
(unbiased HSIC); Raghu et al. 2017 (SVCCA); Kriegeskorte et al. 2008 (RSA); Lin & Kriegeskorte 2024 (clipped RSA).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Real
from numpy import ndarray
from scipy.spatial.distance import pdist, squareform
from scipy.stats import rankdata

from ._neighbours import Order, cycle, kernel, mutual, nearest

CLIP = (0.25, 0.75)  # of topological RSA where it is one metric of many
RDM_ROWS = 20_000  # a matrix of distances of more would take over 1.6 GB

Space = Real[ndarray, "_ _"]  # rows and dimensions; whether two have the same rows is for `paired` to say


class Metric(NamedTuple):
    """Summary of a space, and comparison of two summaries with the rows of the second in a given order."""

    summarise: Callable[[Space], Any]
    compare: Callable[..., float]

    def __call__(self, A: Space, B: Space) -> float:
        paired(A, B)
        return float(self.compare(self.summarise(A), self.summarise(B)))


def mutual_knn(A: Space, B: Space, k: int = 10) -> float:
    """Mean share of the k nearest rows (cosine) that a row has in both spaces; k / (n - 1) by chance."""
    return METRICS["mutual_knn"](k)(A, B)


def cycle_knn(A: Space, B: Space, k: int = 10) -> float:
    """Share of rows that are among the k nearest in A of one of their k nearest in B."""
    return METRICS["cycle_knn"](k)(A, B)


def cknna(A: Space, B: Space, k: int = 10) -> float:
    """CKA restricted to the neighbours that a row has in both spaces.

    The neighbours that two spaces share by chance count, so that its chance value is near that of `mutual_knn`, not 0
    (0.029 at 300 rows and k = 10); hold it against permuted rows. Exchanging the two moves it a little, as published.
    """
    return METRICS["cknna"](k)(A, B)


def cka(A: Space, B: Space) -> float:
    """Linear CKA, ||A'B||_F^2 / (||A'A||_F ||B'B||_F) of centred columns. Biased: independent Gaussians of 512
    dimensions have 0.84 at 100 rows and 0.34 at 1,000; prefer `debiased_cka`."""
    paired(A, B)
    A, B = _centred(A), _centred(B)
    return float(((A.T @ B) ** 2).sum() / np.sqrt(((A.T @ A) ** 2).sum() * ((B.T @ B) ** 2).sum()))


def debiased_cka(A: Space, B: Space) -> float:
    """CKA from the unbiased HSIC of linear kernels, without a matrix of rows by rows; 0 by chance."""
    return METRICS["debiased_cka"](10)(A, B)


def svcca(A: Space, B: Space, rank: int = 10) -> float:
    """Mean canonical correlation of the first `rank` principal components of each."""
    return Metric(partial(_components, rank=rank), _canonical)(A, B)


def procrustes(A: Space, B: Space) -> float:
    """Nuclear norm of A'B, columns centred and each matrix of unit Frobenius norm: 1 - distance^2 / 2 after the best
    rotation of one onto the other."""
    return METRICS["procrustes"](10)(A, B)


def rsa(A: Space, B: Space, distance: str = "correlation", clip: tuple[float, float] | None = None) -> float:
    """Spearman's correlation of the distances between all pairs of rows.

    Args:
        distance: `correlation` (1 - Pearson) or `cosine`.
        clip: Two quantiles of each matrix: distances are 0 below the first, 1 above the second and linear between, so
            that only the topology in between counts (topological RSA); sweep it.
    Raises:
        ValueError: More than 20,000 rows, whose distances do not fit.
    """
    return Metric(partial(_ranked_distances, distance=distance, clip=clip), _aligned)(A, B)


def prepare(X: Space, quantile: float = 0.95) -> Float[ndarray, "row d_model"]:
    """Entries clamped to the `quantile` of their absolute values, rows of unit length: what published alignments of
    models are computed on. A few huge dimensions decide everything without it."""
    X = np.asarray(X, np.float64 if X.dtype == np.float64 else np.float32)
    limit = np.quantile(np.abs(X), quantile)
    X = X.clip(-limit, limit)
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def paired(A: Space, B: Space) -> None:
    """Whether the rows of two spaces can belong together.

    Raises:
        ValueError: Different numbers of rows, fewer than 4, or entries that are not finite.
    """
    if len(A) != len(B):
        raise ValueError(f"the spaces have {len(A)} and {len(B)} rows; similarity needs the same examples in both, in "
                         "one order")
    if len(A) < 4:
        raise ValueError(f"similarity needs at least 4 rows, there are {len(A)}; give more examples")
    for name, X in (("first", A), ("second", B)):
        if not np.isfinite(X).all():
            raise ValueError(f"the {name} space has entries that are not finite; drop those rows")


def _centred(X: Space) -> Float[ndarray, "row d_model"]:
    X = np.asarray(X, np.float64)
    return X - X.mean(0)


class _Kernel(NamedTuple):
    """Centred rows, the sums of their rows of the linear kernel without its diagonal, and HSIC with itself."""

    X: Float[ndarray, "row d_model"]
    square: Float[ndarray, " row"]
    sums: Float[ndarray, " row"]
    own: float


def _linear_kernel(X: Space) -> _Kernel:
    X = _centred(X)  # HSIC_1 does not change, its rounding does
    square = (X**2).sum(1)
    sums = X @ X.sum(0) - square
    return _Kernel(X, square, sums, _hsic(X.T @ X, square, sums, square, sums))


def _hsic(cross: ndarray, square: ndarray, sums: ndarray, other_square: ndarray, other_sums: ndarray) -> float:
    """HSIC_1 of linear kernels from X'Y: tr(K L) of matrices with zero diagonals is ||X'Y||_F^2 - sum_i K_ii L_ii."""
    n = len(square)
    trace = (cross**2).sum() - square @ other_square
    both = sums.sum() * other_sums.sum() / ((n - 1) * (n - 2)) - 2 * (sums @ other_sums) / (n - 2)
    return float((trace + both) / (n * (n - 3)))


def _cka(a: _Kernel, b: _Kernel, order: Order = None) -> float:
    Y, square, sums = (b.X, b.square, b.sums) if order is None else (b.X[order], b.square[order], b.sums[order])
    own = a.own * b.own
    return _hsic(a.X.T @ Y, a.square, a.sums, square, sums) / np.sqrt(own) if own > 0 else np.nan


def _components(X: Space, rank: int = 10) -> Float[ndarray, "row rank"]:
    u, s, _ = np.linalg.svd(_centred(X), full_matrices=False)
    if rank > (found := int((s > 1e-7 * s[0]).sum())):
        raise ValueError(f"a space of {np.shape(X)} entries has {found} components with variance, not {rank}; lower "
                         "the rank")
    return u[:, :rank]


def _canonical(a: ndarray, b: ndarray, order: Order = None) -> float:
    return float(np.linalg.svd(a.T @ (b if order is None else b[order]), compute_uv=False).clip(max=1).mean())


def _unit(X: Space) -> Float[ndarray, "row d_model"]:
    X = _centred(X)
    return X / np.linalg.norm(X)


def _nuclear(a: ndarray, b: ndarray, order: Order = None) -> float:
    return float(np.linalg.svd(a.T @ (b if order is None else b[order]), compute_uv=False).sum())


def _ranked_distances(X: Space, distance: str = "correlation", clip: tuple[float, float] | None = None
                      ) -> Float[ndarray, "row row"]:
    """Ranks of the distances, centred and of unit length over pairs of rows; a matrix, to be reordered."""
    if distance not in ("correlation", "cosine"):
        raise ValueError(f"distance must be correlation or cosine, not {distance!r}")
    if len(X) > RDM_ROWS:
        raise ValueError(f"distances between all pairs of {len(X)} rows do not fit; take at most {RDM_ROWS} of them, "
                         "or a metric without them, such as debiased_cka or mutual_knn")
    d = pdist(np.asarray(X, np.float64), distance)
    if clip is not None:
        low, high = np.quantile(d, clip)
        d = ((d - low) / (high - low)).clip(0, 1)
    ranks = rankdata(d.round(12))
    ranks -= ranks.mean()
    return squareform((ranks / np.linalg.norm(ranks)).astype(np.float32))


def _aligned(a: ndarray, b: ndarray, order: Order = None) -> float:
    b = b if order is None else b[np.ix_(order, order)]
    return float(np.einsum("ij,ij->", a, b, dtype=np.float64) / 2)


METRICS: dict[str, Callable[[int], Metric]] = {  # from the number of neighbours, or of components
    "mutual_knn": lambda k: Metric(partial(nearest, k=k), mutual),
    "cycle_knn": lambda k: Metric(partial(nearest, k=k), cycle),
    "cknna": lambda k: Metric(partial(nearest, k=k), kernel),
    "debiased_cka": lambda k: Metric(_linear_kernel, _cka),
    "svcca": lambda k: Metric(partial(_components, rank=k), _canonical),
    "procrustes": lambda k: Metric(_unit, _nuclear),
    "rsa": lambda k: Metric(_ranked_distances, _aligned),
    "topological_rsa": lambda k: Metric(partial(_ranked_distances, clip=CLIP), _aligned),
}
