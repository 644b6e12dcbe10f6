"""Activations on disk: one folder per identity, safetensors shards, and a JSON record that makes each shard count.

A shard is written to a temporary file in the same folder, synced, renamed, and the folder synced; only then is its
record written, the same way. So a shard without a record does not exist and is computed again, and a record whose
shard is missing or different is damage, which is reported and never repaired in silence. safetensors notices no
flipped bit; the hashes in the record are ours.

    <cache>/<32 hex digits of the identity>/identity.json             what was read, from which model, how
                                            shard-00000.safetensors   one tensor per site, and `rows`: their examples
                                            shard-00000.json          rows, sites, dtype, bytes, xxh3_128, sha256
                                            lock                      held by the process that writes
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ._sites import Site

FORMAT = 1
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SPARE = 64 << 20  # bytes a store leaves free on its disk

Identity = dict[str, Any]
_verified: set[tuple[str, int, int, int]] = set()  # shards whose hashes this process has checked


class StoreError(RuntimeError):
    """An activation store cannot be written, or is not what its records say."""


def cache_root(cache: str | Path | None = None) -> Path:
    """The folder of all stores: `cache`, else WORLDPROBE_CACHE, else `worldprobe` in the user's cache folder."""
    if cache is None and not (cache := os.environ.get("WORLDPROBE_CACHE")):
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "worldprobe"
    return Path(cache).expanduser()


def canonical(value: Any) -> str:
    """JSON with one spelling: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def store_name(identity: Identity) -> str:
    """First 32 hex digits of the sha256 of the canonical identity."""
    return hashlib.sha256(canonical(identity).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Store:
    """The folder of one identity. `identity["plan"]` says how many shards and examples belong to it."""

    path: Path
    identity: Identity

    @classmethod
    def at(cls, identity: Identity, cache: str | Path | None = None) -> "Store":
        """The store of an identity under `cache`, whether it exists or not."""
        return cls(cache_root(cache) / store_name(identity), identity)

    @classmethod
    def open(cls, path: str | Path) -> "Store":
        """A store that exists, known by its folder. Nothing is written."""
        path = Path(path).expanduser().resolve()
        identity = _read_json(path / "identity.json", "this is not the folder of an activation store")["identity"]
        if store_name(identity) != path.name:
            raise StoreError(f"{path / 'identity.json'} belongs in a folder named {store_name(identity)}, not "
                             f"{path.name}: it was changed or the folder renamed; restore it, or delete the folder")
        return cls(path, identity)

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(Site.parse(text) for text in self.identity["sites"])

    def missing(self) -> list[int]:
        """Shards without a record. A record whose shard is gone or has another size is an error, not missing."""
        if (self.path / "identity.json").exists():
            Store.open(self.path)
        done = {i for i in range(self.identity["plan"]["n_shards"]) if self.record_path(i).exists()}
        for i in sorted(done):
            self._check_size(i)
        return [i for i in range(self.identity["plan"]["n_shards"]) if i not in done]

    def shard_path(self, shard: int) -> Path:
        return self.path / f"shard-{shard:05d}.safetensors"

    def record_path(self, shard: int) -> Path:
        return self.path / f"shard-{shard:05d}.json"

    def record(self, shard: int) -> dict[str, Any]:
        return _read_json(self.record_path(shard), "its shard cannot be trusted; delete the record to compute it again")

    # --- writing ---------------------------------------------------------------------------------------------------

    @contextmanager
    def writing(self, wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the store's lock. A second process calls `wait`, waits, and then finds the work done."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = open(self.path / "lock", "a")
        except OSError as error:
            raise StoreError(f"cannot write the activation store {self.path} ({error.strerror}); choose a folder you "
                             "can write with cache=... or the environment variable WORLDPROBE_CACHE") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                wait()
                fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel releases it, also when a process is killed
            for left_over in self.path.glob("*.tmp"):
                left_over.unlink()
            if not (self.path / "identity.json").exists():
                what = {"format": FORMAT, "identity": self.identity}
                _write(self.path / "identity.json", json.dumps(what, sort_keys=True, indent=1).encode())
            yield

    def write(self, shard: int, tensors: Mapping[Site, Float[Tensor, "row d_model"]], rows: Tensor) -> None:
        """Store one shard, then its record. `rows` are the examples its rows belong to."""
        header = canonical({"store": self.path.name, "shard": shard})
        data = save({"rows": rows, **{str(site): x.contiguous() for site, x in tensors.items()}},
                    metadata={"worldprobe": header})  # one key: safetensors writes several in any order
        record = {"format": FORMAT, "store": self.path.name, "shard": shard, "rows": len(rows), "bytes": len(data),
                  "sites": self.identity["sites"], "dtype": self.identity["dtype"], **_hashes(data)}
        _write(self.shard_path(shard), data)
        _write(self.record_path(shard), json.dumps(record, sort_keys=True, indent=1).encode())

    def check_space(self, needed: int) -> None:
        """Raises StoreError when the disk lacks `needed` bytes and a margin."""
        folder = next(p for p in (self.path, *self.path.parents) if p.exists())
        if (free := shutil.disk_usage(folder).free) < needed + SPARE:
            raise StoreError(f"the activation store needs {needed / 1e9:.3g} GB in {self.path.parent}, which has "
                             f"{free / 1e9:.3g} GB free: free some space, choose another folder with cache=..., store "
                             "dtype='bfloat16', or read fewer sites")

    # --- reading ---------------------------------------------------------------------------------------------------

    def read(self, site: Site) -> Float[Tensor, "example d_model"]:
        """Activations of one site, in the order of the examples; the other sites stay on disk."""
        plan = self.identity["plan"]
        acts = torch.empty(plan["n_examples"], plan["d_model"], dtype=DTYPES[self.identity["dtype"]])
        for shard in range(plan["n_shards"]):
            self.verify(shard)
            with safe_open(self.shard_path(shard), "pt") as file:
                acts[file.get_tensor("rows")] = file.get_tensor(str(site))
        return acts

    def verify(self, shard: int, again: bool = False) -> None:
        """Raises StoreError unless the shard's bytes have the hash of its record. Once per process and file."""
        self._check_size(shard)
        path, stat = self.shard_path(shard), self.shard_path(shard).stat()
        key = str(path.resolve()), stat.st_ino, stat.st_size, stat.st_mtime_ns
        if key in _verified and not again:
            return
        record, data = self.record(shard), path.read_bytes()
        place = record.get("store"), record.get("shard")
        if xxhash.xxh3_128_hexdigest(data) != record.get("xxh3_128"):  # ten times faster than sha256
            came = "; ".join(f"{name} {record.get(name)} wanted, {x} found" for name, x in _hashes(data).items())
            raise StoreError(f"{path} is damaged: {came}. {_remedy(self, shard)}")
        if place != (self.path.name, shard):
            raise StoreError(f"{self.record_path(shard)} is the record of shard {place[1]} of store {place[0]}, wanted "
                             f"shard {shard} of {self.path.name}: it was moved. {_remedy(self, shard)}")
        _verified.add(key)

    def _check_size(self, shard: int) -> None:
        path, record = self.shard_path(shard), self.record(shard)
        came = path.stat().st_size if path.exists() else None
        if came != record.get("bytes"):
            found = "the file is gone" if came is None else f"{came} bytes found"
            raise StoreError(f"{path} is damaged: {record.get('bytes')} bytes with xxh3_128 {record.get('xxh3_128')} "
                             f"and sha256 {record.get('sha256')} wanted, {found}. {_remedy(self, shard)}")


def _remedy(store: Store, shard: int) -> str:
    return f"Restore the file, or delete {store.record_path(shard)} to have this shard computed again"


def explain_difference(identity: Identity, cache: str | Path | None = None,
                       alike: Callable[[Identity], bool] = lambda identity: True) -> list[str]:
    """Fields in which `identity` differs from the nearest existing store, as `model.digest`; [] if there is none.

    Stores that are damaged or for which `alike(identity)` is False are passed over.
    """
    wanted, nearest = _flat(identity), None
    for file in sorted(cache_root(cache).glob("*/identity.json")):
        try:
            other = json.loads(file.read_bytes())["identity"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # it is reported when that store is opened
        if not alike(other):
            continue
        came = _flat(other)
        fields = sorted(f for f in wanted.keys() | came.keys() if wanted.get(f) != came.get(f))
        nearest = min(nearest, fields, key=len) if nearest is not None else fields
    return nearest or []


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {name: x for key, part in value.items() for name, x in _flat(part, f"{prefix}.{key}".lstrip(".")).items()}


def _hashes(data: bytes) -> dict[str, str]:
    return {"xxh3_128": xxhash.xxh3_128_hexdigest(data), "sha256": hashlib.sha256(data).hexdigest()}


def _read_json(path: Path, otherwise: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise StoreError(f"there is no {path}: {otherwise}") from None
    except ValueError as error:
        raise StoreError(f"{path} is damaged ({error}): {otherwise}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise StoreError(f"{path} has format {content.get('format') if isinstance(content, dict) else None!r}, this "
                         f"version reads {FORMAT}: {otherwise}")
    return content


def _write(path: Path, data: bytes) -> None:
    """The file appears whole or not at all, and survives a power cut."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o644)  # whatever the umask: others may read a shared cache
            os.fsync(file.fileno())
        os.rename(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(f"cannot write {path} ({error.strerror}). The shards finished so far are kept: make room, or "
                         "choose another folder with cache=..., and run the same command again") from error
