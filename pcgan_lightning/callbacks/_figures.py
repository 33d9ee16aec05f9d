"""The two pictures of PC-GAN: singular values (Figure 1) and condition numbers (Figure 2) over training."""

import math
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from PIL import Image


def singular_value_figure(series: dict[str, Any]) -> Image.Image:
    """Draw each layer's smallest singular values over iterations, as in Figure 1; one panel a layer."""
    layers = series["layers"]
    columns = min(4, len(layers))
    rows = math.ceil(len(layers) / columns)
    figure = Figure(figsize=(3.2 * columns, 2.2 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axis in axes.flat[len(layers) :]:
        axis.remove()
    for axis, (name, entry) in zip(axes.flat, layers.items(), strict=False):
        smallest = np.array(entry["smallest"])  # [measurements, k]
        for i, color in enumerate(colormaps["viridis"](np.linspace(0, 0.85, smallest.shape[1]))):
            axis.plot(series["iteration"], smallest[:, i], color=color, marker=_marker(series))
        axis.set_title(name, fontsize=9)
        axis.set_ylim(0, 1.1)
        axis.grid(alpha=0.3)
    count = max(len(entry["smallest"][0]) for entry in layers.values())
    figure.suptitle(f"The {count} smallest singular values of each layer's effective weight (largest: about 1)")
    figure.supxlabel("iteration")
    return _render(figure)


def condition_number_figure(series: dict[str, Any]) -> Image.Image:
    """Draw each layer's modified condition number over iterations, as in Figure 2, after and before the polynomial."""
    figure = Figure(figsize=(8.5, 4.5), layout="constrained")
    axis = figure.subplots()
    layers = series["layers"]
    for (name, entry), color in zip(
        layers.items(), colormaps["turbo"](np.linspace(0.05, 0.95, len(layers))), strict=True
    ):
        axis.plot(series["iteration"], entry["after"], color=color, label=name, marker=_marker(series))
        if entry["before"] != entry["after"]:
            axis.plot(series["iteration"], entry["before"], color=color, linestyle=":", alpha=0.7)
    axis.set_yscale("log")
    for which in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
        which(LogFormatter(minor_thresholds=(2, 0.5)))  # 1, 2, 5, 10 rather than powers
    axis.set_xlabel("iteration")
    axis.set_ylabel("modified condition number")
    axis.set_title("Effective weights (solid), before the polynomial (dotted)")
    axis.grid(alpha=0.3, which="both")
    figure.legend(loc="outside right center", fontsize=8)
    return _render(figure)


def _marker(series: dict[str, Any]) -> str:
    # A single measurement draws no line.
    return "o" if len(series["iteration"]) < 3 else ""


def _render(figure: Figure) -> Image.Image:
    figure.set_dpi(120)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
