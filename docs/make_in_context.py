"""Picture of a graph traced in context, from a finished run: `python docs/make_in_context.py runs/traced`. Wants
Chromium. The run is one of `worldprobe reproduce in_context --out runs/traced`.
"""

import re
import sys
from pathlib import Path

import pandas as pd
from drawing import draw
from PIL import Image

from worldprobe._in_context_report import drawing, figure
from worldprobe._ink import to_svg
from worldprobe._stages import load_stage


def main(run: str) -> None:
    stages = {record.stem: load_stage(record) for record in sorted(Path(run, "stages").glob("*.json"))}
    tables = {name: pd.concat([rows.assign(seed=int(stage.rpartition("-")[2])) for stage, rows in stages.items()
                               if stage.startswith(f"{name}-")]) for name in ("said", "structure", "moved", "order")}
    file = Path(__file__).parent / "in_context.png"
    svgs = [to_svg(picture) for picture in (drawing(stages["drawing"]), figure(tables))]
    draw([re.sub(r'(width|height)="([\d.]+)pt"', r'\1="\2"', svg[svg.index("<svg"):], count=2) for svg in svgs], file)
    Image.open(file).convert("RGB").quantize(255).save(file, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
