"""Pictures of the README that a study draws, from a finished run: SVG below one another, as a PNG. Wants Chromium."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tasks._study import Found
from worldprobe._run import quiet
from worldprobe._study import carry_out

MARGIN, BETWEEN, SCALE = 20, 26, 2
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def draw(parts: Sequence[str], file: Path) -> None:
    """SVG pictures below one another, on white, as a PNG."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"the picture is drawn by one of {', '.join(BROWSERS)}, and none is there")
    with TemporaryDirectory() as scratch:
        page, found = Path(scratch) / "page.svg", stacked(parts)
        page.write_text(found)
        wide, high = size(found)
        subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                        "--disable-background-networking", "--hide-scrollbars", f"--user-data-dir={scratch}/browser",
                        f"--force-device-scale-factor={SCALE}", f"--window-size={wide},{high}",
                        f"--screenshot={file}", page.as_uri()], check=True, capture_output=True)


def finished(run: Path) -> Found:
    """What a run found, read from a copy of its stages."""
    config = json.loads((run / "run.json").read_text())["config"]
    asked = {name: config[name] for name in ("prompts", "n_cases", "options", "seed", "quick")}
    model = None if config["model"] == config["task"] else config["model"]
    with TemporaryDirectory() as scratch:
        shutil.copytree(run, Path(scratch) / "run")
        return carry_out(Path(scratch) / "run", config["task"], model, log=quiet, **asked).found


def size(svg: str) -> tuple[int, int]:
    wide, high = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups()
    return round(float(wide)), round(float(high))


def stacked(parts: Sequence[str]) -> str:
    wide, y, body = max(size(part)[0] for part in parts) + 2 * MARGIN, MARGIN, ""
    for part in parts:
        body += f'<g transform="translate({MARGIN},{y})">{part}</g>'
        y += size(part)[1] + BETWEEN
    y += MARGIN - BETWEEN
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {y}" width="{wide}" height="{y}">'
            f'<rect width="{wide}" height="{y}" fill="white"/>{body}</svg>')
