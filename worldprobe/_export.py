"""`worldprobe export DIR`: the results of a run in the formats of others.

    csv, parquet, json   every row and every digit; what is read back is the table that was written
    latex, md            a line per probe, as on the leaderboard, for a paper or an issue
    eee                  Every Eval Ever, schema 0.3.0: a file per model
    hf-yaml              Hugging Face .eval_results, to be put into the repository of the model

A table that breaks a rule of the results cannot be exported in any of them.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from probing._result_files import read_results, write_results
from tasks._files import write_whole

from ._board_rows import board_rows
from ._csv import csv_text

FORMATS = ("csv", "parquet", "json", "latex", "md", "eee", "hf-yaml")


def export(run: str | Path, to: Sequence[str], out: str | Path | None = None, *, dataset: str | None = None
           ) -> list[Path]:
    """Writes the results of a run folder, or of a results file, in each format; returns the files.

    Args:
        to: Of FORMATS.
        out: Folder of the files; by default `export` in the run folder, or beside the file.
        dataset: hf-yaml: the benchmark data set on the Hub that the scores belong to, as ORG/NAME.
    Raises:
        ValueError: A format that is not known.
        ResultsError: The results are damaged, or break a rule; nothing is written.
    """
    if wrong := [name for name in to if name not in FORMATS]:
        raise ValueError(f"no format {wrong[0]!r}; there are {', '.join(FORMATS)}")
    table, metadata = read_run(run)
    folder = Path(out) if out is not None else _folder(run) / "export"
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    rows = board_rows(table, metadata) if {*to} & {"latex", "md", "eee", "hf-yaml"} else pd.DataFrame()
    for name in dict.fromkeys(to):
        files += _write(name, folder, table, metadata, rows, dataset)
    return files


def read_run(run: str | Path) -> tuple[pd.DataFrame, dict]:
    """(table, metadata) of a run folder or a results file.

    Raises:
        ValueError: There are no results, or no such folder.
    """
    return read_results(results_file(run))


def results_file(run: str | Path) -> Path:
    """The results file of a run folder; a file itself.

    Raises:
        ValueError: There is none.
    """
    path = Path(run)
    if path.is_dir():
        found = [path / name for name in ("results.parquet", "results.json") if (path / name).exists()]
        if not found:
            raise ValueError(f"{path} has no results.parquet or results.json; a run writes them when it is done: the "
                             "same command again finishes it")
        return found[0]
    if not path.exists():
        raise ValueError(f"there is no {path}; name a run folder, or a results file (.parquet or .json)")
    if path.suffix not in (".parquet", ".json"):
        raise ValueError(f"results are read from .parquet or .json, not from {path.name!r}; name the folder of a run, "
                         "or the results file in it")
    return path


def _folder(run: str | Path) -> Path:
    path = Path(run)
    return path if path.is_dir() else path.parent


def _write(name: str, folder: Path, table: pd.DataFrame, metadata: dict, rows: pd.DataFrame, dataset: str | None
           ) -> list[Path]:
    if name == "csv":
        return [_whole(folder / "results.csv", csv_text(table))]
    if name in ("parquet", "json"):
        # one call writes both, so that they agree; what was not asked for is not reported
        return [write_results(table, folder / "results.parquet", metadata).with_suffix(f".{name}")]
    if name == "latex":
        from ._latex import latex_table

        return [_whole(folder / "table.tex", latex_table(rows))]
    if name == "md":
        from ._markdown import markdown_table

        return [_whole(folder / "table.md", markdown_table(rows))]
    if name == "eee":
        from ._every_eval_ever import records

        found = records(rows, metadata)
        return [_whole(folder / path, json.dumps(record, indent=1, allow_nan=False) + "\n")
                for path, record in found.items()]
    from ._eval_results import eval_results

    return [_whole(folder / path, text) for path, text in eval_results(rows, metadata, dataset).items()]


def _whole(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode())
    return path
