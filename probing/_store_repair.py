"""What is wrong in a store, and removing it: a shard that is taken away is computed again by the same extract()."""

import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks._files import sync_folder

from ._store_files import Identity, StoreError, StoreFiles, cache_root, read_json, reading

THREADS = 4  # hashing is bound by the disk or by sha256, which lets go of the interpreter
_NAME = re.compile(r"[0-9a-f]{32}")
_SHARD = re.compile(r"shard-(\d{5,})\.(safetensors|json)")


@dataclass(frozen=True)
class Condition:
    """What is in the folder of a store.

    Attributes:
        identity: None where identity.json is missing or damaged.
        about: Names of model and task, for people.
        done: Shards that have a record, the damaged ones among them.
        damage: File -> what is wrong with it. A damaged shard stands under its own file, else under its record.
        broken: Shards that the damage concerns.
        left_overs: Files that do not count: of a killed writer, or being written at this moment.
        size: Bytes of all files.
        written: When a file last changed, in seconds since 1970.
    """

    path: Path
    identity: Identity | None
    about: dict[str, Any]
    done: tuple[int, ...]
    damage: dict[Path, str]
    broken: tuple[int, ...]
    left_overs: tuple[Path, ...]
    size: int
    written: float

    @property
    def n_shards(self) -> int | None:
        return None if self.identity is None else self.identity["plan"]["n_shards"]

    @property
    def finished(self) -> bool:
        return self.n_shards == len(self.done) and not self.damage


def store_folders(cache: str | Path | None = None) -> list[Path]:
    """Folders of the cache that are named like stores; whatever else lies there is not ours to touch."""
    root = cache_root(cache)
    with reading(root):
        return sorted(path for path in root.glob("*") if _NAME.fullmatch(path.name) and path.is_dir())


def is_store(path: Path) -> bool:
    """Whether a folder is named like a store or holds one."""
    return path.is_dir() and bool(_NAME.fullmatch(path.resolve().name) or (path / "identity.json").exists()
                                  or any(path.glob("shard-*")))


def inspect(path: Path, every_byte: bool = False, threads: int = THREADS) -> Condition:
    """The condition of a store: records and sizes, or with `every_byte` both hashes of every shard as well.

    Nothing is written and no lock is taken, so that stores of others and running ones can be looked at.
    """
    identity, about, damage = _identity(path)
    store = StoreFiles(path, identity or {})
    with reading(path):
        files = {file.name: file for file in path.iterdir()}
        stats = [file.stat() for file in files.values() if file.exists()]
    shards, records = (sorted(int(m[1]) for name in files if (m := _SHARD.fullmatch(name)) and m[2] == kind)
                       for kind in ("safetensors", "json"))
    done = [i for i in records if identity is None or i < store.n_shards]

    def wrong(shard: int) -> tuple[Path, str] | None:
        try:
            if every_byte:
                store.verify(shard, again=True)
            else:
                store.check_size(shard)
        except StoreError as error:
            text = str(error)
            return store.record_path(shard) if text.startswith(str(store.record_path(shard))) else \
                store.shard_path(shard), text
        return None

    with ThreadPoolExecutor(threads) as pool:
        found = dict(zip(done, pool.map(wrong, done), strict=True))
    damage |= dict(entry for entry in found.values() if entry)
    stray = [store.record_path(i) for i in records if i not in found]
    stray += [store.shard_path(i) for i in shards if i not in found]
    return Condition(path, identity, about, tuple(done), damage, tuple(i for i in found if found[i]),
                     tuple(sorted(stray + [file for name, file in files.items() if name.endswith(".tmp")])),
                     sum(stat.st_size for stat in stats), max((stat.st_mtime for stat in stats), default=0.0))


def _identity(path: Path) -> tuple[Identity | None, dict[str, Any], dict[Path, str]]:
    file = path / "identity.json"
    if not file.exists() and not any(path.glob("shard-*.json")):
        return None, {}, {}  # nothing has been written yet
    try:
        store = StoreFiles.open(path)
    except StoreError as error:
        return None, {}, {file: str(error)}
    return store.identity, dict(read_json(file, "").get("about") or {}), {}


@dataclass(frozen=True)
class Repair:
    """What `repair` did: the files it removed, and how many shards the same extract() will compute."""

    removed: tuple[Path, ...]
    to_compute: int


def repair(path: Path, threads: int = THREADS) -> Repair:
    """Removes what is damaged or left over: bad shards with their records, temporary files, shards without a record.

    Raises:
        StoreError: Another process writes the store, or its folder cannot be written.
    """
    store = StoreFiles(path, {})
    with store.locked(_busy(path)):
        found = inspect(path, every_byte=True, threads=threads)
        bad = [file for i in found.broken for file in (store.record_path(i), store.shard_path(i))]
        bad += [*found.left_overs, *(file for file in found.damage if file.name == "identity.json")]
        removed = _remove(bad)
    sound = len(found.done) - len(found.broken)
    return Repair(removed, len(found.broken) if found.n_shards is None else found.n_shards - sound)


def remove(path: Path) -> int:
    """Removes a store and returns its bytes. Killed half way, it leaves a store with fewer shards.

    Raises:
        StoreError: Another process writes the store, or there are files in it that no store has.
    """
    with StoreFiles(path, {}).locked(_busy(path)):
        with reading(path):
            files = sorted(path.iterdir(), key=lambda file: file.name)
        order = [[f for f in files if (m := _SHARD.fullmatch(f.name)) and m[2] == "json"],  # records first
                 [f for f in files if (m := _SHARD.fullmatch(f.name)) and m[2] == "safetensors"],
                 [f for f in files if f.name.endswith(".tmp")],
                 [f for f in files if f.name == "identity.json"],
                 [f for f in files if f.name == "lock"]]
        ours = [file for part in order for file in part]
        if foreign := sorted({file.name for file in files} - {file.name for file in ours}):
            raise StoreError(f"{path} holds {', '.join(foreign[:3])}, which no store has: nothing is removed; take "
                             "them away first")
        size = sum(file.stat().st_size for file in ours)
        _remove(ours)
        with suppress(OSError):
            path.rmdir()  # unless somebody has just begun the store anew
    sync_folder(path.parent)
    return size


def _remove(files: Iterable[Path]) -> tuple[Path, ...]:
    removed = []
    for file in files:
        try:
            file.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StoreError(f"cannot remove {file} ({error.strerror})") from error
        removed.append(file)
    for folder in {file.parent for file in removed}:
        sync_folder(folder)
    return tuple(removed)


def _busy(path: Path) -> Callable[[], None]:
    def refuse() -> None:
        raise StoreError(f"another process is writing {path}; run this again when it has finished")

    return refuse
