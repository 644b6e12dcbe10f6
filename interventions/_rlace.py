"""Relaxed linear adversarial concept erasure: the k dimensions whose removal hurts the best classifier most."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probing._logistic import LogisticFit, LogisticProbe, fit_logistic

from ._erasers import Eraser, as_rows


@dataclass(frozen=True, repr=False)
class RLACE(Eraser):
    """The orthogonal projection I - P of rank k from  max_P min_theta CE(theta, (I - P) x),  P relaxed to the Fantope
    {0 <= P <= I, tr P = k} and rounded to its leading k eigenvectors.

    One dimension is enough for a binary label (the difference of means is an optimum), K - 1 for K classes. It is
    slower than LEACE and promises no more: kept for comparison.

    Attributes:
        history: Every `check` steps: `step`, `loss` of the classifier in nats, and on dev the `accuracy` of one fitted
            after the rounded projection, beside `majority`. The projection of lowest accuracy was kept.
    Source: Ravfogel et al., arXiv:2201.12091, rlace-icml rlace.py, which alternates single gradient steps of both
        players and on separable rows goes round in circles. Here the classifier answers every step in full
        (`fit_logistic`), and P moves by a gradient of length 1 / (2 step).
    """

    history: pd.DataFrame = field(default_factory=pd.DataFrame)

    @classmethod
    def fit(cls, X, y, rank: int = 1, dev: tuple | None = None, *, n_steps: int = 200, check: int = 20,
            margin: float = 0.001, affine: bool = True) -> "RLACE":
        """From rows and the class of each.

        Args:
            dev: (rows, classes) that say when to stop; the fitting rows unless given.
            margin: Stop once accuracy on dev is at most this above the majority.
        Raises:
            ValueError: A rank that does not fit.
        """
        X, y = as_rows(X).astype(np.float64), np.asarray(y)
        if y.shape != (len(X),) or not 1 <= rank < X.shape[1]:
            raise ValueError(f"y wants one class for each of {len(X)} rows, it has shape {y.shape}; rank must lie in "
                             f"1..{X.shape[1] - 1}, it is {rank}")
        X_dev, y_dev = (X, y) if dev is None else (as_rows(dev[0]).astype(np.float64), np.asarray(dev[1]))
        majority = np.unique(y_dev, return_counts=True)[1].max() / len(y_dev)
        mean = torch.from_numpy(X.mean(0))
        rows, codes = torch.from_numpy(X) - mean, torch.from_numpy(np.unique(y, return_inverse=True)[1])
        P = torch.eye(len(mean), dtype=torch.float64) * rank / len(mean)
        fit, history, best, kept = None, [], np.inf, P[:0]
        for step in range(1, n_steps + 1):
            fit, loss, slope = _answer(rows, codes, P, fit)
            P = to_fantope(P + slope / (2 * step), rank)
            if step % check and step < n_steps:
                continue
            rounded = torch.linalg.eigh(P)[1][:, -rank:].T.contiguous()
            eraser = Eraser(rounded, rounded, mean)
            probe = LogisticProbe(tol=1e-3).fit(eraser.transform(X), y)
            accuracy = float((probe.predict(eraser.transform(X_dev)) == y_dev).mean())
            history.append({"step": step, "loss": loss, "accuracy": accuracy, "majority": majority})
            if accuracy <= best:
                best, kept = accuracy, rounded
            if accuracy <= majority + margin:
                break
        return cls(kept, kept, mean if affine else 0 * mean, pd.DataFrame(history))


def _answer(x: Float[Tensor, "row d"], codes: Int[Tensor, " row"], P: Float[Tensor, "d d"],
            start: LogisticFit | None) -> tuple[LogisticFit, float, Float[Tensor, "d d"]]:
    """The classifier that does best behind P, its loss, and the direction, of unit length, in which P raises it."""
    behind, n_classes = x - x @ P, int(codes.max()) + 1
    fit = fit_logistic(behind, codes[:, None], n_classes=n_classes, start=start, tol=1e-2)
    theta = fit.coef[0].double()
    log_p = (behind @ theta.T + fit.intercept[0].double()).log_softmax(-1)
    blame = log_p.exp() - torch.nn.functional.one_hot(codes, n_classes)
    slope = -x.T @ blame @ theta
    slope = slope + slope.T
    loss = -log_p.gather(1, codes[:, None]).mean()
    return fit, float(loss), slope / slope.norm().clamp_min(1e-300)


def to_fantope(A: Float[Tensor, "d d"], rank: int) -> Float[Tensor, "d d"]:
    """The nearest matrix (Frobenius) with eigenvalues in [0, 1] and trace `rank`: eigenvalues shifted and clipped.

    Source: Vu et al. 2013, "Fantope projection and selection", Lemma 4.1.
    """
    values, V = torch.linalg.eigh(A)
    knots = torch.cat([values, values - 1]).sort().values  # between knots the trace is linear in the shift
    traces = (values - knots[:, None]).clamp(0, 1).sum(1)  # falls from d to 0
    after = int((traces <= rank).nonzero()[0, 0])
    low, high = knots[after - 1], knots[after]
    share = (traces[after - 1] - rank) / (traces[after - 1] - traces[after])
    return V * (values - (low + share * (high - low))).clamp(0, 1) @ V.T
