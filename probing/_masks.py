"""Distributions over subsets of dimensions: independent coins, and coins conditioned on how many come up."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

LogWeights = Float[Tensor, " dim"]


def log_symmetric_sums(theta: LogWeights) -> list[Float[Tensor, " size"]]:
    """E[i][k] = log of the sum of exp(sum_{j in C} theta_j) over subsets C of the first i dimensions with k members.

    E[i][k] = log(exp E[i-1][k] + exp(theta_i + E[i-1][k-1])), the elementary symmetric polynomials of exp(theta).
    Row i has the i + 1 sizes that exist: an impossible size, log 0, would have no second derivative.
    """
    rows = [theta.new_zeros(1)]
    for weight in theta:
        last = rows[-1]
        rows.append(torch.cat([last[:1], torch.logaddexp(last[1:], last[:-1] + weight), last[-1:] + weight]))
    return rows


class Coins:
    """Every dimension is in the subset with probability sigmoid(theta), independently ("Poisson" sampling)."""

    def __init__(self, theta: LogWeights):
        self.theta = theta

    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "mask dim"]:
        p = torch.sigmoid(self.theta.detach())
        return (torch.rand(n, len(p), generator=generator, dtype=p.dtype) < p).to(p.dtype)

    def log_prob(self, masks: Float[Tensor, "mask dim"]) -> Float[Tensor, " mask"]:
        return masks @ self.theta - torch.nn.functional.softplus(self.theta).sum()

    def entropy(self) -> Float[Tensor, ""]:
        """In nats."""
        return (torch.nn.functional.softplus(self.theta) - torch.sigmoid(self.theta) * self.theta).sum()


class FixedSize:
    """Subsets of `size` dimensions with p(C) ~ exp(sum_C theta) ("conditional Poisson" sampling); without a size,
    the size is uniform on 1..d first."""

    def __init__(self, theta: LogWeights, size: int | None = None):
        self.theta, self.sums = theta, log_symmetric_sums(theta)
        self.sizes = torch.arange(1, len(theta) + 1) if size is None else torch.tensor([size])

    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "mask dim"]:
        """Exact: from the last dimension down, each is in with its probability given how many are still wanted."""
        wanted: Int[Tensor, " mask"] = self.sizes[torch.randint(len(self.sizes), (n,), generator=generator)]
        draws = torch.rand(len(self.theta), n, generator=generator, dtype=self.theta.dtype)
        masks = torch.zeros_like(draws)
        for i in range(len(self.theta), 0, -1):
            with_it = self.theta[i - 1] + self.sums[i - 1][(wanted - 1).clamp(min=0)]
            p = (with_it - self.sums[i][wanted]).exp().detach()
            chosen: Bool[Tensor, " mask"] = (draws[i - 1] < p) & (wanted > 0) | (wanted >= i)
            masks[i - 1] = chosen
            wanted = wanted - chosen.long()
        return masks.T

    def log_prob(self, masks: Float[Tensor, "mask dim"]) -> Float[Tensor, " mask"]:
        size = masks.sum(1).round().long()
        return masks @ self.theta - self.sums[-1][size] - torch.tensor(float(len(self.sizes))).log()

    def entropy(self) -> Float[Tensor, ""]:
        """In nats: that of the size, plus the mean over sizes of log Z - theta . d log Z / d theta."""
        log_z = self.sums[-1][self.sizes].mean()
        (inclusion,) = torch.autograd.grad(log_z, self.theta, create_graph=True)
        return log_z - inclusion @ self.theta + torch.tensor(float(len(self.sizes))).log()
