"""A one-hidden-layer probe: what a non-linear reader finds. Never published without the linear probe beside it."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn


class MLPProbe(ClassifierMixin, BaseEstimator):
    """Linear-ReLU-Linear with one hidden layer shared by all targets, softmax per target.

    Args:
        hidden: Width of the hidden layer.
        epochs, batch_size, lr: AdamW with a one-cycle learning rate; inputs are standardised on the training rows.
        weight_decay: Decoupled, on the matrices.
        seed: Of initial weights and batch order; on the CPU equal seeds give equal probes.
    Source: Li et al., arXiv:2210.13382, section 3.1 (hidden width 512, Adam 1e-3, batch 1024, 16 epochs).
    """

    def __init__(self, hidden: int = 512, epochs: int = 16, batch_size: int = 1024, lr: float = 3e-3,
                 weight_decay: float = 0.01, seed: int = 0):
        self.hidden, self.epochs, self.batch_size = hidden, epochs, batch_size
        self.lr, self.weight_decay, self.seed = lr, weight_decay, seed

    def fit(self, X, y):
        X, y = validate_data(self, X, y, multi_output=True, dtype=np.float32)
        self.classes_, codes = np.unique(y, return_inverse=True)
        codes = torch.from_numpy(codes.reshape(len(y), -1))
        n, n_targets, n_classes = len(X), codes.shape[1], len(self.classes_)
        X = torch.from_numpy(np.ascontiguousarray(X))
        self.mean_, self.scale_ = X.mean(0), X.std(0).clamp(min=1e-6)
        X = (X - self.mean_) / self.scale_
        generator = torch.Generator().manual_seed(self.seed)
        fc, out = nn.Linear(X.shape[1], self.hidden), nn.Linear(self.hidden, n_targets * n_classes)
        for layer in (fc, out):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=generator)
            nn.init.zeros_(layer.bias)
        params = [*fc.parameters(), *out.parameters()]
        steps = self.epochs * -(-n // self.batch_size)
        opt = torch.optim.AdamW(params, lr=self.lr, weight_decay=self.weight_decay)
        rate = torch.optim.lr_scheduler.OneCycleLR(opt, self.lr, total_steps=max(steps, 2), pct_start=0.2)
        with torch.enable_grad():
            for _ in range(self.epochs):
                for rows in torch.randperm(n, generator=generator).split(self.batch_size):
                    scores = out(F.relu(fc(X[rows]))).view(len(rows), n_classes, n_targets)
                    loss = F.cross_entropy(scores, codes[rows])
                    opt.zero_grad(set_to_none=True)
                    loss.backward()
                    opt.step()
                    rate.step()
        self.fc_, self.out_ = fc.requires_grad_(False), out.requires_grad_(False)
        self.n_targets_, self._one_target = n_targets, y.ndim == 1
        return self

    @torch.inference_mode()
    def logits(self, X) -> Float[np.ndarray, "example target class"]:
        """Class scores of every target."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float32)
        scores = [
            self.out_(F.relu(self.fc_((block - self.mean_) / self.scale_)))
            for block in torch.from_numpy(np.ascontiguousarray(X)).split(8192)
        ]
        return torch.cat(scores).view(len(X), len(self.classes_), self.n_targets_).mT.numpy()

    def predict(self, X):
        codes = self.logits(X).argmax(-1)
        return self.classes_[codes[:, 0] if self._one_target else codes]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
