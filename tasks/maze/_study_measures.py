"""Result rows of what is measured beside probes and edits: heads, and the embeddings of the cells."""

from collections.abc import Callable

import pandas as pd

from ._geometry import cell_embeddings, geometry
from ._heads import adjacency_attention, adjacency_scores, edge_gathering, gathering_scores
from ._lattice import Shape
from ._mazes import Mazes

N_MAZES = 200

Sample = Callable[[int, int], Mazes]  # (n, seed) -> mazes


def adjacency(model, seed: int, sample: Sample) -> pd.DataFrame:
    """Every head's scores, and those in shuffled mazes."""
    return _heads(adjacency_scores(adjacency_attention(model, sample(N_MAZES, seed), seed), seed=seed))


def gathering(model, seed: int, sample: Sample) -> pd.DataFrame:
    """How far every head gathers the two cells of a passage where it is closed."""
    return _heads(gathering_scores(edge_gathering(model, sample(N_MAZES, seed), seed), seed=seed))


def embedding(model, seed: int, size: Shape) -> pd.DataFrame:
    """Correlation of distances over all pairs of cells, and over pairs up to each distance."""
    found = geometry(cell_embeddings(model, size), size, seed=seed).dropna(subset=["r"])
    last = found["distance"].max()
    subset = [f"distance<={d}" if d < last else "all" for d in found["distance"]]
    return pd.DataFrame({"metric": "embedding_geometry", "subset": subset, "value": found["r"],
                         "ci_low": found["r_low"], "ci_high": found["r_high"], "n": found["n_within"],
                         "p_value": found["p"]}).iloc[::-1]


def _heads(scores: pd.DataFrame) -> pd.DataFrame:
    own = scores["control"].isna()
    return scores.assign(stream="z", layer_end=scores["layer"], n_groups=scores["n"].where(own)).dropna(subset="value")
