"""Every notebook runs from top to bottom, at a small size."""

import importlib
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
    monkeypatch.setenv("WORLDPROBE_NOTEBOOK_STEPS", "10")
    runpy.run_path(str(path), run_name="__main__")


def test_a_notebook_becomes_a_page_with_what_its_cells_show(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(NOTEBOOKS[0].parent.parent / "docs"))
    make_notebooks = importlib.import_module("make_notebooks")
    story = tmp_path / "story.py"
    story.write_text("# ---\n# jupyter\n# ---\n\n# %% [markdown]\n# # A story\n#\n# of two\n\n"
                     "# %%\nx = [1]\nprint('hi <b>')\nx\n\n"
                     "# %%\nfrom tasks._svg import Svg\nfrom tasks._html import table\ntable(['a'], [['<b>']])\n\n"
                     "# %%\nSvg('<svg/>')\n\n# %%\nx = None\n")
    page = make_notebooks.render(story, tmp_path / "out").read_text()
    assert page.startswith("# A story\n\nof two\n\n```python\nx = [1]")
    assert "```text\nhi <b>\n```" in page and "<pre>[1]</pre>" in page and "&lt;b&gt;</td>" in page
    assert "![](story-1.svg)" in page and (tmp_path / "out" / "story-1.svg").read_text() == "<svg/>"
    story.write_text("# %%\n1 / 0\n")
    with pytest.raises(RuntimeError, match="story.py, cell 1 failed: ZeroDivisionError"):
        make_notebooks.render(story, tmp_path)
