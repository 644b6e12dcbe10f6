"""Contrast-consistent search: a direction that gives a statement and its negation opposite truth values."""

import warnings

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_array, check_consistent_length, check_is_fitted
from torch import Tensor

from ._lat import LATProbe, aligned_mean, binary_classes
from ._subspaces import LinearPair


def ccs_loss(
    p_pos: Float[Tensor, "*restart pair"], p_neg: Float[Tensor, "*restart pair"]
) -> Float[Tensor, "*restart"]:
    """Mean over pairs of (p+ - (1 - p-))^2 + min(p+, p-)^2: consistent, and confident.

    Zero only where one of each pair has probability 1 and the other 0. Both at 1/2 costs 0.25, and the best constant,
    2/5, costs 0.2: a probe near 0.2 has found nothing.
    """
    return ((p_pos + p_neg - 1) ** 2 + torch.minimum(p_pos, p_neg) ** 2).mean(-1)


class CCSProbe(LinearPair, ClassifierMixin, BaseEstimator):
    """Tell which side of a contrast pair is true, without labels.

        p(x) = sigmoid(theta . (x - mean of its side) / scale + b)
        L    = ccs_loss(p+, p-) + l2/2 |theta|^2
        P(+) = (p+ + 1 - p-) / 2, above 1/2 exactly where theta . (x~+ - x~-) > 0

    X is (pair, side, d_model), side 0 the positive statement and side 1 its negation. Not a matrix of single rows:
    each side has its own mean, so a row alone has no prediction, and with pairs as the first axis no split can part
    one. Apart from this shape the scikit-learn contract holds (clone, cross-validation over pairs).

    Each side is centred on its own training mean, or the probe would read the words "Yes" and "No" alone; the scale is
    shared, so that one direction in raw activation space exists. Any feature that flips between the sides satisfies the
    loss, so report `pca_`, the same labels read off the main axis of the differences, beside it.

    Args:
        restarts: Random starts, all solved as one batch; the lowest L is kept.
        scale: Divide each dimension by its standard deviation over both centred sides; else all by one number, the
            root mean square.
        l2: Without it separable pairs (always, if there are fewer than dimensions) have no finite optimum.
        tol, max_iter: Norm of the gradient of L at which L-BFGS stops; iterations at most.
        seed: Of the starts.

    Attributes:
        read_: (1, d_model), theta / scale. decision(pair) = (x+ - x-) . read_ + intercept_.
        write_: (1, d_model) mean difference x_true - x_false, true as the probe decides, less the mean of x+ - x-.
        bias_: b; like read_, of the chosen start, or of its mirror image where the labels turned it.
        loss_, losses_: ccs_loss of the chosen start, and (restart,) of all: report their spread.
        gradient_norm_: (restart,) of L at the end, the convergence certificate.
        restarts_: (restart, d_model) read directions of all starts, each with the sign of the first.
        pca_: LATProbe on `differences(X)`.
        classes_: Of the labels; classes_[1] says that the positive statement is true. Labels fix the sign and nothing
            else; without them classes_ is (0, 1) and the sign is arbitrary.
    Source: Burns et al., arXiv:2212.03827, and collin-burns/discovering_latent_knowledge, which takes 1000 steps of
        AdamW with decoupled decay from each start in turn; ours goes to the optimum of the penalised loss. Any
        consistent feature will do: Farquhar et al., arXiv:2312.10029.
    """

    def __init__(self, restarts=10, scale=True, l2=1e-2, tol=1e-6, max_iter=1000, seed=0):
        self.restarts, self.scale, self.l2, self.tol, self.max_iter = restarts, scale, l2, tol, max_iter
        self.seed = seed

    def fit(self, X, y=None):
        X = _as_pairs(X)
        self.n_features_in_ = X.shape[2]
        if y is not None:
            check_consistent_length(X, y)
            self.classes_, holds = binary_classes(y)
        else:
            self.classes_, holds = np.array([0, 1]), None
        self.mean_ = X.mean(0)
        centred = X - self.mean_
        std = centred.std((0, 1)) if self.scale else np.full(X.shape[2], centred.std())
        if not std.max() > 0:
            raise ValueError(f"all {len(X)} pairs are the same pair; check the positions that were read")
        std = np.where(std > 1e-8 * std.max(), std, 1.0)  # a constant dimension stays at zero
        theta, bias, self.losses_, self.gradient_norm_ = self._solve(torch.from_numpy(centred / std))
        penalised = self.losses_ + self.l2 / 2 * (theta**2).sum(1)
        if (slow := self.gradient_norm_ > 10 * self.tol).any():
            warnings.warn(f"{int(slow.sum())} of {self.restarts} starts stopped with a gradient up to "
                          f"{self.gradient_norm_.max():.1e} (tol {self.tol:.0e}); raise max_iter or l2",
                          ConvergenceWarning, stacklevel=2)
        best = int(penalised.argmin())
        delta = centred[:, 0] - centred[:, 1]
        v, side = theta[best] / std, 1.0
        if holds is not None and ((delta @ v > 0) == holds).mean() < 0.5:
            side = -1.0
        self.read_, self.bias_, self.loss_ = side * v[None], float(side * bias[best]), float(self.losses_[best])
        self.write_ = aligned_mean(delta, self.read_[0])[None]
        self.intercept_ = -(self.mean_[0] - self.mean_[1]) @ self.read_.T
        same = np.where(theta @ theta[best] < 0, -side, side)
        self.restarts_ = same[:, None] * theta / std
        self.pca_ = LATProbe().fit(delta, y)
        return self

    def _solve(self, sides: Float[Tensor, "pair 2 d_model"]) -> tuple[ndarray, ndarray, ndarray, ndarray]:
        """(restart, d_model) theta, and (restart,) bias, loss and gradient norm."""
        d_model = sides.shape[2]
        generator = torch.Generator().manual_seed(self.seed)
        start = torch.randn(self.restarts, d_model + 1, generator=generator, dtype=torch.float64) / d_model**0.5
        start[:, -1] = 0
        W = start.requires_grad_()
        flat = sides.flatten(0, 1).T

        def losses():
            p = torch.sigmoid(W[:, :-1] @ flat + W[:, -1:]).unflatten(1, (-1, 2))
            return ccs_loss(p[..., 0], p[..., 1])

        def step():
            optimizer.zero_grad()
            total = (losses() + self.l2 / 2 * (W[:, :-1] ** 2).sum(1)).sum()  # the starts do not interact
            total.backward()
            return total

        optimizer = torch.optim.LBFGS([W], max_iter=self.max_iter, history_size=20, tolerance_change=0,
                                      tolerance_grad=self.tol / (d_model + 1) ** 0.5, line_search_fn="strong_wolfe")
        with torch.enable_grad():
            optimizer.step(step)
            step()
        assert W.grad is not None
        gradient, W = W.grad.norm(dim=1), W.detach()
        return W[:, :-1].numpy(), W[:, -1].numpy(), losses().numpy(), gradient.numpy()

    def differences(self, X) -> Float[ndarray, "pair d_model"]:
        """x~+ - x~-, each side centred on its training mean: what `pca_` reads."""
        check_is_fitted(self)
        X = _as_pairs(X, self.n_features_in_)
        return X[:, 0] - X[:, 1] - (self.mean_[0] - self.mean_[1])

    def decision_function(self, X) -> Float[ndarray, " pair"]:
        """Log-odds of x~+ less those of x~-; positive where the positive statement is held true."""
        return self.differences(X) @ self.read_[0]

    def predict_proba(self, X) -> Float[ndarray, "pair 2"]:
        """Probability that the positive statement is false, true: 1 - (p+ + 1 - p-)/2 and (p+ + 1 - p-)/2."""
        check_is_fitted(self)
        logits = (_as_pairs(X, self.n_features_in_) - self.mean_) @ self.read_[0] + self.bias_
        p_pos, p_neg = torch.sigmoid(torch.from_numpy(logits)).numpy().T
        true = (p_pos + 1 - p_neg) / 2
        return np.stack([1 - true, true], axis=1)

    def predict(self, X):
        chosen = self.decision_function(X) > 0
        return self.classes_[chosen.astype(int)]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = False, True
        tags.target_tags.required = False
        tags.classifier_tags.multi_class = False
        return tags


def _as_pairs(X, d_model: int | None = None) -> Float[ndarray, "pair 2 d_model"]:
    X = check_array(X, allow_nd=True, dtype=np.float64, ensure_min_samples=2, ensure_2d=False)
    if X.ndim != 3 or X.shape[1] != 2:
        raise ValueError(f"CCS reads pairs, X of shape (pair, 2, d_model), not {X.shape}; with the rows of both "
                         "sides in one matrix, X[np.stack([positive_rows, negative_rows], axis=1)]")
    if d_model not in (None, X.shape[2]):
        raise ValueError(f"X has d_model {X.shape[2]}, the probe was fitted on {d_model}; read the same site")
    return X
