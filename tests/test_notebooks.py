"""Every notebook runs from top to bottom, at a small size."""

import runpy
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.py"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path, monkeypatch, tmp_path):
    monkeypatch.setenv("WORLDPROBE_CACHE", str(tmp_path))
    monkeypatch.setenv("WORLDPROBE_NOTEBOOK_MODEL", "othello-6x6")
    monkeypatch.setenv("WORLDPROBE_NOTEBOOK_GAMES", "60")
    monkeypatch.setenv("WORLDPROBE_NOTEBOOK_CASES", "60")
    runpy.run_path(str(path), run_name="__main__")
