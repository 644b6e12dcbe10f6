"""Draw the README's picture from a finished run: `python docs/make_pictures.py runs/paper`."""

import io
import sys
from pathlib import Path

import matplotlib.pyplot as plt

import worldprobe
from probing import read_results


def main(run: str) -> None:
    table, _ = read_results(Path(run) / "results.parquet")
    figures = [worldprobe.accuracy_by_layer(table, "mine_theirs"), worldprobe.dose_response(table, "flip")]
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
