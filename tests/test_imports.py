"""What an import costs is what it loads: the libraries that take seconds wait until something of theirs is used."""

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
def test_every_public_name_is_there_when_it_is_used(name):
    package = __import__(name)
    assert package.__all__ and set(package.__all__) <= set(dir(package))
    for public in package.__all__:
        assert getattr(package, public) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        package.no_such_name  # noqa: B018
