"""The store: what is read is what was written, or an error that says what is wrong."""

import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import xxhash

from probing._activations import Activations
from probing._sites import Site
from probing._store import Store, StoreError, cache_root, explain_difference, store_name

SITES = (Site("resid_pre", 0), Site("resid_post", 1))
ROOT = Path(__file__).parents[2]


def identity_of(**changes):
    return {"model": {"digest": "d0", "architecture": "GPT2LMHeadModel"}, "random_init": None, "dtype": "float32",
            "sites": [str(site) for site in SITES], "plan": {"n_examples": 30, "d_model": 8, "n_shards": 3},
            "forward": {"road": "bridge"}, **changes}


def fill(store, shards=(0, 1, 2)):
    """Random activations, dealt over three shards in another order than the examples'."""
    g = torch.Generator().manual_seed(0)
    acts = {site: torch.randn(30, 8, generator=g).to(getattr(torch, store.identity["dtype"])) for site in SITES}
    rows = torch.randperm(30, generator=g).view(3, 10)
    with store.writing():
        for i in shards:
            store.write(i, {site: acts[site][rows[i]] for site in SITES}, rows[i])
    return acts


@pytest.fixture
def store(tmp_path):
    store = Store.at(identity_of(), tmp_path)
    fill(store)
    return store


def contents(folder):
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns, p.stat().st_ino) for p in sorted(folder.iterdir())}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_reading_gives_what_was_written_in_the_order_of_the_examples(tmp_path, dtype):
    store = Store.at(identity_of(dtype=dtype), tmp_path)
    acts = fill(store)
    for site in SITES:
        assert torch.equal(store.read(site), acts[site])


def test_a_record_tells_rows_sites_dtype_size_and_hashes(store):
    record = json.loads(store.record_path(1).read_text())
    data = store.shard_path(1).read_bytes()
    assert (record["rows"], record["sites"], record["dtype"]) == (10, ["resid_pre.0", "resid_post.1"], "float32")
    assert (record["bytes"], record["xxh3_128"]) == (len(data), xxhash.xxh3_128_hexdigest(data))


def test_the_same_activations_give_the_same_bytes(store, tmp_path):
    again = Store.at(identity_of(), tmp_path / "again")
    fill(again)
    for path in sorted(store.path.iterdir()):
        assert path.read_bytes() == (again.path / path.name).read_bytes(), path.name


def test_files_are_readable_by_others_whatever_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        store = Store.at(identity_of(), tmp_path)
        fill(store)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(p.stat().st_mode) for p in store.path.glob("shard*")} == {0o644}


def test_a_shard_without_a_record_does_not_exist(store):
    store.record_path(2).unlink()
    assert store.missing() == [2]
    with pytest.raises(StoreError, match="1 of 3 shards are missing; run extract"):
        Activations.open(store.path)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 4
    path.write_bytes(data)


DAMAGE = {
    "flip": lambda store: flip(store.shard_path(1)),
    "cut": lambda store: os.truncate(store.shard_path(1), 100),
    "empty": lambda store: store.shard_path(1).write_bytes(b""),
    "delete": lambda store: store.shard_path(1).unlink(),
    "swap": lambda store: store.shard_path(1).write_bytes(store.shard_path(0).read_bytes()),
    "flip in the header": lambda store: store.shard_path(1).write_bytes(
        store.shard_path(1).read_bytes().replace(b"resid_pre", b"resid_qre", 1)),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("read_before", [False, True])
def test_a_damaged_shard_is_an_error_with_file_and_hashes_and_is_left_alone(store, kind, read_before):
    if read_before:  # checked once in this process: a later change is still seen
        store.read(SITES[0])
    DAMAGE[kind](store)
    before = contents(store.path)
    with pytest.raises(StoreError) as error:
        store.missing()
        store.read(SITES[0])
    record = json.loads(store.record_path(1).read_text())
    assert str(store.shard_path(1)) in str(error.value)
    assert record["xxh3_128"] in str(error.value) and record["sha256"] in str(error.value)
    assert f"delete {store.record_path(1)}" in str(error.value)
    assert contents(store.path) == before


def test_a_shard_moved_together_with_its_record_is_noticed(store):
    for path in (store.shard_path, store.record_path):
        path(1).write_bytes(path(0).read_bytes())
    with pytest.raises(StoreError, match="is the record of shard 0 .* wanted shard 1"):
        store.read(SITES[0])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 99}'])
def test_a_damaged_record_is_an_error(store, text):
    store.record_path(1).write_text(text)
    with pytest.raises(StoreError, match="shard-00001.json"):
        store.missing()


def test_a_folder_that_is_not_its_identity_is_refused(store, tmp_path):
    with pytest.raises(StoreError, match="not the folder of an activation store"):
        Store.open(tmp_path)
    renamed = store.path.rename(tmp_path / "renamed")
    with pytest.raises(StoreError, match=f"belongs in a folder named {store.path.name}"):
        Store.open(renamed)
    renamed.rename(store.path)
    (store.path / "identity.json").write_text(json.dumps({"format": 1, "identity": identity_of(dtype="float16")}))
    with pytest.raises(StoreError, match="it was changed"):
        store.missing()


def test_a_store_is_known_by_its_identity_not_by_the_order_of_the_fields():
    identity = identity_of()
    assert store_name(dict(reversed(identity.items()))) == store_name(identity)
    assert len({store_name(identity_of(**{field: "changed"})) for field in identity} | {store_name(identity)}) == 7


def test_the_fields_that_differ_from_the_nearest_store_are_named(store, tmp_path):
    fill(Store.at(identity_of(dtype="float16", forward={"road": "plain sdpa"}), tmp_path))
    model = {"digest": "d1", "architecture": "GPT2LMHeadModel"}
    assert explain_difference(identity_of(model=model), tmp_path) == ["model.digest"]
    assert explain_difference(identity_of(dtype="float16"), tmp_path) in (["dtype"], ["forward.road"])
    assert explain_difference(identity_of(), tmp_path) == []
    assert explain_difference(identity_of(), tmp_path / "empty") == []


def test_a_finished_store_can_be_read_where_nothing_can_be_written(store):
    before = contents(store.path)
    store.path.chmod(0o555)
    try:
        acts = Activations.open(store.path)
        assert acts[SITES[0]].shape == (30, 8)
    finally:
        store.path.chmod(0o755)
    assert contents(store.path) == before


def test_a_cache_that_cannot_be_written_says_which_setting_to_change(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="WORLDPROBE_CACHE"), Store.at(identity_of(), tmp_path / "file").writing():
        pass


def test_too_small_a_disk_is_known_before_any_work(tmp_path):
    with pytest.raises(StoreError, match=r"needs 1\.15e\+09 GB in .* GB free"):
        Store.at(identity_of(), tmp_path / "not" / "there").check_space(1 << 60)


@pytest.mark.parametrize("operation", ["fsync", "replace", "fchmod", "write"])
@pytest.mark.parametrize("nth", [0, 1, 2, 3])
def test_when_the_disk_fails_finished_shards_are_kept_and_nothing_half_written_counts(tmp_path, monkeypatch, operation,
                                                                                     nth):
    store, real, calls = Store.at(identity_of(), tmp_path), getattr(os, operation), []
    fill(store, shards=[0])

    def fails(*args):
        calls.append(args)
        if len(calls) == nth + 1:
            raise OSError(28, "No space left on device")
        return real(*args)

    monkeypatch.setattr(os, operation, fails)
    if nth < (4 if operation == "fsync" else 2):  # one shard and its record
        with pytest.raises(StoreError, match="No space left on device.*finished so far are kept"):
            fill(store, shards=[1])
    monkeypatch.undo()
    assert not list(store.path.glob("*.tmp"))
    assert 0 not in store.missing()
    acts = fill(store, shards=store.missing())
    assert torch.equal(store.read(SITES[1]), acts[SITES[1]])


def test_a_full_disk_during_a_write_leaves_a_readable_store(tmp_path):
    """The kernel itself refuses: no file of this process may grow beyond 2 kB, which a shard does."""
    run = subprocess.run([sys.executable, "-c", f"""
import resource, signal, sys
sys.path.insert(0, {str(ROOT)!r})
import torch
from probing._store import Store
store = Store.at({identity_of()!r}, {str(tmp_path)!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with store.writing():
    for i, limit in enumerate([1 << 20, 1 << 11]):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, 1 << 20))
        store.write(i, {{site: torch.zeros(100, 8) for site in store.sites}}, torch.arange(100))
"""], capture_output=True, text=True)
    assert "StoreError: cannot write" in run.stderr and "shard-00001" in run.stderr, run.stderr
    store = Store.at(identity_of(), tmp_path)
    assert store.missing() == [1, 2] and not list(store.path.glob("*.tmp"))


def test_left_overs_of_a_killed_writer_are_removed_by_the_next(store):
    (store.path / "shard-00001.safetensors.tmp").write_bytes(b"half")
    with store.writing():
        assert not list(store.path.glob("*.tmp"))


def test_sites_may_have_different_widths(tmp_path):
    plan = {"n_examples": 30, "widths": [8, 20], "n_shards": 1}
    store = Store.at(identity_of(plan=plan), tmp_path)
    acts = {site: torch.randn(30, width) for site, width in zip(SITES, plan["widths"], strict=True)}
    with store.writing():
        store.write(0, acts, torch.arange(30))
    assert all(torch.equal(store.read(site), acts[site]) for site in SITES)


@pytest.mark.parametrize("field", ["rows", "sites", "dtype", "shard", "store", "sha256", "check"])
def test_every_field_of_a_record_is_guarded(store, field):
    record = json.loads(store.record_path(1).read_text())
    changed = {**record, field: record[field][:-1] if isinstance(record[field], (str, list)) else record[field] + 1}
    store.record_path(1).write_text(json.dumps(changed))
    with pytest.raises(StoreError, match=r"shard-00001\.json is damaged: its own check is"):
        store.missing()


def test_a_store_without_its_identity_is_begun_again_and_keeps_its_shards(store):
    before = contents(store.path)
    (store.path / "identity.json").unlink()
    assert store.missing() == [0, 1, 2]
    with store.writing():
        assert store.missing() == []
    after = contents(store.path)
    assert {k: v for k, v in after.items() if k.startswith("shard")} == \
        {k: v for k, v in before.items() if k.startswith("shard")}
    assert after["identity.json"][0] == before["identity.json"][0]


def test_who_waited_for_a_store_that_was_removed_begins_it_anew(tmp_path):
    store, waiting = Store.at(identity_of(), tmp_path), threading.Event()

    def second():
        with store.writing(wait=waiting.set):
            store.write(0, {site: torch.ones(10, 8) for site in SITES}, torch.arange(10))

    with store.writing():
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(60)
        shutil.rmtree(store.path)
    thread.join()
    assert store.missing() == [1, 2]


def test_a_file_that_has_just_changed_is_hashed_again(store):
    """Its time stamp may be too coarse to tell the next change."""
    times = store.shard_path(1).stat()
    store.read(SITES[0])
    flip(store.shard_path(1))
    os.utime(store.shard_path(1), ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(StoreError, match="is damaged: xxh3_128"):
        store.read(SITES[0])


def test_names_for_people_are_no_part_of_the_identity(tmp_path):
    named, nameless = Store.at(identity_of(), tmp_path / "a"), Store.at(identity_of(), tmp_path / "b")
    with named.writing(about={"model": "othello", "task": "othello"}), nameless.writing():
        assert Store.open(named.path).identity == Store.open(nameless.path).identity
    assert json.loads((named.path / "identity.json").read_text())["about"] == {"model": "othello", "task": "othello"}


def test_the_cache_folder_follows_the_settings_of_the_user(monkeypatch, tmp_path):
    monkeypatch.delenv("WORLDPROBE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "worldprobe"
    monkeypatch.setenv("WORLDPROBE_CACHE", str(tmp_path / "mine"))
    assert cache_root() == tmp_path / "mine"
    assert cache_root(tmp_path / "given") == tmp_path / "given"
    monkeypatch.delenv("WORLDPROBE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == Path.home() / ".cache" / "worldprobe"
