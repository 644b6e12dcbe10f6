"""The magnitude ("onion") probe: positions told apart by the size of what they store, not by its direction."""

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

_ROWS = 4096  # examples peeled at a time


class OnionProbe(ClassifierMixin, BaseEstimator):
    """Read a sequence of tokens from one activation in which every position uses the same directions, scaled.

        h = mean + sum_t gamma_t (E[token_t] - average of E at position t)

    E and gamma minimise the squared residual. Unrestricted least squares gives a table of token vectors per position;
    if the model holds they are multiples of one table, so a rank-one SVD starts the fit (exactly, without noise) and
    alternating least squares ends it. Reading peels: the token of the largest scale is the nearest one, its layer is
    subtracted, and so on inwards.

    No subspace holds position t alone, so there is no `read_`; a linear probe reads the outermost layer only.

    Args:
        tol, max_iter: Alternating stops when the residual falls by less than `tol` of the variance, or after so many
            rounds.
        beam: Partial sequences kept while peeling, those with the smallest rest. More than 1 helps where scales are
            close, so that an outer choice shows to be wrong only further in.

    Attributes:
        gamma_: (position,) scales, the largest 1.
        embedding_: (token, d_model) E, in the order of classes_, with mean zero over tokens.
        mean_: (d_model,) of the activations.
        classes_: The tokens, shared by all positions.
        n_iter_: Alternating rounds.
        r2_: Share of the activations' variance that the model explains where it was fitted.
    Fitting holds the (position x token)^2 matrix of co-occurrences.
    Source: Csordas et al., arXiv:2408.10920 (recurrent networks that repeat a sequence). Their network decodes layer by
        layer and is trained; the least-squares form here is ours.
    """

    def __init__(self, tol=1e-10, max_iter=200, beam=1):
        self.tol, self.max_iter, self.beam = tol, max_iter, beam

    def fit(self, X, y):
        X, y = validate_data(self, X, y, dtype=np.float64, multi_output=True)
        check_classification_targets(y if y.ndim == 1 else y[:, 0])
        self.classes_, tokens = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"an onion needs at least 2 tokens, y has only {self.classes_.tolist()} (1 class)")
        tokens = tokens.reshape(len(y), -1)
        self._one_target = y.ndim == 1
        self.mean_ = X.mean(0)
        share, gram, cross = _moments(X - self.mean_, tokens, len(self.classes_))
        total = X.var(0).sum()
        gamma, E = _nearest_onion(gram, cross)
        unexplained = np.inf
        for rounds in range(1, self.max_iter + 1):
            self.n_iter_ = rounds
            E = _pinv(np.einsum("t,s,tvsw->vw", gamma, gamma, gram)) @ np.einsum("t,tvd->vd", gamma, cross)
            between = np.einsum("tvsw,vw->ts", gram, E @ E.T)
            along = np.einsum("tvd,vd->t", cross, E)
            gamma = _pinv(between) @ along
            before, unexplained = unexplained, total - gamma @ along
            if before - unexplained <= self.tol * total:
                break
        top = gamma[np.abs(gamma).argmax()]
        if top == 0:
            raise ValueError("the activations do not depend on the tokens; are the rows of X and y in one order?")
        self.gamma_, self.embedding_ = gamma / top, E * top
        self._offset = self.gamma_[:, None] * (share @ self.embedding_)
        self.r2_ = float(1 - unexplained / total)
        return self

    def predict(self, X):
        """(example, position) tokens; (example,) if fitted on one position."""
        check_is_fitted(self)
        rest = validate_data(self, X, reset=False, dtype=np.float64) - self.mean_
        tokens = np.concatenate([self._peel(rest[i : i + _ROWS]) for i in range(0, len(rest), _ROWS)])
        return self.classes_[tokens[:, 0] if self._one_target else tokens]

    def _peel(self, rest: Float[ndarray, "example d_model"]) -> Int[ndarray, "example position"]:
        """Codes of the tokens, outermost layer first, `beam` partial sequences of each example at a time."""
        n, rows = len(rest), np.arange(len(rest))[:, None]
        beams, codes = rest[:, None], np.zeros((n, 1, len(self.gamma_)), dtype=int)
        for t in np.argsort(-np.abs(self.gamma_), kind="stable"):
            layers = self.gamma_[t] * self.embedding_ - self._offset[t]
            cost = (beams**2).sum(2)[:, :, None] - 2 * beams @ layers.T + (layers**2).sum(1)
            kept = cost.reshape(n, -1).argsort(1, kind="stable")[:, : self.beam]
            parent, token = np.divmod(kept, len(layers))
            beams, codes = beams[rows, parent] - layers[token], codes[rows, parent]
            codes[:, :, t] = token
        return codes[:, 0]

    def score(self, X, y):
        """Share of tokens read right, over all positions."""
        return float((self.predict(X) == np.asarray(y)).mean())

    def replacement(self, position: int, old, new) -> Float[ndarray, "*shape d_model"]:
        """gamma_t (E[new] - E[old]): added to an activation, `position` holds token `new` in place of `old`.

        Args:
            old, new: Tokens of classes_, one each or arrays of them.
        Raises:
            ValueError: A token that was not seen.
        """
        check_is_fitted(self)
        if len(unknown := np.setdiff1d(np.append(old, new), self.classes_)):
            raise ValueError(f"tokens {unknown[:5].tolist()} were not seen in fitting; choose from classes_")
        old, new = (np.searchsorted(self.classes_, token) for token in (old, new))
        return self.gamma_[position] * (self.embedding_[new] - self.embedding_[old])

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _moments(
    H: Float[ndarray, "example d_model"], tokens: Int[ndarray, "example position"], n_tokens: int
) -> tuple[Float[ndarray, "position token"], Float[ndarray, "position token position token"],
           Float[ndarray, "position token d_model"]]:
    """Token shares, covariances of the one-hot codes with each other and with centred activations H."""
    one_hot = tokens[:, :, None] == np.arange(n_tokens)
    share = one_hot.mean(0)
    Z = one_hot.reshape(len(H), -1) - share.ravel()
    shape = share.shape
    return share, (Z.T @ Z / len(H)).reshape(shape * 2), (Z.T @ H / len(H)).reshape(*shape, -1)


def _nearest_onion(
    gram: Float[ndarray, "position token position token"], cross: Float[ndarray, "position token d_model"]
) -> tuple[Float[ndarray, " position"], Float[ndarray, "token d_model"]]:
    """(gamma, E): the rank-one table nearest to the least-squares table of every position on its own."""
    n_positions, n_tokens, d_model = cross.shape
    size = n_positions * n_tokens
    table = _pinv(gram.reshape(size, size)) @ cross.reshape(size, d_model)
    # the pseudo-inverse leaves each position's mean over tokens at zero, as one-hot codes sum to one
    u, s, v = np.linalg.svd(table.reshape(n_positions, -1), full_matrices=False)
    return u[:, 0], s[0] * v[0].reshape(n_tokens, d_model)


def _pinv(gram: Float[ndarray, "dim dim"]) -> Float[ndarray, "dim dim"]:
    return np.linalg.pinv(gram, rcond=1e-10, hermitian=True)
