"""Picture of mazes for the README, from a finished run: `python docs/make_maze.py runs/paper-maze`. Wants Chromium.

Above, the first test maze as it is read from two tokens; below, the next step of the first case that the model solves,
before and after the edit that did most on other cases, and as it is when the prompt tells of the passage.
"""

import sys
from pathlib import Path

import numpy as np
from drawing import draw, finished

from tasks._study import Found
from tasks.maze import edit_picture, map_picture, parse, to_text
from tasks.maze._study_pictures import _as_read


def main(run: str) -> None:
    found = finished(Path(run))
    draw([maps(found), edits(found)], Path(__file__).parent / "maze.png")


def maps(found: Found) -> str:
    panels = {}
    for name, token in (("path_start", "<PATH_START>"), ("adjlist_end", "<ADJLIST_END>")):
        mazes, passage, path = _as_read(found, found.readings[name], 0)
        panels[f"Read from {token}"] = passage
    return map_picture(mazes, 0, panels, path)


def edits(found: Found) -> str:
    changed = found.changes["add"]
    cases = changed.cases
    k = int(np.flatnonzero(cases.right_before[changed.rows, changed.before.argmax(1)])[0])
    case = cases.cases.iloc[int(changed.rows[k])]
    prompt = int(case["prompt"])
    mazes = parse(to_text(cases.tokens[prompt : prompt + 1, : int(cases.lengths[prompt])].numpy()))
    return edit_picture(mazes, 0, str(case["target"]), int(case["node"]), {
        "Next step, untouched": changed.before[k], "A passage written inside": changed.after[k],
        "The passage told in the prompt": changed.told[k]})


if __name__ == "__main__":
    main(*sys.argv[1:])
