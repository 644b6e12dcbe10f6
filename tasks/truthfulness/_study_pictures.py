"""What the study of truthfulness draws: components by layer, statements token by token, effects, the patching map."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from .._study import Found, Picture
from ._labels import world
from ._pictures import Effect, components_picture, effects_picture, patching_picture, statement_picture
from ._study_checks import NIE
from ._world import LENGTH, PLACES, WORDS

N = 300  # statements drawn
SHOWN = 4  # statements of either truth whose tokens are scored
_DIRECTIONS = {"mass_mean.write": "mass-mean", "encoding.write": "encoding model", "logistic.read": "logistic",
               "witness": "patch"}


def of_the_world(found: Found) -> Sequence[Picture]:
    negation = 0.5 if any(name.endswith("-mixed") for name in found.readings) else 0.0
    known = world(N, int(found.config["seed"]) + 2, negation=negation)
    true, affirmative = known.labels("truth")[:, 0] == 1, np.array([" does " in s for s in known.examples["statement"]])
    names = [f"blocks.{i}.hook_resid_post" for i in range(found.network.cfg.n_layers)]
    with torch.inference_mode():
        _, cache = found.network.run_with_cache(known.tokens, names_filter=lambda name: name in names)
    acts = [cache[name].float().cpu().numpy() for name in names]
    layers = {f"{place}, after block {i + 1}": acts[i][:, PLACES[place]] for place in ("object", "period")
              for i in range(len(acts))}
    out = [Picture("True and false statements by layer", components_picture(layers, true, affirmative),
                   f"The first two principal components of {N} statements at two tokens.")]
    place, layer = _where(found)
    x = acts[layer]
    at = x[:, PLACES[place]]
    theta = at[true].mean(0) - at[~true].mean(0)
    middle = (at[true].mean(0) + at[~true].mean(0)) / 2
    some = [*np.flatnonzero(true)[:SHOWN], *np.flatnonzero(~true)[:SHOWN]]
    scored = [([WORDS[t] for t in known.tokens[k].tolist()], (x[k, : LENGTH + 1] - middle) @ theta
               / float(theta @ theta) * 2) for k in some]
    out.append(Picture("A probe, token by token", statement_picture(scored),
                       f"A mass-mean probe of truth, fitted at the {place} after block {layer + 1}: +1 is the mean of "
                       f"true statements there, -1 that of false ones. The first {SHOWN} statements are true."))
    if groups := _effects(found):
        out.append(Picture("What it takes to change what a statement counts as", effects_picture(
            groups, "share of what being told does (normalised indirect effect)"),
            "One class-mean distance along each direction, at the site where it does most. Grey: random directions of "
            "equal norm, 5th to 95th percentile."))
    return out


def of_text(reading: str, found: Found) -> Sequence[Picture]:
    """Test statements in the order of their probabilities: how sure the probe is of either kind."""
    read = found.readings.get(reading)
    if read is None:
        return []
    true = read.prompts.labels(next(iter(read.prompts.classes)))[read.rows, 0] == 1
    order = np.argsort(read.values[:, 0])
    texts = read.prompts.examples["statement"].to_numpy(dtype=object)[read.rows]
    some = [*order[:SHOWN], *order[-SHOWN:]]
    scored = [([str(texts[k])], np.array([2.0 * float(read.values[k, 0]) - 1])) for k in some]
    return [Picture("Statements the probe is surest of", statement_picture(scored),
                    f"{read.where}: +1 surely true, -1 surely false; {int(true[order[:SHOWN]].sum())} of the {SHOWN} "
                    f"lowest are true, {int(true[order[-SHOWN:]].sum())} of the {SHOWN} highest.")]


def examples(found: Found, reading: str, rows: Sequence[int], names: Sequence[str]) -> str | None:
    """Test statements, coloured by what the probe reads of their truth; None of other readings."""
    read = found.readings[reading]
    if "truth" not in read.prompts.schemes:
        return None
    said = read.prompts.examples
    texts = said["statement"] if "statement" in said else said["group"]
    surely = 2 * read.values[:, 0] - 1
    return statement_picture([([f"{name}: {texts.iloc[int(read.rows[k])]}"], surely[k : k + 1])
                              for name, k in zip(names, rows, strict=True)])


def patching(table: pd.DataFrame) -> Picture:
    """The map of the measure `patching`."""
    own = table[(table["metric"] == "patched") & table["control"].isna()]
    tokens, layers = list(PLACES), sorted(own["layer"].astype(int).unique())
    share = own.assign(token=own["subset"].str.removeprefix("token=")).pivot(index="layer", columns="token",
                                                                             values="value")
    return Picture("Where a statement becomes true", patching_picture(
        tokens, [f"block {k + 1}" for k in layers], share.loc[layers, tokens].to_numpy(float)),
        "Percent of the effect of the twin prompt that follows when one token's stream after one block is taken from "
        "it. After the last block nothing before the last token can matter.")


def shows(found: Found) -> str:
    """A statement before and after it is pushed, as text."""
    changed = found.changes.get("false_to_true")
    if changed is None:
        return ""
    gain = np.where(changed.cases.right_after[changed.rows], changed.after - changed.before, 0).sum(1)
    k = int(gain.argmax())
    case = changed.rows[k]
    prompt = " ".join(WORDS[t] for t in changed.cases.tokens[case].tolist())
    right = np.flatnonzero(changed.cases.right_after[case])[0]
    return (f"\n{prompt}  ->  {WORDS[right]} {changed.before[k, right]:.2f}   (the first statement is false)\n"
            f"{changed.where}  ->  {WORDS[right]} {changed.after[k, right]:.2f}")


def _where(found: Found) -> tuple[str, int]:
    """The token and the block of the largest patch."""
    table = found.table[(found.table["metric"] == "patched") & found.table["control"].isna()]
    table = table[table["subset"].isin([f"token={p}" for p in ("object", "period")])]
    if table.empty:
        return "object", 0
    best = table.loc[table["value"].idxmax()]
    return str(best["subset"]).removeprefix("token="), int(best["layer"])


def _effects(found: Found) -> dict[str, list[Effect]]:
    table = found.table[(found.table["metric"] == NIE) & (found.table["split"] == "report")
                        & (found.table["subset"] == "all") & (found.table["alpha"] == 1.0)
                        & (found.table["model"] == found.model)]
    groups: dict[str, list[Effect]] = {}
    for (change, place), here in table.groupby(["label", "positions"], sort=False):
        for direction, words in _DIRECTIONS.items():
            own = here[here["control"].isna() & (here["probe"] == direction)
                       & here["intervention"].isin(["steer", "patch"])]
            if own.empty:
                continue
            best = own.loc[own["value"].idxmax()]
            band = here[(here["control"] == "random_direction") & (here["probe"] == direction)
                        & (here["layer"] == best["layer"]) & (here["stream"] == best["stream"])
                        & (here["intervention"] == best["intervention"])]
            random = (float(band["ci_low"].iloc[0]), float(band["ci_high"].iloc[0])) if len(band) else None
            groups.setdefault(str(change).replace("_", " "), []).append(Effect(
                f"{words}, {place}", float(best["value"]), float(best["ci_low"]), float(best["ci_high"]), random))
    return groups
