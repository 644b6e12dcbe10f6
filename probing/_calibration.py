"""Calibration: whether a probe that says 0.8 is right four times in five, and the one or two numbers that mend it."""

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.optimize import brentq
from scipy.special import expit, log_softmax, softmax

Scores = Float[ndarray, "example class"]
Codes = Int[ndarray, " example"]
BINS = 15  # of the confidence


def fit_temperature(logits: Scores, y: Codes) -> float:
    """T that minimises the log-loss of softmax(logits / T); above 1 the scores were too sure of themselves.

    The loss is convex in 1/T; T stays within 1e-3 .. 1e3 (labels that the scores separate would take it to 0). Fit on
    rows that the probe has not seen, of groups of their own.
    Source: Guo et al., arXiv:1706.04599.
    """
    z, own = _known(logits, y)

    def slope(log_beta: float) -> float:
        beta = np.exp(log_beta)
        return float(np.mean((softmax(beta * z, axis=1) * z).sum(1) - own))

    low, high = -np.log(1e3), np.log(1e3)
    if slope(high) <= 0:
        return float(np.exp(-high))
    return float(np.exp(-low if slope(low) >= 0 else -brentq(slope, low, high, xtol=1e-10)))


def fit_platt(scores: Float[ndarray, " example"], y: Codes) -> tuple[float, float]:
    """(a, b) of the probability sigma(a score + b) of class 1, by maximum likelihood on Platt's smoothed targets.

    The targets (n_1 + 1) / (n_1 + 2) and 1 / (n_0 + 2), rather than 1 and 0, keep separable scores finite.
    Source: Platt 1999.
    """
    n_1 = int(y.sum())
    target = np.where(y == 1, (n_1 + 1) / (n_1 + 2), 1 / (len(y) - n_1 + 2))
    centre, scale = scores.mean(), scores.std() or 1.0
    design = np.stack([(scores - centre) / scale, np.ones(len(y))], 1).astype(np.float64)

    def loss(w):
        u = design @ w
        return np.mean(np.logaddexp(0, u) - target * u)

    w = np.array([0.0, np.log(target.mean() / (1 - target.mean()))])
    for _ in range(100):
        p = expit(design @ w)
        gradient = design.T @ (p - target) / len(y)
        step = np.linalg.solve((design.T * (p * (1 - p))) @ design / len(y) + 1e-12 * np.eye(2), gradient)
        length = 1.0
        while loss(w - length * step) > loss(w) and length > 1e-6:
            length /= 2
        w -= length * step
        if np.abs(gradient).max() < 1e-12 or length <= 1e-6:
            break
    a = w[0] / scale
    return float(a), float(w[1] - a * centre)


def expected_calibration_error(p: Scores, y: Codes, n_bins: int = BINS) -> float:
    """ECE = sum_m |B_m| / n |acc(B_m) - conf(B_m)| over bins (m/M, (m+1)/M] of the confidence max_k p_k."""
    bins, over = confidence_bins(p, y, n_bins)
    return float(np.abs(np.bincount(bins, over, n_bins)).sum() / len(y))


def confidence_bins(p: Float[ndarray, "*cell class"], y: Int[ndarray, "*cell"],
                    n_bins: int = BINS) -> tuple[Int[ndarray, "*cell"], Float[ndarray, "*cell"]]:
    """The bin of every confidence, and by how much it exceeds being right (1) or wrong (0)."""
    confidence = p.max(-1)
    bins = np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)
    return bins, confidence - (p.argmax(-1) == y)


def calibration(
    held: tuple[Scores, Codes],
    test: tuple[Float[ndarray, "test test_class"], Int[ndarray, " test"]],
    n_bins: int = BINS,
) -> pd.DataFrame:
    """ECE and log-loss on `test`, before and after what was fitted on `held`.

    Args:
        held, test: Logits and class codes of one target, from groups that share nothing with each other or with
            training.
    Returns:
        A row per calibration (none, temperature, and for two classes platt) and metric (ece, log_loss in nats), with
        the parameters fitted.
    """
    (z_held, y_held), (z, y) = held, test
    if z.shape[1] != z_held.shape[1]:
        raise ValueError(f"held has logits of {z_held.shape[1]} classes, test of {z.shape[1]}; give both of one probe")
    T = fit_temperature(z_held, y_held)
    log_p = {"none": (log_softmax(z, axis=1), ""), "temperature": (log_softmax(z / T, axis=1), f"T={T:.4g}")}
    if z.shape[1] == 2:
        a, b = fit_platt(z_held[:, 1] - z_held[:, 0], y_held)
        u = a * (z[:, 1] - z[:, 0]) + b
        log_p["platt"] = (-np.logaddexp(0, np.stack([u, -u], 1)), f"a={a:.4g} b={b:.4g}")
    return pd.DataFrame([
        {"calibration": name, "metric": metric, "value": value, "parameters": parameters, "n": len(y)}
        for name, (lp, parameters) in log_p.items()
        for metric, value in (("ece", expected_calibration_error(np.exp(lp), y, n_bins)),
                              ("log_loss", float(-lp[np.arange(len(y)), y].mean())))])


def _known(logits: Scores, y: Codes) -> tuple[Scores, Float[ndarray, " example"]]:
    """Logits with a finite floor for classes that the probe never predicts, and those of the labels."""
    own = logits[np.arange(len(y)), y]
    if not np.isfinite(own).all():
        raise ValueError(f"{int((~np.isfinite(own)).sum())} labels are of a class that the probe gives probability 0; "
                         "leave those rows out, and report how many")
    z = np.where(np.isfinite(logits), logits, np.nanmin(np.where(np.isfinite(logits), logits, np.nan)) - 1e6)
    return z.astype(np.float64), own.astype(np.float64)
