"""Controls that need no activation: majorities, the task's shortcuts, and the same probe on the input alone."""

from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.sparse import hstack

from tasks import LabelledPrompts

from ._fitting import Candidates, fit_and_choose, suits
from ._input_only import input_features
from ._question import Question
from ._score import Guess, score
from ._splits import Splits

INPUT = ("bag_of_tokens", "token", "position")
MAX_FEATURES = 1024  # of each kind: in a wide vocabulary the commonest of the training rows stand for the rest


def baseline_rows(prompts: LabelledPrompts, label: str, seed: int = 0, splits: Splits | None = None) -> list[dict]:
    """Rows of the majority class (or mean), of the same by position, fitted on train, and of the task's shortcuts."""
    question = Question.of(prompts, label, splits)
    guesses = {"majority": _majority(question), "majority_by_position": _by_position(question, prompts)}
    for name in prompts.shortcuts.get(label, ()):
        columns = [f"{name}/{t}" for t in prompts.targets(name)]
        guesses[f"shortcut:{name}"] = _shortcut(question, prompts.examples[columns].to_numpy(question.Y.dtype))
    return [{"control": control} | row for control, guess in guesses.items() for row in score(question, guess, seed)]


def input_only_rows(
    prompts: LabelledPrompts, label: str, probes: Mapping[str, Candidates], seed: int = 0, splits: Splits | None = None
) -> list[dict]:
    """Rows of each probe fitted, as if on states, on what it needs no model to know: see `surface_features`."""
    question = Question.of(prompts, label, splits)
    X = surface_features(prompts, question.train)
    rows = []
    for name, choices in probes.items():
        if suits(choices[0], question):
            (fit,) = fit_and_choose(choices, X, [question])
            base = {"control": "input_only", "probe": name, "penalty": fit.penalty}
            rows += [base | row for row in score(question, fit.guess, seed)]
    return rows


def surface_features(prompts: LabelledPrompts, train: ndarray) -> Float[ndarray, "example feature"]:
    """The probed token, its position and the bag of tokens before it, side by side; of each kind the features that
    occur in train, at most the 1,024 commonest."""
    return np.asarray(hstack([part for kind in INPUT for part in _commonest(prompts, kind, train)]).todense())


def _commonest(prompts: LabelledPrompts, kind: str, train: ndarray) -> Iterator:
    features = input_features(prompts, kind, sparse=True)
    count = np.asarray((features[train] != 0).sum(0)).ravel()
    best = np.sort(np.argsort(-count, kind="stable")[:MAX_FEATURES])
    yield features[:, best[count[best] > 0]]


def _majority(question: Question) -> Guess:
    Y = question.Y
    if not question.n_classes:
        return Guess(np.broadcast_to(Y[question.train].mean(0), Y.shape))
    return _likeliest(np.broadcast_to(_counts(Y[question.train], question.n_classes), (*Y.shape, question.n_classes)))


def _by_position(question: Question, prompts: LabelledPrompts) -> Guess:
    """What is commonest (or the mean) at each position in train; at a position never seen there, of all."""
    Y, train, pos = question.Y, question.train, prompts.examples["pos"].to_numpy()
    seen = {p: Y[train & (pos == p)] for p in np.unique(pos[train])}
    if not question.n_classes:
        answer = np.array(_majority(question).answer)
        for p, there in seen.items():
            answer[pos == p] = there.mean(0)
        return Guess(answer)
    counts = np.array(np.broadcast_to(_counts(Y[train], question.n_classes), (*Y.shape, question.n_classes)))
    for p, there in seen.items():
        counts[pos == p] = _counts(there, question.n_classes)
    return _likeliest(counts)


def _shortcut(question: Question, answer: ndarray) -> Guess:
    """The prediction as it is; its probabilities are how often each class is true in train where it says so."""
    if question.n_classes != 2:
        return Guess(answer)
    Y, said = question.Y[question.train], answer[question.train]
    odds = np.stack([_counts(Y[said == c][:, None], 2)[0] for c in (0, 1)])
    return Guess(answer, _share(odds)[answer.clip(0, 1)])


def _counts(Y: ndarray, n_classes: int) -> Float[ndarray, "target class"]:
    return np.stack([(Y == c).sum(0) for c in range(n_classes)], -1).astype(np.float64)


def _likeliest(counts: Float[ndarray, "example target class"]) -> Guess:
    return Guess(counts.argmax(-1), _share(counts) if counts.shape[-1] == 2 else None)


def _share(counts: Float[ndarray, "*more class"]) -> Float[ndarray, "*more class"]:
    """Class frequencies with one imagined example of each class, so that nothing is impossible (Laplace)."""
    return (counts + 1) / (counts + 1).sum(-1, keepdims=True)
