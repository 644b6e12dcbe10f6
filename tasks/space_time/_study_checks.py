"""The published results of space and time beside what a run measured, every figure from the rows of that run.

Published numbers are those of Llama-2 in Gurnee & Tegmark, arXiv:2310.02207; the causal test, which the paper does not
have, is ours.
"""

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from .._checks import Interval, best_reading, check, difference, interval, rows
from .._study import Found

RELATIONS = {"distance": "place", "direction": "place", "gap": "time", "order": "time"}  # reading -> label
FIT, NOTHING = 0.95, 0.05  # R2 of a map, and of what must find none
TIMES = 5  # by which an edit must beat random directions
EFFECT = "flip_rate"
NULLS = ("random_init", "shuffled_labels")
RIDGE, MLP = "ridge", "mlp_regression"
# test R2 of linear probes on Llama-2 70B and 7B, and of MLPs
PAPER = {"world_place": (0.911, 0.881), "us_place": (0.864, 0.799), "nyc_place": (0.359, 0.219),
         "historical_figure": (0.835, 0.785), "art": (0.885, 0.788), "headline": (0.746, 0.564)}
PAPER_MLP = {"world_place": (0.926, 0.897), "us_place": (0.869, 0.819), "nyc_place": (0.312, 0.204),
             "historical_figure": (0.839, 0.775), "art": (0.884, 0.746), "headline": (0.739, 0.467)}
HELD_OUT = {"world_place": "0.071 to 0.164", "us_place": "0.121 to 0.188", "nyc_place": "0.262 to 0.433",
            "historical_figure": "0.115 to 0.119", "art": "0.105 to 0.122", "headline": "0.182 to 0.200"}  # 70B


def answers(found: Found) -> dict:
    """The model knows its world, on pairs it was never asked about."""
    parts = []
    for relation in RELATIONS:
        own = interval(rows(_final(found), metric=relation, label=None, split="test").iloc[0])
        parts.append(check(f"{relation}, answers within one bin", None, own, ">= 0.95", own[0] >= 0.95))
    own = interval(rows(_final(found), metric="within_one", label=None, split="test").iloc[0])
    return check("answers within one bin on held-out pairs", None, own, ">= 0.95", own[0] >= 0.95, parts)


def linear_map(found: Found) -> dict:
    """Coordinates are linear at some layer, and not in random weights or for shuffled labels."""
    parts, best = [], {}
    for name, label in RELATIONS.items():
        best[name] = own = interval(_best(found, name, label))
        parts.append(check(f"R2 of {label} from the {name} prompt", None, own, f">= {FIT}", own[0] >= FIT))
        for control in NULLS:
            null = _highest(found, name, label, control)
            parts.append(check(f"the same, {control.replace('_', ' ')}, best layer", None, null, f"<= {NOTHING}",
                               null[0] <= NOTHING))
    own = best["distance"]
    return check("R2 of the linear probe, places", "0.911 (Llama-2 70B), 0.881 (7B)", own, f">= {FIT}",
                 own[0] >= FIT, parts)


def line_is_enough(found: Found) -> dict:
    """A non-linear probe of the same activations reads hardly more."""
    parts = []
    for name in ("distance", "gap"):
        linear, mlp = _ridge_and_mlp(found, name, RELATIONS[name])
        parts.append(check(f"R2 of {RELATIONS[name]}: MLP {mlp[0]:.3f}, ridge {linear[0]:.3f}; difference", None,
                           over := difference(mlp, linear), "<= 0.03", over[0] <= 0.03))
    return check("R2 of an MLP minus that of the linear probe, places",
                 "0.015 (Llama-2 70B), 0.016 (7B); -0.10 to 0.02 over all sets",
                 tuple(parts[0][k] for k in ("ours", "ci_low", "ci_high")), "<= 0.03", True, parts)


def above_membership(found: Found) -> dict:
    """More than which region or age an entity belongs to."""
    parts = []
    for name in ("distance", "gap"):
        label = RELATIONS[name]
        own, shortcut = interval(_best(found, name, label)), _highest(found, name, label, "shortcut:block_mean")
        over = difference(own, shortcut)
        parts.append(check(f"R2 of {label} above the mean of the block", None, over, "> 0, interval included",
                           over[1] > 0))
    return check("R2 above the mean of the block", None, tuple(parts[0][k] for k in ("ours", "ci_low", "ci_high")),
                 "> 0, interval included", True, parts)


def components(found: Found) -> dict:
    """The curve over principal components rises; how many give nine tenths of the whole."""
    parts = []
    for name in ("distance", "gap"):
        curve = _curve(found, name)
        k = next(k for k, value in curve if value >= 0.9 * curve[-1][1])
        rises = all(b >= a - 0.05 for (_, a), (_, b) in zip(curve, curve[1:], strict=False))
        parts.append(check(f"components with 90 % of the R2 of {RELATIONS[name]}", "about 50 to 100 (Llama-2 7B)",
                           (k,), "the curve rises", rises))
    return check("components with 90 % of the R2, places", "about 50 to 100 (Llama-2 7B): there coordinates are not "
                 "the directions of largest variance, here they are", (parts[0]["ours"],), "the curve rises", True,
                 parts)


def proximity(found: Found) -> dict:
    parts = [check(f"proximity error of {RELATIONS[name]}", None, own := _proximity(found, name), "<= 0.05",
                   own[0] <= 0.05) for name in ("distance", "gap")]
    return check("proximity error, places", 0.083, _proximity(found, "distance"), "<= 0.05", True, parts)


def held_out(found: Found) -> dict:
    """Regions, ages and entity types that the probe never saw."""
    parts = []
    for name, column, words in (("distance", "block", "regions"), ("gap", "block", "ages"),
                                ("distance", "kind", "entity types")):
        nominal, apart = _proximity(found, name), _proximity(found, name, f"{column} held out")
        parts.append(check(f"proximity error of {words} held out (nominal {nominal[0]:.3f})", None, apart, "< 0.25",
                           apart[0] < 0.25))
    own = _proximity(found, "distance", "block held out")
    return check("proximity error of regions held out", "0.164 where nominally 0.071 (Llama-2 70B, countries)", own,
                 "< 0.25", own[0] < 0.25, parts)


def other_prompt(found: Found) -> dict:
    """A probe of one prompt reads another, after each prompt's mean is taken away."""
    parts = []
    for name, other in (("distance", "direction"), ("direction", "distance"), ("gap", "order"), ("order", "gap")):
        own = interval(_best(found, name, RELATIONS[name]))
        moved = interval(_generalised(found, name, f"to {other}, centred", "r2"))
        drop = own[0] - moved[0], own[0] - moved[2], own[0] - moved[1]
        parts.append(check(f"R2 lost from {name} to {other}", None, drop, "<= 0.1", drop[0] <= 0.1))
    return check("R2 lost on another prompt, places", "0.033 (Llama-2 70B: 0.870 to 0.837)",
                 tuple(parts[0][k] for k in ("ours", "ci_low", "ci_high")), "<= 0.1", True, parts)


def training(found: Found) -> dict:
    """The map appears in training and stays."""
    parts = []
    for name in ("distance", "gap"):
        curve = _by_step(found, name)
        fall = float(np.max(np.maximum.accumulate(curve) - curve))
        parts.append(check(f"largest fall of R2 of {RELATIONS[name]} between checkpoints", None, (fall,), "<= 0.1",
                           fall <= 0.1 and curve[-1] - curve[0] >= 0.9))
    return check("R2 grows with training (in the paper with size), largest fall", "grows on 6 of 6 data sets",
                 (parts[0]["ours"],), "<= 0.1, from 0 to the end by at least 0.9", True, parts)


def moved(found: Found) -> dict:
    """Answers follow the entity that is moved along the pattern of its coordinates, once, by as much as it moves."""
    parts = [_moved(found, relation) for relation in RELATIONS]
    return check("answers that follow a place that is moved (distance)", None,
                 tuple(parts[0][k] for k in ("ours", "ci_low", "ci_high")),
                 f"at least {TIMES} times as many as with random directions of equal norm", True, parts)


def decodable_not_used(found: Found) -> dict:
    """After the second and third block the map is as easily read, and nothing answers to it: not even to a whole
    activation from the prompt that says so."""
    parts = []
    for relation, label in RELATIONS.items():
        for layer, low, high in ((0, 0.95, 1.0), (1, 0.0, 0.05), (2, 0.0, 0.05)):
            swap = interval(_effect(found, relation, "patch", "witness", layer).iloc[0])
            read = rows(_final(found), positions=relation, label=label, metric="r2", split="test", stream="resid_post",
                        layer=layer, probe=RIDGE, intervention=None).iloc[0]["value"]
            mark = f">= {low}" if low else f"<= {high}"
            parts.append(check(f"{relation}: answers that follow a patch after block {layer + 1}, where R2 is "
                               f"{read:.3f}", None, swap, mark, low <= swap[0] <= high and read >= 0.85))
    return check("answers that follow a whole patch after block 2, places", None,
                 tuple(parts[1][k] for k in ("ours", "ci_low", "ci_high")), "<= 0.05", True, parts)


def neurons(found: Found) -> dict:
    """Single neurons follow coordinates: more than any of a random model, and of shuffled coordinates."""
    parts = []
    for target in ("x", "y", "t"):
        where = {"metric": "neuron_spearman", "subset": target}
        own = interval(rows(_final(found), **where).iloc[0])
        random = rows(_final(found), **where, control="random_init").iloc[0]
        shuffled = rows(_final(found), metric="neuron_spearman_shuffled", subset=target).iloc[0]
        null = max(abs(float(random["value"])), float(shuffled["ci_high"]))
        parts.append(check(f"rank correlation of the {target} neuron (nulls at most {null:.2f})", None, own,
                           ">= 0.5, interval above the nulls", own[0] >= 0.5 and own[1] > null))
    return check("rank correlation of a single neuron with x", None,
                 tuple(parts[0][k] for k in ("ours", "ci_low", "ci_high")), ">= 0.5, interval above the nulls", True,
                 parts)


CHECKS = (answers, linear_map, line_is_enough, above_membership, proximity, components, held_out, other_prompt,
          training, moved, decodable_not_used, neurons)


def names_read(data: str, prompt: str, scheme: str, found: Found) -> dict:
    """Coordinates of real names, beside what needs no model and a model with random weights."""
    own, parts = interval(_best(found, prompt, scheme)), []
    for control in ("input_only", "random_init", "shortcut:block_mean"):
        other = _highest(found, prompt, scheme, control)
        over = difference(own, other)
        parts.append(check(f"R2 above {control.replace('_', ' ')} ({other[0]:.3f})", None, over,
                           "> 0, interval included", over[1] > 0))
    paper = f"{PAPER[data][0]} (Llama-2 70B), {PAPER[data][1]} (7B)" if data in PAPER else None
    return check(f"R2 of the linear probe, {data}", paper, own, "above its controls", True, parts)


def names_held_out(data: str, prompt: str, scheme: str, found: Found) -> dict:
    """Blocks that the probe never saw."""
    nominal, apart = _proximity(found, prompt, label=scheme), _proximity(found, prompt, "block held out", scheme)
    paper = f"{HELD_OUT[data]} (Llama-2 70B)" if data in HELD_OUT else None
    return check(f"proximity error of blocks held out (nominal {nominal[0]:.3f})", paper, apart, "< 0.5, chance",
                 apart[2] < 0.5)


def names_line(data: str, prompt: str, scheme: str, found: Found) -> dict:
    """A non-linear probe of the same activations."""
    linear, mlp = _ridge_and_mlp(found, prompt, scheme)
    over = difference(mlp, linear)
    pairs = zip(("70B", "7B"), PAPER_MLP.get(data, ()), PAPER.get(data, ()), strict=False)
    paper = ", ".join(f"{m - r:.3f} (Llama-2 {size})" for size, m, r in pairs) or None
    return check(f"R2 of an MLP ({mlp[0]:.3f}) minus that of the linear probe ({linear[0]:.3f})", paper, over,
                 "<= 0.03", over[0] <= 0.03)


OF_NAMES = (names_read, names_held_out, names_line)


def _final(found: Found) -> pd.DataFrame:
    """Rows of the trained model itself."""
    table = found.table[found.table["model"].isna() | (found.table["model"] == found.model)]
    return table[~table["revision"].fillna("").str.startswith("step ")]


def _best(found: Found, name: str, label: str) -> pd.Series:
    return best_reading(_final(found), name, label, "r2", [RIDGE])


def _ridge_and_mlp(found: Found, name: str, label: str) -> tuple[Interval, Interval]:
    """Test R2 of both at the site where ridge is best on validation."""
    best = _best(found, name, label)
    mlp = rows(_final(found), positions=name, label=label, metric="r2", split="test", probe=MLP, intervention=None,
               stream=best["stream"], layer=best["layer"]).iloc[0]
    return interval(best), interval(mlp)


def _highest(found: Found, name: str, label: str, control: str) -> Interval:
    """The control of the linear probe at the layer where it does best on test."""
    of = rows(_final(found), positions=name, label=label, metric="r2", split="test", intervention=None,
              control=control)
    of = of[of["probe"].isna() | (of["probe"] == RIDGE)]
    return interval(of.loc[of["value"].idxmax()])


def _generalised(found: Found, name: str, subset: str, metric: str, label: str | None = None) -> pd.Series:
    return rows(_final(found), positions=name, label=label or RELATIONS[name], metric=metric, split="test",
                subset=subset, intervention=None).iloc[0]


def _proximity(found: Found, name: str, subset: str = "all", label: str | None = None) -> Interval:
    return interval(_generalised(found, name, subset, "proximity_error", label))


def _curve(found: Found, name: str) -> list[tuple[int, float]]:
    """(number of components, R2), ascending."""
    of = _final(found)
    of = of[(of["positions"] == name) & (of["metric"] == "r2") & (of["split"] == "test") & of["control"].isna()
            & of["subset"].fillna("").str.endswith(" components")]
    if of.empty:
        raise LookupError(f"no components of {name}")
    return sorted((int(s.split()[0]), float(v)) for s, v in zip(of["subset"], of["value"], strict=True))


def _by_step(found: Found, name: str) -> Float[ndarray, " step"]:
    """R2 of the layer that is best on validation, by checkpoint."""
    steps = found.table[found.table["revision"].fillna("").str.startswith("step ")]
    values = {}
    for revision, of in steps[steps["positions"] == name].groupby("revision"):
        values[int(str(revision).split()[1])] = float(best_reading(of, name, RELATIONS[name], "r2", [RIDGE])["value"])
    if len(values) < 2:
        raise LookupError(f"no checkpoints in which {name} was read")
    return np.array([values[step] for step in sorted(values)])


def _effect(found: Found, relation: str, verb: str, direction: str, layer: int | None = None,
            control: str | None = None) -> pd.DataFrame:
    where = {} if layer is None else {"layer": layer, "stream": "resid_post"}
    return rows(_final(found), label=f"moved-{relation}", intervention=verb, probe=direction, metric=EFFECT,
                split="report", control=control, **where)


def _moved(found: Found, relation: str) -> dict:
    """One relation: the pattern at its own size, where it does most, against random directions there."""
    steered = _effect(found, relation, "steer", "pattern.write")
    steered = steered[steered["alpha"] == 1.0]
    if steered.empty:
        raise LookupError(f"{relation} was not steered along its pattern at dose 1")
    best = steered.loc[steered["value"].idxmax()]
    random = _effect(found, relation, "steer", "pattern.write", int(best["layer"]), "random_direction")
    random = random[(random["alpha"] == 1.0) & (random["stream"] == best["stream"])].iloc[0]
    own = interval(best)
    return check(f"{relation}: answers that follow (random directions {random['value']:.3f})", None, own,
                 f">= {TIMES} times random", own[1] > random["ci_high"] and own[0] >= TIMES * random["value"])
