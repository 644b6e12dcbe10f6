"""What the study of the decoy world asks: two latents that can be read, of which the model uses one."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch

from .._checks import best_reading, check, difference, interval, rows
from .._prompts import Counterfactuals
from .._study import Behaviour, Change, Found, Part, Reading, Study, codes
from . import WORDS, _letters, cases, load, question, sequences

ABOVE = 0.2  # answers per case by which writing the latent that decides must beat random directions


def study(model: str = "decoy") -> Study:
    """The study of one of the decoy models: `decoy`, `decoy-1`, `decoy-2`."""
    readings = [Reading(name, name, f"{name}, from the last token", load, probes=("logistic", "mass_mean", "lda"),
                        n=2000, quick=600, given=True, groups="strings of letters") for name in ("end", "mark")]
    changes = [Change(name, words, partial(changed, name), {"last": [Part(
        name, -1, partial(codes, targets=["answer"], column="was"),
        partial(codes, targets=["answer"], column="becomes"))]}, groups="strings of letters")
        for name, words in (("end", "the end that is asked for"), ("mark", "the sign that the question ends with"))]
    return Study(
        task="decoy", title="What the model {model} reads, and what it uses",
        question="The answer is the first or the last letter, as the question asks; the sign at its end decides "
                 "nothing. Both can be read from the last token. Which of them does the model use?",
        model=model, behaviour=Behaviour(answers, {"answer": "right answers (share)"}, n=1000, quick=400),
        readings=readings, changes=changes, checks=[reads_both, uses_the_end, ignores_the_mark])


def answers(model, n: int, seed: int) -> pd.DataFrame:
    """One row per prompt: whether the most likely token is the right one."""
    made = sequences(n, seed + 3)
    with torch.inference_mode():
        logits = model(torch.from_numpy(made["tokens"]))
    said = logits[torch.arange(n), torch.from_numpy(made["lengths"]) - 1].argmax(-1).cpu().numpy()
    return pd.DataFrame({"answer": said == np.where(made["end"] == 0, made["first"], made["last"]),
                         "group": _letters(made)})


def changed(scheme: str, n: int, seed: int) -> Counterfactuals:
    """Cases with the prompt that tells of the change as witness. An edit of the mark is held against the answers that
    would be right if the mark decided, or nothing could be seen."""
    own, deciding, made = cases(scheme, n, seed + 1), cases("end", n, seed + 1), sequences(n, seed + 1)
    other = {"end": made["end"], "mark": made["mark"]}
    other[scheme] = 1 - other[scheme]
    told, asked = own.tokens.clone(), torch.from_numpy(question(other["end"], other["mark"]))
    told[torch.arange(n), own.lengths - 2] = asked
    text = [" ".join(WORDS[t] for t in row[:length]) for row, length in zip(told.tolist(), own.lengths.tolist(),
                                                                            strict=True)]
    return replace(own, right_after=deciding.right_after, cases=own.cases.assign(witness=text))


def reads_both(found: Found) -> dict:
    end, mark = (interval(best_reading(found.table, name, name)) for name in ("end", "mark"))
    return check("accuracy of the best probe of the end", None, end, ">= 0.99", end[0] >= 0.99,
                 [check("of the mark", None, mark, ">= 0.99", mark[0] >= 0.99)])


def uses_the_end(found: Found) -> dict:
    gap = _over_random(found, "end")
    return check("writing the end, errors fewer than with random directions", None, gap, f">= {ABOVE}",
                 gap[0] >= ABOVE)


def ignores_the_mark(found: Found) -> dict:
    gap = _over_random(found, "mark")
    return check("writing the mark, errors fewer than with random directions", None, gap, f"<= {ABOVE}",
                 gap[0] <= ABOVE)


def _over_random(found: Found, change: str):
    """Error after random directions minus error after steering along the class means at one distance."""
    where = {"label": change, "intervention": "steer", "probe": "mass_mean.write", "metric": "set_error",
             "split": "report", "alpha": 1.0}
    edits = rows(found.table, **where)
    best = edits.loc[edits["value"].idxmin()]
    same = {"stream": best["stream"], "layer": best["layer"], "positions": best["positions"]}
    return difference(interval(rows(found.table, control="random_direction", **same, **where).iloc[0]),
                      interval(best))
