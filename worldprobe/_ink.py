"""The look of every picture: colours that follow the page's theme, and the way from a figure to inline SVG.

A picture is drawn in the colours of the light theme. As a file it keeps them; inlined in a page, each of these
colours becomes a CSS variable with the colour as its fallback, so that the page can turn dark.
"""

import io
import re
from xml.etree import ElementTree

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

INK, MUTED, GRID, PAPER = "#1f2430", "#5b6475", "#dfe3ea", "#fefefe"
SERIES = ("#0072b2", "#d55e00", "#00876a", "#aa4499", "#866700", "#4b4fa3")  # after Okabe & Ito; told apart in grey too
MARKERS = ("o", "s", "^", "D", "v", "P")
GOOD, BAD = SERIES[2], SERIES[1]
THEME = {"ink": INK, "muted": MUTED, "grid": GRID, "paper": PAPER} | {f"s{i}": c for i, c in enumerate(SERIES)}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


class Plot(Figure):
    """A matplotlib figure that belongs to no window and that a notebook shows as SVG.

    Attributes:
        frame: The rows it was drawn from.
    """

    frame: pd.DataFrame | None = None

    def _repr_svg_(self) -> str:
        return to_svg(self, background="white")


def plot(
    frame: pd.DataFrame, n_panels: int = 1, size: tuple[float, float] = (6.1, 3.6), stacked: bool = False
) -> tuple[Plot, list[Axes]]:
    """An empty figure with `n_panels` styled axes, side by side or `stacked`; size in inches."""
    figure = Plot(figsize=size, layout="constrained", facecolor="white")
    figure.frame = frame
    axes = list(figure.subplots(*((n_panels, 1) if stacked else (1, n_panels)), squeeze=False).flat)
    for ax in axes:
        styled(ax)
    return figure, axes


def styled(ax: Axes) -> None:
    """The look of every panel."""
    ax.set_facecolor("none")
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(MUTED)
    ax.tick_params(colors=INK, labelsize=8.5, color=MUTED, length=3)
    ax.grid(axis="y", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set(color=INK, size=9)


def words(text: object) -> str:
    """Text from a table, safe to give to matplotlib, for which a dollar sign starts a formula."""
    return str(text).replace("$", r"\$")


def name_lines(ax: Axes, names: list[tuple[float, str, str]], gap: float = 0.07) -> None:
    """Write (y, text, colour) to the right of the axes, each near its y, none on top of another.

    Call it last, when the limits of the y axis are final; `gap` is the height of a line as a share of the axis.
    """
    low, high = ax.get_ylim()
    ends = sorted(((y - low) / (high - low), text, colour) for y, text, colour in names)
    at = [end[0] for end in ends]
    for _ in range(200):  # push overlapping neighbours apart until none overlap
        for i in range(len(at) - 1):
            if (lack := gap - (at[i + 1] - at[i])) > 1e-6:
                at[i], at[i + 1] = at[i] - lack / 2, at[i + 1] + lack / 2
    for place, (height, text, colour) in zip(at, ends, strict=True):
        ax.add_line(Line2D([1.0, 1.028], [height, place], transform=ax.transAxes, color=colour, lw=0.6, clip_on=False))
        ax.text(1.035, place, words(text), transform=ax.transAxes, color=colour, size=8.5, va="center")


def to_svg(picture: Figure | str, background: str = "none") -> str:
    """A picture as an SVG document of its own, the same bytes for the same picture.

    Raises:
        ValueError: SVG text that is not well formed, or that could run a script or fetch something.
    """
    if isinstance(picture, str):
        return _harmless(picture)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "worldprobe"}):
        out = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        picture.savefig(out, format="svg", facecolor=background, metadata=nothing)
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", out.getvalue(), flags=re.DOTALL)
    return re.sub(r"'DejaVu Sans'[^;\"]*", FONT, text)


def inline_svg(text: str, prefix: str) -> str:
    """The SVG document of `to_svg` as an element of a page: theme colours as variables, ids made unique by `prefix`."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<style\b.*?(</style>|/>)", "", text, flags=re.DOTALL)  # it would style the whole page
    text = re.sub(r'(\sid=")', rf"\g<1>{prefix}-", text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", text)
    names = {colour: f"var(--{name}, {colour})" for name, colour in THEME.items()}
    return re.sub("|".join(names), lambda found: names[found.group()], text)


def _harmless(text: str) -> str:
    """SVG text that only draws, written anew: no CDATA or comment that a page would read differently."""
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"a picture must be well-formed SVG text, but: {error}; it starts {text[:60]!r}") from None
    for element in root.iter():
        kind = element.tag.rpartition("}")[2].lower()
        if kind in ("script", "foreignobject", "iframe", "a", "animate", "set", "handler"):
            raise ValueError(f"an SVG picture must only draw, this one has a <{kind}> element; remove it")
        for name, value in element.attrib.items():
            name = name.rpartition("}")[2].lower()
            fetches = name in ("href", "src") and not value.startswith(("#", "data:image/png;"))
            if name.startswith("on") or fetches or "url(" in value.replace("url(#", ""):
                raise ValueError(f"an SVG picture must only draw, this one has {name}={value[:40]!r}; remove it")
    ElementTree.register_namespace("", "http://www.w3.org/2000/svg")
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    return ElementTree.tostring(root, encoding="unicode")
