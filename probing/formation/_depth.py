"""At what depth a concept can be read: three places on the curve of a probe's score over layers, with intervals."""

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from .._statistics import N_BOOT, resample

JUMP, CONVERGED, MOST = 1.1, 0.03, 0.9


def concept_depth(gain: Float[ndarray, "layer group"], size: Float[ndarray, "layer group"], baseline: float,
                  n_boot: int = N_BOOT, seed: int = 0) -> pd.DataFrame:
    """One row per place: place, layer (from 0, a row of `gain`), share (layer / (layers - 1)), ci_low, ci_high (of the
    layer, groups resampled), missing (share of draws without such a layer).

    - `l90`: the first layer with 90 % of the way from `baseline` to the best score. The one to quote.
    - `jump`: the first layer whose score is 1.1 times that of the layer before.
    - `converging`: the last layer whose score differs by 3 % or more from that of the layer before.

    The last two, as published, ask for ratios of neighbours, which noise moves; a concept that is read at once has
    none.

    Args:
        gain, size: Sums per group, whose ratio is the score of a layer: right answers, and cells.
        baseline: Score of somebody without the model.
    Raises:
        ValueError: Fewer than 3 layers, or no layer above the baseline.
    Source: Jin et al., arXiv:2404.07066, for `jump` and `converging`.
    """
    if len(gain) < 3:
        raise ValueError(f"depth needs at least 3 layers, there are {len(gain)}")
    weights = np.concatenate([np.ones((1, gain.shape[1])), resample(gain.shape[1], n_boot, seed)])
    score = (weights @ gain.T) / (weights @ size.T)
    if score[0].max() <= baseline:
        raise ValueError(f"no layer is above the baseline: the best has {score[0].max():.4g} against {baseline:.4g}, "
                         "so there is no depth to speak of")
    ratio = score[:, 1:] / score[:, :-1]
    way = score >= baseline + MOST * (score.max(1, keepdims=True) - baseline)
    places = {"l90": _first(way), "jump": _first(ratio >= JUMP) + 1,
              "converging": len(gain) - 1 - _first((np.abs(ratio - 1) >= CONVERGED)[:, ::-1])}
    rows = []
    for place, layer in places.items():
        draws = layer[1:][np.isfinite(layer[1:])]
        low, high = np.percentile(draws, [2.5, 97.5]) if len(draws) else (np.nan, np.nan)
        rows.append(dict(place=place, layer=layer[0], share=layer[0] / (len(gain) - 1), ci_low=np.fmin(low, layer[0]),
                         ci_high=np.fmax(high, layer[0]), missing=1 - len(draws) / n_boot))
    return pd.DataFrame(rows)


def _first(there: ndarray) -> Float[ndarray, " draw"]:
    """The first column that holds, NaN where none does."""
    return np.where(there.any(1), there.argmax(1), np.nan)
