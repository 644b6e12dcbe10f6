"""Effects at a glance: every edit at every dose beside no edit, its random band, and what it costs."""

import numpy as np
import pandas as pd

MAIN = ("set_error", "log_odds", "iia", "mass_after", "flip_rate", "accuracy", "recovery")  # the first that is there
ARM = ["intervention", "label", "probe", "stream", "layer", "layer_end", "positions", "unit", "metric"]


def main_metric(table: pd.DataFrame) -> str:
    """The metric to look at first: of right answers where some are known, else the share of changed ones.

    Raises:
        ValueError: The table has no edit on reported cases.
    """
    edits = table[table["intervention"].notna() & table["control"].isna() & (table["split"] == "report")]
    there = edits.loc[edits["subset"] == "all", "metric"].dropna().unique()
    if not len(there):
        raise ValueError("the table has no edit that was measured on the cases kept for reporting; pass what "
                         "interventions.effect returns")
    return next((m for m in MAIN if m in there), str(there[0]))


def summary(table: pd.DataFrame, metric: str | None = None) -> pd.DataFrame:
    """One row per edit and dose, on the cases kept for reporting.

    Columns: what was done (`intervention`, `label`, `probe`, `site`, `positions`, `unit`, `metric`, `alpha`); `value`,
    `ci_low`, `ci_high`; without an edit, `null`; the mean over random directions of equal norm and their 5th and 95th
    percentile, `random`, `random_low`, `random_high`; `beyond`, whether the interval lies clear of both, on the same
    side; `kl`, what the edit costs on these prompts, in nats.

    Args:
        table: What `effect` returns.
        metric: `main_metric`, unless named.
    Raises:
        ValueError: No reported edit, or none with this metric.
    """
    metric = metric or main_metric(table)
    rows = table[(table["split"] == "report") & (table["subset"] == "all") & table["intervention"].notna()]
    own = rows[(rows["metric"] == metric) & rows["control"].isna() & rows["probe"].notna()]
    if own.empty:
        raise ValueError(f"no reported edit was measured by {metric!r}; there are "
                         f"{', '.join(map(str, rows['metric'].dropna().unique())) or 'no rows'}")
    found = []
    for _, edit in own.sort_values([*ARM[:6], "alpha"], kind="stable").iterrows():
        null = _at(rows, edit, "metric", "intervention", control="null")
        band = _at(rows, edit, "alpha", *ARM, control="random_direction")
        cost = _at(rows, edit, "alpha", *(c for c in ARM if c != "metric"), metric="kl")
        last = "" if edit["layer_end"] == edit["layer"] else f"-{edit['layer_end']}"
        found.append({**{c: edit[c] for c in ARM[:3]}, "site": f"{edit['stream']}.{edit['layer']}{last}",
                      **{c: edit[c] for c in (*ARM[6:], "alpha", "value", "ci_low", "ci_high")},
                      "null": _first(null, "value"), "random": _first(band, "value"),
                      "random_low": _first(band, "ci_low"), "random_high": _first(band, "ci_high"),
                      "beyond": _clear(edit, null, band), "kl": _first(cost, "value")})
    return pd.DataFrame(found)


def _at(rows: pd.DataFrame, edit: pd.Series, *columns: str, control: str | None = None, metric: str | None = None
        ) -> pd.DataFrame:
    """The rows of a control (of the edit itself), equal to `edit` in these columns."""
    wanted = {"control": control, **{column: edit[column] for column in columns}}
    wanted |= {} if metric is None else {"metric": metric}
    keep = np.ones(len(rows), bool)
    for column, value in wanted.items():
        same = rows[column].isna() if pd.isna(value) else rows[column] == value
        keep &= same.fillna(False).to_numpy(bool)
    return rows[keep]


def _first(rows: pd.DataFrame, column: str) -> float:
    return float(rows[column].iloc[0]) if len(rows) else np.nan


def _clear(edit: pd.Series, null: pd.DataFrame, band: pd.DataFrame) -> bool | None:
    if not len(null) or not len(band):
        return None
    above = edit["ci_low"] > max(_first(null, "ci_high"), _first(band, "ci_high"))
    below = edit["ci_high"] < min(_first(null, "ci_low"), _first(band, "ci_low"))
    return bool(above or below)
