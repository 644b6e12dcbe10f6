"""Small multilayer perceptrons that are trained side by side: seeds, and settings, in one product of matrices.

Tiny nets spend their time between products, not in them; a stack of a dozen costs little more than one of them.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

PerNet = Float[Tensor, " net"]


def mlp(widths: Sequence[int], activation: type[nn.Module], seed: int) -> nn.Sequential:
    """Linear layers with an activation between them, as torch initialises them from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [m for a, b in zip(widths, widths[1:], strict=False) for m in (nn.Linear(a, b), activation())]
    return nn.Sequential(*layers[:-1])


class Stack:
    """Nets of one shape as stacked parameters: layer i is x W[i] + b[i], with `activation` between layers."""

    def __init__(self, nets: Sequence[nn.Sequential]):
        self.nets, self.activation = list(nets), nets[0][1]
        layers = list(zip(*([m for m in net if isinstance(m, nn.Linear)] for net in nets), strict=True))
        self.W = [torch.stack([m.weight.detach().T for m in layer]).requires_grad_() for layer in layers]
        self.b = [torch.stack([m.bias.detach()[None] for m in layer]).requires_grad_() for layer in layers]

    def states(self, x: Float[Tensor, "net row d_in"]) -> list[Float[Tensor, "net row _"]]:
        """After every hidden layer, behind the activation, and the outputs last."""
        found = []
        for i, (W, b) in enumerate(zip(self.W, self.b, strict=True)):
            x = torch.baddbmm(b, x, W)
            found.append(self.activation(x) if i + 1 < len(self.W) else x)
            x = found[-1]
        return found

    def __call__(self, x: Float[Tensor, "net row d_in"]) -> Float[Tensor, "net row d_out"]:
        return self.states(x)[-1]

    def head(self, h: Float[Tensor, "net row d"]) -> Float[Tensor, "net row d_out"]:
        """Outputs from the states of the last hidden layer."""
        return torch.baddbmm(self.b[-1], h, self.W[-1])

    def parameters(self) -> list[Tensor]:
        return [*self.W, *self.b]

    @torch.no_grad()
    def sgd(self, loss_of_each: PerNet, rate: PerNet, decay: PerNet | None = None) -> None:
        """A step of gradient descent of every net on its own loss, with its own rate and weight decay."""
        with torch.enable_grad():
            grads = torch.autograd.grad(loss_of_each.sum(), self.parameters())
        for p, g in zip(self.parameters(), grads, strict=True):
            p -= rate[:, None, None] * (g if decay is None else g + decay[:, None, None] * p)

    @torch.no_grad()
    def written(self) -> list[nn.Sequential]:
        """The nets, with the parameters as they are now."""
        for i, net in enumerate(self.nets):
            for W, b, m in zip(self.W, self.b, (m for m in net if isinstance(m, nn.Linear)), strict=True):
                m.weight.copy_(W[i].T)
                m.bias.copy_(b[i, 0])
        return self.nets
