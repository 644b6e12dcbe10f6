"""Picture of networks that are alike, from a finished run: `python docs/make_universality.py runs/kin`. Wants Chromium.
The run is one of `worldprobe reproduce universality --out runs/kin`.
"""

import re
import sys
from pathlib import Path

import pandas as pd
from drawing import draw
from PIL import Image

from worldprobe._ink import to_svg
from worldprobe._stages import load_stage
from worldprobe._universality_report import by_pair, figure


def main(run: str) -> None:
    table = pd.concat([load_stage(record) for record in sorted(Path(run, "stages").glob("*.json"))])
    svg, file = to_svg(figure(by_pair(table))), Path(__file__).parent / "universality.png"
    draw([re.sub(r'(width|height)="([\d.]+)pt"', r'\1="\2"', svg[svg.index("<svg"):], count=2)], file)
    Image.open(file).convert("RGB").quantize(64).save(file, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
