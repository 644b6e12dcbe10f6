"""Which token comes next: the likeliest one, or one drawn with a number that belongs to the case alone."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """Next tokens from softmax(logits / temperature), cut to the `top_k` likeliest tokens and then to the fewest that
    hold `top_p` of what is left, in the order of Hugging Face's `generate`. Temperature 0 takes the likeliest token.
    """

    temperature: float | int = 0.0
    top_k: int | None = None
    top_p: float | int | None = None
    seed: int = 0

    def __post_init__(self):
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be 0 (the likeliest token) or more, and finite, not {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must keep at least 1 token, not {self.top_k}; leave it out to keep all")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be a share of probability in (0, 1], not {self.top_p}")
        if not self.temperature and (self.top_k, self.top_p) != (None, None):
            raise ValueError("top_k and top_p cut the distribution that is drawn from, but temperature 0 draws "
                             "nothing; set temperature=1.0")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, it is {self.seed}")

    def uniforms(self, rows: Int[Tensor, " case"], n_tokens: int) -> Float[Tensor, "case n_tokens"]:
        """Numbers in [0, 1), a function of the seed, the case number and the step alone: neither the batch a case runs
        in, nor the arm, nor how many tokens are wanted changes them. Arms that share them differ by the edit."""
        if not self.temperature:
            return torch.zeros(len(rows), n_tokens, dtype=torch.float64, device=rows.device)
        draws = [np.random.default_rng([self.seed, row]).random(n_tokens) for row in rows.tolist()]
        return torch.from_numpy(np.stack(draws)).to(rows.device)

    def pick(self, logits: Float[Tensor, "case d_vocab"], u: Float[Tensor, " case"]) -> Int[Tensor, " case"]:
        """The next token of every case, where the cumulative distribution passes `u`.

        Raises:
            ValueError: Logits are not a number.
        """
        if not self.temperature:
            return logits.argmax(-1)
        if torch.isnan(logits).any():
            bad = torch.isnan(logits).any(-1).nonzero()[:, 0].tolist()
            raise ValueError(f"logits of {len(bad)} of {len(logits)} sequences are not a number, nothing can be drawn; "
                             "lower the dose, or look at the direction")
        kept, order = logits.double(), None  # float64: a cumulative sum over the vocabulary
        if self.top_k is not None or self.top_p is not None:
            kept, order = kept.topk(min(self.top_k or kept.shape[-1], kept.shape[-1]))
        p = ((kept - kept.amax(-1, keepdim=True)) / self.temperature).softmax(-1)
        if self.top_p is not None:
            p = p.where(p.cumsum(-1) - p < self.top_p, 0)
        below = p.cumsum(-1)
        total = below[:, -1:]
        at = torch.minimum(u[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
        place = torch.searchsorted(below, at, right=True)  # the first token that `at` is strictly below
        return (place if order is None else order.gather(-1, place))[:, 0]
