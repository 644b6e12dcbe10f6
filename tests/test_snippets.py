"""The Python blocks of the documentation run as they stand, in the small world and with few prompts."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SMALL = [(r"\bn=\d+", "n=60"), (r'"othello"', '"decoy"'), (r"\bmine_theirs\b", "end"),
         (r"probe\.write\)", "probe.write, alphas=[1])")]  # the same lines, in seconds
IMPORTS = "import tasks, probing, interventions, worldprobe\n"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)


def blocks(page: str) -> list[str]:
    return BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", ["README.md", "docs/truthfulness.md"])
def test_the_blocks_of_a_page_run(page, monkeypatch, tmp_path):
    monkeypatch.setenv("WORLDPROBE_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    for block in blocks(page):
        for pattern, small in SMALL:
            block = re.sub(pattern, small, block)
        exec(compile(IMPORTS + block, page, "exec"), space)


def test_every_block_is_python_and_the_quick_start_is_part_of_the_readme():
    for page in sorted(ROOT.glob("docs/*.md")):
        for block in blocks(f"docs/{page.name}"):
            compile(block, page.name, "exec")
    calls = re.compile(r"= ((?:tasks|probing|interventions)\.\w+)\(")
    quick, readme = (set(calls.findall("".join(blocks(page)))) for page in ("docs/quickstart.md", "README.md"))
    assert quick and quick <= readme  # what the test above runs
