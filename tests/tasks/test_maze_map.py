"""The table of benchmarks/maze_map.py, from trainings of two steps: what is kept, what is measured, what is refused."""

import pandas as pd
import pytest

from benchmarks import maze_map
from tasks.maze import train


@pytest.fixture
def out(tmp_path, monkeypatch):
    for name, value in dict(BATCH=2, HELD_OUT=4).items():
        monkeypatch.setattr(train, name, value)
    monkeypatch.setattr(maze_map, "VARIANTS", {"base": "--layers 1 --width 16 --heads 2", "other": "--loss all"})
    monkeypatch.setattr(maze_map, "SHIPPED", {})
    return tmp_path


def test_variants_are_trained_and_measured_once(out, capsys):
    asked = f"--out {out} --steps 2 --mazes 40".split()
    maze_map.main([*asked, "--only", "base"])
    files = [out / "base" / name for name in ("model.safetensors", "maze_map.csv")]
    before = [file.stat().st_mtime_ns for file in files]
    maze_map.main([*asked, "--trained", "--table", str(out / "table.csv")])
    assert [file.stat().st_mtime_ns for file in files] == before
    assert "other: not trained, left out" in capsys.readouterr().out
    table = maze_map.read_table(out / "table.csv")
    pd.testing.assert_frame_equal(table, maze_map.read_table(files[1]))
    assert list(table["variant"].unique()) == ["base"] and (out / "table.png").exists()
    scores = table[table["metric"] == "accuracy"]
    assert set(scores["control"].dropna()) == {"majority", "majority_by_position", "shortcut:by_degree", "random_init",
                                               "input_only"}
    assert scores[["value", "ci_low", "ci_high"]].notna().all(axis=None)
    for at in maze_map.PLACES:
        (row,) = maze_map.summary(table, at).to_dict("records")
        assert row["over_low"] <= row["over"] <= row["over_high"] and row["steps"] == 2 and row["layer"] in (-1, 0)
        assert row["over"] == pytest.approx(row["accuracy"] - row["degrees"], abs=2e-4)
    with pytest.raises(ValueError, match="--steps 2 .*, not .*--steps 3 .*give another --out"):
        maze_map.main([*asked, "--only", "base", "--steps", "3"])
