"""Universal neurons: which neurons of a network have a twin in networks trained from other seeds?

The excess of a neuron is its largest correlation with a neuron of the other network, less the same with that network's
neurons mixed at random, mean over networks. The mixture has the same covariance to draw from, so what any direction of
the other space would reach is taken off.

Source: Gurnee et al., arXiv:2401.12181, and their code, whose mixture is a Gaussian matrix with rows of unit length.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

UNIVERSAL = 0.5

Units = Float[Tensor, "_ _"]  # rows and neurons; whether rows are paired is for the error below to say


def universal_neurons(batches: Iterable[tuple[Units, Sequence[Units]]], threshold: float = UNIVERSAL, seed: int = 0
                      ) -> pd.DataFrame:
    """One row per neuron: neuron, correlation (mean over networks of its largest), mixed (the same with mixed
    neurons), excess, universal (excess above `threshold`), n (rows).

    Sums are kept and nothing else, (neuron, neuron) per network, so that any number of rows will do.

    Args:
        batches: (activations of the network, those of each of the others), the same tokens in the same order; leave
            out padding. Correlations of a neuron that never moves are 0.
    Raises:
        ValueError: No batch, no other network, or rows that are not paired.
    """
    sums: list[_Moments] = []
    for own, others in batches:
        if not others or any(len(other) != len(own) for other in others):
            raise ValueError(f"a batch of {len(own)} rows came with networks of {[len(o) for o in others]}; give the "
                             "same tokens to all, and at least one other network")
        sums = sums or [_Moments(own, other) for other in others]
        for total, other in zip(sums, others, strict=True):
            total.add(own, other)
    if not sums:
        raise ValueError("there is nothing to correlate: no batch was given")
    rng = torch.Generator().manual_seed(seed)
    best, mixed = ([], [])
    for total in sums:
        d = total.b.shape[0]
        mixture = torch.randn(d, d, generator=rng, dtype=torch.float64)
        best.append(total.correlation().amax(1))
        mixed.append(total.correlation(mixture / mixture.norm(dim=1, keepdim=True)).amax(1))
    value, null = (torch.stack(each).mean(0).numpy() for each in (best, mixed))
    return pd.DataFrame(dict(neuron=np.arange(len(value)), correlation=value, mixed=null, excess=value - null,
                             universal=value - null > threshold, n=sums[0].n))


class _Moments:
    """Running sums of two sets of columns, about the means of the first batch."""

    def __init__(self, a: Units, b: Units):
        self.n, self.at_a, self.at_b = 0, a.double().mean(0), b.double().mean(0)
        p, q = a.shape[1], b.shape[1]
        self.a, self.b = torch.zeros(p, dtype=torch.float64), torch.zeros(q, dtype=torch.float64)
        self.aa, self.ab = torch.zeros(p, dtype=torch.float64), torch.zeros(p, q, dtype=torch.float64)
        self.bb = torch.zeros(q, q, dtype=torch.float64)

    def add(self, a: Units, b: Units) -> None:
        a, b = a.double() - self.at_a, b.double() - self.at_b
        self.n += len(a)
        self.a += a.sum(0)
        self.b += b.sum(0)
        self.aa += (a**2).sum(0)
        self.ab += a.T @ b
        self.bb += b.T @ b

    def correlation(self, mixture: Float[Tensor, "mixed q"] | None = None) -> Float[Tensor, "p mixed"]:
        """Of every a with every b, or with every mixture of b's."""
        a, b = self.a / self.n, self.b / self.n
        cross, own = self.ab / self.n - torch.outer(a, b), self.bb / self.n - torch.outer(b, b)
        variance = own.diagonal()
        if mixture is not None:
            cross, variance = cross @ mixture.T, ((mixture @ own) * mixture).sum(1)
        size = torch.outer((self.aa / self.n - a**2).clamp(min=0), variance.clamp(min=0)).sqrt()
        return torch.where(size > 0, cross / size.clamp(min=1e-300), 0)
