"""Pictures and reports of results, from whoever offers them: this package measures and draws nothing itself.

A distribution offers a view as an entry point of the group `probing.views`, as worldprobe does in its pyproject.toml.
"""

from collections.abc import Callable
from importlib.metadata import entry_points

GROUP = "probing.views"


def view(name: str) -> Callable:
    """The function that shows results, `plot` or `report`.

    Raises:
        ImportError: No installed distribution offers it.
    """
    for found in entry_points(group=GROUP, name=name):
        return found.load()
    raise ImportError(f"no installed package offers {name!r} (entry points of the group {GROUP}); install worldprobe "
                      f"anew, pip install -e ., or call worldprobe.{name}(sweep)")
