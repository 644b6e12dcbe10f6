"""How unlikely a score is by chance: p-values, and their correction over the many cells of a sweep."""

import numpy as np
from jaxtyping import Float, Shaped
from numpy import ndarray

from ._statistics import N_BOOT, group_sums, interval, resample

CORRECTIONS = ("benjamini_hochberg", "holm", "none")


def permutation_p(
    observed: Float[ndarray, "*more"] | float, null: Float[ndarray, "draw *more"]
) -> Float[ndarray, "*more"] | float:
    """(1 + number of draws at least as high as what was observed) / (1 + number of draws): never 0.

    Source: Phipson & Smyth 2010, "Permutation p-values should never be zero".
    """
    return (1 + (np.asarray(null) >= observed).sum(0)) / (1 + len(null))


def holm(p: Float[ndarray, " test"]) -> Float[ndarray, " test"]:
    """p-values adjusted for the chance of a single false find among all tests (for a few planned ones).

    A NaN is no test: it stays NaN and does not count. Source: Holm 1979.
    """
    return _stepwise(p, lambda ranked, n: np.maximum.accumulate(ranked * (n - np.arange(n))))


def benjamini_hochberg(p: Float[ndarray, " test"]) -> Float[ndarray, " test"]:
    """p-values adjusted for the expected share of false finds (for layers x concepts; independent or positively
    dependent tests).

    A NaN is no test: it stays NaN and does not count. Source: Benjamini & Hochberg 1995.
    """
    return _stepwise(p, lambda ranked, n: np.minimum.accumulate((ranked * n / (1 + np.arange(n)))[::-1])[::-1])


def adjusted(p: Float[ndarray, " test"], correction: str = "benjamini_hochberg") -> Float[ndarray, " test"]:
    """p-values under a correction by name: benjamini_hochberg, holm or none."""
    if correction not in CORRECTIONS:
        raise ValueError(f"correction must be one of {', '.join(CORRECTIONS)}, not {correction!r}")
    if correction == "none":
        return np.array(p)
    return holm(p) if correction == "holm" else benjamini_hochberg(p)


def _stepwise(p: ndarray, rule) -> ndarray:
    p = np.asarray(p, dtype=np.float64)
    tests = np.flatnonzero(~np.isnan(p))
    order = tests[np.argsort(p[tests], kind="stable")]
    out = np.full(p.shape, np.nan)
    out[order] = np.minimum(rule(p[order], len(order)), 1.0)
    return out


def paired_difference(
    a: Shaped[ndarray, "example *more"],
    b: Shaped[ndarray, "example *more"],
    groups: Shaped[ndarray, " example"],
    n_boot: int = N_BOOT,
    seed: int = 0,
) -> tuple[float, float, float, float]:
    """(mean of a - b, low, high, p): two probes on the same examples, by a cluster bootstrap of their difference.

    `a` and `b` are scores per example (and target), such as hits. Groups that both find easy or hard cancel, so the
    interval is narrower than that of either. p is two-sided.
    """
    gain = group_sums(np.asarray(a, dtype=np.float64) - b, groups)
    size = group_sums(np.ones(np.shape(a)), groups)
    gain, size = (x.reshape(len(x), -1).sum(1) for x in (gain, size))
    return (*ratio_of_sums(gain, size, n_boot, seed), min(1.0, 2 * min(difference_p(gain, n_boot, seed),
                                                                       difference_p(-gain, n_boot, seed))))


def ratio_of_sums(num: Float[ndarray, " group"], den: Float[ndarray, " group"], n_boot: int, seed: int) -> tuple:
    """(value, low, high) of sum(num) / sum(den)."""
    return tuple(float(x) for x in interval(lambda w: (w @ num) / (w @ den), len(num), n_boot, seed))


def difference_p(gain: Float[ndarray, " group"], n_boot: int = N_BOOT, seed: int = 0) -> float:
    """One-sided p-value of a gain per group being no gain: the share of resampled sets of groups without one."""
    return float((1 + (resample(len(gain), n_boot, seed) @ gain <= 0).sum()) / (1 + n_boot))
