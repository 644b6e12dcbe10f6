"""The inputs of a stack of regressions: white for the solver, standardised for the certificate."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_BLOCK = 16384


@dataclass(frozen=True)
class Whitening:
    """z = (x - mean) / std @ R is white, with penalty |W|^2 / eigenvalue there; directions without variance are left
    out, the optimum does not use them. float64: Gram matrices of residual streams are badly conditioned."""

    mean: Float[Tensor, " d_model"]
    std: Float[Tensor, " d_model"]
    vectors: Float[Tensor, "d_model dim"]
    values: Float[Tensor, " dim"]
    bias: bool

    @classmethod
    def of(cls, X: Float[Tensor, "example d_model"], bias: bool) -> "Whitening":
        n, d = X.shape
        blocks = X.split(_BLOCK)
        mean = sum(x.double().sum(0) for x in blocks) / n
        var = sum(((x.double() - mean) ** 2).sum(0) for x in blocks) / n
        eps = torch.finfo(torch.float64).eps
        std = torch.where(var > n * eps * var + (n * eps * mean) ** 2, var, 1).sqrt()  # scikit-learn's constants
        mean = mean if bias else torch.zeros_like(mean)
        if n < d:
            x = (X.double() - mean) / std
            values, vectors = torch.linalg.eigh(x @ x.T / n)
            keep = values > 1e-12 * values[-1].clamp(min=1e-300)
            values = values[keep]
            return cls(mean, std, x.T @ vectors[:, keep] / (n * values).sqrt(), values, bias)
        gram = sum(x.T @ x for x in ((x.double() - mean) / std for x in blocks)) / n
        values, vectors = torch.linalg.eigh(gram)
        keep = values > 1e-12 * values[-1].clamp(min=1e-300)
        return cls(mean, std, vectors[:, keep], values[keep], bias)

    def inputs(self, X: Tensor, dtype: torch.dtype) -> Float[Tensor, "example dim"]:
        """White rows in `dtype`, with a last column of ones for the bias."""
        R = self.vectors / self.values.sqrt()
        Z = X.new_ones(len(X), len(self.values) + self.bias, dtype=dtype)
        for start in range(0, len(X), _BLOCK):
            rows = slice(start, start + _BLOCK)
            Z[rows, : len(self.values)] = (((X[rows].double() - self.mean) / self.std) @ R).to(dtype)
        return Z

    def penalty(self, lam: Float[Tensor, " column"], n: int) -> Float[Tensor, "column dim"]:
        pull = lam[:, None] / (n * self.values)
        return torch.cat([pull, pull.new_zeros(len(lam), 1)], 1) if self.bias else pull

    def to_standard(self, V: Tensor) -> Tensor:
        """Weights on white inputs -> weights on standardised inputs, the bias staying last."""
        r = len(self.values)
        W = V.double()[..., :r] @ (self.vectors / self.values.sqrt()).T
        return torch.cat([W, V.double()[..., r:]], -1)

    def from_standard(self, V: Tensor) -> Tensor:
        d = len(self.std)
        return torch.cat([V[..., :d] @ (self.vectors * self.values.sqrt()), V[..., d:]], -1)


class Standardised:
    """Rows (x - mean) / std in float64, with a last column of ones for the bias; computed when a block is read."""

    def __init__(self, X: Tensor, mean: Tensor, std: Tensor, bias: bool):
        self.X, self.mean, self.std, self.bias = X, mean, std, bias
        self.shape = (len(X), X.shape[1] + bias)

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, rows: slice) -> Tensor:
        x = (self.X[rows].double() - self.mean) / self.std
        return torch.cat([x, x.new_ones(len(x), 1)], 1) if self.bias else x
