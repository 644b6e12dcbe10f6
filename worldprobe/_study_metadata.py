"""What the metadata of a study's results say for the leaderboard: what its changes write, and which way to write did
best on the cases set aside, so that none has to be chosen on the cases that are reported."""

from typing import Any

import pandas as pd

from tasks._study import Study

from ._rows import pick
from ._study_change_report import best


def board_metadata(study: Study, scans: pd.DataFrame) -> dict[str, Any]:
    """`changes`: change -> place -> [label, reading] that is written there, where it is one; `set_aside`: change ->
    place -> ways to write as `VERB DIRECTION`, the best on the cases set aside first."""
    by_name = {r.name: r for r in study.readings}
    changes, ways = dict[str, dict](), dict[str, dict]()
    for change in study.changes:
        written = {place: {part.reading for part in parts} for place, parts in change.places.items()}
        changes[change.name] = {place: [by_name[name].label, name] for place, names in written.items()
                                for name in names if len(names) == 1}
        tried = pick(scans, label=change.name) if len(scans) else scans
        ways[change.name] = {place: _ranked(pick(tried, positions=place), change.by)
                             for place in dict.fromkeys(tried["positions"] if len(tried) else ())}
    return {"changes": changes, "set_aside": ways} if changes else {}


def _ranked(tried: pd.DataFrame, by: str) -> list[str]:
    real = tried[tried["control"].isna()]
    each = real[["intervention", "probe"]].drop_duplicates().itertuples(index=False)
    ranks = {f"{verb} {probe}": best(pick(tried, intervention=verb, probe=probe), by)["rank"] for verb, probe in each}
    return sorted(ranks, key=ranks.__getitem__)
