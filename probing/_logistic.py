"""Multinomial logistic probes, all targets of a layer in one solve.

Every target (a square, an edge, a statement) is its own problem

    min_{W,b}  sum_i CE(softmax(W x_i + b), y_i) + 1/(2C) ||W / s||^2,     s = standard deviations of x

which is scikit-learn's `make_pipeline(StandardScaler(), LogisticRegression(C=C))`. One eigendecomposition of the
covariance, shared by all targets, whitens the inputs: there the Hessian of every problem is near a multiple of the
identity and the penalty is diagonal, so that L-BFGS, run on all problems at once with a step of its own for each,
needs some 20-40 passes over the data whatever the conditioning of the residual stream.
"""

import warnings

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

_ROWS = 8192  # per block: logits of 64 targets x 3 classes stay near the cache
_HISTORY = 12


def softmax_regression(
    Z: Float[Tensor, "example dim"],
    y: Int[Tensor, "example target"],
    n_classes: int,
    penalty: Float[Tensor, " dim"],
    tol: float = 1e-3,
    max_iter: int = 300,
) -> tuple[Float[Tensor, "target class dim"], Float[Tensor, " target"], int]:
    """Minimise mean_i CE(softmax(W_t z_i), y_it) + 1/2 sum penalty_j W_tkj^2 for every target t at once.

    Args:
        Z: Roughly white inputs (a constant column for the bias included, with penalty 0).
        tol: A target is done when the Euclidean norm of its gradient is below `tol` times that at W = 0 (at least
            1e-3: a target that is constant has no gradient to speak of).
    Returns:
        W, the final relative gradient norm of each target, and the number of passes over the data.
    """
    n, dim = Z.shape
    n_targets = y.shape[1]
    W = Z.new_zeros(n_targets, n_classes, dim)
    scale = 1.0 / (0.5 + penalty)  # inverse of Boehning's bound on the Hessian, up to a constant

    def evaluate(W, which):
        """Loss (target,) in float64 and gradient (target, class, dim) of the targets in `which`."""
        k = len(which)
        flat = W.transpose(0, 1).reshape(n_classes * k, dim)
        loss, grad = torch.zeros(k, dtype=torch.float64), torch.zeros_like(flat)
        for rows in range(0, n, _ROWS):
            z, labels = Z[rows : rows + _ROWS], y[rows : rows + _ROWS, which][:, None]
            log_p = (z @ flat.T).view(len(z), n_classes, k).log_softmax(1)
            loss -= log_p.gather(1, labels)[:, 0].sum(0, dtype=torch.float64)
            p = log_p.exp_()
            p.scatter_add_(1, labels, p.new_full((), -1.0).expand(labels.shape))
            grad.addmm_(p.view(len(z), -1).T, z)
        grad = grad.view(n_classes, k, dim).transpose(0, 1) / n + W * penalty
        loss = loss / n + 0.5 * (W.double() ** 2 * penalty.double()).sum((1, 2))
        return loss, grad

    def dot(a, b):
        return (a * b).sum((1, 2))

    active = torch.arange(n_targets)
    x, (f, g) = W.clone(), evaluate(W, active)
    passes, reference = 1, g.flatten(1).norm(dim=1).clamp(min=1e-3)
    relative = g.flatten(1).norm(dim=1) / reference
    S, Y = [], []
    while passes < max_iter:
        done = g.flatten(1).norm(dim=1) <= tol * reference[active]
        relative[active] = g.flatten(1).norm(dim=1) / reference[active]
        if done.any():
            W[active[done]] = x[done]
            keep = ~done
            active, x, f, g = active[keep], x[keep], f[keep], g[keep]
            S, Y = [s[keep] for s in S], [d[keep] for d in Y]
            if not len(active):
                break
        q, alphas = g.clone(), []
        for s, d in zip(reversed(S), reversed(Y), strict=True):
            a = dot(s, q) / dot(s, d).clamp(min=1e-30)
            alphas.append(a)
            q -= a[:, None, None] * d
        q *= scale
        if S:  # the usual scaling of the initial inverse Hessian, in the preconditioned metric
            q *= (dot(S[-1], Y[-1]) / dot(Y[-1] * scale, Y[-1]).clamp(min=1e-30))[:, None, None]
        for s, d, a in zip(S, Y, reversed(alphas), strict=True):
            q += (a - dot(d, q) / dot(s, d).clamp(min=1e-30))[:, None, None] * s
        slope = -dot(g, q).double()
        step = torch.ones(len(active))
        for _ in range(12):  # backtracking, each target its own step
            new = x - step[:, None, None] * q
            f_new, g_new = evaluate(new, active)
            passes += 1
            # the slack is the rounding of a float32 pass, below which no decrease can be seen
            short = f_new > f + 1e-4 * step * slope + 1e-7 * f.abs()
            if not short.any():
                break
            step[short] *= 0.3
        else:
            new[short], f_new[short], g_new[short] = x[short], f[short], g[short]
        S, Y = [*S[1 - _HISTORY :], new - x], [*Y[1 - _HISTORY :], g_new - g]
        stuck = dot(S[-1], S[-1]) == 0
        x, f, g = new, f_new, g_new
        if stuck.all():
            break
    W[active] = x
    return W, relative, passes


def whitening(
    X: Float[Tensor, "example d_model"], bias: bool, C: float
) -> tuple[Tensor, Tensor, Float[Tensor, "d_model dim"], Float[Tensor, " dim"]]:
    """(mean, std, R, penalty): z = (x - mean) / std @ R is white; penalty is the diagonal of 1/(nC) ||W||^2 there.

    Directions without variance are dropped: the optimum does not use them. In float64: Gram matrices of residual
    streams are badly conditioned.
    """
    n = len(X)
    mean = X.mean(0, dtype=torch.float64)
    std = (X.double().var(0, unbiased=False) if bias else (X.double() ** 2).mean(0)).sqrt()
    std = torch.where(std > 1e-8 * std.max().clamp(min=1e-30), std, 1.0)
    mean = mean if bias else torch.zeros_like(mean)
    standard = (X.double() - mean) / std
    values, vectors = torch.linalg.eigh(standard.T @ standard / n)
    keep = values > 1e-10 * values.max().clamp(min=1e-30)
    values, vectors = values[keep], vectors[:, keep]
    return mean, std, vectors / values.sqrt(), 1.0 / (n * C * values)


class LogisticProbe(ClassifierMixin, BaseEstimator):
    """Linear softmax probe for one target or many, each with its own classifier.

    Args:
        C: Inverse strength of the L2 penalty on weights in units of each dimension's standard deviation, as in
            scikit-learn; the bias is not penalised.
        bias: Without it the inputs are neither centred nor offset (the published Othello probes).
        tol, max_iter: Relative gradient norm at which a target is done; passes over the data at most.

    Attributes:
        coef_: (target, class, d_model) weights in raw activation space. Only contrasts between classes mean
            something: adding one vector to all classes changes no prediction.
        intercept_: (target, class).
        classes_: The label values, shared by all targets.
        gradient_norm_: (target,) final gradient norm relative to that at zero weights, the convergence certificate.
        n_iter_: Passes over the data.
    Source: Boehning 1992 (the bound that makes whitening a preconditioner); Nocedal 1980 (L-BFGS).
    """

    def __init__(self, C: float = 1.0, bias: bool = True, tol: float = 1e-3, max_iter: int = 300):
        self.C, self.bias, self.tol, self.max_iter = C, bias, tol, max_iter

    def fit(self, X, y):
        X, y = validate_data(self, X, y, multi_output=True, dtype=(np.float64, np.float32))
        check_classification_targets(y if y.ndim == 1 else y[:, 0])
        self.classes_, codes = np.unique(y, return_inverse=True)
        codes = torch.from_numpy(codes.reshape(len(y), -1))
        if len(self.classes_) < 2:
            raise ValueError(f"a classifier needs at least 2 classes, y has only {self.classes_.tolist()} (1 class)")
        raw = torch.from_numpy(np.ascontiguousarray(X))
        mean, std, R, penalty = whitening(raw, self.bias, self.C)
        Z = ((raw.double() - mean) / std @ R).to(raw.dtype)
        if self.bias:
            Z, penalty = torch.cat([Z, Z.new_ones(len(Z), 1)], 1), torch.cat([penalty, penalty.new_zeros(1)])
        W, relative, self.n_iter_ = softmax_regression(
            Z, codes, len(self.classes_), penalty.to(Z.dtype), self.tol, self.max_iter)
        W = W.double()
        coef = W[..., : R.shape[1]] @ R.T / std
        intercept = (W[..., -1] if self.bias else 0) - coef @ mean
        self.coef_, self.intercept_ = coef.numpy(), intercept.numpy()
        self.gradient_norm_ = relative.numpy()
        self._one_target = y.ndim == 1
        if (slow := relative > 10 * self.tol).any():
            warnings.warn(f"{int(slow.sum())} of {len(slow)} targets stopped after {self.n_iter_} passes with a "
                          f"relative gradient norm up to {float(relative.max()):.1e} (tol {self.tol:.0e}); raise "
                          "max_iter or lower C", ConvergenceWarning, stacklevel=2)
        return self

    @classmethod
    def from_weights(cls, coef, intercept, classes) -> "LogisticProbe":
        """A fitted probe from stored weights: (target, class, d_model), (target, class), (class,)."""
        probe = cls()
        probe.coef_, probe.intercept_, probe.classes_ = np.asarray(coef), np.asarray(intercept), np.asarray(classes)
        probe.n_features_in_, probe._one_target = probe.coef_.shape[-1], False
        return probe

    def logits(self, X) -> Float[np.ndarray, "example target class"]:
        """Class scores W x + b of every target."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=(np.float64, np.float32))
        n_targets, n_classes, d_model = self.coef_.shape
        flat = X @ self.coef_.reshape(-1, d_model).T.astype(X.dtype) + self.intercept_.reshape(-1).astype(X.dtype)
        return flat.reshape(len(X), n_targets, n_classes)

    def decision_function(self, X):
        """(example, class) scores of a single target; for two classes, the score of classes_[1] alone."""
        scores = self.logits(X)
        if not self._one_target:
            return scores
        return scores[:, 0, 1] - scores[:, 0, 0] if len(self.classes_) == 2 else scores[:, 0]

    def predict_proba(self, X):
        """(example, target, class), or (example, class) when fitted on a single target."""
        scores = self.logits(X)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        return p[:, 0] if self._one_target else p

    def predict(self, X):
        codes = self.logits(X).argmax(-1)
        return self.classes_[codes[:, 0] if self._one_target else codes]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
