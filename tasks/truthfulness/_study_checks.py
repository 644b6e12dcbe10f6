"""The published results of truthfulness beside what a run measured, every figure from the rows of that run.

Published numbers are those of LLaMA-2 in Marks & Tegmark, arXiv:2310.06824, tables 2 and figure 9; the small world is
that of Ravfogel et al., arXiv:2510.15804, with several topics.
"""

from pathlib import Path

import pandas as pd

from .._checks import best_reading, check, difference, interval, rows
from .._study import Found

NEAR_BAYES = 0.03
TRANSFER, CHANCE = 0.95, 0.6  # accuracy of a probe on topics it never saw; of what must find nothing
EFFECT, TIMES, PATCH, INERT = 0.6, 3, 0.95, 0.1  # shares of what being told does
NIE = "mass_after_recovery"
PROBES = {"mass_mean": "mass_mean.write", "logistic": "logistic.read"}
# false to true, fitted on cities and neg_cities
PAPER = {"mass_mean": "0.85 (13B), 0.81 (70B)", "logistic": "0.33 (13B), 0.61 (70B)"}


def trusts(found: Found) -> dict:
    """The model trusts a document as far as a Bayesian reader would."""
    parts = []
    for name in ("after_true", "after_false", "after_3_true", "after_3_false"):
        where = {"metric": name, "label": None, "split": "test"}
        own = interval(rows(_final(found), **where).iloc[0])
        ideal = float(rows(_final(found), control=f"shortcut:bayes_{name}", **where).iloc[0]["value"])
        parts.append(check(f"probability of the right object {name.replace('_', ' ')} (Bayes {ideal:.3f})", None, own,
                           f"within {NEAR_BAYES} of Bayes", abs(own[0] - ideal) <= NEAR_BAYES))
    own = interval(rows(_final(found), metric="trust", label=None, split="test").iloc[0])
    return check("right object after a true statement less after a false one", None, own, "> 0, interval included",
                 own[1] > 0, parts)


def direction_of_truth(found: Found) -> dict:
    """Truth is linear, on people and topics that the probe never saw, and nothing like it is in random weights."""
    place, parts = causal_place(found), []
    own = interval(_last(rows(_final(found), positions=place, label="truth", metric="accuracy", split="test",
                              subset="topic held out", intervention=None)))
    for control in ("random_init", "shuffled_labels"):
        null = interval(_highest(rows(_final(found), positions=place, label="truth", metric="accuracy",
                                      split="test", control=control, intervention=None)))
        parts.append(check(f"the same probes, {control.replace('_', ' ')}, best layer", None, null, f"<= {CHANCE}",
                           null[0] <= CHANCE))
    shortcut = interval(_highest(rows(_final(found), positions=place, label="truth", metric="accuracy",
                                      split="test", control="shortcut:likely", intervention=None)))
    over = difference(own, shortcut)
    parts.append(check("above the likelihood of the object", None, over, "> 0, interval included", over[1] > 0))
    return check(f"accuracy at the {place} on topics held out",
                 "0.95 (logistic, 70B, cities + neg_cities to sp_en_trans)", own, f">= {TRANSFER}", own[0] >= TRANSFER,
                 parts)


def false_to_true(found: Found) -> dict:
    """One class-mean difference makes a false statement count as a true one, and random directions do not."""
    place = causal_place(found)
    own = interval(_effect(found, "false_to_true", place, "mass_mean.write"))
    random = interval(_effect(found, "false_to_true", place, "mass_mean.write", "random_direction"))
    part = check("20 random directions of equal norm", None, random, f"at most 1/{TIMES} of it",
                 TIMES * random[0] <= own[0])
    return check(f"normalised indirect effect at the {place}, false to true, mass-mean", PAPER["mass_mean"], own,
                 f">= {EFFECT}", own[0] >= EFFECT, [part])


def true_to_false(found: Found) -> dict:
    """The other way round nearly every push does it: truth is where the stream has its quiet state."""
    place = causal_place(found)
    own = interval(_effect(found, "true_to_false", place, "mass_mean.write"))
    random = interval(_effect(found, "true_to_false", place, "mass_mean.write", "random_direction"))
    part = check("20 random directions of equal norm: not specific", None, random, "reported", True)
    return check(f"normalised indirect effect at the {place}, true to false, mass-mean", "0.97 (13B), 0.95 (70B)", own,
                 f">= {EFFECT}", own[0] >= EFFECT, [part])


def probes_differ(found: Found) -> dict:
    """Probes of equal accuracy do not steer alike."""
    place, parts, effects = causal_place(found), [], {}
    for name, direction in PROBES.items():
        effects[name] = interval(_effect(found, "false_to_true", place, direction))
        read = interval(best_reading(_final(found), place, "truth", probes=[name]))
        parts.append(check(f"{name.replace('_', '-')}: effect (accuracy {read[0]:.3f})", PAPER[name], effects[name],
                           "reported", True))
    gap = effects["mass_mean"][0] - effects["logistic"][0]
    return check("effect of mass-mean less that of logistic regression, false to true", "0.52 (13B), 0.20 (70B)",
                 (gap,), "reported: it differs from seed to seed", True, parts)


def patched(found: Found) -> dict:
    """The object's state of an unrelated true statement does it all."""
    place, parts = causal_place(found), []
    for kind in ("false_to_true", "true_to_false"):
        own = interval(_patch(found, kind, place))
        parts.append(check(f"{kind.replace('_', ' ')}: share that follows a patch of the {place}", None, own,
                           f">= {PATCH}", own[0] >= PATCH))
    return check(f"share that follows a patch of the {place}, false to true", None, tuple(
        parts[0][k] for k in ("ours", "ci_low", "ci_high")), f">= {PATCH}", True, parts)


def decodable_not_used(found: Found) -> dict:
    """After the last block truth is as easily read, and nothing answers to it; nor to the other token."""
    place = causal_place(found)
    other = next(p for p in ("object", "period") if p != place)
    last = int(rows(_final(found), positions=place, label="truth", metric="accuracy", split="test",
                    intervention=None)["layer"].max())
    read = interval(_highest(rows(_final(found), positions=place, label="truth", metric="accuracy", split="test",
                                  intervention=None, stream="resid_post", layer=last)))
    own = interval(_patch(found, "false_to_true", place, last))
    inert = interval(_patch(found, "false_to_true", other))
    parts = [check("accuracy there after the last block, best probe", None, read, ">= 0.9", read[0] >= 0.9),
             check(f"share that follows a patch of the {other}, best layer", None, inert, f"<= {INERT}",
                   inert[0] <= INERT)]
    return check(f"share that follows a patch of the {place} after the last block, false to true", None, own,
                 f"<= {INERT}", own[0] <= INERT, parts)


def one_place(found: Found) -> dict:
    """The patching map has one dominant cell before the last block."""
    table = _final(found)
    table = table[(table["metric"] == "patched") & table["control"].isna()]
    if table.empty:
        raise LookupError("no patching map")
    best = table.loc[table["value"].idxmax()]
    same = (table["layer"] == best["layer"]) & (table["subset"] != best["subset"])
    rest = float(table[same]["value"].abs().max())
    part = check("largest of the other tokens of that layer", None, (rest,), f"<= {INERT}", rest <= INERT)
    return check(f"share that follows a patch of {best['subset']} after block {int(best['layer']) + 1}",
                 "full stop, middle layers", interval(best), f">= {PATCH}", float(best["value"]) >= PATCH, [part])


def nothing_to_know(found: Found) -> dict:
    """Where statements are independent there is no use for truth, and no effect of its direction."""
    table = found.table[(found.table["metric"] == "pushed") & found.table["control"].isna()]
    if table.empty:
        raise LookupError("the control model was not measured")
    own = interval(table.loc[table["value"].abs().idxmax()])
    read = rows(found.table, model="truthfulness-independent", positions="object", label="truth", metric="accuracy",
                split="test", intervention=None)
    best = interval(_highest(read))
    part = check("accuracy of probes of truth in the control model, best layer", None, best, f"<= {CHANCE + 0.1}",
                 best[0] <= CHANCE + 0.1)
    return check("probability of the right object that its truth direction adds in the control world", None, own,
                 "within 0.05 of 0", abs(own[0]) <= 0.05, [part])


def two_phases(found: Found) -> dict:
    """Facts are known first, then that statements are true together."""
    steps = found.table[found.table["revision"].str.startswith("step ").fillna(False) & found.table["control"].isna()]
    first, trust = (_reached(steps[steps["metric"] == m], level) for m, level in (("first", 0.45), ("trust", 0.3)))
    return check("step at which truth is used, less the step at which facts are known", "about 6,500 batches (7,500 "
                 "less 1,000)", (trust - first,), "> 0", trust > first)


def heads_steer(found: Found) -> dict:
    """The heads that read truth best change the answer when they are pushed along it, as many others do not."""
    where = {"label": "false_to_true by heads", "intervention": "iti", "metric": "mass_after", "split": "report"}
    own = interval(_highest(rows(_final(found), **where)))
    null = rows(_final(found), control="null", **where).iloc[0]["value"]
    others = interval(_highest(rows(_final(found), control="random_heads", **where)))
    part = check("the same of as many other heads, best dose: mean, 5th and 95th percentile of 20 draws", None, others,
                 "below it, intervals apart", own[1] > others[2])
    return check(f"probability of the right answer, heads pushed at the last token, best dose (not pushed: {null:.3f})",
                 "true and informative 42.3 % (mass-mean) against 31.2 % (random)", own,
                 "above no push, interval included", own[1] > null, [part])


def says_less_than_it_knows(found: Found) -> dict:
    """Where it draws a wrong answer it often drew the right one too, and its states tell which that is; so does its
    own likelihood."""
    where = {"positions": "fact", "label": None, "split": "test"}
    said, chosen, likely, twin = (interval(rows(_final(found), metric=metric, control=control, **where).iloc[0])
                                  for metric, control in (("right_drawn", None), ("right_by_probe", None),
                                                          ("right_by_likelihood", None),
                                                          ("right_by_probe", "random_init")))
    parts = [check("an answer drawn is right", None, said, "reported", True),
             check("the likeliest drawn is right: no probe needed", None, likely, "reported", True),
             check("the same probe on random weights", None, twin, "below the model's", twin[2] < chosen[1])]
    over = difference(chosen, said)
    return check("right answers of the probe's choice among 30 drawn, less those drawn", None, over,
                 "> 0, interval included", over[1] > 0, parts)


def opposites_help(found: Found) -> dict:
    """A probe of affirmative statements fails on negated ones; one that saw both, and is told which is which, reads
    either."""
    place = _mixed_place(found)
    table, where = _final(found), {"label": "truth", "metric": "accuracy", "split": "test", "intervention": None}
    one_sided = interval(_last(rows(table, positions=place, subset=f"to {place}-negated", **where)))
    both = interval(best_reading(table, f"{place}-mixed", "truth"))
    ttpd = interval(best_reading(table, f"{place}-mixed", "truth", probes=["ttpd"]))
    parts = [check(f"fitted on affirmative and negated statements, read from either at the {place}", None, both,
                   f">= {TRANSFER}", both[0] >= TRANSFER),
             check("the same of TTPD, one direction for both", "0.94 (Llama-3-8B-Instruct, topics held out)", ttpd,
                   "reported", True)]
    return check(f"fitted on affirmative statements, read from negated ones at the {place}",
                 "AUROC 0.53 (neg_facts from cities; 0.92 with neg_cities)", one_sided,
                 f"below {both[0]:.2f}, intervals apart", one_sided[2] < both[1], parts)


def reads_text(reading: str, data: str, found: Found) -> dict:
    """Truth of statements in plain text, above their words and random weights."""
    label = "likely" if data == "likely" else "truth"
    best = best_reading(_final(found), reading, label)
    own, parts = interval(best), []
    for control in ("input_only", "random_init"):
        other = interval(_highest(rows(_final(found), positions=reading, label=label, metric="accuracy", split="test",
                                       control=control, intervention=None)))
        over = difference(own, other)
        parts.append(check(f"above {control.replace('_', ' ')}", None, over, "> 0, interval included", over[1] > 0))
    likelihood = found.table[(found.table["metric"] == "likelihood_accuracy") & found.table["control"].isna()]
    if len(likelihood):
        over = difference(own, interval(likelihood.iloc[0]))
        parts.append(check("above the likelihood of the statement", None, over, "> 0, interval included", over[1] > 0))
    return check(f"accuracy of {label} on {Path(data).stem}", {"cities": "1.00 (70B)"}.get(data), own,
                 "above the controls", True, parts)


CHECKS = [trusts, direction_of_truth, false_to_true, true_to_false, probes_differ, patched, decodable_not_used,
          one_place, nothing_to_know, two_phases, heads_steer, says_less_than_it_knows, opposites_help]
OF_TEXT = [reads_text]


def _final(found: Found) -> pd.DataFrame:
    """Rows of the model as it is, not of its checkpoints or of others."""
    step = found.table["revision"].astype("string").str.startswith("step ").fillna(False)
    return found.table[(found.table["model"] == found.model) & ~step]


def _effect(found: Found, change: str, place: str, direction: str, control: str | None = None) -> pd.Series:
    """The share of being told that one class-mean difference does, where the edit does most."""
    where = {"label": change, "positions": place, "intervention": "steer", "probe": direction, "metric": NIE,
             "split": "report", "alpha": 1.0}
    best = _highest(rows(_final(found), **where))
    if control is None:
        return best
    return _highest(rows(_final(found), control=control, stream=best["stream"], layer=best["layer"], **where))


def _patch(found: Found, change: str, place: str, layer: int | None = None) -> pd.Series:
    where = {} if layer is None else {"layer": layer, "stream": "resid_post"}
    return _highest(rows(_final(found), label=change, positions=place, intervention="patch", metric=NIE,
                         split="report", **where))


def causal_place(found: Found) -> str:
    """The token whose patch does most, object or full stop: where a model gathers truth differs from seed to seed."""
    return max(("object", "period"), key=lambda place: _patch(found, "false_to_true", place)["value"])


def _mixed_place(found: Found) -> str:
    """Object or full stop: where truth is read best of affirmative and negated statements together."""
    return max(("object", "period"), key=lambda place: best_reading(_final(found), f"{place}-mixed", "truth")["value"])


def _highest(table: pd.DataFrame) -> pd.Series:
    return table.loc[table["value"].idxmax()]


def _last(table: pd.DataFrame) -> pd.Series:
    return table.iloc[-1]


def _reached(table: pd.DataFrame, level: float) -> float:
    """The first step at which a metric is at least `level`.

    Raises:
        LookupError: There is none.
    """
    steps = table["revision"].str.removeprefix("step ").astype(int)
    there = steps[table["value"] >= level]
    if there.empty:
        raise LookupError(f"no checkpoint reaches {level}")
    return float(there.min())


