"""What the study of truthfulness asks of a language model and statements in plain text."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from .._prompts import LabelledPrompts
from .._study import Answering, Behaviour, Change, Heads, Measure, Part, Reading, Study, codes
from . import _study_checks, _study_pictures
from ._asked import few_shot_cases, few_shot_prompts, few_shot_questions
from ._cases import KINDS
from ._datasets import DATASETS
from ._few_shot import few_shot_pairs
from ._load import load

PROBES = ("mass_mean", "logistic", "lda")
OPPOSITES = {"cities": "neg_cities", "sp_en_trans": "neg_sp_en_trans", "larger_than": "smaller_than"}
PLACES = {"end": "the full stop", "content": "the last word"}
N_LIKELY = 600  # statements whose likelihood is measured
BATCH = 32


def of_text(tokenizer, data: str, group: str | None, shots: int, judged: str | None, d_vocab: int | None) -> Study:
    """The study of a language model; see `study` for the arguments."""
    names = {str(s).rpartition("/")[2].removesuffix(".csv"): s
             for s in (data, *([OPPOSITES[data]] if data in OPPOSITES else []))}
    first = next(iter(names))
    at = {"tokenizer": tokenizer, "group": group}
    readings = [Reading(f"{name}-{place}", "likely" if one == "likely" else "truth",
                        f"whether a statement of {name} is true, from {words}", partial(_load, one, place, at),
                        (*PROBES, "logistic_no_bias"), n=2000, quick=500,
                        transfer=tuple(f"{other}-{place}" for other in names if other != name),
                        components=place == "end" and name == first, groups="subjects")
                for place, words in PLACES.items() for name, one in names.items()]
    if len(names) == 2:
        both = list(names.values())
        readings.append(Reading(f"{'+'.join(names)}-end", "truth", f"whether a statement of {' or '.join(names)} is "
                                "true, from the full stop", partial(_load, both, "end", at), (*PROBES, "ttpd"), n=4000,
                                quick=1000, transfer=tuple(f"{name}-end" for name in names), groups="subjects"))
    if data in DATASETS and data != "likely":
        readings.append(Reading("likely-end", "truth", "whether a text ends in a likely token, taken for truth: the "
                                "control for probability", partial(_likely, at), PROBES, n=2000, quick=500, given=True,
                                transfer=tuple(f"{name}-end" for name in names), groups="texts"))
    asked = judged or ({"sp_en_trans": "cities"}.get(data, "sp_en_trans") if data in DATASETS else data)
    more = _verdicts(asked, shots, first, dict(tokenizer=tokenizer, shots=shots, d_vocab=d_vocab)
                     | ({} if asked in DATASETS else {"group": group})) if shots else {
        "notes": ["No verdict is asked for and nothing is changed inside the model. Of a model that predicts the next "
                  "token, --with shots=5 asks for verdicts after five judged statements, and pushes statements along "
                  "the directions of truth."]}
    return Study(
        task="truthfulness", title=f"Whether the model {{model}} knows what is true: {', '.join(names)}",
        question="Can the truth of a statement be read linearly where it ends, better than its words and a model with "
                 "random weights allow, and is it the same direction for the opposite statements?",
        model="truthfulness", readings=readings,
        measures=[Measure("likelihood", "The shortcut. How often a statement is told rightly by its likelihood alone, "
                          "the log-probability that the model gives to it per token: true above the threshold that is "
                          "best on training statements.", partial(likelihood_rows, partial(_load, data, "end", at)),
                          next_tokens=True)],
        checks=[partial(c, f"{first}-end", data) for c in _study_checks.OF_TEXT],
        pictures=partial(_study_pictures.of_text, f"{first}-end"), draws=_study_pictures.examples, **more)


def _verdicts(asked: str, shots: int, reading: str, how: dict[str, Any]) -> dict[str, Any]:
    """What is asked of models that predict the next token: few-shot verdicts, and what changes them."""
    name = str(asked).rpartition("/")[2].removesuffix(".csv")
    parts = {place: Part(f"{reading}-{place}", place, partial(codes, targets=["statement"], column="was"),
                         partial(codes, targets=["statement"], column="becomes")) for place in PLACES}
    places = {"end": [parts["end"]], "content": [parts["content"]], "content and end": [parts["content"], parts["end"]]}
    return {
        "behaviour": Behaviour(partial(_verdict, asked, how), {
            "verdict": f"right verdict, TRUE or FALSE, on statements of {name} after {shots} judged ones (share)",
            "verdict_mass": "probability of TRUE and FALSE together"}, {"verdict": "half"}, n=200, quick=60,
            items="statements"),
        "changes": [Change(kind, f"a {kind.split('_')[0]} statement of {name} is to be judged {kind.split('_')[-1]}",
                           partial(_cases, kind, asked, how), places, by="mass_after", n=200, quick=60,
                           groups="subjects") for kind in KINDS],
        "heads": [Heads("false_to_true", "truth", partial(few_shot_prompts, asked, **how), n=200, quick=100)],
        "answering": [Answering("verdict", f"the verdict on statements of {name}", partial(
            few_shot_questions, asked, **how), n=400, quick=120, groups="subjects")]}


def _cases(kind: str, asked: str, how: dict[str, Any], n: int, seed: int):
    return few_shot_cases(kind, asked, n=n, seed=seed, **how)


def _load(data: str | Path | list, at: str, how: dict[str, Any], n: int, seed: int) -> LabelledPrompts:
    return load(data, how["tokenizer"], n=n, seed=seed, at=at, group=how["group"])


def _likely(how: dict[str, Any], n: int, seed: int) -> LabelledPrompts:
    """The texts of `likely`, as if what is likely were true."""
    made = load("likely", how["tokenizer"], n=n, seed=seed)
    return replace(made, classes={"truth": made.classes["likely"]}, examples=made.examples.drop(
        columns="log_likelihood/statement").rename(columns={"likely/statement": "truth/statement"}))


def _verdict(asked: str, how: dict[str, Any], model, n: int, seed: int) -> pd.DataFrame:
    """One row per statement: whether the model gives the right verdict more probability than the wrong one, and both
    together; `half`, what a coin does."""
    pairs = few_shot_pairs(asked, n=max(1, n // 2), seed=seed, **how)
    found = []
    for tokens, right, wrong in ((pairs.clean, pairs.right_clean, pairs.right_corrupted),
                                 (pairs.corrupted, pairs.right_corrupted, pairs.right_clean)):
        p = _next(model, tokens, pairs.lengths)
        p_right, p_wrong = ((p * mask).sum(1) for mask in (right, wrong))
        found.append(pd.DataFrame({"verdict": (p_right > p_wrong).astype(float), "verdict_mass": p_right + p_wrong,
                                   "half": 0.5, "group": pairs.cases["group"]}))
    return pd.concat(found, ignore_index=True)


@torch.inference_mode()
def _next(model, tokens: torch.Tensor, lengths: torch.Tensor) -> np.ndarray:
    """Probabilities of the next token after every prompt."""
    rows = [model(t)[torch.arange(len(t)), n - 1].float().softmax(-1).cpu()
            for t, n in zip(tokens.split(BATCH), lengths.split(BATCH), strict=True)]
    return torch.cat(rows).double().numpy()


def likelihood_rows(prompts: Callable[[int, int], LabelledPrompts], model, seed: int) -> pd.DataFrame:
    """`likelihood_accuracy` on test statements, and `likelihood_auc`, the chance that a true one is the likelier of
    two; intervals from the spread of statements."""
    known = prompts(N_LIKELY, seed)
    scheme = "likely" if "likely" in known.classes else "truth"
    true, score = known.labels(scheme)[:, 0] == 1, _log_likelihood(model, known)
    train, test = known.rows("train"), known.rows("test")
    cuts = np.unique(score[train])
    best = max(cuts, key=lambda cut: ((score[train] >= cut) == true[train]).mean())
    hit = ((score[test] >= best) == true[test]).astype(float)
    half = 1.96 * hit.std() / np.sqrt(len(hit))
    higher = (score[test & true][:, None] > score[test & ~true]) + 0.5 * (
        score[test & true][:, None] == score[test & ~true])
    auc = float(higher.mean())
    spread = 1.96 * np.sqrt(higher.mean(1).var() / len(higher) + higher.mean(0).var() / higher.shape[1])
    return pd.DataFrame([{"metric": metric, "value": value, "ci_low": value - error, "ci_high": value + error,
                          "n": len(hit)} for metric, value, error in (("likelihood_accuracy", float(hit.mean()), half),
                                                                      ("likelihood_auc", auc, spread))])


@torch.inference_mode()
def _log_likelihood(model, prompts: LabelledPrompts) -> np.ndarray:
    """Mean log-probability of the tokens of every prompt but the first, in nats."""
    found = []
    for tokens, lengths in zip(prompts.tokens.split(BATCH), prompts.lengths.split(BATCH), strict=True):
        log_p = model(tokens).float().log_softmax(-1).cpu()[:, :-1].gather(2, tokens[:, 1:, None])[..., 0]
        real = torch.arange(1, tokens.shape[1]) < lengths[:, None]
        found.append((log_p * real).sum(1) / real.sum(1))
    return torch.cat(found).double().numpy()
