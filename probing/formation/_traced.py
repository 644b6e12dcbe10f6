"""Do the states of nodes lie as their graph does? Dirichlet energy and rank correlation of distances, with nulls.

For the states x_i of the n nodes of a graph with edges E, all read in one context,

    energy = mean over E of |x_i - x_j|^2 / mean over all pairs of |x_i - x_j|^2

The mean over all ways to name the nodes is exactly 1, so 1 is chance; smooth over the graph is below. On a connected
graph it is at least lambda_2 (n - 1) / (2 |E|), with lambda_2 the smallest non-zero eigenvalue of the Laplacian, and
states along the eigenvectors of lambda_2 reach that: a ring lies in a plane as a circle.

Read all nodes at one position of one context. Means over the tokens of a walk are smooth over its graph without any
model, as what is near in the graph is near in time, and attention mixes what is near in time.

Source: Park et al., arXiv:2501.00070 (energy of means over a walk, normalised otherwise).
"""

import numpy as np
from jaxtyping import Float, Int, Real
from numpy import ndarray
from scipy.sparse.csgraph import shortest_path
from scipy.stats import rankdata

from .._statistics import bootstrap_mean

N_NULL = 200

Graph = Real[ndarray, "_ _"]  # node by node


def traced(states: Float[ndarray, "context node d_model"], graph: Graph, n_null: int = N_NULL, seed: int = 0
           ) -> dict[str, float]:
    """Of states of the same graph in several contexts: means over contexts, with 95 % intervals over contexts
    (`_low`, `_high`), and what graphs with their nodes renamed at random in every context give (`_null`, and its 5th
    and 95th percentile, `_null_low`, `_null_high`), of

    - `energy`: see above; 1 by chance.
    - `rsa`: Spearman's correlation of the distances of states with the steps between nodes in the graph; 0 by chance.

    and `n` contexts.

    Args:
        states: Node i in the order of `graph` in every context, whatever stands for it there.
        graph: Symmetric, 1 (or a weight) where nodes are next to each other, connected.
    Raises:
        ValueError: A graph that is not symmetric, of other nodes, or in parts; or nodes whose states are all equal.
    """
    steps = _steps(graph, states.shape[1])
    first, second = np.triu_indices(len(steps), 1)
    pairs = _pairs(states)
    ranks = _standard(rankdata(pairs, axis=1))
    found = {"energy": dirichlet_energy(states, graph),
             "rsa": ranks @ _standard(rankdata(steps[first, second])[None])[0]}

    rng = np.random.default_rng(seed)
    null: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(n_null):
        order = np.argsort(rng.random((len(states), len(steps))), 1)
        renamed = graph[order[:, first], order[:, second]]
        null["energy"].append(((pairs * renamed).sum(1) / renamed.sum(1) / pairs.mean(1)).mean())
        null["rsa"].append((ranks * _standard(rankdata(steps[order[:, first], order[:, second]], axis=1))).sum(1)
                           .mean())
    out: dict[str, float] = {}
    for name, values in found.items():
        mean, low, high = bootstrap_mean(values, np.arange(len(values)), seed=seed)
        out |= {name: float(mean), f"{name}_low": float(low), f"{name}_high": float(high)}
        by_chance = np.array(null[name]) if n_null else np.array([np.nan])
        least, most = np.percentile(by_chance, [5, 95])
        out |= {f"{name}_null": by_chance.mean(), f"{name}_null_low": least, f"{name}_null_high": most}
    return out | {"n": len(states)}


def dirichlet_energy(states: Float[ndarray, "context node d_model"], graph: Graph) -> Float[ndarray, " context"]:
    """The `energy` of `traced`, of every context; what is asked and refused is the same."""
    _steps(graph, states.shape[1])
    pairs, weight = _pairs(states), graph[np.triu_indices(len(graph), 1)]
    return (pairs @ (weight / weight.sum())) / pairs.mean(1)


def graph_modes(graph: Graph, n: int = 2) -> Float[ndarray, "node n"]:
    """The smoothest ways to vary over a graph: orthonormal eigenvectors of its Laplacian for the `n` smallest
    eigenvalues above 0. Of a ring the first two are its circle.

    Raises:
        ValueError: As for `traced`, or as many modes as nodes.
    """
    _steps(graph, len(graph))
    if not 1 <= n < len(graph):
        raise ValueError(f"a graph of {len(graph)} nodes has 1 to {len(graph) - 1} modes, not {n}")
    laplacian = np.diag(graph.sum(1)) - graph
    return np.linalg.eigh(laplacian)[1][:, 1 : n + 1]


def map_directions(states: Float[ndarray, "*context node d_model"], modes: Float[ndarray, "*#context node n"]
                   ) -> Float[ndarray, "*context d_model n"]:
    """Orthonormal directions of the stream along which the states of a context vary as `modes` do (those of all
    contexts, or its own): the part of the stream in which the graph is drawn."""
    centred = np.asarray(states, np.float64)
    centred = centred - centred.mean(-2, keepdims=True)
    return np.linalg.qr(np.swapaxes(centred, -1, -2) @ modes)[0]


def _steps(graph: Graph, n: int) -> Int[ndarray, "node node"]:
    """Steps from node to node."""
    if graph.shape != (n, n):
        raise ValueError(f"the states are of {n} nodes, the graph of {' x '.join(map(str, graph.shape))}; give a "
                         "matrix with a row and a column per node, in the order of the states")
    if (graph != graph.T).any() or graph.diagonal().any() or (graph < 0).any():
        raise ValueError("the graph is not symmetric, has a negative weight, or a node next to itself; give an "
                         "undirected graph without loops")
    steps = shortest_path(graph > 0, unweighted=True)
    if not np.isfinite(steps).all():
        raise ValueError("the graph is in parts, which are at no distance; give a connected one")
    return steps.astype(np.int64)


def _pairs(states: Float[ndarray, "context node d_model"]) -> Float[ndarray, "context pair"]:
    """Squared distances of the states of every two nodes."""
    X = np.asarray(states, np.float64)
    first, second = np.triu_indices(X.shape[1], 1)
    pairs = ((X[:, first] - X[:, second]) ** 2).sum(-1)
    if not (pairs.max(1) > 0).all():
        raise ValueError(f"in context {int((pairs.max(1) == 0).argmax())} the states of all nodes are equal, so none "
                         "lies anywhere; leave it out")
    return pairs


def _standard(rows: Float[ndarray, "row _"]) -> Float[ndarray, "row _"]:
    """Centred, of unit length; constant rows become 0."""
    centred = rows - rows.mean(1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return centred / np.where(length > 0, length, 1)
