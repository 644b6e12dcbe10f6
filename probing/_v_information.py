"""Usable information: how many bits a family of probes can extract about a label, alone or beyond the surface.

    table = v_information(X, Y, groups, train, test)                       # I_V(X -> Y)
    table = v_information(X, Y, groups, train, test, baseline=tokens)      # I_V(X -> Y | B): beyond the baseline
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped
from numpy import ndarray
from sklearn.base import BaseEstimator

from ._mdl import next_bits
from ._target_rows import target_rows

Features = Float[ndarray, "example _"]
Rows = Bool[ndarray, " example"]
Codes = Int[ndarray, "example target"]


def v_information(
    X: Features,
    Y: Codes,
    groups: Shaped[ndarray, " example"],
    train: Rows,
    test: Rows,
    probe: BaseEstimator | None = None,
    *,
    baseline: Features | None = None,
    targets: Sequence[str] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Rows (see `target_rows`), in bits per label on the test rows:

    `v_entropy`              H_V(Y)   = mean -log2 f[null](y)
    `conditional_v_entropy`  H_V(Y|X) = mean -log2 f[x](y)
    `v_information`          I_V(X -> Y) = H_V(Y) - H_V(Y|X)

    f[x] is `probe` fitted on the train rows, f[null] the label frequencies there. With `baseline` features B (one-hot
    tokens, see `input_features`) every quantity is given B: f[null] is the probe on B, f[x] the probe on B and X side
    by side, and the metrics end in `_given_baseline`. Held-out information can be negative: the probe overfitted.

    Args:
        probe: As in `online_code_lengths`; a `LogisticProbe` unless given.
    Source: Xu et al., arXiv:2002.10689; given a baseline: Hewitt et al., arXiv:2109.09234.
    """
    null, informed = _codes(X, Y, train, test, probe, baseline)
    end = "" if baseline is None else "_given_baseline"
    measures = {"v_entropy": null, "conditional_v_entropy": informed, "v_information": null - informed}
    return pd.concat([target_rows(name + end, bits, groups[test], targets, seed=seed)
                      for name, bits in measures.items()], ignore_index=True)


def pointwise_v_information(
    X: Features,
    Y: Codes,
    train: Rows,
    test: Rows,
    probe: BaseEstimator | None = None,
    *,
    baseline: Features | None = None,
) -> Float[ndarray, "test_example target"]:
    """PVI = -log2 f[null](y) + log2 f[x](y) of every test label, in bits; its mean is the V-information. Negative where
    the activations mislead the probe.

    Source: Ethayarajh et al., arXiv:2110.08420.
    """
    null, informed = _codes(X, Y, train, test, probe, baseline)
    return null - informed


def _codes(X, Y, train, test, probe, baseline) -> tuple[ndarray, ndarray]:
    """Bits of every test label without and with X."""
    if (train & test).any():
        raise ValueError(f"{int((train & test).sum())} rows are in train and in test; information is measured on rows "
                         "the probe has not seen")
    classes, codes = np.unique(Y, return_inverse=True)
    codes = codes.reshape(Y.shape)

    def bits(features):
        seen, new = (None, None) if features is None else (features[train], features[test])
        return next_bits(probe, seen, codes[train], new, codes[test], len(classes))

    return bits(baseline), bits(X if baseline is None else np.concatenate([baseline, X], 1))
