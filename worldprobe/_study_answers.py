"""What a model says and what its states tell of it: answers are drawn from its own next tokens, and probes read whether
one is right, before it is given and at the answer itself, and how the model errs.

Every question beside what needs no probe: the likelihood that the model gives to the answer, and how unsure it is.

Source: Orgad et al., arXiv:2410.02707.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, Shaped
from numpy import ndarray
from torch import Tensor

from interventions import LastToken
from tasks import LabelledPrompts
from tasks._study import Answering, Questions, Reading, Study

from ._error_types import TYPES, error_types
from ._run import Run
from ._study_changes import slug

N_DRAWS = 30
RARE = 0.05  # of the questions: types below it are not read, nor those that are not in every split
SPLITS = ("train", "validation", "test")


class Answers:
    """Answers that a model gave to questions.

    Attributes:
        task: Of the study.
        drawn: (question, draw) tokens; the first draw is what it says.
        log_p: (question, draw) log-probabilities of them.
        entropy: (question,) of the next token, in nats.
        first: (question,) most likely tokens.
    """

    def __init__(self, task: str, asked: Answering, questions: Questions, kept: Mapping[str, ndarray]):
        self.task, self.asked, self.questions = task, asked, questions
        self.drawn, self.log_p, self.entropy, self.first = (kept[k] for k in ("drawn", "log_p", "entropy", "first"))

    @property
    def right(self) -> Bool[ndarray, "question draw"]:
        return self.questions.right[np.arange(len(self.drawn))[:, None], self.drawn]

    @property
    def varied(self) -> bool:
        """Whether right and wrong answers occur in every split; nothing can be read where they do not."""
        split = self.questions.table["split"].to_numpy()
        return all(len(set(self.right[split == s, 0])) == 2 for s in SPLITS)

    @functools.cached_property
    def types(self) -> Shaped[ndarray, " question"]:
        return error_types(self.drawn, self.right)

    def readings(self) -> list[tuple[Reading, LabelledPrompts]]:
        """What is read of these answers; how the model errs is left out where it errs in one way only."""
        name, words, question = self.asked.name, self.asked.words, "from the last token of the question"
        if not self.varied:
            return []
        found = [(f"{name}-before", "right", f"whether its answer will be right ({words}), {question}", self.prompts()),
                 (f"{name}-answer", "right", f"whether its answer is right ({words}), from the answer",
                  self.prompts(self.drawn[:, 0]))]
        if (by_type := self._of_types()) is not None:
            found.append((f"{name}-type", "type", f"how it errs ({words}), {question}", by_type))
        return [(Reading(name, label, said, functools.partial(_whatever, data), n=len(data), quick=len(data),
                         groups=self.asked.groups), data) for name, label, said, data in found]

    def prompts(self, answers: Int[ndarray, " question"] | None = None) -> LabelledPrompts:
        """The questions, or with an answer each, labelled by whether what the model says is right."""
        q, right = self.questions, self.right[:, 0].astype("int8")
        tokens, lengths = (q.tokens, q.lengths) if answers is None else answered(q, answers)
        table = self._table(lengths).assign(**{
            "right/answer": right, "likelihood/answer": stump(self.log_p[:, 0], right, q.table["split"] == "train")})
        return LabelledPrompts(self.task, tokens, lengths, table, vocabulary=q.vocabulary, classes={
            "right": ("wrong", "right"), "likelihood": ("wrong", "right")}, shortcuts={"right": ("likelihood",)})

    def _of_types(self) -> LabelledPrompts | None:
        split, share = self.questions.table["split"].to_numpy(), pd.Series(self.types).value_counts(normalize=True)
        common = [t for t in TYPES if share.get(t, 0) >= RARE and all(t in self.types[split == s] for s in SPLITS)]
        if len(common) < 2:
            return None
        kept = np.flatnonzero(np.isin(self.types, common))
        code, split = np.array([common.index(t) for t in self.types[kept]], "int8"), split[kept]
        q = self.questions
        table = self._table(q.lengths).iloc[kept].reset_index(drop=True).assign(**{
            "type/answer": code, "entropy/answer": nearest(self.entropy[kept], code, split == "train")})
        return LabelledPrompts(self.task, q.tokens, q.lengths, table, vocabulary=q.vocabulary, classes={
            "type": tuple(common), "entropy": tuple(common)}, shortcuts={"type": ("entropy",)})

    def _table(self, lengths: Int[Tensor, " question"]) -> pd.DataFrame:
        return self.questions.table[["group", "split"]].reset_index(drop=True).assign(
            prompt=np.arange(len(self.drawn)), pos=lengths.numpy() - 1)


def _whatever(prompts: LabelledPrompts, n: int, seed: int) -> LabelledPrompts:
    """Answers are drawn once: whatever number is asked for, these are what there is."""
    return prompts


def answer_stages(folder: Run, model: Any, study: Study, seed: int, quick: bool) -> list[Answers]:
    """What the model says, a stage per set of questions."""
    found = []
    for asked in study.answering:
        questions = asked.ask(asked.quick if quick else asked.n, seed)
        kept = folder.stage(f"answers-{slug(asked.name)}", functools.partial(draw, model, questions, seed))
        found.append(Answers(study.task, asked, questions, kept))
        folder.log(f"{asked.name}: {found[-1].right.mean():.3f} of the answers drawn are right; "
                   + ", ".join(f"{t} {n}" for t, n in pd.Series(found[-1].types).value_counts().items())
                   + ("" if found[-1].varied else "; all are of one kind in some split, nothing is read of them"))
    return found


def with_answers(study: Study, data: Mapping[str, LabelledPrompts], answers: Sequence[Answers]
                 ) -> tuple[Study, dict[str, LabelledPrompts]]:
    """The study and its prompts, with the readings of what the model says."""
    more = [pair for each in answers for pair in each.readings()]
    return (replace(study, readings=[*study.readings, *(reading for reading, _ in more)]),
            {**data, **{reading.name: prompts for reading, prompts in more}})


def draw(model: Any, questions: Questions, seed: int) -> dict[str, ndarray]:
    """`N_DRAWS` next tokens of every question, from the model's own probabilities at temperature 1."""
    logits = LastToken(model, questions.tokens, questions.lengths).logits().float().cpu()
    if questions.choices is not None:
        logits = logits.masked_fill(~torch.from_numpy(questions.choices), -torch.inf)
    log_p = logits.log_softmax(-1)
    drawn = torch.multinomial(log_p.exp(), N_DRAWS, replacement=True, generator=torch.Generator().manual_seed(seed))
    return {"drawn": drawn.numpy(), "log_p": log_p.gather(1, drawn).numpy(), "first": log_p.argmax(1).numpy(),
            "entropy": -(log_p.exp() * log_p.clamp(min=-100)).sum(1).numpy()}


def answered(questions: Questions, answers: Int[ndarray, " question"], rows: Int[ndarray, " question"] | None = None
             ) -> tuple[Int[Tensor, "question pos"], Int[Tensor, " question"]]:
    """The questions (`rows` of them) with an answer each."""
    rows = np.arange(len(questions.table)) if rows is None else rows
    tokens, lengths = questions.tokens[rows], questions.lengths[rows]
    tokens = torch.cat([tokens, torch.zeros_like(tokens[:, :1])], 1)
    tokens[torch.arange(len(rows)), lengths] = torch.as_tensor(answers, dtype=tokens.dtype)
    return tokens, lengths + 1


def stump(score: Float[ndarray, " row"], label: Int[ndarray, " row"], train: Shaped[ndarray, " row"]
          ) -> Int[ndarray, " row"]:
    """1 where the score is above the threshold that is right most often on training rows."""
    train = np.asarray(train, bool)
    order = np.argsort(score[train], kind="stable")
    x, y = score[train][order], 2 * label[train][order].astype(int) - 1
    cut = int(np.append(0, np.cumsum(y)).argmin())  # as many wrong ones below it, and right ones above, as can be
    edge = -np.inf if cut == 0 else np.inf if cut == len(x) else (x[cut - 1] + x[cut]) / 2
    return (score > edge).astype("int8")


def nearest(score: Float[ndarray, " row"], label: Int[ndarray, " row"], train: Bool[ndarray, " row"]
            ) -> Int[ndarray, " row"]:
    """The class whose mean score on training rows is nearest."""
    means = np.array([score[train & (label == k)].mean() for k in range(int(label.max()) + 1)])
    return abs(score[:, None] - means).argmin(1).astype("int8")
