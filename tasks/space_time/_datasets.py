"""The published entity tables, a small one of real cities, and any table of names with coordinates or dates.

Source: Gurnee & Tegmark, arXiv:2310.02207, repository wesg52/world-models (MIT), which made them from DBpedia, GeoNames
and others; downloaded from there, pinned, and not shipped. `cities` are 243 capitals and great cities of Natural Earth
(public domain; `cities.json` names the version), and need no download.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy import ndarray

from .._csv import read_csv
from .._data import fetch

PLACE = ("longitude", "latitude")
LIMITS = {"longitude": 180, "latitude": 90}  # degrees either way
_YEAR = 365.25 * 24 * 3600  # seconds


def _work(table: pd.DataFrame) -> pd.Series:
    """Stephen King's It; James' It."""
    return table["creator"] + np.where(table["creator"].str.endswith("s"), "' ", "'s ") + table["title"]


@dataclass(frozen=True)
class Dataset:
    """A published table.

    Attributes:
        name: Column of the entity's name, or a function that makes it.
        targets: `PLACE`, or one column of dates or years.
        block: Column of what is held out as a block.
        kind: Column of the entity type.
        group: Column that never straddles splits; the name, unless given.
        prompts: Key -> template; `{}` is the entity.
        where: `pinned`, in the public repository; `shipped` beside this file; `own`, in no public copy: give `file`.
    """

    name: str | Callable[[pd.DataFrame], pd.Series]
    targets: tuple[str, ...]
    block: str
    kind: str | None = None
    group: str | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    where: Literal["pinned", "shipped", "own"] = "pinned"


PROMPTS = {"empty": "{}", "empty_all_caps": "{}", "random": "{}"}  # what they change is in _load
_COORDS = "What are the lat/lon coordinates of {}"
DATASETS = {
    "world_place": Dataset("name", PLACE, "country", "entity_type", prompts={"coords": _COORDS}),
    "us_place": Dataset("name", PLACE, "state_id", "entity_type",
                        prompts={"coords": _COORDS, "where_us": "Where in the United States is {}"}),
    "nyc_place": Dataset(lambda t: t["name"].str.title(), PLACE, "borough_name", "facility_t_name",
                         prompts={"where_is": "Where is {}", "where_nyc": "Where in New York City is {}"}),
    "art": Dataset(_work, ("release_date",), "decade", "entity_type", "creator",
                   {"release": "When was the release date of {}"}),
    "historical_figure": Dataset("name", ("death_year",), "death_century", "occupation",
                                 prompts={"when": "When did {}", "when_all_caps": "When did {}"}, where="own"),
    "headline": Dataset(lambda t: t["headline"] + ".", ("pub_date",), "year", "news_desk",
                        prompts={"empty_wo_period": "{}", "when_w_period": "Publication date of: {}",
                                 "when_wo_period": "Publication date of: {}"}, where="own"),
    "cities": Dataset("name", PLACE, "continent", prompts={"coords": _COORDS}, where="shipped"),
}


def read(dataset: str | Path, file: Path | None, name: str, targets: Sequence[str] | None, block: str | None,
         group: str | None) -> pd.DataFrame:
    """One row per entity: `row` (of the file, from 0), `entity`, `block`, `kind`, `group`, `is_test` where the file has
    it, and label columns: `place/longitude` and `place/latitude` in degrees, or `time/year`, a calendar year with its
    fraction (1970 + seconds since then / 365.25 days).

    Raises:
        FileNotFoundError: There is no such file and no such data set, or the data set is in no public copy.
        ValueError: A column is missing, a name is empty, a coordinate or date is out of range or none, or the same in
            every row.
    """
    known = DATASETS.get(str(dataset))
    path = _file(dataset, file, known)
    table = _table(path)
    if known is not None:
        targets, block, group, kind = known.targets, known.block, known.group, known.kind
        entity = known.name
    else:
        targets, entity, kind = tuple(targets or PLACE), name, "entity_type" if "entity_type" in table else None
    wanted = [*([entity] if isinstance(entity, str) else []), *targets, *(c for c in (block, group) if c)]
    if missing := [c for c in wanted if c not in table]:
        raise ValueError(f"{path} lacks column(s) {', '.join(missing)}, it has {', '.join(table.columns)}; name the "
                         "columns that are meant by name=, targets=, block= and group=")
    names = (table[entity] if isinstance(entity, str) else entity(table)).astype(str)
    if (empty := names.str.strip() == "").any():
        raise ValueError(f"{path}: row {empty.idxmax()} has no name; drop the {empty.sum()} such row(s)")
    rows = pd.DataFrame({"row": range(len(table)), "entity": names.str.strip()})
    rows["group"] = table[group].astype(str) if group else rows["entity"]
    for label, column in (("block", block), ("kind", kind)):
        rows[label] = table[column].astype(str).replace("", "unknown") if column else "all"
    if "is_test" in table:
        rows["is_test"] = table["is_test"].astype(str).str.lower().isin(["true", "1"])
    labels = _labels(table, targets, path)
    if same := [c for c in labels if labels[c].nunique() < 2]:
        raise ValueError(f"{path}: {same[0].partition('/')[2]} is the same in all {len(labels)} row(s), so there is "
                         "nothing to read from the names; give a table in which it differs")
    return pd.concat([rows, labels], axis=1)


def _file(dataset: str | Path, file: Path | None, known: Dataset | None) -> Path:
    if known is None:
        if not Path(dataset).is_file():
            raise FileNotFoundError(f"{dataset} is neither a file nor a data set; give a CSV with a name and targets, "
                                    f"or one of {', '.join(DATASETS)}")
        return Path(dataset)
    if file is not None:
        return Path(file)
    if known.where == "shipped":
        return Path(__file__).parent / f"{dataset}.json"
    if known.where == "own":
        raise FileNotFoundError(f"the file of {dataset} is not in the public copy of the papers' data; give your own "
                                "as file=")
    return fetch(f"world_models/{dataset}.csv")


def _table(path: Path) -> pd.DataFrame:
    if path.suffix != ".json":
        return read_csv(path)
    held = json.loads(path.read_text(encoding="utf-8"))
    return pd.DataFrame(held["rows"], columns=held["columns"])


def _labels(table: pd.DataFrame, targets: Sequence[str], path: Path) -> pd.DataFrame:
    if set(targets) == set(PLACE):
        return pd.DataFrame({f"place/{c}": _coordinate(table[c], path) for c in PLACE})
    if len(targets) != 1:
        raise ValueError(f"targets must be {PLACE} or one column of dates or years, not {tuple(targets)}")
    return pd.DataFrame({"time/year": _years(table[targets[0]], path)})


def _coordinate(column: pd.Series, path: Path) -> ndarray:
    degrees = pd.to_numeric(column, errors="coerce")
    limit = LIMITS[str(column.name)]
    if (bad := ~(degrees.abs() <= limit)).any():
        raise ValueError(f"{path}: {column.name} must lie in -{limit} to {limit} degrees, row {bad.idxmax()} has "
                         f"{str(column[bad.idxmax()])!r}; correct or drop the {bad.sum()} such row(s) (are longitude "
                         "and latitude swapped?)")
    return degrees.to_numpy(np.float64)


def _years(column: pd.Series, path: Path) -> ndarray:
    """Numbers are years; texts are ISO dates."""
    years = pd.to_numeric(column, errors="coerce").astype(float)
    if (words := years.isna()).any():
        dates = pd.to_datetime(column[words].astype(str), format="%Y-%m-%d", errors="coerce")
        years[words] = 1970 + (dates - pd.Timestamp(1970, 1, 1)) / pd.Timedelta(seconds=_YEAR)
    if (bad := years.isna() | ~np.isfinite(years)).any():
        raise ValueError(f"{path}: {column.name} must be a year or a date such as 1969-07-20, row {bad.idxmax()} has "
                         f"{str(column[bad.idxmax()])!r}; correct or drop the {bad.sum()} such row(s)")
    return years.to_numpy(np.float64)
