"""Stores that earlier versions wrote are still read, with the numbers they had: one store of each format is kept here.

`expected.json` beside them has the numbers of the same run kept in memory, which never passed through a store.
"""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from probing._activations import Activations
from probing._sites import Site
from probing._store import StoreError

FORMAT_1 = Path(__file__).parent / "old_stores" / "format_1"
EXPECTED = json.loads((FORMAT_1 / "expected.json").read_text())


@pytest.mark.parametrize("kind", ["trained", "random_init"])
def test_a_store_of_format_1_gives_the_numbers_it_was_written_with(kind):
    acts = Activations.open(FORMAT_1 / EXPECTED["store"])
    assert acts.random_init.path.name == EXPECTED["control"]
    acts = acts if kind == "trained" else acts.random_init
    assert acts.sites == (Site("resid_pre", 0), Site("resid_post", 2)) and acts.n_examples == 24
    for site in acts:
        expected, came = EXPECTED["values"][f"{kind} {site}"], acts[site]
        assert list(came.shape) == expected["shape"] == [24, 32]
        assert came[0].tolist() == pytest.approx(expected["first row"], rel=1e-6)
        assert hashlib.sha256(came.numpy().tobytes()).hexdigest() == expected["sha256"]
        assert came.dtype == torch.float32


def test_reading_an_old_store_changes_no_file_of_it(tmp_path):
    copy = Path(shutil.copytree(FORMAT_1 / EXPECTED["store"], tmp_path / EXPECTED["store"]))
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in copy.iterdir()}
    acts = Activations.open(copy)
    assert acts[acts.sites[0]].isfinite().all() and acts.random_init is None
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in copy.iterdir()} == before


def test_a_format_from_the_future_is_refused(tmp_path):
    copy = Path(shutil.copytree(FORMAT_1 / EXPECTED["store"], tmp_path / EXPECTED["store"]))
    head = json.loads((copy / "identity.json").read_text())
    (copy / "identity.json").write_text(json.dumps(head | {"format": 99}))
    with pytest.raises(StoreError, match="has format 99, this version reads"):
        Activations.open(copy)
