"""A run folder: one configuration, its stages computed once, so that a killed run continues with the same command.

    DIR/run.json          configuration, fingerprints, versions, command
    DIR/run.log           plain lines with their time
    DIR/stages/NAME.*     what a stage returned (.parquet or .safetensors), and its record (.json) with the hash

A stage without a record does not exist and is computed; a record whose data is wrong is an error that names the file,
never a silent recompute.
"""

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from tasks._files import write_whole

from . import __version__
from ._stages import RunError, StageResult, load_stage, store_stage

LIBRARIES = ("torch", "transformers", "transformer-lens", "scikit-learn", "numpy", "pandas")  # they can move a number
_PACKAGES = ("tasks", "probing", "interventions", "worldprobe")
_ABSENT = "(absent)"

def quiet(text: str) -> None:
    """Prints nothing."""


def open_run(
    out: str | Path,
    config: Mapping[str, Any],
    *,
    fingerprints: Mapping[str, str] | None = None,
    log: Callable[[str], None] = quiet,
) -> "Run":
    """The run in folder `out`: a new one, or the one already there when it has the same configuration.

    Args:
        config: JSON values; everything the user chose that changes a number, the seed included.
        fingerprints: Digests of model and data. They and the versions of the libraries must agree as well.
        log: Takes every line of `Run.log` too, e.g. `print`; the file run.log has them in any case.
    Raises:
        RunError: The folder cannot be written, holds something else, belongs to another configuration (the message
            names each field that differs, with both values), or another process works in it.
    """
    path = Path(out)
    asked = _plain({"config": dict(config), "fingerprints": dict(fingerprints or {}), "versions": versions()})
    try:
        path.mkdir(parents=True, exist_ok=True)
        _known(path)  # refused before a lock is left in a folder that is not ours
        lock = _lock(path)
        known = _known(path)
        if not known:
            about = {**asked, "code": code_digest(), "command": command(), "python": platform.python_version()}
            write_whole(path / "run.json", _json(about))
        (path / "stages").mkdir(exist_ok=True)
    except OSError as error:
        why = "it is a file" if path.is_file() else error.strerror or error
        raise RunError(f"cannot write to {path}: {why}. Name another folder with --out") from error
    run = Run(path, asked["config"], log, lock)
    if known:
        if different := differences({k: known.get(k) for k in asked}, asked):
            raise RunError(f"{path} belongs to another configuration: {'; '.join(different)}. Name another folder with "
                           "--out, or discard what is there with --fresh")
        run.log("continuing")
        if known.get("code") != code_digest():
            run.log("warning: the code has changed since this run began; stages that are done keep the old code's "
                    "results, --fresh computes them again")
    return run


class Run:
    """A folder that belongs to one configuration; made by `open_run`.

    Attributes:
        path: The folder.
        config: The configuration as run.json has it.
    """

    def __init__(self, path: Path, config: dict[str, Any], log: Callable[[str], None], lock: "_Lock"):
        self.path, self.config = path, config
        self._say, self._lock, self._seen = log, lock, set[str]()  # the lock ends with the process, however it ends

    def log(self, text: str) -> None:
        """A line for run.log, with the time, and for the terminal, without."""
        with open(self.path / "run.log", "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        self._say(text)

    def environment(self) -> dict[str, Any]:
        """Versions, code digest and command, for the metadata of what the run writes."""
        about = json.loads((self.path / "run.json").read_bytes())
        return {k: v for k, v in about.items() if k != "config"}

    def has(self, name: str) -> bool:
        """Whether a stage was computed before, so that `stage` will not call its `make`."""
        return (self.path / "stages" / f"{name}.json").exists()

    def stage(self, name: str, make: Callable[..., StageResult]) -> Any:
        """What `make()` returns, a DataFrame or a dict of arrays (numpy or torch; they come back as numpy): computed
        once, read from the folder after that. The first call returns what later calls will read, too.

        Raises:
            RunError: The stage is damaged, its name is not a file name or was used before, or it is neither of the two.
        """
        if not re.fullmatch(r"[\w.+=-]+", name) or name.startswith("."):
            raise RunError(f"a stage name is letters, digits and . _ + = -, not {name!r}; it names a file")
        if name in self._seen:
            raise RunError(f"stage {name!r} was asked for before in this run; two stages need two names")
        self._seen.add(name)
        record = self.path / "stages" / f"{name}.json"
        if record.exists():
            result = load_stage(record)
            self.log(f"{name}: done before")
            return result
        began = time.monotonic()
        result = store_stage(record, make())
        self.log(f"{name}: {time.monotonic() - began:.1f} s")
        return result


def discard_run(out: str | Path) -> None:
    """Frees a run folder for any configuration: its stages are removed, reports and logs stay until overwritten.

    Raises:
        RunError: The folder holds something that is not a run; nothing is removed.
    """
    path = Path(out)
    if not path.is_dir() or _known(path) is None:
        return
    held = _lock(path)
    shutil.rmtree(path / "stages", ignore_errors=True)
    write_whole(path / "run.json", b"{}\n")  # last: stages never stand without their configuration
    del held


def versions() -> dict[str, str]:
    """Version of worldprobe and of the libraries that can move a number, without importing them."""
    found = {"worldprobe": __version__}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = _ABSENT
    return found


def command() -> list[str]:
    """The command line, with the name of the program for its path."""
    name = Path(sys.argv[0]).name
    return ["worldprobe" if name == "__main__.py" else name, *sys.argv[1:]]


def code_digest() -> str:
    """sha256 over the Python files of the four packages."""
    root, digest = Path(__file__).parent.parent, hashlib.sha256()
    for file in sorted(f for package in _PACKAGES for f in (root / package).rglob("*.py")):
        digest.update(f"{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()


def differences(there: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """`config.seed is 0 there, 1 was asked for`, for every leaf that differs."""
    old, new = _leaves(there), _leaves(asked)
    return [f"{field} is {_show(old.get(field, _ABSENT))} there, {_show(new.get(field, _ABSENT))} was asked for"
            for field in dict.fromkeys([*new, *old]) if old.get(field, _ABSENT) != new.get(field, _ABSENT)]


def _leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    return {k: v for key, sub in tree.items() for k, v in _leaves(sub, f"{prefix}.{key}" if prefix else key).items()}


def _show(value: Any) -> str:
    return value if value == _ABSENT else "none" if value is None else json.dumps(value)


def _plain(value: Any) -> Any:
    try:
        return json.loads(json.dumps(value))
    except TypeError as error:
        raise RunError(f"a configuration holds JSON values only ({error}); convert it before open_run") from error


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


class _Lock:
    """Held while an instance lives, by one process at a time; the system lets go of it when the process dies."""

    def __init__(self, path: Path):
        self.descriptor = os.open(path / ".lock", os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"another process is working in {path}; wait for it, or name another folder with "
                           "--out") from None

    def __del__(self):
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


_LOCKS: WeakValueDictionary[Path, _Lock] = WeakValueDictionary()  # a notebook may open the same run twice


def _lock(path: Path) -> _Lock:
    path = path.resolve()
    held = _LOCKS.get(path) or _Lock(path)
    _LOCKS[path] = held
    return held


def _known(path: Path) -> dict[str, Any] | None:
    """What run.json says, {} in a discarded run; None for a folder with nothing in it."""
    file = path / "run.json"
    if file.exists():
        try:
            return dict(json.loads(file.read_bytes()))
        except (TypeError, ValueError) as error:
            raise RunError(f"{file} is damaged ({error}). Name another folder with --out, or remove {path}") from error
    if others := sorted(f.name for f in path.iterdir() if not f.name.startswith(".")):
        raise RunError(f"{path} is not a run folder: it has no run.json, but {', '.join(others[:3])}. Name a new or "
                       "empty folder with --out")
    return None


def say(text: str) -> None:
    """A plain line on standard error."""
    print(text, file=sys.stderr, flush=True)
