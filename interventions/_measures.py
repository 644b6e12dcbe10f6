"""What is counted of every case under an edit: a fixed list of numbers, from the logits of its run alone."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from tasks._prompts import Counterfactuals

from ._metrics import ANSWER_METRICS, kl
from ._runs import Run

Score = Callable[[Tensor, Tensor], Tensor]
Measure = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class Measures:
    """(logits, places) -> (batch, number), for the `measure` of a run: the score against the answers that are right
    after the change, KL(unedited || edited), and each of `metrics`.

    Args:
        run: The run that is measured; its logits without an edit are held.
        score: (logits, right) -> per case; None where there are no answers.
        metrics: Names out of `ANSWER_METRICS`, or functions of (logits, unedited logits, right before, right after).

    Attributes:
        names: Of the numbers, in order.
    """

    def __init__(self, run: Run, cases: Counterfactuals, score: Score | None,
                 metrics: Sequence[str] | Mapping[str, Measure] = ()):
        named = metrics if isinstance(metrics, Mapping) else {}
        if not named and (unknown := [m for m in metrics if m not in ANSWER_METRICS]):
            raise ValueError(f"no metric {unknown[0]!r}; there are {', '.join(ANSWER_METRICS)}, or give your own as "
                             "{name: function of (logits, unedited, right_before, right_after)}")
        self.more: dict[str, Measure] = dict(named) or {m: ANSWER_METRICS[m] for m in metrics}
        self.score = score
        rows = run.rows.numpy()
        self.before, self.after = (torch.as_tensor(r[rows]) for r in (cases.right_before, cases.right_after))
        self.unedited = run.logits()
        self.names = [*([] if score is None else [score_name(score)]), "kl", *self.more]

    def of(self, run: Run, cases: Counterfactuals) -> "Measures":
        """The same numbers of another run."""
        return Measures(run, cases, self.score, self.more)

    def null(self) -> Float[ndarray, "case number"]:
        """The numbers without an edit."""
        return self(self.unedited, torch.arange(len(self.before))).cpu().numpy()

    def __call__(self, logits: Float[Tensor, "batch d_vocab"], places: Int[Tensor, " batch"]
                 ) -> Float[Tensor, "batch number"]:
        unedited = self.unedited[places.to(self.unedited.device)].to(logits.device)
        before, after = (r[places.cpu()].to(logits.device) for r in (self.before, self.after))
        found = [] if self.score is None else [self.score(logits, after)]
        found += [kl(unedited, logits), *(f(logits, unedited, before, after) for f in self.more.values())]
        return torch.stack([each.double() for each in found], dim=-1)


def score_name(score: Score) -> str:
    return getattr(getattr(score, "func", score), "__name__", "score")


def against(run: Run, right: Bool[ndarray, "case d_vocab"], score: Score) -> Score:
    """(logits, places) -> (batch,) score against the answers of those cases."""
    return lambda logits, places: score(logits, torch.as_tensor(right[run.rows[places].numpy()])).double()
