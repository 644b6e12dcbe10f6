"""Multinomial logistic probes: every target, penalty, shuffled control and bootstrap replicate of a layer in one solve.

Each column is its own problem

    min_{W,b}  sum_i w_i CE(softmax(W x_i + b), y_i) + 1/(2C) ||W s||^2,     s = standard deviations of x

which is scikit-learn's `make_pipeline(StandardScaler(), LogisticRegression(C=C))`, binary or multinomial as it would
be on that column alone. One eigendecomposition of the covariance, shared by all columns, whitens the inputs; the stack
of columns is solved there (`_softmax`), in float32 where the activations are, and every column ends with a duality gap
of the raw problem in float64 (`_duality`). Columns that float32 leaves above the tolerance are finished in float64.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from ._classifier import SoftmaxScores
from ._duality import certify
from ._encoding import class_means
from ._linear_classifier import contrasts
from ._softmax import Stack, minimise
from ._subspaces import LinearPair
from ._whitening import Standardised, Whitening

_BLOCK = 16384
_STACK = 2**28  # numbers in the metric of one stack: a gigabyte in float32


@dataclass(frozen=True)
class LogisticFit:
    """Weights of every column, in raw activation space, with what is known about them.

    Attributes:
        coef: Rows sum to zero over the classes. A class that a column does not have has zero weights and the
            intercept -inf (probability 0); a column with one class predicts it.
        gap: Certified bound on (objective - optimum) / optimum, in float64 on the raw problem.
        n_passes: Passes over the data, certificates not counted.
    """

    coef: Float[Tensor, "column class d_model"]
    intercept: Float[Tensor, "column class"]
    gap: Float[Tensor, " column"]
    n_passes: int


def fit_logistic(
    X: Float[Tensor, "example d_model"],
    Y: Int[Tensor, "example column"],
    C: float | int | Float[Tensor, " column"] = 1.0,
    *,
    n_classes: int | None = None,
    bias: bool = True,
    weights: Float[Tensor, "example replicate"] | None = None,
    replicate: Int[Tensor, " column"] | None = None,
    class_weight: Float[Tensor, "column class"] | None = None,
    start: LogisticFit | None = None,
    tol: float = 1e-6,
    max_iter: int = 300,
) -> LogisticFit:
    """Every column of Y as its own softmax regression on X, on the device of X.

    Args:
        Y: Class codes from 0. Targets, penalties, seeds, shuffled labels and bootstrap replicates are all columns.
        C: Inverse strength of the L2 penalty on the weights of standardised inputs, as in scikit-learn; the standard
            deviations are those of X, whatever the row weights.
        bias: Without it the inputs are neither centred nor offset.
        weights, replicate: Weight of every row (a bootstrap count, say) in each replicate, and the replicate that
            each column uses (with one replicate, all do).
        class_weight: Multiplies the rows' weights by class.
        start: Where to start, a fit of as many columns.
        tol: A column is done when its certified relative gap is at most this.
        max_iter: Passes over the data at most, in each precision.
    Raises:
        ValueError: Codes, penalties or weights out of range, or a replicate missing.
    Warns:
        ConvergenceWarning: Columns that end above `tol`, by number.
    """
    d, k = X.shape[1], Y.shape[1]
    n_classes = int(Y.max()) + 1 if n_classes is None else n_classes
    lam = 1 / torch.as_tensor(C, dtype=torch.float64, device=X.device).expand(k)
    if Y.min() < 0 or Y.max() >= n_classes:
        raise ValueError(f"Y holds class codes 0 .. {n_classes - 1}, but runs from {int(Y.min())} to {int(Y.max())}")
    if not ((lam > 0) & lam.isfinite()).all():
        raise ValueError(f"C must be positive and finite, it is {C}")
    if weights is not None and replicate is None:
        if weights.shape[1] != 1:
            raise ValueError(f"weights has {weights.shape[1]} replicates; say with replicate=(column,) which column "
                             "uses which")
        replicate = torch.zeros(k, dtype=torch.long, device=X.device)
    if weights is not None and not ((weights >= 0) & weights.isfinite()).all():
        raise ValueError("weights must be finite and not negative")
    white = Whitening.of(X, bias)
    Z = white.inputs(X, torch.float64 if X.dtype == torch.float64 else torch.float32)
    totals = _class_totals(Y, n_classes, weights, replicate, class_weight)
    n_present = (totals > 0).sum(1)
    coef, gap, n_passes = totals.new_zeros(k, n_classes, d), torch.zeros_like(lam), 0
    intercept = torch.zeros_like(totals).masked_fill(totals == 0, -torch.inf)
    for size in n_present.unique().tolist():
        if size == 1:
            continue  # that class, with certainty
        metric = ((size - 1) * Z.shape[1]) ** 2
        for cols in (n_present == size).nonzero()[:, 0].split(max(1, _STACK // metric)):
            classes = (totals[cols] > 0).nonzero()[:, 1].view(-1, size)
            rank = (totals[cols] > 0).cumsum(1) - 1
            problem = dict(
                codes=rank.clamp(min=0).T.to(torch.int16).gather(0, Y[:, cols].long()), n_classes=size,
                weights=weights, replicate=None if replicate is None else replicate[cols],
                class_weight=None if class_weight is None else class_weight[cols].gather(1, classes))
            V = totals.new_zeros(len(cols), size - 1, d + bias)
            at = cols[:, None], classes
            if bias:
                V[..., d] = (totals[at][:, 1:] / totals[at][:, :1]).log()
            if start is not None:
                before = start.coef[at]
                W = torch.cat([before * white.std, (start.intercept[at] + before @ white.mean)[..., None]], 2)
                V = (W[:, 1:] - W[:, :1])[..., : d + bias].nan_to_num(0.0, 0.0, 0.0)
            V, gap[cols], passes = _solve(X, Z, white, problem, lam[cols], V, tol, max_iter)
            W = torch.cat([torch.zeros_like(V[:, :1]), V], 1)
            W = W - W.mean(1, keepdim=True)
            coef[at] = W[..., :d] / white.std
            if bias:
                intercept[at] = W[..., d] - coef[at] @ white.mean
            n_passes += passes
    if len(slow := (gap > tol).nonzero()[:, 0].tolist()):
        warnings.warn(f"{len(slow)} of {k} columns stopped after {n_passes} passes above the relative gap {tol:.0e}, "
                      f"the worst at {float(gap.max()):.1e} (columns {slow[:10]}{', ...' if len(slow) > 10 else ''}); "
                      "raise max_iter or tol, or lower C", ConvergenceWarning, stacklevel=2)
    return LogisticFit(coef, intercept, gap, n_passes)


def _class_totals(Y, n_classes, weights, replicate, class_weight) -> Float[Tensor, "column class"]:
    """Weight of every class in every column."""
    totals = torch.zeros(Y.shape[1], n_classes, dtype=torch.float64, device=Y.device)
    for start in range(0, len(Y), _BLOCK):
        rows = slice(start, start + _BLOCK)
        w = None if weights is None else weights[rows].double()[:, replicate]
        for code in range(n_classes):
            hit = Y[rows] == code
            totals[:, code] += (hit if w is None else hit * w).sum(0)
    return totals if class_weight is None else totals * class_weight


def _solve(X, Z, white: Whitening, problem: dict, lam, V, tol: float, max_iter: int) -> tuple[Tensor, Tensor, int]:
    """Weights on standardised inputs, certified gaps and passes of one stack, from the weights V.

    In the precision of Z; what that leaves above `tol` goes on in float64, at last with the Hessian of all rows.
    """
    def stack(inputs, cols, dtype) -> Stack:
        pick = {name: value if value is None or name in ("n_classes", "weights") else value[cols]
                for name, value in problem.items() if name != "codes"}
        pick |= {name: None if pick[name] is None else pick[name].to(dtype) for name in ("weights", "class_weight")}
        return Stack(inputs, problem["codes"][:, cols], penalty=white.penalty(lam[cols], len(X)).to(dtype), **pick)

    raw = Standardised(X, white.mean, white.std, white.bias)
    gap, passes = torch.full_like(lam, torch.inf), 0
    for dtype, share, exact in ((Z.dtype, 0.5, False), (torch.float64, 0.5, False), (torch.float64, 0.02, True)):
        cols = (gap > tol).nonzero()[:, 0]
        if not len(cols) or passes >= max_iter:
            break
        inputs = Z if Z.dtype == dtype else white.inputs(X, dtype)
        W, took = minimise(stack(inputs, cols, dtype), white.from_standard(V[cols]).to(dtype), share * tol,
                           max_iter - passes, exact)
        passes += took
        V[cols], gap[cols] = certify(stack(raw, cols, torch.float64), white.to_standard(W), lam[cols], tol)
    return V, gap, passes


class LogisticProbe(LinearPair, SoftmaxScores):
    """Linear softmax probe for one target or many, each with its own classifier.

    Args:
        C: Inverse strength of the L2 penalty on weights in units of each dimension's standard deviation, as in
            scikit-learn; the bias is not penalised.
        bias: Without it the inputs are neither centred nor offset (the published Othello probes).
        class_weight: None; `balanced`, where a row of class k weighs n / (n_classes n_k) in each target; or a mapping
            from class to weight.
        tol: Relative gap to the optimal objective that every target must be certified to reach. The default is the
            optimum for any purpose; accuracies stop moving at 1e-2.
        max_iter: Passes over the data.

    Attributes:
        coef_: (target, class, d_model) weights in raw activation space. Only contrasts between classes mean
            something: adding one vector to all classes changes no prediction.
        intercept_: (target, class); -inf for a class that a target never has, which is then never predicted.
        classes_: The label values, shared by all targets.
        read_, write_: Contrasts of `coef_` and of the class means, as in `LinearPair`; (direction, d_model) when
            fitted on one target, (target, direction, d_model) on more.
        gap_: (target,) certified bound on (objective - optimum) / optimum.
        n_iter_: Passes over the data.
    Source: Nocedal 1980 (L-BFGS); Roosta-Khorasani & Mahoney 2016 (sub-sampled Hessians).
    """

    def __init__(self, C=1.0, bias=True, class_weight=None, tol=1e-6, max_iter=300):
        self.C, self.bias, self.class_weight, self.tol, self.max_iter = C, bias, class_weight, tol, max_iter

    def fit(self, X, y):
        X, codes = self._check(X, y)
        K = len(self.classes_)
        counts = np.stack([(codes == k).sum(0) for k in range(K)], 1)
        fit = fit_logistic(torch.from_numpy(X), torch.from_numpy(codes), self.C, n_classes=K, bias=self.bias,
                           class_weight=self._class_weights(counts), tol=self.tol, max_iter=self.max_iter)
        self.coef_, self.intercept_, self.gap_ = fit.coef.numpy(), fit.intercept.numpy(), fit.gap.numpy()
        self.n_iter_ = fit.n_passes
        means = np.nan_to_num(class_means(X, codes, K))
        self.read_, self.write_ = (contrasts(rows, counts > 0) for rows in (self.coef_, means))
        if self._one_target:
            self.read_, self.write_ = self.read_[0], self.write_[0]
        return self

    def _class_weights(self, counts: Int[np.ndarray, "target class"]) -> Tensor | None:
        if self.class_weight is None:
            return None
        if isinstance(self.class_weight, Mapping):
            weights = np.array([float(self.class_weight.get(c, 1)) for c in self.classes_.tolist()])
            return torch.from_numpy(np.broadcast_to(weights, counts.shape).copy())
        if self.class_weight != "balanced":
            raise ValueError(f"class_weight is None, 'balanced' or a mapping, not {self.class_weight!r}")
        share = counts * (counts > 0).sum(1, keepdims=True) / counts.sum(1, keepdims=True)
        return torch.from_numpy(1 / np.where(counts > 0, share, 1))

    @classmethod
    def from_weights(cls, coef, intercept, classes) -> "LogisticProbe":
        """A fitted probe from stored weights: (target, class, d_model), (target, class), (class,). It reads, but knows
        no write directions."""
        probe = cls()
        probe.coef_, probe.intercept_, probe.classes_ = np.asarray(coef), np.asarray(intercept), np.asarray(classes)
        probe.n_features_in_, probe._one_target = probe.coef_.shape[-1], False
        probe.read_ = contrasts(probe.coef_, np.isfinite(probe.intercept_))
        return probe

    def logits(self, X) -> Float[np.ndarray, "example target class"]:
        """Class scores W x + b of every target."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=(np.float64, np.float32))
        n_targets, n_classes, d_model = self.coef_.shape
        flat = X @ self.coef_.reshape(-1, d_model).T.astype(X.dtype) + self.intercept_.reshape(-1).astype(X.dtype)
        return flat.reshape(len(X), n_targets, n_classes)
