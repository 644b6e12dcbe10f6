"""A file is there whole, or as it was."""

import os
import stat

import pytest

from tasks._files import write_whole


def test_a_file_is_replaced_and_everybody_may_read_it(tmp_path):
    before = os.umask(0o077)
    try:
        for data in (b"first", b"", b"second" * 100_000):
            write_whole(tmp_path / "file", data)
            assert (tmp_path / "file").read_bytes() == data
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_what_the_system_writes_in_pieces_arrives_whole(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:7]))
    write_whole(tmp_path / "file", bytes(range(256)))
    assert (tmp_path / "file").read_bytes() == bytes(range(256))


@pytest.mark.parametrize("operation", ["write", "fchmod", "fsync", "replace"])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, operation):
    write_whole(tmp_path / "file", b"old")

    def fails(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, operation, fails)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1
