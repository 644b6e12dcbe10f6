"""Categories and hierarchies of words as vectors of the unembedding, with the baselines they need.

    g = causal_inner_product(model).whiten(unembedding(model), centre=True)
    vectors = category_vectors(g, {"animal": ids, "mammal": ids, "bird": ids})
    table = category_hierarchy(g, categories, parents={"mammal": "animal", "bird": "animal"})

In many dimensions differences of means are nearly orthogonal to almost anything by chance; a hierarchy is shown only
by what beats the same computation on shuffled tokens and with a random parent.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray
from sklearn.metrics import roc_auc_score

from ._statistics import bootstrap_mean

Tokens = Int[ndarray, " token"]
Vocabulary = Float[ndarray, "d_vocab d_model"]


def category_vector(g: Float[ndarray, "token d_model"]) -> Float[ndarray, " d_model"]:
    """l_w of the tokens of a category, rows of the centred whitened unembedding.

    mu = mean g,   S = LedoitWolf(g),   u = S^+ mu / ||S^+ mu||,   l_w = (mu . u) u

    Like the LDA direction against the whole vocabulary, with a length that means something: how far the category's
    tokens lie along it on average, so that l_w . g / ||l_w||^2 is near 1 for its tokens and 0 for the others.

    Raises:
        ValueError: Fewer than two tokens.
    Source: Park, Choe, Jiang & Veitch, arXiv:2406.01506; their hierarchical/category.py. Here S is never formed: it is
        a multiple of the identity plus one direction per token.
    """
    if len(g) < 2:
        raise ValueError(f"a category needs at least 2 tokens for its covariance, it has {len(g)}; the paper asks "
                         "for 50")
    mu = g.mean(0, dtype=np.float64)
    along, basis, rest = _ledoit_wolf(g - mu)
    inside = basis @ mu
    v = basis.T @ (inside / along)
    if rest > 0:
        v += (mu - basis.T @ inside) / rest
    u = v / np.linalg.norm(v)
    return (mu @ u) * u


def category_vectors(g: Vocabulary, categories: Mapping[str, Tokens]) -> Float[ndarray, "category d_model"]:
    """l_w of each category, in order. A binary contrast is a difference of two rows, child minus parent or sibling
    minus sibling."""
    return np.stack([category_vector(g[tokens]) for tokens in categories.values()])


def category_separation(
    g: Vocabulary, categories: Mapping[str, Tokens], test: float = 0.3, n_others: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Does l_w, fitted on 70 % of a category's tokens, find the other 30 %? One row per category and control.

    Columns: category, control (missing, or `shuffled_unembedding`: the rows of g are dealt to the tokens at random),
    `value` the mean of l_w . g / ||l_w||^2 over held-out tokens (1 is as far as the tokens it was fitted on, 0 is
    the mean of the vocabulary) with its bootstrap interval, `others` the same mean over random tokens outside the
    category, `auroc` of held-out tokens against those, n the held-out tokens.
    """
    rows, shuffled = [], _shuffled(g, seed)
    for i, (name, tokens) in enumerate(categories.items()):
        rng = np.random.default_rng([seed, i])
        held_out, fitted = np.split(rng.permutation(tokens), [max(1, round(test * len(tokens)))])
        outside = np.setdiff1d(np.arange(len(g)), tokens)
        outside = rng.choice(outside, min(n_others, len(outside)), replace=False)
        for control, space in ((None, g), ("shuffled_unembedding", shuffled)):
            v = category_vector(space[fitted])
            inside, others = (space[ids] @ v / (v @ v) for ids in (held_out, outside))
            value, low, high = bootstrap_mean(inside, np.arange(len(inside)), seed=seed)
            auroc = roc_auc_score(np.r_[np.ones(len(inside)), np.zeros(len(others))], np.r_[inside, others])
            rows.append(dict(category=name, control=control, value=value, ci_low=low, ci_high=high,
                             others=others.mean(), auroc=auroc, n=len(inside)))
    return pd.DataFrame(rows)


def category_hierarchy(
    g: Vocabulary, categories: Mapping[str, Tokens], parents: Mapping[str, str], seed: int = 0
) -> pd.DataFrame:
    """Is what a child adds to its parent orthogonal to the parent? One row per child and control.

    Columns: child, parent, control (missing, `shuffled_unembedding`, or `random_parent`: another category that is no
    ancestor of the child; missing where there is none), `cosine` of l_w - l_p with l_p (0 is the theorem), and where
    the parent has a parent q itself `step_cosine` of l_w - l_p with l_p - l_q.

    Raises:
        ValueError: A child or parent without tokens in `categories`.
    """
    if lost := sorted({*parents, *parents.values()} - set(categories)):
        raise ValueError(f"no tokens for {lost}; categories has {list(categories)}. Add them")
    rows, rng = [], np.random.default_rng(seed)
    for control, space in ((None, g), ("shuffled_unembedding", _shuffled(g, seed))):
        vectors = dict(zip(categories, category_vectors(space, categories), strict=True))
        for child, parent in parents.items():
            step = vectors[child] - vectors[parent]
            above = vectors[parent] - vectors[parents[parent]] if parent in parents else None
            rows.append(dict(child=child, parent=parent, control=control, cosine=_cosine(step, vectors[parent]),
                             step_cosine=np.nan if above is None else _cosine(step, above)))
            strangers = [name for name in categories if name not in {child, *_ancestors(child, parents)}]
            if control is None and strangers:
                other = strangers[rng.integers(len(strangers))]
                rows.append(dict(child=child, parent=other, control="random_parent", step_cosine=np.nan,
                                 cosine=_cosine(vectors[child] - vectors[other], vectors[other])))
    return pd.DataFrame(rows)


def category_simplex(vectors: Float[ndarray, "sibling d_model"]) -> tuple[Float[ndarray, "sibling sibling"], float]:
    """Do k siblings span a simplex? Cosines of their vectors about the centroid, and how far from flat it is.

    Of a regular simplex all cosines are -1/(k-1). The second number is the smallest of the k-1 singular values of the
    centred vectors over the largest: 1 for a regular simplex, 0 where the siblings lie in fewer than k-1 dimensions.

    Raises:
        ValueError: Fewer than three siblings; two points always span a segment.
    """
    if len(vectors) < 3:
        raise ValueError(f"a simplex to test has at least 3 corners, there are {len(vectors)}; add siblings")
    centred = vectors - vectors.mean(0)
    values = np.linalg.svd(centred, compute_uv=False)[: len(vectors) - 1]
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    return unit @ unit.T, float(values[-1] / values[0]) if len(values) == len(vectors) - 1 else 0.0


def _ledoit_wolf(X: Float[ndarray, "token d_model"]) -> tuple[ndarray, ndarray, float]:
    """Ledoit-Wolf covariance of centred rows: (eigenvalues, eigenvectors as rows, eigenvalue of all the rest)."""
    n, d = X.shape
    gram = X @ X.T
    size = gram.trace() / (n * d)
    delta = ((gram**2).sum() / n**2 - d * size**2) / d
    beta = ((gram.diagonal() ** 2).sum() / n - (gram**2).sum() / n**2) / (d * n)
    shrinkage = min(beta, delta) / delta if min(beta, delta) > 0 else 0.0
    _, s, basis = np.linalg.svd(X, full_matrices=False)
    keep = s > 1e-10 * s.max(initial=1e-300)
    return (1 - shrinkage) * s[keep] ** 2 / n + shrinkage * size, basis[keep], shrinkage * size


def _shuffled(g: ndarray, seed: int) -> ndarray:
    return g[np.random.default_rng(seed).permutation(len(g))]


def _ancestors(child: str, parents: Mapping[str, str]) -> set[str]:
    above = set()
    while child in parents and parents[child] not in above:
        above.add(child := parents[child])
    return above


def _cosine(a: ndarray, b: ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
