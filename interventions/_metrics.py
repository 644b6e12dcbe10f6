"""What an edit did to the next-token distribution: one number per case, from the logits of the last token."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

PerCase = Float[Tensor, " case"]
Logits = Float[Tensor, "case d_vocab"]


def set_error(logits: Logits, right: Bool[Tensor, "case d_vocab"], ignore: tuple[int, ...] = (0,)) -> PerCase:
    """|P - R| + |R - P|: false positives plus false negatives of the top picks, where R is the set of right tokens
    and P the |R| tokens of highest logit.

    Args:
        right: (case, d_vocab) R.
        ignore: Tokens that are never picked; by default padding, token 0.
    Raises:
        ValueError: Logits are not a number, or fewer tokens can be picked than are right.
    Source: Li et al., arXiv:2210.13382, section 4.2; both terms are equal, so the error is even.
    """
    right = torch.as_tensor(right, device=logits.device)
    if torch.isnan(logits).any():
        bad = torch.isnan(logits).any(-1).nonzero()[:, 0].tolist()
        raise ValueError(f"logits of {len(bad)} cases are not a number (first: {bad[:5]}); lower the dose, or look at "
                         "the direction")
    n_right = right.sum(-1)
    if (n_picks := int(n_right.max()) if len(right) else 0) > logits.shape[-1] - len(ignore):
        raise ValueError(f"{n_picks} tokens are right, but only {logits.shape[-1] - len(ignore)} can be picked; check "
                         "the right answers and `ignore`")
    logits = logits.clone()
    logits[:, list(ignore)] = -torch.inf
    picks = logits.topk(n_picks, dim=-1).indices
    counted = torch.arange(n_picks, device=logits.device) < n_right[:, None]
    hits = (right.gather(-1, picks) & counted).sum(-1)
    return 2.0 * (n_right - hits)


def top1_right(logits: Logits, right: Bool[Tensor, "case d_vocab"]) -> PerCase:
    """1 where the token of highest logit is right, else 0."""
    right = torch.as_tensor(right, device=logits.device)
    return right.gather(-1, logits.argmax(-1, keepdim=True))[:, 0].to(logits.dtype)


def kl(reference: Logits, edited: Logits) -> PerCase:
    """KL(p_reference || p_edited) of the next token, in nats: the price of an edit where `reference` is unedited."""
    p, q = reference.float().log_softmax(-1), edited.float().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def probability_mass(logits: Logits, tokens: Bool[Tensor, "case d_vocab"]) -> PerCase:
    """Probability that the next token is one of `tokens`."""
    return (logits.float().softmax(-1) * torch.as_tensor(tokens, device=logits.device)).sum(-1)


def logit_difference(logits: Logits, right: Int[Tensor, " case"], wrong: Int[Tensor, " case"]) -> PerCase:
    """Logit of the token `right` minus that of `wrong`, in nats."""
    picked = logits.gather(-1, torch.stack([right, wrong], dim=-1).to(logits.device))
    return picked[:, 0] - picked[:, 1]


def log_odds(logits: Logits, a: Bool[Tensor, "case d_vocab"], b: Bool[Tensor, "case d_vocab"]) -> PerCase:
    """log p(a) - log p(b) of two sets of tokens, in nats; of single tokens the logit difference. NaN where a set is
    empty."""
    sums = [logits.float().masked_fill(~torch.as_tensor(s, device=logits.device), -torch.inf).logsumexp(-1)
            for s in (a, b)]
    return (sums[0] - sums[1]).masked_fill(torch.isinf(torch.stack(sums)).any(0), torch.nan)


def answer_odds(logits: Logits, before: Bool[Tensor, "case d_vocab"], after: Bool[Tensor, "case d_vocab"]) -> PerCase:
    """Log odds, in nats, of the answers that the change makes right over those that it makes wrong; where it makes none
    right, of all that are right after it, and where it makes none wrong, over all that were right before. NaN where it
    changes no answer."""
    gained, lost = after & ~before, before & ~after
    new = torch.where(gained.any(-1, keepdim=True), gained, after)
    old = torch.where(lost.any(-1, keepdim=True), lost, before)
    return log_odds(logits, new, old).masked_fill(~(gained | lost).any(-1), torch.nan)


def log_odds_ratio(logits: Logits, unedited: Logits, before: Bool[Tensor, "case d_vocab"],
                   after: Bool[Tensor, "case d_vocab"]) -> PerCase:
    """By how much an edit raises `answer_odds`, in nats: 0 for no edit.

    Source: CausalGym (Arora et al., arXiv:2402.12560), which has one token on either side.
    """
    return answer_odds(logits, before, after) - answer_odds(unedited, before, after)


def hits(logits: Logits, right: Bool[Tensor, "case d_vocab"]) -> PerCase:
    """Share of the right tokens among as many top picks: the accuracy, where one token is right. NaN where none is."""
    n_right = torch.as_tensor(right, device=logits.device).sum(-1)
    return 1 - set_error(logits, right, ignore=()) / (2 * n_right)


def entropy(logits: Logits) -> PerCase:
    """Entropy of the next token, in nats."""
    log_p = logits.float().log_softmax(-1)
    return -(log_p.exp() * log_p).nan_to_num(0).sum(-1)


def flipped(logits: Logits, unedited: Logits) -> PerCase:
    """1 where the likeliest token is another than without the edit, else 0."""
    return (logits.argmax(-1) != unedited.argmax(-1)).to(logits.dtype)


def loss(logits: Logits, token: Int[Tensor, " case"]) -> PerCase:
    """-log p of the token that follows, in nats."""
    return -logits.float().log_softmax(-1).gather(-1, token.to(logits.device)[:, None])[:, 0]


# name in the column `metric` -> (logits, unedited logits, right before, right after) -> a number per case
ANSWER_METRICS = {
    "log_odds": lambda logits, unedited, before, after: answer_odds(logits, before, after),
    "odds_ratio": lambda logits, unedited, before, after: log_odds_ratio(logits, unedited, before, after),
    "iia": lambda logits, unedited, before, after: hits(logits, after),
    "flip_rate": lambda logits, unedited, before, after: flipped(logits, unedited),
    "mass_before": lambda logits, unedited, before, after: probability_mass(logits, before),
    "mass_after": lambda logits, unedited, before, after: probability_mass(logits, after),
    "mass_sum": lambda logits, unedited, before, after: probability_mass(logits, before | after),
    "top1_valid": lambda logits, unedited, before, after: top1_right(logits, before | after),
    "entropy": lambda logits, unedited, before, after: entropy(logits),
}
