"""Result tables on disk: parquet for machines that compute, JSON for everything else; both whole or not at all."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tasks._files import write_whole

from ._results import COLUMNS, SCHEMA_VERSION, ResultsError, results_frame, validate

SCHEMA_FILE = Path(__file__).with_name("results.schema.json")
_ALWAYS = ["task", "metric", "split", "subset", "value", "n", "data_hash"]
_JSON_TYPES = {"str": "string", "Int64": "integer", "float64": "number"}


def schema() -> dict:
    """JSON Schema of the JSON file, made from `COLUMNS`; `results.schema.json` beside this module is its copy."""
    row: dict[str, dict] = {column: {"type": _JSON_TYPES[dtype], "description": meaning}
                            for column, (dtype, meaning) in COLUMNS.items()}
    row["n"]["minimum"] = 1
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "worldprobe results",
        "description": "One row, one number; what does not apply to a row is left out. Rules across rows (controls, "
                       "bands) are checked by probing.validate.",
        "type": "object",
        "additionalProperties": False,
        "required": ["schema_version", "digest", "metadata", "rows"],
        "properties": {
            "schema_version": {"const": SCHEMA_VERSION},
            "digest": {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "sha256 of metadata and rows"},
            "metadata": {"type": "object", "description": "configuration, versions and commands of the whole table"},
            "rows": {"type": "array", "minItems": 1, "items": {
                "type": "object", "additionalProperties": False, "required": _ALWAYS, "properties": row}},
        },
    }


def write_results(table: pd.DataFrame, path: str | Path, metadata: Mapping | None = None) -> Path:
    """Validates, then writes `path` (.parquet) and the same rows as JSON beside it; returns the parquet's path.

    Both hold the schema version, `metadata` (JSON values: configuration, versions, command) and a digest of metadata
    and rows, which `read_results` checks. The bytes depend on the arguments and the library versions alone.

    Raises:
        ResultsError: The table breaks a rule (see `validate`), or the name does not end in .parquet.
    """
    path = Path(path)
    if path.suffix != ".parquet":
        raise ResultsError(f"results are written as NAME.parquet with NAME.json beside it, not {path.name!r}")
    rows, metadata = _rows(validate(table)), dict(metadata or {})
    head = {"schema_version": SCHEMA_VERSION, "digest": _digest(metadata, rows), "metadata": metadata}
    arrow = pa.Table.from_pandas(results_frame(rows), preserve_index=False)
    arrow = arrow.replace_schema_metadata({**arrow.schema.metadata, b"worldprobe": _canonical(head)})
    sink = pa.BufferOutputStream()
    pq.write_table(arrow, sink, compression="zstd")
    text = json.dumps(head, indent=1)[:-2] + ',\n "rows": [\n' + ",\n".join(map(json.dumps, rows)) + "\n]}\n"
    write_whole(path.with_suffix(".json"), text.encode())
    write_whole(path, sink.getvalue().to_pybytes())
    return path


def read_results(path: str | Path) -> tuple[pd.DataFrame, dict]:
    """(table, metadata) of a file that `write_results` made, .parquet or .json; validated again, never unpickled.

    Raises:
        ResultsError: The file is damaged or changed (its content does not match its digest), of another schema version,
            no results file at all, or its table breaks a rule.
    """
    path = Path(path)
    data = path.read_bytes()
    try:
        rows, head = _parse_json(data) if path.suffix == ".json" else _parse_parquet(data)
        version, digest, metadata = head["schema_version"], head["digest"], head["metadata"]
    except (pa.ArrowException, AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError) as error:
        raise ResultsError(f"{path} is not a results file or is damaged ({type(error).__name__}: {error}); "
                           "restore it, or write it again") from error
    if version not in range(1, SCHEMA_VERSION + 1):
        raise ResultsError(f"{path} has schema version {version}, this worldprobe reads 1 to {SCHEMA_VERSION}; read it "
                           "with the version that wrote it (see its metadata)")
    if (found := _digest(metadata, rows)) != digest:
        raise ResultsError(f"{path} is damaged or was edited: its content has digest {found[:12]}, recorded is "
                           f"{digest[:12]}; restore it, or write it again")
    return validate(results_frame(rows), version), metadata


def _rows(table: pd.DataFrame) -> list[dict]:
    columns = [c for c in COLUMNS if c in table]  # an older file has fewer
    cells = [table[c].astype(object).where(table[c].notna(), None).tolist() for c in columns]
    return [{c: v for c, v in zip(columns, row, strict=True) if v is not None} for row in zip(*cells, strict=True)]


def _digest(metadata: dict, rows: list[dict]) -> str:
    return hashlib.sha256(_canonical([metadata, rows])).hexdigest()


def _canonical(value) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _parse_json(data: bytes) -> tuple[list[dict], dict]:
    head = json.loads(data)
    if not isinstance(head, dict):
        raise ValueError(f"wanted an object with rows, it is a {type(head).__name__}")
    return head.pop("rows"), head


def _parse_parquet(data: bytes) -> tuple[list[dict], dict]:
    arrow = pq.read_table(pa.BufferReader(data))
    return _rows(arrow.to_pandas()), json.loads(arrow.schema.metadata[b"worldprobe"])
