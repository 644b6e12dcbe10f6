"""`worldprobe cache` on a store that is kept in the repository and its control."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from worldprobe import _cache, _cli

OLD = Path(__file__).parents[1] / "probing" / "old_stores" / "format_1"
TRAINED, CONTROL = (json.loads((OLD / "expected.json").read_text())[kind] for kind in ("store", "control"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDPROBE_CACHE", str(tmp_path))
    for name in (TRAINED, CONTROL):
        shutil.copytree(OLD / name, tmp_path / name)
    (tmp_path / ("c" * 40)).mkdir()  # a download lies there too
    return tmp_path


def call(capsys, *argv) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    try:
        code = _cli.main(["cache", *map(str, argv)])
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def files(cache):
    return {p.relative_to(cache): p.read_bytes() for p in sorted(cache.glob("*/*")) if p.name != "lock"}


def test_listing_and_help_load_no_torch(cache):
    code = "import sys; from worldprobe import _cli; _cli.main(['cache', 'ls', '--json']); " \
           "print('torch' in sys.modules, 'pandas' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.splitlines()[-1] == "False False", run.stderr


def test_ls_shows_every_store_and_touches_none(cache, capsys):
    before = files(cache)
    code, out, _ = call(capsys, "ls")
    lines = [line.split() for line in out.splitlines() if line.strip().startswith((TRAINED[:8], CONTROL[:8]))]
    assert code == 0 and len(lines) == 2 and "2 stores, 17 kB" in out
    for cell in ("GPT2LMHeadModel", "resid_pre.0", "24", "float32", "2/2", "complete"):
        assert all(cell in line for line in lines)
    assert "seed" in next(line for line in lines if line[0] == CONTROL[:8])
    assert files(cache) == before


def test_ls_json_is_for_programs(cache, capsys):
    stores = {store["id"]: store for store in json.loads(call(capsys, "ls", "--json")[1])}
    assert stores.keys() == {TRAINED, CONTROL}
    assert (stores[CONTROL]["random_init"], stores[TRAINED]["random_init"]) == (0, None)
    assert stores[TRAINED]["identity"]["plan"]["n_shards"] == stores[TRAINED]["shards_done"] == 2
    assert stores[TRAINED]["bytes"] == sum(p.stat().st_size for p in (cache / TRAINED).iterdir())


def test_an_empty_cache_is_no_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLDPROBE_CACHE", str(tmp_path / "none yet"))
    assert call(capsys, "ls")[:2] == (0, f"no activation stores in {tmp_path / 'none yet'}\n")
    assert call(capsys, "verify")[0] == call(capsys, "repair")[0] == 0


def test_verify_reads_every_byte_and_prints_the_hashes(cache, capsys):
    code, out, _ = call(capsys, "verify")
    assert code == 0 and out.startswith("4 shards, 17 kB, read in ") and out.endswith("all as recorded\n")
    flip(cache / TRAINED / "shard-00000.safetensors")
    flip(cache / CONTROL / "shard-00001.json")
    code, out, _ = call(capsys, "verify")
    record = json.loads((cache / TRAINED / "shard-00000.json").read_text())
    assert code == 1 and "2 files damaged" in out
    assert str(cache / TRAINED / "shard-00000.safetensors") in out and str(cache / CONTROL / "shard-00001.json") in out
    assert record["xxh3_128"] in out and record["sha256"] in out
    assert call(capsys, "verify", CONTROL[:5])[0] == 1
    (cache / CONTROL / "shard-00001.json").unlink()
    assert call(capsys, "verify", CONTROL[:5])[0] == 0


def test_what_nobody_can_write_can_be_verified(cache, capsys):
    for name in (TRAINED, CONTROL):
        (cache / name).chmod(0o555)
    before = files(cache)
    try:
        assert call(capsys, "verify")[0] == call(capsys, "ls")[0] == 0
    finally:
        for name in (TRAINED, CONTROL):
            (cache / name).chmod(0o755)
    assert files(cache) == before


def test_repair_takes_away_what_is_damaged_and_nothing_else(cache, capsys):
    whole = files(cache)
    flip(cache / TRAINED / "shard-00000.safetensors")
    (cache / TRAINED / ".shard-00001.safetensors.x1.tmp").write_bytes(b"half")
    (cache / CONTROL / "shard-00001.json").unlink()  # its shard stays behind, as a kill leaves it
    code, out, _ = call(capsys, "repair")
    assert code == 0 and out.splitlines()[-1] == "run the same command again: 2 shards will be recomputed"
    gone = {Path(TRAINED, "shard-00000.json"), Path(TRAINED, "shard-00000.safetensors"),
            Path(CONTROL, "shard-00001.json"), Path(CONTROL, "shard-00001.safetensors")}
    assert files(cache) == {name: data for name, data in whole.items() if name not in gone}
    assert call(capsys, "verify")[0] == 0
    assert call(capsys, "repair")[1] == "nothing is damaged\n"


@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda path: os.truncate(path, 0)])
def test_a_damaged_identity_costs_no_shard(cache, capsys, damage):
    damage(cache / TRAINED / "identity.json")
    assert call(capsys, "verify")[0] == 1
    code, out, _ = call(capsys, "repair", TRAINED[:6])
    assert code == 0 and out.splitlines()[-1] == "run the same command again: 0 shards will be recomputed"
    assert not (cache / TRAINED / "identity.json").exists() and len(list((cache / TRAINED).glob("shard-*"))) == 4


def test_a_store_that_is_being_written_is_left_alone(cache, capsys):
    (cache / TRAINED / ".shard-00001.safetensors.x1.tmp").write_bytes(b"half")
    with open(cache / TRAINED / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for argv in (["repair"], ["prune", TRAINED[:6], "--yes"]):
            code, _, err = call(capsys, *argv)
            assert code == 1 and err.startswith(f"another process is writing {cache / TRAINED}")
    assert (cache / TRAINED / ".shard-00001.safetensors.x1.tmp").exists()


def grow_old(folder, days):
    for path in folder.iterdir():
        os.utime(path, (time.time() - days * 86400,) * 2)


@pytest.mark.parametrize(("argv", "goes"), [
    (["--older-than", "20d"], [TRAINED]),
    (["--older-than", "2w", "--unfinished"], []),
    (["--older-than", "8w"], []),
    (["--keep", "1"], []),
    (["--unfinished"], []),
    ([TRAINED[:6]], [TRAINED]),
    ([CONTROL[:6]], [CONTROL]),
    ([TRAINED, CONTROL], [TRAINED, CONTROL]),
])
def test_prune_removes_what_fits_every_option(cache, capsys, argv, goes):
    grow_old(cache / TRAINED, 30)
    before = files(cache)
    code, out, _ = call(capsys, "prune", *argv, "--dry-run")
    assert code == 0 and (f"would remove {len(goes)} store" in out if goes else out == "nothing to remove\n")
    assert files(cache) == before
    if goes:
        code, _, err = call(capsys, "prune", *argv)
        assert code == 2 and f"nothing is removed; add --yes to remove {len(goes)} store" in err
        assert files(cache) == before
    assert call(capsys, "prune", *argv, "--yes")[0] == 0
    assert {p.name for p in cache.iterdir()} == {TRAINED, CONTROL, "c" * 40} - set(goes)


def test_a_control_stays_while_a_store_that_stays_needs_it(cache, capsys):
    for name in (TRAINED, CONTROL):
        grow_old(cache / name, 30)
    (cache / TRAINED / "lock").touch()
    assert call(capsys, "prune", "--older-than", "3d", "--dry-run")[1] == "nothing to remove\n"
    grow_old(cache / TRAINED, 30)
    assert "would remove 2 stores" in call(capsys, "prune", "--older-than", "3d", "--dry-run")[1]


def test_prune_keeps_the_youngest_and_takes_the_unfinished(cache, capsys):
    (cache / TRAINED / "shard-00000.json").unlink()
    assert "would remove 1 store" in call(capsys, "prune", "--unfinished", "--dry-run")[1]
    assert call(capsys, "prune", "--unfinished", "--keep", "1", "--dry-run")[1] == "nothing to remove\n"


def test_prune_removes_no_file_that_is_not_a_stores(cache, capsys):
    (cache / TRAINED / "notes.txt").write_text("mine")
    before = files(cache)
    code, _, err = call(capsys, "prune", TRAINED, "--yes")
    assert code == 1 and "holds notes.txt, which no store has: nothing is removed" in err
    assert files(cache) == before


@pytest.mark.parametrize(("argv", "message"), [
    (["ls", "beef"], f"worldprobe: no store 'beef' (there are: {TRAINED[:8]}, {CONTROL[:8]})"),
    (["verify", "./nowhere"], "worldprobe: no store './nowhere'"),
    (["ls", "--cache", "/no/such/folder"], "worldprobe: --cache /no/such/folder is not there; name the folder"),
    (["prune"], "worldprobe: say what to remove: --older-than 30d, --unfinished, --keep 5"),
    (["prune", "--older-than", "30"], "argument --older-than: '30' is no age; say 12h, 30d or 8w"),
    (["prune", "--keep", "0"], "argument --keep: '0' is not a whole number from 1"),
    (["prune", "--keep", "1", "--yes", "--dry-run"], "not allowed with argument"),
    (["mend"], "no command 'mend' (there are: ls, verify"),
    ([], "the following arguments are required"),
])
def test_a_wrong_command_is_one_line(cache, capsys, argv, message):
    code, out, err = call(capsys, *argv)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert message in err


def test_too_few_digits_are_not_guessed(cache, capsys):
    shutil.copytree(cache / TRAINED, cache / (TRAINED[:10] + "0" * 22))
    code, _, err = call(capsys, "verify", TRAINED[:4])
    assert code == 2 and f"'{TRAINED[:4]}' is the beginning of 2 stores" in err


@pytest.mark.parametrize(("seconds", "text"),
                         [(0, "0 s"), (59, "59 s"), (7300, "2 h"), (3 * 86400, "3 d"), (1e7, "16 w")])
def test_ages_and_sizes_are_short(seconds, text):
    assert _cache.age(seconds) == text
    assert [_cache.size(n) for n in (0, 999, 1500, 2.5e9, 3e12)] == ["0 B", "999 B", "1.5 kB", "2.5 GB", "3 TB"]
