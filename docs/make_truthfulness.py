"""Picture of truth for the README, from a finished run: `python docs/make_truthfulness.py runs/paper`. Wants Chromium.

True and false statements on their first two components, by layer; and what it takes to change what a statement counts
as, by probe, beside random directions.
"""

import sys
from pathlib import Path

from drawing import draw, finished

from tasks.truthfulness._study_pictures import of_the_world

SHOWN = ("True and false statements by layer", "What it takes to change what a statement counts as")


def main(run: str) -> None:
    pictures = {picture.title: picture.svg for picture in of_the_world(finished(Path(run)))}
    draw([pictures[title] for title in SHOWN], Path(__file__).parent / "truthfulness.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
