"""Worlds to probe: labelled prompts, counterfactual cases, and the small reference model that lives in each world.

    prompts = tasks.load("othello", n=2000)   # LabelledPrompts
    prompts = tasks.from_table("mine.csv", tokenizer, labels=["animal"], group="noun")     # of texts of your own
    tasks.available()                         # names that `load` takes
    tasks.reference_models()                  # name -> Hugging Face directory, no network

A task is a module or package in this folder whose name has no underscore, with `load(...) -> LabelledPrompts`.
Importing this package loads neither torch nor pandas.
"""

import difflib
import importlib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._pairs import PromptPairs, nearest_pairs, token_pairs
    from ._prompts import Counterfactuals, LabelledPrompts, split_by_group
    from ._shown import picture
    from ._table import from_table

_NAMES = {"Counterfactuals": "_prompts", "LabelledPrompts": "_prompts", "PromptPairs": "_pairs",
          "from_table": "_table", "nearest_pairs": "_pairs", "picture": "_shown", "split_by_group": "_prompts",
          "token_pairs": "_pairs"}
__all__ = ["Counterfactuals", "LabelledPrompts", "PromptPairs", "available", "from_table", "load", "nearest_pairs",
           "picture", "reference_models", "split_by_group", "token_pairs"]


def __getattr__(name: str):
    if name in _NAMES:
        return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    if name in available():  # `tasks.othello.cases()` after `import tasks` alone
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *available()})


def available() -> list[str]:
    """Names of the tasks, in alphabetical order."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def load(name: str, **kwargs) -> "LabelledPrompts":
    """The labelled prompts of a task; `kwargs` go to its own `load` (see `help(tasks.othello.load)`).

    Raises:
        ValueError: There is no such task; the message names the nearest ones.
    """
    names = available()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=2, cutoff=0.4)
        guess = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
        raise ValueError(f"no task {name!r}{guess} Available: {', '.join(names)}")
    return importlib.import_module(f".{name}", __name__).load(**kwargs)


def reference_models() -> dict[str, Path]:
    """Name -> directory of every reference model that ships with a task, in Hugging Face format."""
    configs = Path(__file__).parent.glob("*/models/*/config.json")
    return {folder.name: folder for folder in sorted(config.parent for config in configs)}
