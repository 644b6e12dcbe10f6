"""Picture of a model that forms, from a finished run: `python docs/make_formation.py runs/othello-forms`. Wants
Chromium. The run is one of `worldprobe formation othello-6x6 --out runs/othello-forms`.
"""

import json
import re
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from drawing import draw
from PIL import Image

from worldprobe._formation_figure import formation_plot
from worldprobe._formation_model import asked, measured
from worldprobe._ink import to_svg
from worldprobe._run import quiet


def main(run: str) -> None:
    config = json.loads((Path(run) / "run.json").read_text())["config"]
    with TemporaryDirectory() as scratch:
        shutil.copytree(run, Path(scratch) / "run")
        table, found, _ = measured(*asked(Path(scratch) / "run", log=quiet, **{
            name: config[name] for name in ("model", "task", "prompts", "seed", "quick")}))
    svg, file = to_svg(formation_plot(table, found)), Path(__file__).parent / "formation.png"
    draw([re.sub(r'(width|height)="([\d.]+)pt"', r'\1="\2"', svg[svg.index("<svg"):], count=2)], file)
    Image.open(file).convert("RGB").quantize(96).save(file, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
