"""What an import costs is what it loads: the libraries that take seconds wait until something of theirs is used."""

import importlib
import subprocess
import sys

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
