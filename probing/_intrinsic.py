"""The Gaussian intrinsic probe: which few dimensions carry a label, and how many bits they carry.

One Gaussian per class on all dimensions; the probe of any subset follows by indexing, so that a thousand subsets cost
no refit. Scores on a subset C are in bits, I(V; H_C) >= H(V) - cross-entropy(V | H_C).
"""

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray
from scipy.linalg import solve_triangular
from scipy.special import logsumexp
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from ._classifier import class_codes

_ELEMENTS = 2**22  # of a temporary: class x example x candidate dimensions


class SubsetClassifier(ClassifierMixin, BaseEstimator):
    """A classifier that reads any subset of the dimensions without being refitted; without one, all of them."""

    def predict_log_proba(self, X, subset=None) -> Float[ndarray, "example class"]:
        """log p(v | h_C), in nats."""
        raise NotImplementedError

    def predict_proba(self, X, subset=None):
        return np.exp(self.predict_log_proba(X, subset))

    def predict(self, X, subset=None):
        codes = self.predict_log_proba(X, subset).argmax(1)
        return self.classes_[codes]

    def mutual_information(self, X, y, subset=None) -> float:
        """I(V; H_C) in bits, estimated on (X, y); negative where the probe is worse than the label entropy."""
        return information(self.predict_log_proba(X, subset), encode(self, y))["mutual_information"]


class GaussianProbe(SubsetClassifier):
    """p(v | h_C) from class priors and N(h_C; mu_C, Sigma_CC); quadratic, so it has no read or write direction.

    With the prior, Sigma is the mode of the normal-inverse-Wishart posterior whose parameters come from the class
    itself: mu0 = mean, nu0 = d + 2, Lambda0 = diag(cov), so that the mean is the class mean and

        Sigma = (Lambda0 + S) / (nu0 + n + d + 2),     S = sum (h - mean)(h - mean)^T

    Args:
        prior: Without it Sigma = S / n, which needs more examples per class than dimensions.

    Attributes:
        means_, covariances_: (class, d_model), (class, d_model, d_model), float64.
        class_prior_: (class,) shares of the training set.
    Raises:
        ValueError: The covariance of a class is singular.
    Source: Torroba Hennigen et al., arXiv:2010.02812, rycolab/intrinsic-probing trainer/map.py. There a dimension
        that is constant in a class is an error; here its variance in that class is 1e-6 of its total variance.
    """

    def __init__(self, prior=True):
        self.prior = prior

    def fit(self, X, y):
        X, y = validate_data(self, X, y, dtype=np.float64)
        self.classes_, codes = class_codes(y)
        self.class_prior_ = np.bincount(codes) / len(codes)
        self.means_ = np.stack([X[codes == k].mean(0) for k in range(len(self.classes_))])
        total = X.var(0)
        floor = 1e-6 * np.where(total > 0, total, total.mean() or 1.0)
        self.covariances_ = np.stack([self._covariance(X[codes == k], floor) for k in range(len(self.classes_))])
        return self

    def _covariance(self, own: Float[ndarray, "example dim"], floor) -> Float[ndarray, "dim dim"]:
        n, d = own.shape
        centred = own - own.mean(0)
        scatter = centred.T @ centred
        if not self.prior:
            if n <= d:
                raise ValueError(f"a class with {n} sample(s) has a singular covariance in {d} dimensions; set "
                                 "prior=True or drop the class")
            return scatter / n
        lambda0 = np.maximum(np.diag(scatter) / n, floor)
        return (np.diag(lambda0) + scatter) / ((d + 2) + n + d + 2)

    def joint_log_prob(self, X, subset=None) -> Float[ndarray, "example class"]:
        """log p(v, h_C) of every class, in nats; C is all dimensions unless given."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        C = np.arange(X.shape[1]) if subset is None else np.asarray(subset, dtype=int)
        out = np.tile(np.log(self.class_prior_), (len(X), 1))
        for k, (mean, cov) in enumerate(zip(self.means_, self.covariances_, strict=True)):
            L = np.linalg.cholesky(cov[np.ix_(C, C)])
            z = solve_triangular(L, (X[:, C] - mean[C]).T, lower=True)
            out[:, k] -= 0.5 * (z**2).sum(0) + np.log(np.diag(L)).sum() + 0.5 * len(C) * np.log(2 * np.pi)
        return out

    def predict_log_proba(self, X, subset=None):
        joint = self.joint_log_prob(X, subset)
        return joint - logsumexp(joint, axis=1, keepdims=True)

    def select(self, X, y, n_dims: int) -> pd.DataFrame:
        """Greedy forward selection: at each step the dimension that most raises the log-likelihood of (X, y).

        Give validation examples, and score the path on test examples with `path`. Every step scores all candidates
        at once: conditional means and variances given the chosen dimensions follow by a Schur update.

        Returns:
            A row per step: step, dim, log_likelihood (mean log p(v | h_C), nats), mutual_information (bits),
            normalized (its share of the label entropy), accuracy.
        """
        return _walk(self, X, y, n_dims, None)

    def path(self, X, y, dims) -> pd.DataFrame:
        """The same table on (X, y) for given dimensions, added one after the other."""
        return _walk(self, X, y, len(dims), [int(dim) for dim in dims])


def encode(probe, y) -> Int[ndarray, " example"]:
    """Codes of labels that the probe was fitted on."""
    check_is_fitted(probe)
    y = np.asarray(y)
    if len(new := np.setdiff1d(y, probe.classes_)):
        raise ValueError(f"y has classes the probe was not fitted on: {new[:5].tolist()}; drop their examples")
    return np.searchsorted(probe.classes_, y)


def information(log_p: Float[ndarray, "example class"], codes: Int[ndarray, " example"]) -> dict[str, float]:
    """What log p(v | h) says about the labels: log-likelihood in nats, information in bits and as share of H(V)."""
    share = np.bincount(codes) / len(codes)
    entropy = -(share[share > 0] * np.log2(share[share > 0])).sum()
    mean = float(log_p[np.arange(len(codes)), codes].mean())
    bits = float(entropy + mean / np.log(2))
    return {"log_likelihood": mean, "mutual_information": bits,
            "normalized": bits / entropy if entropy > 0 else np.nan,
            "accuracy": float((log_p.argmax(1) == codes).mean())}


def _walk(probe: GaussianProbe, X, y, n_dims: int, dims: list[int] | None) -> pd.DataFrame:
    codes = encode(probe, y)
    X = validate_data(probe, X, reset=False, dtype=np.float64)
    n, d = X.shape
    if not 1 <= n_dims <= d or (dims is not None and not set(dims) <= set(range(d))):
        raise ValueError(f"between 1 and {d} dimensions can be chosen, counted from 0; {dims or n_dims} was asked for")
    residual = X - probe.means_[:, None]  # (class, example, dim): h minus its mean given the chosen dimensions
    schur = probe.covariances_.copy()  # covariance given the chosen dimensions
    variance = np.diagonal(schur, axis1=1, axis2=2).copy()
    smallest = 1e-14 * variance
    log_joint = np.repeat(np.log(probe.class_prior_)[:, None], n, 1)  # (class, example)
    left, rows = np.ones(d, bool), []
    for step in range(n_dims):
        dim = _best(residual, variance, log_joint, codes, left) if dims is None else dims[step]
        if not left[dim]:
            raise ValueError(f"dimension {dim} is in the path twice; give each once")
        left[dim] = False
        pivot = variance[:, dim, None]
        log_joint -= 0.5 * (residual[:, :, dim] ** 2 / pivot + np.log(2 * np.pi * pivot))
        log_p = (log_joint - logsumexp(log_joint, axis=0)).T
        rows.append({"step": step + 1, "dim": dim} | information(log_p, codes))
        gain = schur[:, dim] / pivot  # (class, dim)
        residual -= residual[:, :, dim, None] * gain[:, None]
        schur -= gain[:, :, None] * schur[:, dim, None]
        variance = np.maximum(np.diagonal(schur, axis1=1, axis2=2), smallest)
    return pd.DataFrame(rows)


def _best(residual, variance, log_joint, codes, left) -> int:
    """The candidate whose addition gives the largest log-likelihood of the labels; ties go to the lower index."""
    candidates = np.flatnonzero(left)
    width = max(_ELEMENTS // log_joint.size, 1)
    gained = []
    for start in range(0, len(candidates), width):
        at = candidates[start : start + width]
        v = variance[:, None, at]
        joint = residual[:, :, at] ** 2
        joint /= -2 * v
        joint += log_joint[:, :, None] - 0.5 * np.log(v)
        true = joint[codes, np.arange(len(codes))]
        top = joint.max(0)
        joint -= top
        np.exp(joint, out=joint)
        gained.append((true - top - np.log(joint.sum(0))).mean(0))
    return int(candidates[np.concatenate(gained).argmax()])
