"""A smaller set of the attacks of benchmarks/store_torture.py, in one process that loads torch once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "store_torture.py"
FEW = {"--kills": 5, "--damage": 20, "--failures": 7, "--processes": 3, "--rounds": 2}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    report = tmp_path_factory.mktemp("torture") / "report.json"
    sizes = [str(word) for option in FEW.items() for word in option]
    run = subprocess.run([sys.executable, SCRIPT, *sizes, "--json", report], capture_output=True, text=True)
    assert report.exists(), run.stderr
    return json.loads(report.read_text())


@pytest.mark.parametrize("attack", ["kills", "damage", "failures", "together"])
def test_a_store_survives(found, attack):
    assert not found[attack]["bad"], found[attack]["said"]
