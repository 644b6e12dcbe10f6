"""Groups of units that two networks share many to many: spectral clustering of the graph between them.

Every unit of A is joined to every unit of B by their squared correlation, the variance that they share; units of one
network are not joined. A cluster of that graph is a feature that several units carry, here or there.

Source: Li et al., arXiv:1511.07543 (clusters of units); Dhillon 2001 (the spectrum of a bipartite graph); Damle, Minden
& Ying, arXiv:1708.07481 (clusters from pivoted QR, where k-means on a few vectors loses many small ones).
"""

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.linalg import qr

from ._similarity import Space, paired
from ._units import standard

N_NULL = 20

Shared = Float[ndarray, "unit_a unit_b"]


def unit_clusters(A: Space, B: Space, n_clusters: int | None = None, n_null: int = N_NULL, seed: int = 0
                  ) -> pd.DataFrame:
    """Clusters of the units (columns) of A and B together, one row each, the most coherent first.

    - `units_a`, `units_b`: which units; a unit that never varies is in none.
    - `within`: mean squared correlation of its units of A with its units of B; missing where it has of one net only.
      `between`: of its units with those of the other net outside. `coherence`: the first less the second.
    - `null`, `null_high`: mean and 95th percentile of the coherence of the cluster of the same rank where the units of
      B are mixed by a random rotation, which keeps the space they span and what can be read from it. `p_value`: share
      of draws, the data counted as one, in which it is as large.

    Args:
        n_clusters: By default as many as the graph has singular values above 95 % of the null's second; the first is 1
            in every graph. One cluster alone has nothing to stand out from, and neither coherence nor null.
    Raises:
        ValueError: Rows that are not paired, units that are all constant, a number of clusters that the units do not
            allow, or fewer than 20 draws.
    """
    paired(A, B)
    if n_null < N_NULL:
        raise ValueError(f"a null needs at least {N_NULL} draws, not {n_null}")
    a, b = standard(A), standard(B)
    alive = [np.flatnonzero(X.any(0)) for X in (a, b)]
    most = min(map(len, alive))
    if not most or not 1 <= (n_clusters or 1) <= most:
        raise ValueError(f"the nets have {len(alive[0])} and {len(alive[1])} units that vary, which is too few for "
                         f"{n_clusters or 1} cluster(s); give other units, or ask for at most {most}")
    a, b = a[:, alive[0]], b[:, alive[1]]
    cross, own = a.T @ b, b.T @ b
    rng = np.random.default_rng(seed)
    graphs = [cross**2, *(_mixed(cross, own, rng) for _ in range(n_null))]
    spectra = [_spectrum(graph) for graph in graphs]
    if n_clusters is None:
        mark = np.percentile([s[1] for _, s in spectra[1:]], 95) if most > 1 else 1.0
        n_clusters = 1 + int((spectra[0][1][1:] > mark).sum())
    labels = [_labels(vectors, n_clusters) for vectors, _ in spectra]
    within, between = _blocks(graphs[0], labels[0], n_clusters)
    of_a, of_b = np.split(labels[0], [len(alive[0])])
    table = pd.DataFrame(dict(
        units_a=[alive[0][of_a == k].tolist() for k in range(n_clusters)],
        units_b=[alive[1][of_b == k].tolist() for k in range(n_clusters)],
        within=within, between=between, coherence=within - between))
    table = table.sort_values("coherence", ascending=False, ignore_index=True)
    null = -np.sort([-np.subtract(*_blocks(graph, label, n_clusters))
                     for graph, label in zip(graphs[1:], labels[1:], strict=True)])  # missing ones last
    null = np.where(np.isnan(null) & (n_clusters > 1), 0, null)
    beyond = (null >= table["coherence"].to_numpy()).sum(0)
    table = table.assign(null=null.mean(0), null_high=np.percentile(null, 95, axis=0),
                         p_value=((1 + beyond) / (1 + n_null)))
    table.loc[table["coherence"].isna(), ["null", "null_high", "p_value"]] = np.nan
    return table[(table["units_a"].map(len) + table["units_b"].map(len)) > 0].reset_index(drop=True)


def _mixed(cross: Shared, own: Float[ndarray, "unit_b unit_b"], rng: np.random.Generator) -> Shared:
    """Squared correlations with the units of B behind a random rotation."""
    Q, R = np.linalg.qr(rng.normal(size=own.shape))
    Q = Q * np.sign(np.diag(R))
    variance = ((own @ Q) * Q).sum(0)
    return (cross @ Q) ** 2 / variance


def _spectrum(graph: Shared) -> tuple[Float[ndarray, "unit vector"], Float[ndarray, " vector"]]:
    """Singular vectors, A's above B's, and values of the graph with every unit of degree 1; the first value is 1."""
    rows, columns = (np.sqrt(graph.sum(axis).clip(1e-300)) for axis in (1, 0))
    u, s, v = np.linalg.svd(graph / rows[:, None] / columns, full_matrices=False)
    return np.concatenate([u, v.T]), s


def _labels(vectors: Float[ndarray, "unit vector"], k: int) -> Int[ndarray, " unit"]:
    """Each unit goes with the one of k pivots that its row points to, once rows of pivots are made orthogonal."""
    X = vectors[:, :k]
    pivots = qr(X.T, pivoting=True, mode="economic")[2][:k]
    left, _, right = np.linalg.svd(X[pivots].T)
    return np.abs(X @ (left @ right)).argmax(1)


def _blocks(graph: Shared, labels: Int[ndarray, " unit"], k: int
            ) -> tuple[Float[ndarray, " cluster"], Float[ndarray, " cluster"]]:
    """Mean weight within each cluster, and between it and the units of the other net outside."""
    a, b = np.split(np.eye(k)[labels], [len(graph)])
    inside, size = np.diag(a.T @ graph @ b), a.sum(0) * b.sum(0)
    cut = graph.sum(1) @ a + graph.sum(0) @ b - 2 * inside
    pairs = a.sum(0) * len(b) + b.sum(0) * len(a) - 2 * size
    return (np.divide(inside, size, out=np.full(k, np.nan), where=size > 0),
            np.divide(cut, pairs, out=np.full(k, np.nan), where=pairs > 0))
