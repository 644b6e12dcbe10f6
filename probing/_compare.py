"""Do probes of two checkpoints, tasks or seeds read the same subspace? Principal angles, with what they mean nothing
without: the angles of random subspaces, and of two seeds of one model.

    table = compare_subspaces({"step 100": [probe_seed0.coef_[0], probe_seed1.coef_[0]], "step 1000": [...]})
"""

from collections.abc import Mapping, Sequence
from itertools import combinations, combinations_with_replacement, product

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy import ndarray

from ._subspaces import Subspace

N_DRAWS = 100


def row_space(weights: Float[ndarray, "class d_model"], centre: bool = True) -> Subspace:
    """What a probe reads: the span of its weight rows.

    Adding one vector to all classes changes no softmax, so with `centre` the rows' mean is taken off first, and K
    classes span K - 1 dimensions; a single row (two classes, or a number) is its own direction.

    Raises:
        ValueError: All rows are equal, or zero.
    """
    rows = torch.from_numpy(np.asarray(weights, dtype=np.float64))
    return Subspace.spanned_by(rows - rows.mean(0) if centre and len(rows) > 1 else rows)


def random_angles(
    d_model: int, rank: int, other_rank: int | None = None, n_draws: int = N_DRAWS, seed: int = 0
) -> Float[ndarray, " draw"]:
    """Mean principal angles, in degrees, of `n_draws` pairs of random subspaces of these ranks (uniform)."""
    ranks = sorted((rank, other_rank or rank))
    normal = np.random.default_rng(seed).normal(size=(n_draws, d_model, ranks[0]))
    # by symmetry one of the two may be the first coordinates
    cosines = np.linalg.svd(np.linalg.qr(normal)[0][:, : ranks[1]], compute_uv=False)
    return np.rad2deg(np.arccos(cosines.clip(max=1))).mean(1)


def compare_subspaces(
    spaces: Mapping[str, Sequence[Float[ndarray, "class d_model"] | Subspace]],
    *,
    centre: bool = True,
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean principal angle, in degrees, between any two of the named things, each given once per seed.

    Columns: a, b, control, value, ci_low, ci_high, n, rank_a, rank_b, d_model. Where control is missing, value is the
    mean over all pairs of a seed of a with a seed of b, from ci_low to ci_high are 90 % of those pairs, n their number.
    Two controls stand beside it: `random_subspace`, the same of random subspaces of these ranks, and `seed`, of two
    seeds of one thing (a equals b; from two seeds on). Equal subspaces are at 0; an angle says something
    below the random band, and two things differ where it is above the seed bands of both.

    Args:
        spaces: Name -> weights of each seed, as rows, or a `Subspace` (`probe.read`, `probe.write`).
        centre: Take the mean row off softmax weights; see `row_space`. False for weights that predict numbers.
    Raises:
        ValueError: Different d_model.
    Source: Müller-Eberstein et al., arXiv:2310.16484 (softmax weights over checkpoints); the bands are ours.
    """
    found = {name: [s if isinstance(s, Subspace) else row_space(s, centre) for s in seeds]
             for name, seeds in spaces.items()}
    widths = {name: {s.basis.shape[1] for s in seeds} for name, seeds in found.items()}
    if len(d_model := set().union(*widths.values())) != 1:
        raise ValueError(f"angles need subspaces of one d_model, these have {widths}; compare models of equal width")
    rows, bands = [], {}
    for a, b in combinations_with_replacement(found, 2):
        pairs = list(combinations(found[a], 2) if a == b else product(found[a], found[b]))
        if not pairs:
            continue
        shape = dict(rank_a=pairs[0][0].rank, rank_b=pairs[0][1].rank, d_model=min(d_model))
        angles = np.array([float(one.angles(two).mean()) for one, two in pairs])
        rows.append(dict(a=a, b=b, control="seed" if a == b else None, **_band(angles), **shape))
        if a != b:
            key = min(d_model), shape["rank_a"], shape["rank_b"]
            if key not in bands:
                bands[key] = _band(random_angles(*key, n_draws=n_draws, seed=seed))
            rows.append(dict(a=a, b=b, control="random_subspace", **bands[key], **shape))
    return pd.DataFrame(rows)


def _band(angles: Float[ndarray, " pair"]) -> dict:
    low, high = np.percentile(angles, [5, 95])
    return dict(value=angles.mean(), ci_low=low, ci_high=high, n=len(angles))
