"""The Geometry of Truth data sets, and any table of statements: rows, what they are about, and their labels.

Source: Marks & Tegmark, arXiv:2310.06824, repository saprmarks/geometry-of-truth, whose files have no licence: they
are downloaded from there, pinned, and not shipped.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from .._csv import read_csv
from .._data import fetch

PARTS = ("cities_cities_conj", "cities_cities_disj")  # two statements in one


@dataclass(frozen=True)
class Dataset:
    """A published file.

    Attributes:
        entities: Columns, or a pattern of the statement, that say what a statement is about.
        polarity: 1 affirmative, 0 negated, None where the file mixes them.
    """

    entities: tuple[str, ...] | re.Pattern | None = None
    polarity: int | None = None


_WORD = re.compile("word '(.*?)'")
DATASETS = {
    "cities": Dataset(("city",), 1),
    "neg_cities": Dataset(("city",), 0),
    "sp_en_trans": Dataset(_WORD, 1),
    "neg_sp_en_trans": Dataset(_WORD, 0),
    "larger_than": Dataset(("n1", "n2"), 1),
    "smaller_than": Dataset(("n1", "n2"), 1),
    "cities_cities_conj": Dataset(("city1", "city2")),
    "cities_cities_disj": Dataset(("city1", "city2")),
    "companies_true_false": Dataset(),
    "common_claim_true_false": Dataset(),
    "counterfact_true_false": Dataset(("subject",)),
    "likely": Dataset(),
}


def read(dataset: str | Path, group: str | None = None) -> pd.DataFrame:
    """One row per statement: `dataset`, `row` (of the file, from 0), `statement`, `entities` (a tuple of texts) and
    label columns `scheme/statement`.

    Args:
        dataset: A name of `DATASETS`, or a CSV file with columns `statement` and `label`.
        group: Column that says what a statement of your file is about. By default the statement itself, without the
            word `not`.
    Raises:
        FileNotFoundError: There is no such file and no such data set.
        ValueError: A column is missing, a label is not 0 or 1, a statement is empty, or there are no rows.
    """
    known = DATASETS.get(str(dataset))
    if known is None and not Path(dataset).is_file():
        raise FileNotFoundError(f"{dataset} is neither a file nor a data set; give a CSV with columns statement and "
                                f"label, or one of {', '.join(DATASETS)}")
    file = Path(dataset) if known is None else fetch(f"geometry_of_truth/{dataset}.csv")
    table = read_csv(file)
    wanted = ["statement", "label", *([group] if group and known is None else [])]
    if missing := [c for c in wanted if c not in table]:
        asked = "question" in {c.strip().lower() for c in table}
        raise ValueError(f"{file} lacks column(s) {', '.join(missing)}, it has {', '.join(table.columns)}; " + (
            "for questions with answers use tasks.truthfulness.questions" if asked else
            "rename the ones that are meant"))
    if table.empty:
        raise ValueError(f"{file} has no rows; it needs at least one statement for each of three splits")
    statement = table["statement"].astype(str)
    if (empty := statement.str.strip() == "").any():
        raise ValueError(f"{file}: row {empty.idxmax()} has an empty statement; drop the {empty.sum()} such row(s)")
    rows = pd.DataFrame({"dataset": Path(dataset).stem, "row": range(len(table)), "statement": statement,
                         "entities": _entities(table, known, group)})
    return pd.concat([rows, _labels(table, str(dataset), known, file)], axis=1)


def _entities(table: pd.DataFrame, known: Dataset | None, group: str | None) -> list[tuple[str, ...]]:
    if known is None:
        about = table[group] if group else table["statement"].astype(str).str.replace(r"\bnot\s+", "", regex=True)
        return [(str(a),) for a in about]
    if isinstance(known.entities, re.Pattern):
        return [(word,) for word in table["statement"].str.extract(known.entities)[0]]
    columns = table[list(known.entities or ("statement",))].astype(str)
    return [tuple(sorted(set(row))) for row in columns.itertuples(index=False)]


def _labels(table: pd.DataFrame, name: str, known: Dataset | None, file: Path) -> pd.DataFrame:
    scheme = "likely" if known and name == "likely" else "truth"
    labels = {scheme: binary(table["label"], file)}
    if known and known.polarity is not None:
        labels["polarity"] = pd.Series(known.polarity, index=table.index, dtype="int8")
    elif known is None and "polarity" in table:
        labels["polarity"] = binary(table["polarity"], file)
    if known and name in PARTS:
        labels |= {"first_part": binary(table["label1"], file), "second_part": binary(table["label2"], file)}
    if known and name == "likely":
        labels["log_likelihood"] = table["likelihood"].astype(float)
    return pd.DataFrame({f"{scheme}/statement": column for scheme, column in labels.items()})


def binary(column: pd.Series, file: Path) -> pd.Series:
    words = column.astype(str).str.strip().str.lower().map({"1": 1, "0": 0, "1.0": 1, "0.0": 0, "true": 1, "false": 0})
    if (bad := words.isna()).any():
        raise ValueError(f"{file}: {column.name} must be 1 (true) or 0 (false), row {bad.idxmax()} has "
                         f"{str(column[bad.idxmax()])!r}; correct or drop the {bad.sum()} such row(s)")
    return words.astype("int8")
