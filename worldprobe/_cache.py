"""`worldprobe cache`: activation stores listed, checked, mended and removed. Nothing here loads torch."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from probing._store_files import StoreError, cache_root, canonical
from probing._store_repair import Condition, inspect, is_store, remove, store_folders
from probing._store_repair import repair as repair_store

from ._cli import CommandError, no_such, print_table

SHORT = 8  # digits of an id that are shown
_UNITS = ((604800, "w"), (86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def ls(names: Sequence[str] = (), cache: str | None = None, as_json: bool = False) -> int:
    """Prints one line per store. Records and sizes are checked, bytes are not: `verify` does that."""
    found = [inspect(path) for path in chosen(names, cache)]
    if as_json:
        print(json.dumps([_facts(store) for store in found], indent=1))
    elif not found:
        print(f"no activation stores in {cache_root(cache)}")
    else:
        print_table(("id", "model", "task", "architecture", "control", "sites", "examples", "dtype", "shards", "size",
                     "age", "state"), [_cells(_facts(store)) for store in found])
        print(f"{_count(len(found), 'store')}, {size(sum(store.size for store in found))}, in {cache_root(cache)}")
    return 0


def verify(names: Sequence[str] = (), cache: str | None = None) -> int:
    """Reads every byte of the stores again; prints each damaged file with its hashes. 1 if there is one."""
    began, n_shards, n_bytes, bad = time.monotonic(), 0, 0, 0
    for path in chosen(names, cache):
        store = inspect(path, every_byte=True)
        n_shards, n_bytes, bad = n_shards + len(store.done), n_bytes + store.size, bad + len(store.damage)
        for text in store.damage.values():
            print(text)
        if store.left_overs:
            print(f"{path}: {_count(len(store.left_overs), 'file')} of an interrupted run, or of one that is running; "
                  "that is no damage")
    took = time.monotonic() - began
    print(f"{_count(n_shards, 'shard')}, {size(n_bytes)}, read in {took:.1f} s: "
          + (f"{_count(bad, 'file')} damaged; `worldprobe cache repair` takes them away" if bad else "all as recorded"))
    return 1 if bad else 0


def repair(names: Sequence[str] = (), cache: str | None = None) -> int:
    """Removes what is damaged or left over, and says how much will be computed again. 1 if a store was busy."""
    mended, to_compute, busy = 0, 0, 0
    for path in chosen(names, cache):
        if not _needs_repair(inspect(path, every_byte=True)):
            continue
        try:
            done = repair_store(path)
        except StoreError as error:
            print(error, file=sys.stderr)
            busy += 1
            continue
        for file in done.removed:
            print(f"removed {file}")
        mended, to_compute = mended + 1, to_compute + done.to_compute
    if mended:
        print(f"run the same command again: {_count(to_compute, 'shard')} will be recomputed")
    elif not busy:
        print("nothing is damaged")
    return 1 if busy else 0


def prune(names: Sequence[str] = (), cache: str | None = None, older_than: float | None = None,
          unfinished: bool = False, keep: int | None = None, dry_run: bool = False, yes: bool = False) -> int:
    """Removes the stores that fit every option given. A control stays as long as a store that stays needs it."""
    if not names and older_than is None and not unfinished and keep is None:
        raise CommandError("say what to remove: --older-than 30d, --unfinished, --keep 5, or the ids of stores (see "
                           "worldprobe cache ls)")
    everything = [inspect(path) for path in store_folders(cache)]
    asked = set(chosen(names, cache))
    doomed = prunable([store for store in everything if store.path in asked], time.time(), older_than, unfinished, keep)
    needed = {_pair(store) for store in everything if store not in doomed and not _is_control(store)}
    doomed = [store for store in doomed if not (_is_control(store) and _pair(store) in needed and not names)]
    if not doomed:
        print("nothing to remove")
        return 0
    for store in doomed:
        print(f"{store.path.name}  {size(store.size)}  {age(time.time() - store.written)} old")
    total = f"{_count(len(doomed), 'store')}, {size(sum(store.size for store in doomed))}"
    if dry_run:
        print(f"would remove {total}")
        return 0
    if not yes and not _agreed(total):
        raise CommandError(f"nothing is removed; add --yes to remove {total}")
    failed = 0
    for store in doomed:
        try:
            remove(store.path)
        except StoreError as error:
            print(error, file=sys.stderr)
            failed += 1
    print(f"removed {total}" if not failed else f"{failed} of {len(doomed)} stores could not be removed")
    return 1 if failed else 0


def prunable(stores: Sequence[Condition], now: float, older_than: float | None, unfinished: bool,
             keep: int | None) -> list[Condition]:
    """The stores that fit every option. `keep` counts what was read from trained models, not their controls."""
    trained = sorted((s for s in stores if not _is_control(s)), key=lambda s: -s.written)
    kept = {s.path for s in trained[:keep]} if keep is not None else set()
    return [s for s in stores if s.path not in kept and not (unfinished and s.finished)
            and (older_than is None or now - s.written > older_than)]


def chosen(names: Sequence[str], cache: str | None) -> list[Path]:
    """Folders of the stores named by the first digits of their id or by their folder; all of them if none is named."""
    folders = store_folders(cache)
    if cache is not None and not cache_root(cache).is_dir():
        raise CommandError(f"--cache {cache} is {'a file' if Path(cache).exists() else 'not there'}; name the folder "
                           "that holds the stores, or leave --cache out")
    found = []
    for name in names:
        fits = [path for path in folders if path.name.startswith(name)] if "/" not in name else \
               [path for path in [Path(name).expanduser()] if is_store(path)]
        if not fits:
            known = [path.name[:SHORT] for path in folders]
            raise CommandError(f"{no_such('store', name, known[:20])} in {cache_root(cache)}")
        if len(fits) > 1:
            raise CommandError(f"{name!r} is the beginning of {len(fits)} stores ({', '.join(p.name for p in fits[:3])}"
                               "); give more digits")
        found += fits
    return list(dict.fromkeys(found)) if names else folders


def size(n_bytes: float) -> str:
    """`3.2 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"


def age(seconds: float) -> str:
    """`3 d`: the largest unit that fits."""
    unit, name = next(((unit, name) for unit, name in _UNITS if seconds >= unit), _UNITS[-1])
    return f"{max(0, seconds) // unit:.0f} {name}"


def _facts(store: Condition) -> dict[str, Any]:
    """What `ls --json` says of a store."""
    identity = store.identity or {}
    return {"id": store.path.name, "path": str(store.path), "model": store.about.get("model"),
            "task": store.about.get("task"), "architecture": identity.get("model", {}).get("architecture"),
            "random_init": identity.get("random_init"), "sites": identity.get("sites"),
            "examples": identity.get("plan", {}).get("n_examples"), "dtype": identity.get("dtype"),
            "shards_done": len(store.done), "shards": store.n_shards, "bytes": store.size, "written": store.written,
            "finished": store.finished, "damage": {str(file): text for file, text in store.damage.items()},
            "left_overs": [str(file) for file in store.left_overs], "identity": store.identity}


def _cells(facts: dict[str, Any]) -> tuple[str, ...]:
    identity, sites = facts["identity"] or {}, facts["sites"] or []
    model = facts["model"] or (identity.get("model", {}).get("digest") or "-")[:SHORT]
    control = "-" if facts["random_init"] is None else f"seed {facts['random_init']}"
    span = sites[0] if len(sites) == 1 else f"{len(sites)}: {sites[0]} .. {sites[-1]}" if sites else "-"
    state = ("DAMAGED" if facts["damage"] else "complete" if facts["finished"] else
             "unfinished" if identity else "not begun")
    return (facts["id"][:SHORT], model, facts["task"] or "-", facts["architecture"] or "-", control, span,
            f"{facts['examples']:,}" if identity else "-", facts["dtype"] or "-",
            f"{facts['shards_done']}/{facts['shards'] if identity else '?'}", size(facts["bytes"]),
            age(time.time() - facts["written"]), state)


def _needs_repair(store: Condition) -> bool:
    return bool(store.damage or store.left_overs)


def _is_control(store: Condition) -> bool:
    return store.identity is not None and store.identity.get("random_init") is not None


def _pair(store: Condition) -> str:
    """What a store shares with its control: everything but the weights."""
    if store.identity is None:
        return store.path.name
    return canonical({**store.identity, "model": {**store.identity["model"], "digest": None}, "random_init": None})


def _agreed(what: str) -> bool:
    if not sys.stdin.isatty():
        return False
    return input(f"remove {what}? [y/N] ").strip().lower() in ("y", "yes")


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
