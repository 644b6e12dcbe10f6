"""The causal inner product: the geometry of the unembedding in which concepts that vary freely are orthogonal.

    space, gamma = causal_inner_product(model), unembedding(model)
    v = concept_direction(space, gamma, pairs)      # (king, queen), (man, woman), ...: whitened unit vector
    table = project_pairs(space, gamma, {"gender": pairs})
    interventions.steer(space.state_direction(v), alpha)

A pair of tokens is (Y(0), Y(1)); directions point from the first to the second.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

_ROWS = 16384  # of an unembedding in float64 at a time


def unembedding(model) -> Float[ndarray, "d_vocab d_model"]:
    """The row that each token's logit is read with, of a `TransformerBridge` (float32 unless it is float64).

    A logit is gamma . lambda + bias, where lambda is the state *after* the final norm: weights are raw, the norm is
    not folded in unless the model is in compatibility mode. An array or tensor comes back as it is.
    """
    gamma = model if isinstance(model, ndarray | Tensor) else model.W_U.T
    if isinstance(gamma, Tensor):
        gamma = gamma.detach().cpu()
        gamma = (gamma if gamma.dtype == torch.float64 else gamma.float()).numpy()
    if gamma.ndim != 2 or not np.isfinite(gamma).all():
        raise ValueError(f"an unembedding is a finite (d_vocab, d_model) array, this one has shape {gamma.shape}"
                         f"{'' if gamma.ndim != 2 else ' and values that are not finite'}; pass W_U transposed")
    return gamma


@dataclass(frozen=True)
class CausalInnerProduct:
    """<a, b>_C = a^T C^-1 b between unembedding vectors, and the space where it is the ordinary product.

    There unembeddings are g = gamma C^-1/2 and states l = lambda C^1/2, so that l . g = lambda . gamma. The product
    (not g itself) stays the same under any change of basis gamma -> gamma A^T.

    Attributes:
        mean: (d_model,) mean unembedding.
        values, vectors: Eigenvalues of C, floored and increasing, and its eigenvectors as columns.
        n_floored: How many eigenvalues were raised to the floor.
    Source: Park, Choe & Veitch, arXiv:2311.03658; their store_matrices.py, which has no floor.
    """

    mean: Float[ndarray, " d_model"]
    values: Float[ndarray, " d_model"]
    vectors: Float[ndarray, "d_model d_model"]
    n_floored: int = 0

    @classmethod
    def euclidean(cls, d_model: int) -> "CausalInnerProduct":
        """The control: C = I, the plain dot product."""
        return cls(np.zeros(d_model), np.ones(d_model), np.eye(d_model))

    def whiten(
        self, gamma: Float[ndarray, "*token d_model"], centre: bool = False
    ) -> Float[ndarray, "*token d_model"]:
        """g = gamma C^-1/2; with `centre`, of gamma minus the mean unembedding (as for categorical concepts)."""
        return self._times(gamma - self.mean if centre else gamma, -0.5)

    def whiten_states(self, states: Float[ndarray, "*state d_model"]) -> Float[ndarray, "*state d_model"]:
        """l = lambda C^1/2, of states after the final norm."""
        return self._times(states, 0.5)

    def state_direction(self, v: Float[ndarray, "*concept d_model"]) -> Float[ndarray, "*concept d_model"]:
        """What to add to raw states so that whitened states move by `v`: v C^-1/2."""
        return self._times(v, -0.5)

    def inner(
        self, a: Float[ndarray, "*#token d_model"], b: Float[ndarray, "*#token d_model"]
    ) -> Float[ndarray, "*#token"]:
        """<a, b>_C of raw unembedding vectors, row by row."""
        return (self._times(a, -1.0) * np.asarray(b, dtype=np.float64)).sum(-1)

    def _times(self, rows: ndarray, power: float) -> ndarray:
        return np.asarray(rows, dtype=np.float64) @ (self.vectors * self.values**power) @ self.vectors.T


def causal_inner_product(model, floor: float | int = 1e-6) -> CausalInnerProduct:
    """The inner product of a model's unembedding, or of a (d_vocab, d_model) array: C = Cov(gamma), with 1/d_vocab.

    Args:
        floor: Eigenvalues below this share of the largest are raised to it, with a warning that counts them: along
            those directions the vocabulary barely varies, and the invariance no longer holds.
    """
    gamma = unembedding(model)
    mean = gamma.mean(0, dtype=np.float64)
    C = np.zeros((gamma.shape[1],) * 2)
    for i in range(0, len(gamma), _ROWS):
        rows = gamma[i : i + _ROWS] - mean
        C += rows.T @ rows
    values, vectors = np.linalg.eigh(C / len(gamma))
    if not values[-1] > 0:
        raise ValueError("all tokens have the same unembedding; check that the weights are loaded")
    if n_floored := int((values < floor * values[-1]).sum()):
        warnings.warn(f"{n_floored} of {len(values)} eigenvalues of the unembedding's covariance are below {floor:g} "
                      f"of the largest (smallest {values[0] / values[-1]:.1e}) and were raised to it", stacklevel=2)
    return CausalInnerProduct(mean, values.clip(min=floor * values[-1]), vectors, n_floored)


Pairs = Int[ndarray, "pair 2"]


def concept_direction(
    space: CausalInnerProduct, gamma: Float[ndarray, "d_vocab d_model"], pairs: Pairs
) -> Float[ndarray, " d_model"]:
    """The whitened unit vector of a concept: normalise(mean_i g(Y_i(1)) - g(Y_i(0))) over counterfactual pairs."""
    return _unit(_differences(space, gamma, pairs).mean(0))


def project_pairs(
    space: CausalInnerProduct,
    gamma: Float[ndarray, "d_vocab d_model"],
    concepts: Mapping[str, Pairs],
    n_random: int = 100_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Leave-one-out test of each concept: one row per pair, projected on the direction of the concept's other pairs.

    Columns: concept, token_0, token_1, `projection`, and of `n_random` pairs of distinct tokens on the direction of
    all pairs `random_mean`, `random_sd` and `beats`, the share of random pairs that the pair lies above. A concept
    that is a direction has every `beats` near 1; pairs that mean nothing have it uniform on (0, 1).

    Raises:
        ValueError: A concept with fewer than two pairs: there is nothing to leave one out of.
    """
    rng, n = np.random.default_rng(seed), len(gamma)
    first = rng.integers(n, size=n_random)
    second = (first + rng.integers(1, n, size=n_random)) % n
    tables = []
    for name, pairs in concepts.items():
        if len(pairs) < 2:
            raise ValueError(f"leave-one-out needs at least 2 pairs, concept {name!r} has {len(pairs)}; add pairs")
        D = _differences(space, gamma, pairs)
        projection = (D * _unit(D.sum(0) - D)).sum(1)
        along = gamma @ space.state_direction(_unit(D.sum(0))).astype(gamma.dtype)  # g . v of every token
        random = np.sort((along[second] - along[first]).astype(np.float64))
        tables.append(pd.DataFrame({
            "concept": name, "token_0": pairs[:, 0], "token_1": pairs[:, 1], "projection": projection,
            "random_mean": random.mean(), "random_sd": random.std(),
            "beats": np.searchsorted(random, projection) / n_random}))
    return pd.concat(tables, ignore_index=True)


def concept_cosines(
    space: CausalInnerProduct, gamma: Float[ndarray, "d_vocab d_model"], concepts: Mapping[str, Pairs]
) -> pd.DataFrame:
    """Heat-map data: concept, other, cosine of their directions. Concepts that vary freely of each other are near 0;
    beside it goes the same table in `CausalInnerProduct.euclidean(d_model)`, where they need not be."""
    V = np.stack([concept_direction(space, gamma, pairs) for pairs in concepts.values()])
    index = pd.MultiIndex.from_product([list(concepts)] * 2, names=["concept", "other"])
    return pd.Series((V @ V.T).ravel(), index, name="cosine").reset_index()


def _differences(space: CausalInnerProduct, gamma: ndarray, pairs: ndarray) -> ndarray:
    return space.whiten(gamma[pairs[:, 1]].astype(np.float64) - gamma[pairs[:, 0]])


def _unit(v: Float[ndarray, "*concept d_model"]) -> Float[ndarray, "*concept d_model"]:
    norm = np.linalg.norm(v, axis=-1, keepdims=True)
    if not (norm > 0).all():
        raise ValueError("the differences of the pairs cancel out and give no direction; are pairs listed both ways?")
    return v / norm
