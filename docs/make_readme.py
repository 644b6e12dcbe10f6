"""Picture and table of the README, from a finished run: `python docs/make_readme.py runs/paper`."""

import io
import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt

import worldprobe
from probing import read_results

START, END = "<!-- results: docs/make_readme.py -->", "<!-- end of results -->"


def main(run: str) -> None:
    picture(run)
    readme = Path(__file__).parent.parent / "README.md"
    before, rest = readme.read_text().split(START)
    _, after = rest.split(END)
    checks = json.loads((Path(run) / "checks.json").read_text())
    readme.write_text(before + START + "\n" + "\n".join(lines(checks)) + "\n" + END + after)


def lines(checks: list[dict]) -> list[str]:
    """A Markdown table: every check, and its parts that have a mark of their own."""
    found = ["| check | paper | ours | mark | |", "|---|---|---|---|---|"]
    for check in checks:
        for row in (check, *(p for p in check.get("parts", ()) if p["pass_mark"] != "none")):
            interval = "" if row["ci_low"] is None else f" [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
            number = f"{check['id']}. " if row is check else "&emsp;"
            own = f"{row['ours']:.3f}" if row["ours"] != int(row["ours"]) else f"{row['ours']:.0f}"
            found.append(f"| {number}{row['what']} | {'' if row['paper'] is None else row['paper']} | {own}{interval} "
                         f"| {row['pass_mark']} | {'pass' if row['pass'] else '**miss**'} |")
    return found


def picture(run: str) -> None:
    table, _ = read_results(Path(run) / "results.parquet")
    figures = [worldprobe.accuracy_by_layer(table, "mine_theirs"),
               worldprobe.dose_response(table[table["metric"] != "kl"], "flip")]
    images = []
    for figure in figures:
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=160, facecolor="white")
        buffer.seek(0)
        images.append(plt.imread(buffer))
    widths = [image.shape[1] / image.shape[0] for image in images]
    both, axes = plt.subplots(1, 2, figsize=(sum(widths) * 4, 4), width_ratios=widths, facecolor="white")
    for ax, image in zip(axes, images, strict=True):
        ax.imshow(image)
        ax.axis("off")
    both.subplots_adjust(left=0, right=1, top=1, bottom=0, wspace=0.02)
    both.savefig(Path(__file__).parent / "othello.png", dpi=130)


if __name__ == "__main__":
    main(*sys.argv[1:])
