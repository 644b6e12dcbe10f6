"""Picture of mazes for the README, from a finished run: `python docs/make_maze.py runs/paper-maze`. Wants Chromium.

Above, the first test maze as it is read from two tokens; below, the next step of the first case that the model solves,
before and after the edit that did most on other cases, and as it is when the prompt tells of the passage.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tasks._study import Found
from tasks.maze import edit_picture, map_picture, parse, to_text
from tasks.maze._study_pictures import _as_read
from worldprobe._run import quiet
from worldprobe._study import carry_out

MARGIN, BETWEEN, SCALE = 20, 26, 2
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main(run: str) -> None:
    with TemporaryDirectory() as scratch:
        found = stacked([maps, edits], finished(Path(run), Path(scratch)))
        page = Path(scratch) / "maze.svg"
        page.write_text(found)
        wide, high = re.search(r'viewBox="0 0 (\d+) (\d+)"', found).groups()
        browser = next(filter(None, map(shutil.which, BROWSERS)), None)
        if browser is None:
            sys.exit(f"the picture is drawn by one of {', '.join(BROWSERS)}, and none is there")
        subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                        "--disable-background-networking", "--hide-scrollbars", f"--user-data-dir={scratch}/browser",
                        f"--force-device-scale-factor={SCALE}", f"--window-size={wide},{high}",
                        f"--screenshot={Path(__file__).parent / 'maze.png'}", page.as_uri()], check=True,
                       capture_output=True)


def finished(run: Path, scratch: Path) -> Found:
    """What the run found, read from a copy of its stages."""
    config = json.loads((run / "run.json").read_text())["config"]
    shutil.copytree(run, scratch / "run")
    asked = {name: config[name] for name in ("prompts", "n_cases", "options", "seed", "quick")}
    model = None if config["model"] == "maze" else config["model"]
    return carry_out(scratch / "run", "maze", model, log=quiet, **asked).found


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


def stacked(pictures, found: Found) -> str:
    """The pictures below one another, on white."""
    parts = [make(found) for make in pictures]
    sizes = [tuple(map(int, re.search(r'viewBox="0 0 (\d+) (\d+)"', part).groups())) for part in parts]
    wide, y, body = max(w for w, _ in sizes) + 2 * MARGIN, MARGIN, ""
    for part, (_, high) in zip(parts, sizes, strict=True):
        body += f'<g transform="translate({MARGIN},{y})">{part}</g>'
        y += high + BETWEEN
    y += MARGIN - BETWEEN
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {y}" width="{wide}" height="{y}">'
            f'<rect width="{wide}" height="{y}" fill="white"/>{body}</svg>')


if __name__ == "__main__":
    main(*sys.argv[1:])
