"""Probes over positions: which token says it, and what it says.

    scores = pool(X, mask, "mean")                     # (example, d_model), for any probe
    probe = AttentionProbe(heads=2).fit(X, y, mask, groups)
    probe.attention(X, mask)                           # where it looks

Inputs are (example, pos, d_model) with a mask of the real positions; padding, whatever its values, changes nothing.
scikit-learn's contract is about two-dimensional X: the tags say that this one has three, and its checks with data are
then skipped; names and manners (fit returns self, learned attributes end in _, clone and set_params) are the same.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from numpy import ndarray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from ._classifier import class_codes
from ._subspaces import LinearPair

POOLS = ("mean", "max", "last")
Stream = Float[ndarray, "example pos d_model"]
Mask = Bool[ndarray, "example pos"]


def pool(X: Stream, mask: Mask | None = None, how: str = "mean") -> Float[ndarray, "example d_model"]:
    """One activation per example: the mean or the dimension-wise maximum over real positions, or the last real one.

    Raises:
        ValueError: An unknown `how`, or an example without a real position.
    """
    X, mask = _checked(X, mask)
    if how == "mean":
        return np.where(mask[..., None], X, 0).sum(1) / mask.sum(1, keepdims=True)
    if how == "max":
        return np.where(mask[..., None], X, -np.inf).max(1)
    if how == "last":
        last = mask.shape[1] - 1 - mask[:, ::-1].argmax(1)
        return X[np.arange(len(X)), last]
    raise ValueError(f"how must be one of {', '.join(POOLS)}, not {how!r}")


class AttentionProbe(LinearPair, ClassifierMixin, BaseEstimator):
    """A linear classifier of what a learned attention picks from the positions.

    pooling "attention": a_h = softmax_t(q_h . x_t / sqrt(d)),  scores = sum_h W_h (sum_t a_ht x_t) + b;
    pooling "max": scores_k = max_t (W_k . x_t) + b_k, the reading of AxBench, trained as it is read.

    Trained with AdamW on standardised inputs, stopped where the log-loss on validation groups is best.

    Args:
        heads: Attention heads, each with a query and weights of its own.
        validation: Share of the groups that early stopping watches; they are not trained on.
        patience: Epochs without a better validation loss before the fit stops.
        epochs, batch_size, lr, weight_decay: Of AdamW.
        seed: Of the split, the initial queries and the batch order.

    Attributes:
        query_: (head, d_model), in raw space up to a constant per head, which softmax ignores; no rows for "max".
        coef_, intercept_: (class, head, d_model), (class,), raw space; only contrasts between classes mean something.
        read_, write_: (head, direction, d_model): the weights, and the difference of class means, of what a head
            pooled; for "max", of the position with the highest score. A direction's `target` is the head.
        validation_loss_: Log-loss on the validation groups at the chosen epoch, in nats. n_iter_: that epoch.
    Source: Wu et al., arXiv:2501.17148 (the maximum over tokens).
    """

    def __init__(self, pooling="attention", heads=1, epochs=200, batch_size=256, lr=0.05, weight_decay=0.01,
                 validation=0.2, patience=20, seed=0):
        self.pooling, self.heads, self.epochs, self.batch_size, self.lr = pooling, heads, epochs, batch_size, lr
        self.weight_decay, self.validation, self.patience, self.seed = weight_decay, validation, patience, seed

    def fit(self, X: Stream, y: Shaped[ndarray, " example"], mask: Mask | None = None,
            groups: Shaped[ndarray, " example"] | None = None) -> "AttentionProbe":
        """Learn from (example, pos, d_model); examples of one group never straddle training and validation."""
        if self.pooling not in ("attention", "max"):
            raise ValueError(f"pooling must be 'attention' or 'max', not {self.pooling!r}; for {', '.join(POOLS)} "
                             "pass pool(X, mask, how) to any probe")
        X, mask = _checked(X, mask)
        self.classes_, codes = class_codes(y)
        self.n_features_in_ = X.shape[2]
        held = _held_out(np.arange(len(X)) if groups is None else groups, self.validation, self.seed)
        if not held.any() or len(np.unique(codes[~held])) < len(self.classes_):
            raise ValueError("the split by group leaves no validation group, or a class without training examples; "
                             "give more groups or change `validation` or `seed`")
        real = X[~held][mask[~held]].astype(np.float64)
        mean, std = real.mean(0), np.maximum(real.std(0), 1e-6 * max(real.std(), 1e-30))
        Z = np.where(mask[..., None], (X - mean) / std, 0).astype(np.float32)
        q, W, b = self._train(*(torch.from_numpy(np.ascontiguousarray(a)) for a in (Z, mask, codes, held)))
        self.query_, self.coef_ = q / std, W / std
        self.intercept_ = b - (self.coef_ @ mean).sum(1)
        self._set_pair(X, mask, codes)
        return self

    def _train(self, Z: Tensor, mask: Tensor, codes: Tensor, held: Tensor):
        """(q, W, b) of the epoch with the lowest validation loss, in standardised units, float64."""
        d, n_classes = Z.shape[2], len(self.classes_)
        generator = torch.Generator().manual_seed(self.seed)
        heads = self.heads if self.pooling == "attention" else 1
        # near zero: it starts as mean pooling, and the heads differ just enough to part
        q = 0.01 * torch.randn(heads if self.pooling == "attention" else 0, d, generator=generator)
        W, b = 0.01 * torch.randn(n_classes, heads, d, generator=generator), torch.zeros(n_classes)
        parameters = [p.requires_grad_() for p in (q, W, b)]
        opt = torch.optim.AdamW([{"params": [q, W]}, {"params": [b], "weight_decay": 0.0}], self.lr,
                                weight_decay=self.weight_decay)
        train = torch.nonzero(~held)[:, 0]
        self.validation_loss_, best = np.inf, None
        for epoch in range(1, self.epochs + 1):
            for rows in train[torch.randperm(len(train), generator=generator)].split(self.batch_size):
                with torch.enable_grad():
                    loss = F.cross_entropy(_scores(Z[rows], mask[rows], q, W, b), codes[rows])
                    opt.zero_grad(set_to_none=True)
                    loss.backward()
                opt.step()
            with torch.no_grad():
                watched = float(F.cross_entropy(_scores(Z[held], mask[held], q, W, b), codes[held]))
            if watched < self.validation_loss_:
                self.validation_loss_, self.n_iter_ = watched, epoch
                best = [p.detach().double().numpy().copy() for p in parameters]
            elif epoch - self.n_iter_ >= self.patience:
                break
        if best is None:
            raise ValueError("the validation loss is not finite; are the activations?")
        return best

    def _set_pair(self, X, mask, codes) -> None:
        contrast = self.coef_ - self.coef_.mean(0)
        pooled = self.pooled(X, mask)
        means = np.stack([pooled[codes == k].mean(0) for k in range(len(self.classes_))])
        two = len(self.classes_) == 2
        self.read_ = (self.coef_[1:] - self.coef_[:1] if two else contrast).swapaxes(0, 1)
        self.write_ = (means[1:] - means[:1] if two else means - means.mean(0)).swapaxes(0, 1)

    def attention(self, X: Stream, mask: Mask | None = None) -> Float[ndarray, "example head pos"]:
        """Where each head looks: weights that sum to 1 over real positions; for "max", the position that won (of the
        predicted class)."""
        X, mask = self._input(X, mask)
        if self.pooling == "attention":
            return _weights(X, mask, torch.from_numpy(self.query_)).numpy()
        each = (X @ torch.from_numpy(self.coef_[:, 0]).T).masked_fill(~mask[..., None], -torch.inf)
        k = (each.amax(1) + torch.from_numpy(self.intercept_)).argmax(1)
        won = each[torch.arange(len(X)), :, k].argmax(1)
        return F.one_hot(won, X.shape[1])[:, None].double().numpy()

    def pooled(self, X: Stream, mask: Mask | None = None) -> Float[ndarray, "example head d_model"]:
        """What each head passes on: the attention-weighted mean of the activations."""
        x, mask = _checked(X, mask)
        return self.attention(x, mask) @ np.where(mask[..., None], x, 0).astype(np.float64)

    def logits(self, X: Stream, mask: Mask | None = None) -> Float[ndarray, "example class"]:
        """Class scores."""
        X, mask = self._input(X, mask)
        return _scores(X, mask, *(torch.from_numpy(a) for a in (self.query_, self.coef_, self.intercept_))).numpy()

    def decision_function(self, X: Stream, mask: Mask | None = None) -> Float[ndarray, "example *more"]:
        """(example, class) scores; for two classes, the score of classes_[1] over classes_[0] alone."""
        scores = self.logits(X, mask)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X: Stream, mask: Mask | None = None) -> Float[ndarray, "example class"]:
        return torch.from_numpy(self.logits(X, mask)).softmax(1).numpy()

    def predict(self, X: Stream, mask: Mask | None = None) -> Shaped[ndarray, " example"]:
        codes = self.logits(X, mask).argmax(1)
        return self.classes_[codes]

    def score(self, X: Stream, y: Shaped[ndarray, " example"], mask: Mask | None = None) -> float:
        """Accuracy."""
        return float((self.predict(X, mask) == y).mean())

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = False, True
        return tags

    def _input(self, X, mask) -> tuple[Tensor, Tensor]:
        check_is_fitted(self)
        X, mask = _checked(X, mask)
        if X.shape[2] != self.n_features_in_:
            raise ValueError(f"X has d_model {X.shape[2]}, the probe was fitted on {self.n_features_in_}; read the "
                             "same site")
        X = np.where(mask[..., None], X, 0).astype(np.float64)
        return torch.from_numpy(X), torch.from_numpy(mask)


def _weights(x: Tensor, mask: Tensor, q: Tensor) -> Tensor:
    """softmax_t(q_h . x_t / sqrt(d)) over real positions: (example, head, pos)."""
    scores = (x @ q.T / q.shape[1] ** 0.5).masked_fill(~mask[..., None], -torch.inf)
    return scores.softmax(1).mT


def _scores(x: Tensor, mask: Tensor, q: Tensor, W: Tensor, b: Tensor) -> Float[Tensor, "example class"]:
    if not len(q):
        return (x @ W[:, 0].T).masked_fill(~mask[..., None], -torch.inf).amax(1) + b
    return torch.einsum("nhd,khd->nk", _weights(x, mask, q) @ x, W) + b


def _checked(X, mask) -> tuple[ndarray, ndarray]:
    """X and its mask; every position is real where none is given."""
    X = np.asarray(X)
    if X.ndim != 3:
        raise ValueError(f"X is (example, pos, d_model), this has shape {X.shape}; for one position per example use "
                         "LogisticProbe")
    mask = np.ones(X.shape[:2], bool) if mask is None else np.asarray(mask)
    if mask.shape != X.shape[:2] or mask.dtype != bool:
        raise ValueError(f"mask is bool (example, pos) {X.shape[:2]}, this is {mask.dtype} {mask.shape}; give True at "
                         "real positions")
    if len(bad := np.flatnonzero(~mask.any(1))):
        raise ValueError(f"{len(bad)} examples have no real position (first: {bad[:5].tolist()}); drop them")
    if not np.isfinite(X[mask]).all():
        raise ValueError("X has non-finite activations at real positions; check the extraction's dtype")
    return X, mask


def _held_out(groups: Shaped[ndarray, " example"], share: float | int, seed: int) -> Bool[ndarray, " example"]:
    """Which examples are of the validation groups."""
    names, group = np.unique(groups, return_inverse=True)
    chosen = np.random.default_rng(seed).permutation(len(names)) < round(share * len(names))
    return chosen[group]
