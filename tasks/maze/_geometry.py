"""Do cells that lie near each other have embeddings that lie near each other?

    geometry(cell_embeddings(model, 5), 5)
"""

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from ._lattice import shape_of
from ._tokens import CELL, words


def cell_embeddings(model, size: int | tuple[int, int] = 5) -> Float[ndarray, "cell d_model"]:
    """The rows of W_E of the cells.

    Raises:
        ValueError: The vocabulary is not that of mazes of this size.
    """
    n, n_words = len(words(size)), model.W_E.shape[0]
    if n_words != n:
        rows, cols = shape_of(size)
        raise ValueError(f"mazes of {rows}x{cols} have {n} tokens, the model {n_words}; give the size it was trained "
                         "on")
    return model.W_E[CELL:].detach().to("cpu", torch.float64).numpy()


def geometry(embeddings: Float[ndarray, "cell d_model"], size: int | tuple[int, int] = 5, *,
             n_permutations: int = 2000, n_bootstrap: int = 1000, seed: int = 0) -> pd.DataFrame:
    """How the L1 distance of two cells' embeddings goes with the Manhattan distance of the cells.

    Returns:
        One row per Manhattan distance: `distance`, `n` pairs at that distance, `mean` and `std` of their embeddings'
        L1 distance (units of W_E); and over all pairs up to that distance, n_within of them, Pearson's correlation of
        the two, `r`, with a 95 % interval by bootstrap over cells, `r_low` and `r_high`, and `p` by permutation of the
        cells' labels, two-sided; the last row is that of all pairs.
        A correlation that is strong among near pairs and fades with the farther ones is a local one. Missing where
        there is one distance only.
    Source: Ivanitskiy et al., arXiv:2312.02566, section 3.2 and figure 4: r = 0.506 (hallway) and 0.368 (jirpy). Pairs
        of a cell with itself are left out here.
    """
    rows, cols = shape_of(size)
    if len(embeddings) != rows * cols:
        raise ValueError(f"a lattice of {rows}x{cols} has {rows * cols} cells, there are {len(embeddings)} embeddings")
    row, col = np.divmod(np.arange(rows * cols), cols)
    first, second = np.triu_indices(rows * cols, 1)
    steps = abs(row[first] - row[second]) + abs(col[first] - col[second])
    apart = np.stack([np.abs(embeddings - one).sum(1) for one in embeddings]).astype(float)
    rng = np.random.default_rng(seed)
    labels = np.stack([np.arange(rows * cols), *(rng.permutation(rows * cols) for _ in range(n_permutations))])
    lengths = apart[labels[:, first], labels[:, second]]  # labelling, pair: the first is the true one
    often = rng.multinomial(rows * cols, np.full(rows * cols, 1 / (rows * cols)), n_bootstrap)
    weights = often[:, first] * often[:, second]
    out = []
    for distance in range(1, int(steps.max()) + 1):
        here, within = steps == distance, steps <= distance
        r = _correlations(steps[within], lengths[:, within])
        extreme = (np.abs(r[1:]) >= abs(r[0]) - 1e-12).sum()
        drawn = _weighted_correlations(steps[within], lengths[0, within], weights[:, within])
        low, high = pd.Series(drawn).quantile([0.025, 0.975])
        out.append({"distance": distance, "n": int(here.sum()), "mean": lengths[0, here].mean(),
                    "std": lengths[0, here].std(), "n_within": int(within.sum()), "r": r[0],
                    "r_low": min(low, r[0]), "r_high": max(high, r[0]),
                    "p": (1 + extreme) / (1 + n_permutations) if np.isfinite(r[0]) else np.nan})
    return pd.DataFrame(out)


def _correlations(x: Int[ndarray, " pair"], y: Float[ndarray, "labelling pair"]) -> Float[ndarray, " labelling"]:
    """Pearson's r of x with each row of y, missing where one of them does not vary."""
    a, b = x - x.mean(), y - y.mean(1, keepdims=True)
    spread = np.sqrt((a**2).sum() * (b**2).sum(1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(spread > 0, b @ a / spread, np.nan)


def _weighted_correlations(x: Int[ndarray, " pair"], y: Float[ndarray, " pair"], weights: Int[ndarray, "draw pair"]
                           ) -> Float[ndarray, " draw"]:
    """Pearson's r of x with y where pair i counts `weights[:, i]` times, missing where one of them does not vary."""
    total = np.maximum(weights.sum(1), 1)
    a, b = (z - ((weights @ z) / total)[:, None] for z in (x, y))
    spread = np.sqrt((weights * a**2).sum(1) * (weights * b**2).sum(1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(spread > 1e-12, (weights * a * b).sum(1) / spread, np.nan)
