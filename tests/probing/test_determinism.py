"""A smaller set of benchmarks/determinism.py, which makes 20 runs on a real model."""

from benchmarks.determinism import run


def test_the_table_is_the_same_bytes_whatever_hash_seed_threads_and_workers():
    assert len({run("world", *setting) for setting in ((0, 1, 1), (4_000_000_000, 2, 4))}) == 1
