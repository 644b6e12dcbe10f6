"""Our own reference results: what is checked in holds every rule, and makes the first rows of the leaderboard."""

import re
from pathlib import Path

import pandas as pd
import pytest

import tasks
from benchmarks.reference import OUT, cut, portable, reference
from probing import read_results, validate, write_results
from tests.worldprobe.board_table import toy_table
from worldprobe._leaderboard import build

FILES = sorted(OUT.glob("*.parquet"))
TASKS = {"maze", "othello", "space_time", "truthfulness"}


def test_the_site_is_built_from_the_results_that_are_checked_in(tmp_path):
    page = build(FILES, tmp_path / "site")
    rows = pd.read_csv(page.with_name("leaderboard.csv"))
    assert set(rows["task"]) >= TASKS and (rows["origin"] == "run").all() and rows["id"].is_unique
    read = rows[rows["score"].notna()]
    assert read[["score_low", "score_high", "control", "reads", "best_rank"]].notna().all().all()
    written = rows[rows["effect"].notna()]
    assert written[["effect_low", "effect_high", "band_low", "band_high", "enough", "chosen"]].notna().all().all()
    assert set(read["task"]) >= TASKS <= set(written["task"])
    assert sum(f.stat().st_size for f in FILES) < 3_000_000


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_reference_says_how_it_was_made(file):
    table, metadata = read_results(file)
    assert metadata["command"][0] == "worldprobe" and re.fullmatch("[0-9a-f]{64}", metadata["code"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", metadata["made"]) and metadata["versions"]["torch"]
    assert not any("/" in word.removeprefix("runs/") for word in metadata["command"])
    assert set(table["model"].dropna()) <= set(tasks.reference_models())


def test_a_reference_is_the_run_cut_to_what_the_board_shows(tmp_path):
    table = toy_table()
    more = table[table["label"] == "used"].assign(revision="step 8")
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.log").write_text("2026-01-02 03:04:05 done\n")
    write_results(validate(pd.concat([table, more], ignore_index=True)), run / "results.parquet", {
        "command": ["worldprobe", "run", "toy", "--out", "/somewhere/else", "--debug"], "code": "0" * 64})
    kept, metadata = read_results(reference(run, tmp_path / "out"))
    pd.testing.assert_frame_equal(kept, cut(table))
    assert metadata == {"command": ["worldprobe", "run", "toy", "--out", "runs/toy"], "code": "0" * 64,
                        "made": "2026-01-02"}
    assert [f.name for f in Path(tmp_path / "out").iterdir()] == ["toy.parquet"]
    assert portable(["worldprobe", "run"], "x") == ["worldprobe", "run"]


def test_the_board_of_a_cut_table_is_that_of_the_whole(tmp_path):
    whole = toy_table()
    for name, table in (("whole", whole), ("cut", cut(whole))):
        (tmp_path / name).mkdir()
        write_results(table, tmp_path / name / "toy.parquet", {"command": ["worldprobe"]})
        build([tmp_path / name / "toy.parquet"], tmp_path / name / "site")
    first, second = (pd.read_csv(tmp_path / name / "site" / "leaderboard.csv").drop(columns=["score_row", "effect_row"])
                     for name in ("whole", "cut"))
    pd.testing.assert_frame_equal(first, second)
