"""Mazes of your own, from a file."""

import json
import re
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from ._mazes import Mazes, solve
from ._tokens import parse


def read_mazes(file: str | Path) -> Mazes:
    """Mazes of one size from a file, solved.

    | ends in | holds |
    |---|---|
    | `.npy` | booleans (maze, 2, row, column), see `tasks.maze.Mazes`; ends are drawn |
    | `.json` | a list of such mazes, or `{"connections": [...], "ends": [[[row, column], [row, column]], ...]}` |
    | `.txt` | prompts in the published layout, one a line |

    Raises:
        ValueError: The file is none of these, or its mazes have several shapes, or no way from one end to the other.
    """
    path = Path(file)
    try:
        if path.suffix == ".npy":
            return solve(np.load(path, allow_pickle=False))
        if path.suffix == ".json":
            said = json.loads(path.read_text())
            said = said if isinstance(said, dict) else {"connections": said}
            ends = np.array(said["ends"]) if "ends" in said else None
            return solve([_planes(maze, i) for i, maze in enumerate(said["connections"])], ends)
        if path.suffix == ".txt":
            texts = [line for line in path.read_text().splitlines() if line.strip()]
            cells = [(int(r), int(c)) for r, c in re.findall(r"\((\d+),(\d+)\)", " ".join(texts))]
            if not cells:
                raise ValueError("no line names a cell such as (0,0)")
            rows, cols = np.max(cells, axis=0) + 1
            return parse(texts, (int(rows), int(cols)))
    except (ValueError, TypeError, KeyError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path.name} is no file of mazes: {why}") from None
    raise ValueError(f"mazes are read from .npy, .json or .txt, not from {path.name!r}")


def _planes(maze: object, number: int) -> Bool[ndarray, "..."]:
    try:
        return np.array(maze, np.int64).astype(bool)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"maze {number} is not two planes of rows and columns, of 0 and 1 each") from None
