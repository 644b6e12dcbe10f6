import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from worldprobe._run import RunError, differences, discard_run, open_run

CONFIG = {"task": "othello", "games": 400, "labels": ["mine_theirs"]}


def table():
    return pd.DataFrame({"name": ["a", None], "value": [0.1, np.nan], "layer": pd.array([3, None], dtype="Int64")})


def files(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in sorted((folder / "stages").iterdir())}


def test_a_stage_is_computed_once_and_comes_back_the_same(tmp_path):
    calls = []

    def make():
        calls.append(1)
        return table()

    first = open_run(tmp_path / "run", CONFIG).stage("rows", make)
    again = open_run(tmp_path / "run", CONFIG).stage("rows", make)
    assert len(calls) == 1
    pd.testing.assert_frame_equal(first, again)
    assert again.dtypes.astype(str).tolist() == ["str", "float64", "Int64"]


def test_arrays_come_back_as_writable_numpy_whatever_they_were(tmp_path):
    arrays = {"b": torch.arange(6).reshape(2, 3), "a": np.eye(3, dtype=np.float32)[::-1], "c": np.float64(2.5),
              "d": np.zeros((2, 0)), "e": np.array([True, False])}
    for _ in range(2):
        back = open_run(tmp_path / "run", CONFIG).stage("probes-resid_post.3", lambda: arrays)
        assert sorted(back) == list("abcde")
        for name, array in arrays.items():
            np.testing.assert_array_equal(back[name], np.asarray(array), strict=True)
            assert back[name].flags.writeable


def test_two_folders_of_one_configuration_hold_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        run = open_run(tmp_path / name, CONFIG)
        run.stage("rows", table)
        run.stage("arrays", lambda: {"x": np.arange(5.0), "a": np.arange(3)})
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_another_configuration_is_refused_and_every_field_named(tmp_path):
    open_run(tmp_path / "run", CONFIG, fingerprints={"model": "a1"})
    asked = {**CONFIG, "games": 1000, "seed": 1}
    with pytest.raises(RunError, match=re.escape(
            "config.games is 400 there, 1000 was asked for; config.seed is (absent) there, 1 was asked for; "
            'fingerprints.model is "a1" there, "b2" was asked for. Name another folder with --out, or discard')):
        open_run(tmp_path / "run", asked, fingerprints={"model": "b2"})


def test_another_version_of_a_library_is_another_configuration(tmp_path):
    about = open_run(tmp_path / "run", CONFIG).path / "run.json"
    known = json.loads(about.read_text())
    known["versions"]["torch"] = "1.0"
    about.write_text(json.dumps(known))
    with pytest.raises(RunError, match='versions.torch is "1.0" there'):
        open_run(tmp_path / "run", CONFIG)


def test_changed_code_is_told_and_the_run_continues(tmp_path):
    run, lines = open_run(tmp_path / "run", CONFIG), []
    known = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps({**known, "code": "0" * 64}))
    open_run(tmp_path / "run", CONFIG, log=lines.append)
    assert any("the code has changed" in line for line in lines)


def test_differences_are_those_of_the_leaves():
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}) == ["a.c is 2 there, 3 was asked for"]
    assert differences({"a": [1, 2]}, {"a": [1, 2]}) == []
    assert differences({"cases": None}, {"cases": 20}) == ["cases is none there, 20 was asked for"]


def test_a_configuration_holds_json_values_only(tmp_path):
    with pytest.raises(RunError, match="JSON values only"):
        open_run(tmp_path / "run", {"out": tmp_path})


def test_fresh_discards_a_run_and_nothing_else(tmp_path):
    run = open_run(tmp_path / "run", CONFIG)
    run.stage("rows", table)
    (run.path / "report.html").write_text("kept")
    discard_run(tmp_path / "run")
    assert sorted(f.name for f in run.path.iterdir() if f.name[0] != ".") == ["report.html", "run.json", "run.log"]
    other = open_run(tmp_path / "run", {**CONFIG, "seed": 1})
    assert other.stage("rows", lambda: table().assign(value=2.0))["value"].tolist() == [2.0, 2.0]
    mine = tmp_path / "thesis"
    mine.mkdir()
    (mine / "chapter.tex").write_text("kept")
    with pytest.raises(RunError, match=r"not a run folder: it has no run\.json, but chapter\.tex"):
        discard_run(mine)
    discard_run(tmp_path / "nothing here")


def test_a_folder_with_other_things_in_it_is_refused(tmp_path):
    (tmp_path / "chapter.tex").write_text("")
    with pytest.raises(RunError, match=r"not a run folder.*chapter\.tex.*--out"):
        open_run(tmp_path, CONFIG)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError, match=r"cannot write to .*file.*: (it is a file|Not a directory)\. Name another"):
            open_run(out, CONFIG)
    if os.geteuid():  # root may write anywhere
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(RunError, match="cannot write to .*closed.*Permission denied"):
            open_run(tmp_path / "closed", CONFIG)


@pytest.mark.parametrize("name", ["rows.parquet", "arrays.safetensors"])
@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:40] + bytes([b[40] ^ 1]) + b[41:], lambda b: b""])
def test_a_damaged_stage_is_an_error_that_names_the_file(tmp_path, name, damage):
    run = open_run(tmp_path, CONFIG)
    run.stage("rows", table)
    run.stage("arrays", lambda: {"x": np.arange(5.0)})
    file = tmp_path / "stages" / name
    file.write_bytes(damage(file.read_bytes()))
    stem = name.split(".")[0]
    with pytest.raises(RunError, match=rf"{re.escape(str(file))} is damaged.*remove .*{stem}\.json"):
        open_run(tmp_path, CONFIG).stage(stem, table)
    file.unlink()
    with pytest.raises(RunError, match="is missing, its record is there"):
        open_run(tmp_path, CONFIG).stage(stem, table)


def test_data_without_a_record_does_not_exist(tmp_path):
    open_run(tmp_path, CONFIG).stage("rows", table)
    (tmp_path / "stages" / "rows.json").unlink()
    changed = open_run(tmp_path, CONFIG).stage("rows", lambda: table().assign(value=[1.0, 2.0]))
    assert changed["value"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(("name", "result", "message"), [
    ("a/b", table(), "a stage name is"),
    (".hidden", table(), "a stage name is"),
    ("rows", [1, 2], "returned list; return a DataFrame or a dict of arrays"),
    ("rows", {"x": np.array(["text"])}, "cannot be stored: an array of"),
    ("rows", pd.DataFrame({"x": [object()]}), "cannot be stored"),
])
def test_what_cannot_be_a_stage_is_refused(tmp_path, name, result, message):
    with pytest.raises(RunError, match=message):
        open_run(tmp_path, CONFIG).stage(name, lambda: result)
    assert not list((tmp_path / "stages").iterdir())


def test_two_stages_need_two_names(tmp_path):
    run = open_run(tmp_path, CONFIG)
    run.stage("rows", table)
    with pytest.raises(RunError, match="asked for before"):
        run.stage("rows", table)


def test_lines_go_to_the_log_file_with_their_time_and_to_the_terminal_without(tmp_path):
    lines = []
    open_run(tmp_path, CONFIG, log=lines.append).log("top-1 legality: 0.99")
    assert lines == ["top-1 legality: 0.99"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d top-1 legality: 0.99\n", (tmp_path / "run.log").read_text())


STUDY = """
import os, signal, sys
import numpy as np
from worldprobe._run import open_run
run = open_run(sys.argv[1], {"seed": 0})
for k in range(4):
    def make(k=k):
        print(k, flush=True)
        if k == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return {"x": np.random.default_rng(k).normal(size=1000)}
    run.stage(f"stage-{k}", make)
"""


def study(folder, kill_at):
    return subprocess.run([sys.executable, "-c", STUDY, str(folder), str(kill_at)], capture_output=True, text=True)


def test_a_killed_run_continues_and_ends_with_the_same_bytes(tmp_path):
    assert study(tmp_path / "whole", -1).returncode == 0
    assert study(tmp_path / "killed", 2).returncode == -signal.SIGKILL
    again = study(tmp_path / "killed", -1)
    assert again.returncode == 0, again.stderr
    assert again.stdout.split() == ["2", "3"]
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_one_process_at_a_time_works_in_a_folder(tmp_path):
    held = open_run(tmp_path, {"seed": 0})
    open_run(tmp_path, {"seed": 0})  # the same process may
    other = study(tmp_path, -1)
    assert other.returncode == 1 and "another process is working in" in other.stderr
    assert held.path == tmp_path
