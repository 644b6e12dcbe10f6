"""What edits along a probe's direction did, in a few numbers that can be put side by side.

An effect is given as a share: 0 is what no edit does, 1 all that is to be had. Of answers that flip it is their share;
of an error, the share of it that the edit removed; of a recovery, that of the whole patch or of the prompt that tells.
Dose and layers are those of the planned contrasts, chosen on cases set aside; a table without contrasts gives the best
of the edits that it reports, and says so. Of several ways to write one label it is the one that did best on the cases
set aside, where the metadata of the results say which that was, else the one that did most, which is said as well.
Beside every effect stands its band of random directions.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from ._rows import pick, site_name
from ._verdicts import NECESSITY

SHARES = {  # the metric of a share, in the order in which one is taken -> its words
    "flip_rate": "answers that become the new one",
    "mass_after_recovery": "share of the probability that telling the model moves",
    "error_ratio": "share of the error that the edit removes",
    "log_odds_recovery": "share of the log-odds that telling the model moves",
    "nie": "share of what patching the whole activation does",
}
AT_KL = 0.1  # nats: interventions._doses.AT_KL, which would load torch
ARM = ["label", "positions", "intervention", "probe"]
_DOSE = ["stream", "layer", "layer_end", "alpha", "unit"]
ASIDE, REPORTED = "on cases set aside", "on the reported cases"
PATCHED = "interchange"  # takes what it writes from the prompt that tells, and is one way to write for no probe


class Arm(NamedTuple):
    """One way to edit: what is changed and where, the verb, the direction, and its rows."""

    label: str
    positions: str
    verb: str
    direction: str
    rows: pd.DataFrame

    @property
    def removes(self) -> bool:
        return self.verb in NECESSITY


def arms_of(table: pd.DataFrame) -> Iterator[Arm]:
    """Every way to edit that was held against random directions and is about a whole label, of a probe or an eraser."""
    rows = pick(table, split="report")
    rows = rows[rows["intervention"].notna() & rows["probe"].notna() & (rows["probe"] != "witness").fillna(False)]
    rows = rows[~rows["label"].fillna("/").str.contains("/", regex=False)]
    for key, found in rows.groupby(ARM, sort=False, dropna=False):
        label, positions, verb, direction = ("" if pd.isna(k) else str(k) for k in key)
        learned = verb != PATCHED or (direction.startswith("das") and not direction.endswith("complement"))
        if learned and (found["control"] == "random_direction").any():
            yield Arm(label, positions, verb, direction, _edits_of(table, found))


def written(arm: Arm) -> dict | None:
    """Columns `edit`, `effect*`, `band*`, `enough`, `dose*`, `cost*` of an arm that writes; None where what it does is
    no share."""
    rows, metric = _measured(arm.rows)
    if metric is None:
        return None
    chosen, how = _chosen(arm.rows, rows, metric)
    here = _at(rows, chosen)
    band, idle = pick(here, control="random_direction"), pick(rows, control="null")
    if band.empty:
        return None
    band = band.iloc[0]
    value, low, high = _share(metric, chosen)
    middle, band_low, band_high = _share(metric, band)
    null = _share(metric, idle.iloc[0])[0] if len(idle) else 0.0
    found = {"change": arm.label, "edit": f"{arm.verb} {arm.direction}", "edit_where": site_name(chosen),
             "effect": value, "effect_low": low, "effect_high": high, "band": middle, "band_low": band_low,
             "band_high": band_high, "effect_metric": SHARES[metric], "effect_n": chosen["n"],
             "effect_row": chosen.name, "chosen": how,
             "enough": "yes" if low > max(band_high, null) else "no", "at_dose": chosen["alpha"],
             "dose_unit": chosen["unit"]}
    return found | _priced(arm.rows, rows, chosen, metric)


def removed(arm: Arm) -> dict | None:
    """Columns `eraser`, `erased*`, `used` of an arm that takes the label away: how many tokens of the answers per case
    it turns wrong or loses, beside random directions and, where they were run, random subspaces; None without error."""
    rows = pick(arm.rows, metric="set_error", subset="all")
    idle = pick(rows, control=["clean", "null"])
    real = pick(rows, control=None)
    if real.empty or idle.empty:
        return None
    clean = (pick(idle, control="clean") if (idle["control"] == "clean").any() else idle).iloc[0]["value"]
    chosen, how = _chosen(arm.rows, rows, "set_error", up=True)
    here = _at(rows, chosen)
    push, subspace = pick(here, control="random_direction"), pick(here, control="random_subspace")
    band = (subspace if len(subspace) else push)
    if band.empty:
        return None
    high = float(band["ci_high"].max())
    beyond = chosen["ci_low"] > max(high, clean) and (push.empty or chosen["value"] > push["value"].max())
    return {"eraser": f"{arm.verb} {arm.direction}", "erased_where": site_name(chosen),
            "erased": chosen["value"] - clean, "erased_low": chosen["ci_low"] - clean,
            "erased_high": chosen["ci_high"] - clean, "erased_band_low": float(band["ci_low"].min()) - clean,
            "erased_band_high": high - clean, "used": "yes" if beyond else "no", "erased_chosen": how}


def _edits_of(table: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """The rows of an arm, and those of its controls that leave the direction open (no edit holds for all of them)."""
    first = found.iloc[0]
    same = {c: None if pd.isna(first[c]) else first[c] for c in ("label", "positions", "intervention")}
    return pd.concat([found, pick(table, probe=None, split="report", **same)])


def _measured(rows: pd.DataFrame) -> tuple[pd.DataFrame, str | None]:
    """(the rows of the share that is taken, its metric); of flips those of the cases that were solved before, and none
    where no answer flips whatever is done: there the first choice does not tell."""
    for metric in SHARES:
        of = pick(rows, metric=metric)
        if metric == "flip_rate" and not of["value"].any():
            continue
        for subset in ("solved", "all"):
            if len(pick(of, subset=subset, control=None)):
                return pick(of, subset=subset), metric
    return rows.iloc[:0], None


def _share(metric: str, row: pd.Series) -> tuple[float, float, float]:
    value, low, high = (float(row[c]) for c in ("value", "ci_low", "ci_high"))
    return (1 - value, 1 - high, 1 - low) if metric == "error_ratio" else (value, low, high)


def _chosen(everything: pd.DataFrame, rows: pd.DataFrame, metric: str, up: bool | None = None) -> tuple[pd.Series, str]:
    """(the row of the edit to report, how it was chosen)."""
    real = pick(rows, control=None)
    up = metric != "error_ratio" if up is None else up
    planned = everything[everything["metric"].fillna("").str.endswith("_difference")]
    ours = real[pd.MultiIndex.from_frame(real[_DOSE]).isin(pd.MultiIndex.from_frame(planned[_DOSE].drop_duplicates()))]
    how = ASIDE if len(ours) == 1 else REPORTED
    best = (ours if len(ours) else real).sort_values("value", ascending=not up, kind="stable")
    return best.iloc[0], how


def _at(rows: pd.DataFrame, edit: pd.Series) -> pd.DataFrame:
    return pick(rows, **{c: None if pd.isna(edit[c]) else edit[c] for c in _DOSE})


def _priced(everything: pd.DataFrame, rows: pd.DataFrame, chosen: pd.Series, metric: str) -> dict:
    """What the chosen edit costs, and the dose, between two doses on a line, that costs `AT_KL` nats there, with the
    effect at that dose; missing where the edit was never so dear."""
    kl = pick(everything, metric="kl", control=None)
    elsewhere = pick(kl, subset="unrelated")
    kl = elsewhere if len(elsewhere) else pick(kl, subset="all")
    site = {c: chosen[c] for c in ("stream", "layer", "layer_end", "unit")}
    price = pick(kl, **site).drop_duplicates("alpha").set_index("alpha")["value"]
    cost = price.get(chosen["alpha"], np.nan)
    found = {"cost": cost, "cost_on": "other prompts" if len(elsewhere) else "the edited prompts"}
    doses = sorted(a for a in price.index if a > 0)
    at = np.array([0.0, *doses])
    paid = np.array([0.0, *price.loc[doses]])
    above = np.flatnonzero(paid >= AT_KL)
    if not len(above):
        return found
    i = above[0]
    share = (AT_KL - paid[i - 1]) / (paid[i] - paid[i - 1])
    effects = pick(rows, control=None, **site).drop_duplicates("alpha").set_index("alpha")
    known = {0.0: 0.0} | {a: _share(metric, r)[0] for a, r in effects.iterrows()}
    ends = [known.get(a, np.nan) for a in (at[i - 1], at[i])]
    return found | {"dose": at[i - 1] + share * (at[i] - at[i - 1]),
                    "effect_at_dose": ends[0] + share * (ends[1] - ends[0])}
