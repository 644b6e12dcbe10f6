"""Latent saliency maps: how much a token's probability hangs on each fact the model holds."""

from collections.abc import Callable

from jaxtyping import Float, Int
from torch import Tensor

from ._last_token import Edits, LastToken


def saliency(
    run: LastToken,
    token: Int[Tensor, " case"],
    flip: Callable[[int], Edits],
    n_targets: int,
) -> Float[Tensor, "case target"]:
    """p0 - p_s: what flipping target s inside the model takes from the probability of the attributed token.

    Positive: the token needs the fact as it is. Where `flip` leaves a case as it is (an empty square), 0.

    Args:
        token: The attributed token of every case of `run`.
        flip: Target number -> the edits that flip it, made for all cases (see `LastToken`'s `rows`).
    Source: Li et al., arXiv:2210.13382, Algorithm 1; their plots subtract the mean over targets.
    """
    if len(token) != len(run):
        raise ValueError(f"token names {len(token)} cases, there are {len(run)}; give one attributed token per case")

    def probability(logits, places):
        return logits.float().softmax(-1).gather(-1, token[places].to(logits.device)[:, None])

    p = run.measure([{}, *(flip(target) for target in range(n_targets))], probability)[..., 0]
    return (p[0] - p[1:]).T.contiguous()
