"""Data sets that are not ours to ship: from a local mirror, or from a pinned address, whole or not at all.

`_manifest.json` pins each file: repository, commit and path give the address, sha256 and size say what must arrive.
`here` is its path in a mirror; a mirror that holds a conversion of the file has the conversion's own sha256 and size
(`here_sha256`, `here_bytes`).
"""

import hashlib
import json
import os
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

ADDRESS = "https://raw.githubusercontent.com/{repository}/{commit}/{path}"
MANIFEST = Path(__file__).with_name("_manifest.json")
MIRROR = "WORLDPROBE_DATA"
_TIMEOUT = 30  # seconds without an answer


class DamagedFile(ValueError):
    """A file is not the pinned one; the message names it with both sizes and hashes."""


class DataUnavailable(OSError):
    """A data set is neither in the mirror nor in the cache, and could not be downloaded."""


def fetch(here: str) -> Path:
    """The checked local file of a pinned data set: the mirror's if $WORLDPROBE_DATA has it, else the cached download.

    Args:
        here: The `here` of the manifest, e.g. `othello/intervention_benchmark.json`.
    Returns:
        The mirror's file, or the original under the user's cache folder; look at the suffix to see which.
    Raises:
        DamagedFile: What is in the mirror, in the cache, or arrived, is not the pinned file. It is never used.
        DataUnavailable: No copy, and no download; says how to set WORLDPROBE_DATA.
    """
    entry = _entry(here)
    original = Path(here).with_suffix(Path(entry["path"]).suffix)
    if mirror := os.environ.get(MIRROR):
        converted, pins = Path(mirror, here), {**entry, **_renamed(entry)}
        if converted.exists():
            return _checked(converted, pins["sha256"], pins["bytes"])
        if Path(mirror, original).exists():
            return _checked(Path(mirror, original), entry["sha256"], entry["bytes"])
    cached = cache_dir() / entry["commit"] / original
    if not cached.exists():
        _download(entry, cached)
    return _checked(cached, entry["sha256"], entry["bytes"])


def cache_dir() -> Path:
    """Where downloads are kept: $XDG_CACHE_HOME/worldprobe, by default ~/.cache/worldprobe."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "worldprobe"


def _entry(here: str) -> dict:
    entries = {e["here"]: e for e in json.loads(MANIFEST.read_text())}
    if here not in entries:
        raise ValueError(f"no data set {here!r} in {MANIFEST.name}; it has {sorted(entries)}")
    return entries[here]


def _renamed(entry: dict) -> dict:
    """`here_sha256` as `sha256`, and so on."""
    return {key.removeprefix("here_"): value for key, value in entry.items() if key.startswith("here_")}


def _checked(file: Path, sha256: str, size: int) -> Path:
    data = file.read_bytes()
    if (digest := hashlib.sha256(data).hexdigest()) != sha256:
        raise DamagedFile(f"{file} is not the pinned file and is not used: wanted {size} bytes with sha256 {sha256}, "
                          f"found {len(data)} bytes with sha256 {digest}. Remove it, and put a good copy in its place "
                          "or run again to download it")
    return file


def _download(entry: dict, target: Path) -> None:
    """Into a temporary file beside the target, checked, then renamed: an interrupted download leaves no target."""
    url = ADDRESS.format(**entry)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, suffix=".part")
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_read(url, entry))
            file.flush()
            os.fsync(file.fileno())
        try:
            _checked(part, entry["sha256"], entry["bytes"])
        except DamagedFile as error:
            raise DamagedFile(f"{url} did not send the pinned file: {error}") from None
        part.chmod(0o644)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _read(url: str, entry: dict) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
            return answer.read(entry["bytes"] + 1)  # never more than one byte beyond what is pinned
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        mirror = os.environ.get(MIRROR)
        tried = f"{MIRROR}={mirror} has no {entry['here']}" if mirror else f"{MIRROR} is not set"
        raise DataUnavailable(
            f"cannot download {url} ({getattr(error, 'reason', error)}), and {tried}. Go online once, or set {MIRROR} "
            f"to a folder that holds {entry['here']}") from error
