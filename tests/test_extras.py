"""Installing an extra moves none of the libraries that can move a number: asked of pip's own resolver."""

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXTRAS = list(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
INSTALLED = ("dev", "docs", "slurm")  # by the Makefile, or by dev: everything they bring is pinned
HELD = ("transformer-lens", "torch", "numpy")
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))

pytestmark = pytest.mark.slow  # a resolution takes most of a minute of CPU


def resolved(folder: Path, *options: str) -> dict[str, str]:
    """Name -> version of what pip would install, without installing it; skips where no index can be reached."""
    report = folder / "report.json"
    ask = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--report", report]
    done = subprocess.run([*ask, *options], cwd=ROOT, capture_output=True, text=True)
    if "(from versions: none)" in done.stderr:
        pytest.skip(f"no package index can be reached: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    found = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    return {item["name"].lower().replace("_", "-"): item["version"] for item in found}


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_fresh_installation_with_an_extra_has_the_pinned_versions(tmp_path, extra):
    found = resolved(tmp_path, "--ignore-installed", "--constraint", "constraints.txt", "--editable", f".[{extra}]")
    assert {name: found[name].partition("+")[0] for name in HELD} == {name: PINS[name] for name in HELD}
    unpinned = set(found) - set(PINS) - {"worldprobe", "setuptools"}
    assert extra not in INSTALLED or not unpinned, f"add to constraints.txt: {sorted(unpinned)}"


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_added_later_without_constraints_moves_nothing(tmp_path, extra):
    """What a user does who never saw constraints.txt."""
    found = resolved(tmp_path, "--editable", f".[{extra}]")
    assert not {name: (version(name), found[name]) for name in HELD if name in found}
