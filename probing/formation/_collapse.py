"""Neural collapse: do states of a class shrink to their mean, and the means to the corners of a simplex?"""

import numpy as np
import pandas as pd
from jaxtyping import Float, Real, Shaped
from numpy import ndarray


def neural_collapse(
    H: Real[ndarray, "example d_model"],
    y: Shaped[ndarray, " example"],
    W: Real[ndarray, "class d_model"] | None = None,
    b: Real[ndarray, " class"] | None = None,
) -> dict[str, float]:
    """What goes to 0 when features collapse, by name:

    - `nc1`: tr(S_W S_B^+) / K, within-class covariance against that of the class means.
    - `nc2_norms`: standard deviation over mean of the distances of the class means from their mean; `nc2_angles`: mean
      absolute difference of their cosines from -1 / (K - 1).
    - `nc3`: squared distance of the classifier from the class means, both of unit Frobenius norm.
    - `nc4`: share of examples that the classifier and the nearest class mean call differently.

    The last two only with a classifier.

    Args:
        y: Classes; the rows of `W` are in their sorted order.
    Raises:
        ValueError: Fewer than two classes, a class with one example, equal class means, or a classifier of others.
    Source: Papyan, Han & Donoho 2020.
    """
    classes, side, means, within, _ = _scatter(H, y)
    K, centre = len(classes), means.mean(0)
    M = means - centre
    length = np.linalg.norm(M, axis=1)
    if not (length > 1e-12 * np.abs(means).max()).all():
        raise ValueError("class means are equal to their mean, so that they have no directions; are the labels "
                         "those of these states?")
    cosines = (M @ M.T / np.outer(length, length))[~np.eye(K, dtype=bool)]
    out = {"nc1": float(np.trace(within @ np.linalg.pinv(M.T @ M / K, rcond=1e-10)) / K),
           "nc2_norms": float(length.std() / length.mean()),
           "nc2_angles": float(np.abs(cosines + 1 / (K - 1)).mean())}
    if W is None:
        return out
    if len(W) != K:
        raise ValueError(f"the classifier has {len(W)} classes, the labels {K}; give the rows of those that "
                         "occur")
    score = np.asarray(H, np.float64) @ W.T + (0 if b is None else b)
    to_mean = ((means**2).sum(1) - 2 * H @ means.T).argmin(1)
    return out | {"nc3": float(((W / np.linalg.norm(W) - M / np.linalg.norm(M)) ** 2).sum()),
                  "nc4": float((score.argmax(1) != to_mean).mean())}


def class_distance_variance(H: Real[ndarray, "example d_model"], y: Shaped[ndarray, " example"]) -> pd.DataFrame:
    """CDNV of every pair of classes, (Var_a + Var_b) / (2 ||mu_a - mu_b||^2): a, b, value. Small where classes are
    apart, also for classes that the model was not trained on.

    Source: Galanti, György & Hutter 2022.
    """
    classes, _, means, _, variance = _scatter(H, y)
    return pd.DataFrame([
        dict(a=classes[i], b=classes[j], value=(variance[i] + variance[j]) / (2 * ((means[i] - means[j]) ** 2).sum()))
        for i in range(len(classes)) for j in range(i)])


def _scatter(H: ndarray, y: ndarray) -> tuple[ndarray, ndarray, Float[ndarray, "class d_model"],
                                              Float[ndarray, "d_model d_model"], Float[ndarray, " class"]]:
    """(classes, class of every example, means, within-class covariance, variance of every class)."""
    H = np.asarray(H, np.float64)
    classes, side, count = np.unique(y, return_inverse=True, return_counts=True)
    if len(classes) < 2 or count.min() < 2:
        raise ValueError(f"collapse needs at least 2 classes with 2 examples each, there are {len(classes)}, the "
                         f"smallest of {count.min()}; leave rare classes out")
    means = np.stack([H[side == c].mean(0) for c in range(len(classes))])
    rest = H - means[side]
    variance = np.bincount(side, (rest**2).sum(1)) / count
    return classes, side, means, rest.T @ rest / len(H), variance
