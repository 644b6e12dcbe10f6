"""A one-hidden-layer probe: what a non-linear reader finds. Never published without the linear probe beside it."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from ._classifier import SoftmaxScores


class MLPProbe(SoftmaxScores):
    """Linear-ReLU-Linear with one hidden layer shared by all targets, softmax per target.

    `sweep` gives it the validation split to stop on, for real and for shuffled labels alike: the latter end after a few
    epochs, with nothing found, instead of learning the training rows by heart.

    Args:
        hidden: Width of the hidden layer.
        epochs, batch_size, lr: AdamW with a one-cycle learning rate; inputs are standardised on the training rows.
        weight_decay: Decoupled, on the matrices.
        patience: Epochs without a lower log-loss on `validation` after which the fit stops.
        seed: Of initial weights and batch order; on the CPU equal seeds give equal probes.

    Attributes:
        n_epochs_: Epochs behind the weights that were kept.
    Source: Li et al., arXiv:2210.13382, section 3.1 (hidden width 512, Adam 1e-3, batch 1024, 16 epochs).
    """

    def __init__(self, hidden=512, epochs=16, batch_size=1024, lr=3e-3, weight_decay=0.01, patience=4, seed=0):
        self.hidden, self.epochs, self.batch_size, self.lr = hidden, epochs, batch_size, lr
        self.weight_decay, self.patience, self.seed = weight_decay, patience, seed

    def fit(self, X, y, validation=None):
        """`validation`: rows and labels of other groups; the epoch with the lowest log-loss there is kept."""
        X, codes = self._check(X, y, np.float32)
        X, codes = torch.from_numpy(X), torch.from_numpy(codes)
        n, n_targets, n_classes = len(X), codes.shape[1], len(self.classes_)
        self.mean_, self.scale_ = X.mean(0), X.std(0, correction=0).clamp(min=1e-6)
        X = (X - self.mean_) / self.scale_
        generator = torch.Generator().manual_seed(self.seed)
        fc, out = nn.Linear(X.shape[1], self.hidden), nn.Linear(self.hidden, n_targets * n_classes)
        for layer in (fc, out):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=generator)
            nn.init.zeros_(layer.bias)
        self.fc_, self.out_, self.n_targets_ = fc, out, n_targets
        held = None if validation is None else (lambda: self._log_loss(*validation))
        self.n_epochs_ = descend(self, n, lambda rows: F.cross_entropy(self._scores(X[rows]), codes[rows]), held,
                                 generator)
        return self

    def _scores(self, standard: Float[Tensor, "example d_model"]) -> Float[Tensor, "example class target"]:
        scores = self.out_(F.relu(self.fc_(standard)))
        return scores.view(len(standard), len(self.classes_), self.n_targets_)

    def _log_loss(self, X, y) -> float:
        truth = np.searchsorted(self.classes_, y).reshape(len(X), -1)
        if (self.classes_[np.minimum(truth, len(self.classes_) - 1)] != np.reshape(y, truth.shape)).any():
            raise ValueError(f"validation has labels other than those of training, {self.classes_.tolist()}")
        return float(F.cross_entropy(torch.from_numpy(self.logits(X)).mT, torch.from_numpy(truth)))

    @torch.inference_mode()
    def logits(self, X) -> Float[np.ndarray, "example target class"]:
        """Class scores of every target."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float32)
        blocks = torch.from_numpy(np.require(X, requirements=["C", "W"])).split(8192)
        return torch.cat([self._scores((x - self.mean_) / self.scale_) for x in blocks]).mT.numpy()


def descend(probe: Any, n: int, loss_of: Callable[[Tensor], Tensor], held: Callable[[], float] | None,
            generator: torch.Generator) -> int:
    """Trains the layers `fc_` and `out_` of a probe on `n` rows, and leaves those of the epoch with the lowest `held`
    loss (of the last one, where none is given); returns how many epochs are behind them.

    Args:
        loss_of: Row numbers -> loss.
    """
    steps = probe.epochs * -(-n // probe.batch_size)
    opt = torch.optim.AdamW([*probe.fc_.parameters(), *probe.out_.parameters()], lr=probe.lr,
                            weight_decay=probe.weight_decay, fused=True)
    rate = torch.optim.lr_scheduler.OneCycleLR(opt, probe.lr, total_steps=max(steps, 2), pct_start=0.2)
    best, kept, n_epochs = np.inf, None, probe.epochs
    for epoch in range(probe.epochs):
        with torch.enable_grad():
            for rows in torch.randperm(n, generator=generator).split(probe.batch_size):
                loss = loss_of(rows)
                opt.zero_grad(set_to_none=True)
                loss.backward()
                opt.step()
                rate.step()
        if held is None:
            continue
        if (value := held()) < best:
            best, kept, n_epochs = value, copy.deepcopy((probe.fc_, probe.out_)), epoch + 1
        elif epoch + 1 - n_epochs >= probe.patience:
            break
    probe.fc_, probe.out_ = (layer.requires_grad_(False) for layer in kept or (probe.fc_, probe.out_))
    return n_epochs


def half_whitening(X: Float[Tensor, "example d_model"]) -> Float[Tensor, "d_model d_model"]:
    """R such that (x - mean) R are the principal components of the standardised rows, each variance v moved to
    v / (v + 1), times a constant that makes their mean variance 1."""
    std = X.std(0, correction=0).clamp(min=1e-6).double()
    gram = sum(z.T @ z for z in ((x - X.mean(0)).double() / std for x in X.split(16384)))
    values, vectors = torch.linalg.eigh(gram / len(X))
    values = values.clamp(min=0)
    mean = (values / (values + 1)).mean().clamp(min=1e-12)
    return (vectors / std[:, None] / ((values + 1) * mean).sqrt()).to(X.dtype)
