"""A one-hidden-layer probe of numbers: what a non-linear reader adds to ridge."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from ._mlp import descend, half_whitening


class MLPRegressorProbe(RegressorMixin, BaseEstimator):
    """Linear-ReLU-Linear with one hidden layer shared by all targets, squared error on standardised targets.

    Arguments as in `MLPProbe`, from whose recipe it learns; it starts from the mean of every target.

    Attributes:
        n_epochs_: Epochs behind the weights that were kept.
    Source: Gurnee & Tegmark, arXiv:2310.02207 (hidden width 256, AdamW 1e-3, at most 20 epochs, patience 3); batches
    are smaller here, for few rows.
    """

    def __init__(self, hidden=256, epochs=60, batch_size=64, lr=3e-3, weight_decay=0.01, patience=8, seed=0):
        self.hidden, self.epochs, self.batch_size, self.lr = hidden, epochs, batch_size, lr
        self.weight_decay, self.patience, self.seed = weight_decay, patience, seed

    def fit(self, X, y, validation=None):
        """`validation`: rows and numbers of other groups; the epoch with the lowest error there is kept."""
        X, y = validate_data(self, X, y, multi_output=True, y_numeric=True, dtype=(np.float32, np.float64))
        self._one_target = y.ndim == 1
        y = np.asarray(y, np.float64).reshape(len(y), -1)
        self.y_mean_, self.y_scale_ = y.mean(0), np.where(y.std(0) > 0, y.std(0), 1.0)
        states, goal = torch.from_numpy(np.array(X, np.float32)), self._standard(y)
        self.mean_, self.inputs_ = states.mean(0), half_whitening(states)
        states = (states - self.mean_) @ self.inputs_
        generator = torch.Generator().manual_seed(self.seed)
        self.fc_, self.out_ = nn.Linear(states.shape[1], self.hidden), nn.Linear(self.hidden, y.shape[1])
        nn.init.normal_(self.fc_.weight, std=self.fc_.in_features**-0.5, generator=generator)
        for zero in (self.fc_.bias, self.out_.weight, self.out_.bias):
            nn.init.zeros_(zero)
        held = None if validation is None else (lambda: self._error(*validation))
        self.n_epochs_ = descend(self, len(states), lambda rows: F.mse_loss(self._numbers(states[rows]), goal[rows]),
                                 held, generator)
        return self

    @torch.inference_mode()
    def predict(self, X):
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=(np.float32, np.float64))
        standard = self._numbers((torch.from_numpy(np.array(X, np.float32)) - self.mean_) @ self.inputs_)
        found = standard.double().numpy() * self.y_scale_ + self.y_mean_
        return found[:, 0] if self._one_target else found

    def _numbers(self, states: Float[Tensor, "row d_model"]) -> Float[Tensor, "row target"]:
        return self.out_(F.relu(self.fc_(states)))

    def _standard(self, y: Float[np.ndarray, "row target"]) -> Float[Tensor, "row target"]:
        return torch.from_numpy(((y - self.y_mean_) / self.y_scale_).astype(np.float32))

    def _error(self, X, y) -> float:
        y = np.asarray(y, np.float64).reshape(len(X), -1)
        return float(F.mse_loss(self._standard(np.asarray(self.predict(X), np.float64).reshape(y.shape)),
                                self._standard(y)))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.regressor_tags.poor_score = True  # few epochs on the tiny data of the checks
        return tags
