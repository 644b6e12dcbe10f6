"""Concept activation vectors: a concept against many random sets, all kept, with the vectors that mean nothing."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from ._lat import binary_classes
from ._logistic import fit_logistic
from ._subspaces import LinearPair


class CAVProbe(LinearPair, ClassifierMixin, BaseEstimator):
    """Logistic classifiers of a concept (classes_[1]) against random sets drawn from a pool (classes_[0]).

    A single CAV depends on its random set, so there are `repeats` of them, each the unit normal of its own classifier,
    and two families of controls fitted the same way: random against random, and placebos, a random set in the
    concept's place. CAVs of one concept share its examples and so agree (`coherence`) even if it is no concept: a real
    one agrees more than the placebos, not just more than random against random. All are columns of one solve.

    Args:
        repeats: Random sets.
        placebos: Random sets that stand in for the concept, each against `repeats` others.
        size: Examples of a random set; as many as the concept has, at most half the pool, unless given. Sets are
            disjoint where the pool has `repeats * size` examples.
        C: Inverse L2 penalty in standard deviations of X, as in LogisticProbe; both sides of a CAV weigh the same.
        tol: Certified relative gap of every fit. Small sets are separable and slow to certify more tightly.
        seed: Of the random sets.

    Attributes:
        cavs_: (repeat, d_model) unit normals in raw activation space, pointing to the concept.
        random_cavs_: (repeat, d_model) of two random sets, drawn anew each time.
        placebo_cavs_: (placebo, repeat, d_model) of one random set against others.
        read_: (1, d_model) mean of the classifiers' weights: decision is their mean score.
        write_: (1, d_model) mean of the concept minus mean of the pool.
        intercept_: (1,).
        gap_: (column,) certificates, `repeats` each of the concept, random sets and every placebo.
    Raises:
        ValueError: Fewer than 4 examples in the pool.
    Source: Kim et al., arXiv:1711.11279; the placebo is ours.
    """

    def __init__(self, repeats=20, placebos=5, size=None, C=1.0, tol=1e-4, seed=0):
        self.repeats, self.placebos, self.size, self.C, self.tol, self.seed = repeats, placebos, size, C, tol, seed

    def fit(self, X, y):
        X, y = validate_data(self, X, y, dtype=(np.float64, np.float32))
        self.classes_, concept = binary_classes(y)
        side, used = self._columns(concept)
        raw, Y = torch.tensor(X), torch.from_numpy(side.astype(int))
        weights = torch.from_numpy(balanced(side, used)).to(raw.dtype)
        fitted = fit_logistic(raw, Y, self.C, n_classes=2, weights=weights, replicate=torch.arange(Y.shape[1]),
                              tol=self.tol)
        normals = (fitted.coef[:, 1] - fitted.coef[:, 0]).double().numpy()
        offsets = (fitted.intercept[:, 1] - fitted.intercept[:, 0]).double().numpy()
        arms = _unit(normals).reshape(-1, self.repeats, X.shape[1])
        self.cavs_, self.random_cavs_, self.placebo_cavs_ = arms[0], arms[1], arms[2:]
        self.read_ = normals[: self.repeats].mean(0, keepdims=True)
        self.intercept_ = offsets[: self.repeats].mean(keepdims=True)
        self.write_ = (X[concept].mean(0, dtype=np.float64) - X[~concept].mean(0, dtype=np.float64))[None]
        self.gap_ = fitted.gap.numpy()
        return self

    def _columns(self, concept: Bool[ndarray, " example"]) -> tuple[Bool[ndarray, "example column"],
                                                                    Bool[ndarray, "example column"]]:
        """(positive side, in use) of every classifier: `repeats` each of concept, random, and every placebo."""
        pool = np.flatnonzero(~concept)
        if len(pool) < 4:
            raise ValueError(f"{len(pool)} examples of class {self.classes_[0]!r} are too few to draw random sets from "
                             "(1 sample would stand for all); give at least 4, better thousands")
        size = min(int(concept.sum()), len(pool) // 2) if self.size is None else self.size
        if not 1 <= size <= len(pool) // 2:
            raise ValueError(f"size is {size}; two sets must fit into the pool of {len(pool)} examples")
        rng = np.random.default_rng(self.seed)
        side, used = np.zeros((2, len(concept), 2 + self.placebos, self.repeats), dtype=bool)
        side[concept, 0] = True
        for arm in range(2 + self.placebos):
            placebo = rng.choice(pool, size, replace=False) if arm > 1 else pool[:0]
            side[placebo, arm] = True
            sets = 2 if arm == 1 else 1  # random against random: two that do not overlap
            for r, drawn in enumerate(_sets(np.setdiff1d(pool, placebo), sets * size, self.repeats, rng)):
                used[drawn, arm, r] = True
                side[drawn[size:], arm, r] = True
        used |= side
        return side.reshape(len(concept), -1), used.reshape(len(concept), -1)

    def decision_function(self, X):
        """(example,) mean score of the classifiers, positive for the concept."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=(np.float64, np.float32))
        return X @ self.read_[0] + self.intercept_[0]

    def predict(self, X):
        chosen = self.decision_function(X) > 0  # first, so that an unfitted probe says so
        return self.classes_[chosen.astype(int)]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


def coherence(cavs: Float[ndarray, "*set repeat d_model"]) -> Float[ndarray, "*set"] | float:
    """Mean cosine of all pairs of unit vectors, of each set."""
    n = cavs.shape[-2]
    if n < 2:
        raise ValueError(f"{n} vector has no pairs; fit with repeats of 2 or more")
    return ((cavs.sum(-2) ** 2).sum(-1) - (cavs**2).sum((-2, -1))) / (n * (n - 1))


def balanced(
    side: Bool[ndarray, "example column"], used: Bool[ndarray, "example column"]
) -> Float[ndarray, "example column"]:
    """Weights of the rows in use: both sides sum to the size of the negative one, the random set."""
    negative = (used & ~side).sum(0)
    return np.where(used, np.where(side, negative / side.sum(0), 1.0), 0.0)


def _sets(pool: Int[ndarray, " example"], size: int, count: int, rng: np.random.Generator) -> list[ndarray]:
    """`count` sets of rows of the pool, disjoint until it is used up and drawn from a new shuffle of it then."""
    per_shuffle = len(pool) // size
    shuffles = [rng.permutation(pool) for _ in range(-(-count // per_shuffle))]
    return [rows[i : i + size] for rows in shuffles for i in range(0, per_shuffle * size, size)][:count]


def _unit(rows: Float[ndarray, "column d_model"]) -> Float[ndarray, "column d_model"]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)  # two equal sets have no normal: zero
