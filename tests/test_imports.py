"""What an import costs is what it loads: the libraries that take seconds wait until something of theirs is used."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ("tasks", "probing", "interventions", "worldprobe")
HEAVY = ("torch", "transformer_lens", "transformers", "pandas", "numpy", "scipy", "sklearn", "matplotlib")
LOADED = f"import sys, {', '.join(PACKAGES)}; print([m for m in {HEAVY} if m in sys.modules])"


def test_importing_the_packages_loads_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_lists_what_it_offers_and_nothing_else_is_there(name):
    """That every name is defined where it is said to be: tests/test_docs.py, which reads the source."""
    package = importlib.import_module(name)
    assert package.__all__ and set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="no_such_name"):
        package.no_such_name  # noqa: B018


@pytest.mark.parametrize("name", ["tasks", "probing", "interventions"])
def test_type_checkers_are_told_the_same_names(name):
    package = importlib.import_module(name)
    where = getattr(package, "_WHERE", package._NAMES)
    block = next(node for node in ast.parse(Path(package.__file__).read_text()).body if isinstance(node, ast.If))
    told = {alias.name: node.module for node in block.body for alias in node.names}
    assert told == where
