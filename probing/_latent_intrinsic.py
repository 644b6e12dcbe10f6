"""The latent-variable intrinsic probe: one probe trained under random masks, which then scores any subset."""

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy import ndarray
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from ._classifier import class_codes
from ._intrinsic import SubsetClassifier, encode, information
from ._masks import Coins, FixedSize
from ._subspaces import LinearPair

_ELEMENTS = 2**22  # of a temporary: example x candidate x hidden


class LatentIntrinsicProbe(LinearPair, SubsetClassifier):
    """p(v | h_C) = softmax(f(m * h)), m the mask of C, for every C at once.

    The subset is latent; the head f and the weights theta of q(C) maximise, per example,

        log p(v | h) >= E_{q(C)} log p(v | h_C) - KL(q || uniform)

    by sampled masks: plain gradients for f, score-function gradients (with the batch mean as baseline) for theta. The
    entropy of q is exact. Masks multiply standardised activations: what is masked sits at its mean.

    Args:
        masks: "coins" (independent Bernoulli) or "fixed_size" (conditional Poisson).
        size: Of fixed-size masks; uniform on 1..d unless given.
        hidden: Width of a ReLU layer; None for a linear head, which alone has read and write directions.
        n_masks: Masks per example and step.
        n_steps, batch_size, lr, weight_decay: Of AdamW with a one-cycle learning rate.
        seed: Of initial weights, batches and masks.

    Attributes:
        theta_: (d_model,) log-weights of q. inclusion_: how often q takes each dimension.
        read_, write_: With a linear head, (direction, d_model): the contrasts of its weights, with every dimension
            in, and the differences of class means, in raw space.
    Source: Stanczak et al., arXiv:2201.08214, copenlu/flexible-probing trainers. Theirs has no baseline, stops early
        and initialises theta at random; ours starts at the uniform prior.
    """

    def __init__(self, masks="coins", size=None, hidden=None, n_masks=5, n_steps=1000, batch_size=256, lr=0.01,
                 weight_decay=0.01, seed=0):
        self.masks, self.size, self.hidden, self.n_masks, self.n_steps = masks, size, hidden, n_masks, n_steps
        self.batch_size, self.lr, self.weight_decay, self.seed = batch_size, lr, weight_decay, seed

    def fit(self, X, y):
        X, y = validate_data(self, X, y, dtype=np.float64)
        self.classes_, codes = class_codes(y)
        if self.masks not in ("coins", "fixed_size"):
            raise ValueError(f"masks must be 'coins' or 'fixed_size', not {self.masks!r}")
        self.mean_, std = X.mean(0), X.std(0)
        self.scale_ = np.where(std > 1e-9 * max(std.max(), 1e-30), std, 1.0)
        Z = torch.from_numpy((X - self.mean_) / self.scale_).float()
        theta, layers = self._train(Z, torch.from_numpy(codes))
        self.theta_, self.layers_ = theta, [layer.double().numpy() for layer in layers]
        self.inclusion_ = self._family(torch.from_numpy(theta).requires_grad_()).sample(
            4096, torch.Generator().manual_seed(self.seed)).mean(0).numpy()
        if self.hidden is None:
            W, means = self.layers_[0] / self.scale_, np.stack([X[codes == k].mean(0) for k in range(codes.max() + 1)])
            two = len(W) == 2
            self.read_ = W[1:] - W[:1] if two else W - W.mean(0)
            self.write_ = means[1:] - means[:1] if two else means - means.mean(0)
        return self

    def _family(self, theta: Tensor) -> Coins | FixedSize:
        return Coins(theta) if self.masks == "coins" else FixedSize(theta, self.size)

    def _train(self, Z: Tensor, codes: Tensor) -> tuple[Float[ndarray, " dim"], list[Tensor]]:
        n, d = Z.shape
        generator = torch.Generator().manual_seed(self.seed)
        sizes = [d, len(self.classes_)] if self.hidden is None else [d, self.hidden, len(self.classes_)]
        layers = []
        for fan_in, fan_out in zip(sizes, sizes[1:], strict=False):
            layers += [torch.randn(fan_out, fan_in, generator=generator) * fan_in**-0.5, torch.zeros(fan_out)]
        theta = torch.zeros(d)
        for parameter in (theta, *layers):
            parameter.requires_grad_()
        opt = torch.optim.AdamW([{"params": layers}, {"params": [theta], "weight_decay": 0.0}], self.lr,
                                weight_decay=self.weight_decay)
        rate = torch.optim.lr_scheduler.OneCycleLR(opt, self.lr, total_steps=max(self.n_steps, 2), pct_start=0.2)
        for _ in range(self.n_steps):
            rows = torch.randint(n, (min(self.batch_size, n),), generator=generator).repeat(self.n_masks)
            with torch.enable_grad():
                q = self._family(theta)
                masks = q.sample(len(rows), generator)
                loss = F.cross_entropy(_head(Z[rows] * masks, layers), codes[rows], reduction="none")
                surprise = loss.detach() - loss.detach().mean()
                bound = loss.mean() + (surprise * q.log_prob(masks)).mean() - q.entropy()
                opt.zero_grad(set_to_none=True)
                bound.backward()
            opt.step()
            rate.step()
        return theta.detach().double().numpy(), [layer.detach() for layer in layers]

    def logits(self, X, subset=None) -> Float[ndarray, "example class"]:
        """Class scores from the dimensions of `subset`, all of them unless given."""
        check_is_fitted(self)
        Z = (validate_data(self, X, reset=False, dtype=np.float64) - self.mean_) / self.scale_
        C = np.arange(Z.shape[1]) if subset is None else np.asarray(subset, dtype=int)
        first, bias, *rest = (torch.from_numpy(layer) for layer in self.layers_)
        return _tail(torch.from_numpy(Z[:, C]) @ first[:, C].T + bias, rest).numpy()

    def decision_function(self, X, subset=None):
        """(example, class) scores; for two classes, the score of classes_[1] over classes_[0] alone."""
        scores = self.logits(X, subset)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_log_proba(self, X, subset=None):
        return torch.from_numpy(self.logits(X, subset)).log_softmax(1).numpy()

    def select(self, X, y, n_dims: int) -> pd.DataFrame:
        """Greedy forward selection by the log-likelihood of (X, y), validation examples; the table of
        `GaussianProbe.select`. Each candidate adds one column to the first layer's sums, so none is refitted."""
        codes = encode(self, y)
        Z = (validate_data(self, X, reset=False, dtype=np.float64) - self.mean_) / self.scale_
        n, d = Z.shape
        if not 1 <= n_dims <= d:
            raise ValueError(f"between 1 and {d} dimensions can be chosen; {n_dims} was asked for")
        z, true = torch.from_numpy(Z), torch.from_numpy(codes)
        first, bias, *rest = (torch.from_numpy(layer) for layer in self.layers_)
        sums, left, rows = bias.expand(n, -1).clone(), list(range(d)), []
        for step in range(n_dims):
            gained = torch.cat([_likelihoods(z, true, sums, first, rest, at) for at in
                                torch.tensor(left).split(max(_ELEMENTS // (n * len(bias)), 1))])
            dim = left.pop(int(gained.argmax()))
            sums += z[:, dim, None] * first[:, dim]
            log_p = _tail(sums, rest).log_softmax(1).numpy()
            rows.append({"step": step + 1, "dim": dim} | information(log_p, codes))
        return pd.DataFrame(rows)


def _head(x: Tensor, layers: list[Tensor]) -> Tensor:
    return _tail(F.linear(x, layers[0], layers[1]), layers[2:])


def _tail(sums: Tensor, rest: list[Tensor]) -> Tensor:
    """Class scores from the sums of the first layer."""
    return F.linear(F.relu(sums), *rest) if rest else sums


def _likelihoods(z, true, sums, first, rest, at) -> Float[Tensor, " candidate"]:
    """Mean log p(v | h) with each of the dimensions `at` added to the sums."""
    each = sums[:, None] + z[:, at, None] * first[:, at].T
    return _tail(each, rest).log_softmax(2)[torch.arange(len(z)), :, true].mean(0)
