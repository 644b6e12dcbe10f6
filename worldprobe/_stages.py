"""What a stage of a run leaves on disk: a table as parquet or arrays as safetensors, and a record with the hash."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from tasks._files import write_whole

StageResult: TypeAlias = pd.DataFrame | Mapping[str, Any]


class RunError(ValueError):
    """The run folder cannot be used, or something in it is damaged; the message says what to do."""


def store_stage(record: Path, result: StageResult) -> StageResult:
    """Writes the data beside `record` (NAME.json), then the record; returns what `load_stage` will.

    The bytes depend on the result alone. The index of a DataFrame is dropped.
    """
    name = record.name.removesuffix(".json")
    suffix, data = _encode(name, result)
    write_whole(record.with_name(name + suffix), data)
    known = {"bytes": len(data), "file": name + suffix, "sha256": hashlib.sha256(data).hexdigest()}
    write_whole(record, (json.dumps(known, indent=1) + "\n").encode())
    return _decode(suffix, data)


def load_stage(record: Path) -> StageResult:
    """The data of a record, once size and hash agree.

    Raises:
        RunError: The data or the record is damaged or missing; the message names the file and both hashes.
    """
    again = f"Restore it, or remove {record} to compute the stage again"
    try:
        known = json.loads(record.read_bytes())
        file, size, digest = record.with_name(known["file"]), known["bytes"], known["sha256"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise RunError(f"the record {record} is damaged ({error}). {again}") from error
    if not file.exists():
        raise RunError(f"{file} is missing, its record is there. {again}")
    data = file.read_bytes()
    if (found := hashlib.sha256(data).hexdigest()) != digest:
        raise RunError(f"{file} is damaged: {len(data)} bytes with sha256 {found[:12]}, recorded are {size} with "
                       f"{digest[:12]}. {again}")
    try:
        return _decode(file.suffix, data)
    except (pa.ArrowException, SafetensorError, ValueError) as error:
        raise RunError(f"{file} is not what a stage leaves, whatever its hash ({error}). {again}") from error


def _encode(name: str, result: StageResult) -> tuple[str, bytes]:
    try:
        if isinstance(result, pd.DataFrame):
            sink = pa.BufferOutputStream()
            pq.write_table(pa.Table.from_pandas(result, preserve_index=False), sink, compression="zstd")
            return ".parquet", sink.getvalue().to_pybytes()
        if isinstance(result, Mapping):
            return ".safetensors", save_arrays({str(k): _array(v) for k, v in sorted(result.items())})
    except (pa.ArrowException, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"stage {name!r} cannot be stored: {error}. Return columns of numbers, booleans and text, or "
                       "arrays of numbers") from error
    raise RunError(f"stage {name!r} returned {type(result).__name__}; return a DataFrame or a dict of arrays")


def _array(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    array = np.asarray(value, order="C")
    if array.dtype.kind not in "biuf":
        raise TypeError(f"an array of {array.dtype}")
    return array


def _decode(suffix: str, data: bytes) -> StageResult:
    if suffix == ".parquet":
        return pq.read_table(pa.BufferReader(data)).to_pandas()
    return {name: array if array.flags.writeable else array.copy() for name, array in load_arrays(data).items()}
