"""The files of an activation store, whatever tensors they hold; loads no torch, so that the command line is quick.

A shard is written to a temporary file in the same folder, synced, renamed, and the folder synced; only then is its
record written, the same way. So a shard without a record does not exist and is computed again, and a record whose
shard is missing or different is damage, which is reported and never repaired in silence. safetensors notices no
flipped bit; the hashes in the record are ours. docs/store.md describes the files.
"""

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import xxhash

from tasks._files import sync_folder, write_whole

FORMAT = 2  # 2: one width per site, records with a check of their own
READABLE = (1, 2)
SPARE = 64 << 20  # bytes a store leaves free on its disk
SETTLED = 1_000_000_000  # ns; a file that changed more recently may change again under the same time stamp
BLOCK = 8 << 20  # bytes in memory while hashing

Identity = dict[str, Any]
AnyStore = TypeVar("AnyStore", bound="StoreFiles")
_verified: set[tuple[str, int, int, int, int]] = set()  # shards whose hashes this process has checked


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
class StoreFiles:
    """The folder of one identity. `identity["plan"]` says how many shards and examples belong to it."""

    path: Path
    identity: Identity

    @classmethod
    def at(cls: type[AnyStore], identity: Identity, cache: str | Path | None = None) -> AnyStore:
        """The store of an identity under `cache`, whether it exists or not."""
        return cls(cache_root(cache) / store_name(identity), identity)

    @classmethod
    def open(cls: type[AnyStore], path: str | Path) -> AnyStore:
        """A store that exists, known by its folder. Nothing is written."""
        path = Path(path).expanduser().resolve()
        head = read_json(path / "identity.json", "this is not the folder of an activation store")
        identity = dict(head.get("identity") or {})
        if store_name(identity) != path.name:
            raise StoreError(f"{path / 'identity.json'} belongs in a folder named {store_name(identity)}, not "
                             f"{path.name}: it was changed or the folder renamed; restore it, or delete this file "
                             "and run the same command again")
        return cls(path, identity)

    @property
    def n_shards(self) -> int:
        return self.identity["plan"]["n_shards"]

    def missing(self) -> list[int]:
        """Shards without a record, and all of them where identity.json is not there: writing puts it first.

        Raises:
            StoreError: A record is damaged, or its shard is gone or has another size: that is not missing.
        """
        with reading(self.path):
            if not (self.path / "identity.json").exists():
                return list(range(self.n_shards))
            type(self).open(self.path)
            done = {i for i in range(self.n_shards) if self.record_path(i).exists()}
        for i in sorted(done):
            self.check_size(i)
        return [i for i in range(self.n_shards) if i not in done]

    def shard_path(self, shard: int) -> Path:
        return self.path / f"shard-{shard:05d}.safetensors"

    def record_path(self, shard: int) -> Path:
        return self.path / f"shard-{shard:05d}.json"

    def record(self, shard: int) -> dict[str, Any]:
        """Rows, sites, dtype, bytes, xxh3_128 and sha256 of a shard."""
        path = self.record_path(shard)
        record = read_json(path, f"its shard cannot be trusted. {_remedy(self, shard)}")
        if record["format"] > 1 and record.get("check") != _check(record):
            raise StoreError(f"{path} is damaged: its own check is {record.get('check')}, its content has "
                             f"{_check(record)}. {_remedy(self, shard)}")
        if (record.get("store"), record.get("shard")) != (self.path.name, shard):
            raise StoreError(f"{path} is the record of shard {record.get('shard')} of store {record.get('store')}, "
                             f"wanted shard {shard} of {self.path.name}: it was moved. {_remedy(self, shard)}")
        for field in ("sites", "dtype"):
            if field in self.identity and record.get(field) != self.identity[field]:
                raise StoreError(f"{path} is damaged: {field} {self.identity[field]} wanted, {record.get(field)} found."
                                 f" {_remedy(self, shard)}")
        return record

    # --- writing ---------------------------------------------------------------------------------------------------

    @contextmanager
    def locked(self, wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the store's lock, in a folder made if need be; `wait` is called before waiting for another process."""
        while True:
            with _writing(self.path):
                if not self.path.exists():
                    self.path.mkdir(parents=True, exist_ok=True)
                    sync_folder(self.path.parent)
                try:
                    lock = open(self.path / "lock", "a")
                except FileNotFoundError:
                    continue  # the store was removed at this moment
            with lock:
                with _writing(self.path):
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        wait()
                        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel releases it, also when a process is killed
                if _same_file(lock.fileno(), self.path / "lock"):  # or else the store was removed while we waited
                    yield
                    return

    @contextmanager
    def writing(self, wait: Callable[[], None] = lambda: None,
                about: Mapping[str, str | None] | None = None) -> Iterator[None]:
        """Hold the lock, in a folder ready for shards. A second process calls `wait`, waits, and finds the work done.

        `about` names model and task for people who list stores; it is no part of the identity.
        """
        with self.locked(wait):
            with _writing(self.path):
                for left_over in self.path.glob("*.tmp"):
                    left_over.unlink()
                known = (self.path / "identity.json").exists()
            if not known:
                what = {"format": FORMAT, "identity": self.identity, "about": dict(about or {})}
                _write(self.path / "identity.json", _pretty(what))
            yield

    def put(self, shard: int, data: bytes | memoryview, rows: int, halved: int = 0) -> None:
        """Store the bytes of one shard, then its record.

        Args:
            halved: How often the plan's batches were cut in half because memory had run out; recorded if at all.
        """
        record = {"format": FORMAT, "store": self.path.name, "shard": shard, "rows": rows, "bytes": len(data),
                  "sites": self.identity["sites"], "dtype": self.identity["dtype"],
                  "xxh3_128": xxhash.xxh3_128_hexdigest(data), "sha256": hashlib.sha256(data).hexdigest(),
                  **({"halved": halved} if halved else {})}
        _write(self.shard_path(shard), data)
        _write(self.record_path(shard), _pretty({**record, "check": _check(record)}))

    def check_space(self, needed: int) -> None:
        """Raises StoreError when the disk lacks `needed` bytes and a margin."""
        folder = next(p for p in (self.path, *self.path.parents) if p.exists())
        if (free := shutil.disk_usage(folder).free) < needed + SPARE:
            raise StoreError(f"the activation store needs {needed / 1e9:.3g} GB in {self.path.parent}, which has "
                             f"{free / 1e9:.3g} GB free: free some space (worldprobe cache prune --help), choose "
                             "another folder with cache=..., store dtype='bfloat16', or read fewer sites")

    # --- checking --------------------------------------------------------------------------------------------------

    def verify(self, shard: int, again: bool = False) -> None:
        """Raises StoreError unless the shard's bytes have the hash of its record. Once per process and file.

        Args:
            again: Read every byte whatever was checked before, and compare the sha256 as well.
        """
        self.check_size(shard)
        path = self.shard_path(shard)
        with reading(path):
            stat = path.stat()
        key = str(path.resolve()), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
        if key in _verified and not again:
            return
        record = self.record(shard)
        came = _hashes(path, ("xxh3_128", "sha256") if again else ("xxh3_128",))  # xxh3 is ten times faster
        if any(record.get(name) != digest for name, digest in came.items()):
            came = _hashes(path)
            raise StoreError(f"{path} is damaged: "
                             + "; ".join(f"{name} {record.get(name)} wanted, {x} found" for name, x in came.items())
                             + f". {_remedy(self, shard)}")
        if time.time_ns() - stat.st_ctime_ns > SETTLED:
            _verified.add(key)

    def check_size(self, shard: int) -> None:
        """Raises StoreError unless the record is sound and its shard has the recorded size."""
        path, record = self.shard_path(shard), self.record(shard)
        with reading(path):
            came = path.stat().st_size if path.exists() else None
        if came != record.get("bytes"):
            found = "the file is gone" if came is None else f"{came} bytes found"
            raise StoreError(f"{path} is damaged: {record.get('bytes')} bytes with xxh3_128 {record.get('xxh3_128')} "
                             f"and sha256 {record.get('sha256')} wanted, {found}. {_remedy(self, shard)}")


def explain_difference(identity: Identity, cache: str | Path | None = None,
                       alike: Callable[[Identity], bool] = lambda identity: True) -> list[str]:
    """Fields in which `identity` differs from the nearest existing store, as `model.digest`; [] if there is none.

    Stores that are damaged or for which `alike(identity)` is False are passed over.
    """
    wanted, nearest = flat(identity), None
    for file in sorted(cache_root(cache).glob("*/identity.json")):
        try:
            other = json.loads(file.read_bytes())["identity"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # it is reported when that store is opened
        if not alike(other):
            continue
        came = flat(other)
        fields = sorted(f for f in wanted.keys() | came.keys() if wanted.get(f) != came.get(f))
        nearest = min(nearest, fields, key=len) if nearest is not None else fields
    return nearest or []


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """`{"model.digest": ...}`: every field of an identity that holds no further fields."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {name: x for key, part in value.items() for name, x in flat(part, f"{prefix}.{key}".lstrip(".")).items()}


def read_json(path: Path, otherwise: str) -> dict[str, Any]:
    """The content of identity.json or of a record, of a format this version reads; else StoreError with `otherwise`."""
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"there is no {path}: {otherwise}") from None
    except OSError as error:
        raise StoreError(f"cannot read {path} ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} is damaged ({error}): {otherwise}") from error
    came = content.get("format") if isinstance(content, dict) else None
    if came not in READABLE:
        raise StoreError(f"{path} has format {came!r}, this version reads {' and '.join(map(str, READABLE))}: "
                         f"{otherwise}")
    return content


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """A disk that cannot be read is a StoreError that names the file."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot read {error.filename or path} ({error.strerror})") from error


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot write the activation store {path} ({error.strerror}); choose a folder you can write "
                         "with cache=... or the environment variable WORLDPROBE_CACHE") from error


def _write(path: Path, data: bytes | memoryview) -> None:
    try:
        write_whole(path, data)
    except OSError as error:
        raise StoreError(f"cannot write {path} ({error.strerror}). The shards finished so far are kept: make room, or "
                         "choose another folder with cache=..., and run the same command again") from error


def _remedy(store: StoreFiles, shard: int) -> str:
    return (f"Restore the file, or delete {store.record_path(shard)} to have this shard computed again; "
            "`worldprobe cache repair` does that for all")


def _hashes(path: Path, names: tuple[str, ...] = ("xxh3_128", "sha256")) -> dict[str, str]:
    digests: dict[str, Any] = {"xxh3_128": xxhash.xxh3_128(), "sha256": hashlib.sha256()}
    with reading(path), open(path, "rb") as file:
        while block := file.read(BLOCK):
            for name in names:
                digests[name].update(block)
    return {name: digests[name].hexdigest() for name in names}


def _check(record: Mapping[str, Any]) -> str:
    """xxh3_128 of everything else a record says."""
    return xxhash.xxh3_128_hexdigest(canonical({k: v for k, v in record.items() if k != "check"}).encode())


def _pretty(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, indent=1).encode()


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
