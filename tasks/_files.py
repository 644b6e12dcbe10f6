"""Files that appear whole or not at all."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """Writes a file so that a reader, or a crash at any moment, sees the old bytes or the new, never a part.

    A temporary file `.NAME.*.tmp` beside it is written, synced and renamed, and the folder synced; everybody may read
    it, whatever the umask. A kill can leave the temporary file, an error removes it.

    Raises:
        OSError: The disk is full, broken or not writable.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        try:
            rest = memoryview(data)
            while rest:  # one call writes at most 2 GiB, and less on a disk that fills up
                rest = rest[os.write(descriptor, rest):]
            os.fchmod(descriptor, 0o644)  # mkstemp leaves 0600
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """A power cut no longer undoes what was created, renamed or removed in `folder`."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
