"""The look of the report's charts, and a matplotlib figure as SVG text that stands inside an HTML page."""

import io
import re
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

INK, FAINT, GRID = "#3b3f45", "#9aa0a6", "#e4e7ea"
PAGE_WIDTH, GAP = 11.875, 0.25  # inches, 96 CSS pixels each; the page's style sheet has the same
TOOLTIP = "tooltip: "  # begins the gid of what says its name under the mouse
MARGINS = {"left": 0.46, "right": 0.12, "top": 0.1, "bottom": 0.44}  # inches
# Text stays text, so that it takes the page's font and can be selected. A name may hold a $.
SETTINGS: dict[Any, Any] = {  # matplotlib types the keys as the list of them all
    "svg.fonttype": "none",
    "text.parse_math": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.size": 8.25,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "xtick.major.width": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.5,
    "lines.solid_capstyle": "round",
}


def column_width(columns: int) -> float:
    """Return the width in inches of one of so many columns of the page."""
    return (PAGE_WIDTH - GAP * (columns - 1)) / columns


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **margins: float) -> tuple[Figure, list]:
    """Return a figure of that many inches and its axes, row by row; all charts of one width line up."""
    edges = {**MARGINS, **margins}
    figure = Figure(figsize=(width, height))
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    figure.subplots_adjust(
        left=edges["left"] / width,
        right=1 - edges["right"] / width,
        top=1 - edges["top"] / height,
        bottom=edges["bottom"] / height,
        hspace=0.42,
        wspace=0.1,
    )
    for axis in axes.flat:
        axis.grid(axis="y")
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.xaxis.set_major_formatter(FuncFormatter(short_count))
    return figure, list(axes.flat)


def label_iterations(*axes: Axes) -> None:
    """Name the horizontal axis."""
    for axis in axes:
        axis.set_xlabel("iteration", labelpad=2)


def short_count(value: float, _: object = None) -> str:
    """Return 20000 as ``20k``."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def to_svg(figure: Figure, title: str) -> str:
    """Return a figure as an ``<svg>`` element.

    Args:
        figure: the figure.
        title: what it shows, for screen readers. Two figures of a page must have different ones: the names of clip
            paths and markers, which are global in a page, are derived from it.
    """
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": title}):
        FigureCanvasSVG(figure).print_svg(
            buffer, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    box = next(re.finditer(r'viewBox="[^"]*"', svg))[0]
    svg = svg[svg.index(">") + 1 :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(rf'<g id="{TOOLTIP}([^"]*)">', r"<g><title>\1</title>", svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg).replace("xlink:href", "href")
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*|(font-size: [\d.]+px); font-family: [^;\"]*", _size_alone, svg)
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg)
    return f'<svg {box} role="img" aria-label="{_attribute(title)}">{svg.strip()}'


def _size_alone(font: re.Match[str]) -> str:
    # Releases of matplotlib differ in how they write a font.
    return font[2] or f"font-size: {font[1]}"


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
