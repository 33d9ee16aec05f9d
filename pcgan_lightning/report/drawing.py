"""Figures 1 and 2 of PC-GAN, drawn onto axes: for the page of `pcgan report` and for the pictures of a run."""

from collections.abc import Mapping, Sequence
from typing import Any, Optional, Union

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, MultipleLocator, NullLocator

from pcgan_lightning.report.run_data import COLORS, Series, finite
from pcgan_lightning.report.svg import TOOLTIP

MAXIMUM_POINTS = 200  # of a line: more cannot be told apart and would make the page large


def draw_line(axis: Axes, series: Union[Series, tuple[list[int], list[float]]], name: str, **style: Any) -> None:
    """Draw one measured number over iterations; on the page the line tells its name under the mouse."""
    # One measurement, or two, must be seen as well.
    axis.plot(*series, marker="o" if len(series[0]) < 3 else "", gid=TOOLTIP + name, **style)


def draw_singular_values(
    axes: Sequence[Axes], layers: Mapping[str, Mapping[str, Series]], color: str = COLORS[0], highest: float = 1.1
) -> None:
    """Draw each layer's smallest singular values, as in Figure 1; the smallest of all darkest.

    Args:
        axes: one for each layer; further ones are removed.
        layers: for each layer the iterations and values by the lines' names, smallest first.
        color: of the smallest one.
        highest: end of the vertical axis.
    """
    for axis, (layer, lines) in zip(axes, layers.items(), strict=False):
        for i, (name, series) in reversed(list(enumerate(lines.items()))):
            draw_line(axis, thin(finite(series)), name, color=tint(color, i / max(5, len(lines)) * 0.85))
        axis.set_title(layer, loc="left", fontsize=8.25, pad=3)
        axis.set_ylim(0, highest)
        axis.yaxis.set_major_locator(MultipleLocator(0.5) if highest < 1.5 else MaxNLocator(2))
    for axis in axes[len(layers) :]:
        axis.remove()


def draw_condition_numbers(
    axis: Axes,
    layers: Mapping[str, Mapping[str, Series]],
    colors: Optional[Mapping[str, str]] = None,
    highest: Optional[float] = None,
) -> None:
    """Draw each layer's modified condition number, as in Figure 2; before the polynomial dotted.

    Args:
        axis: where to draw.
        layers: for each layer the iterations and values, ``before`` and ``after``.
        colors: of the layers. None: :func:`layer_colors`.
        highest: the largest number that must have its place. None: that of `layers`.
    """
    colors = layer_colors(list(layers)) if colors is None else colors
    found = [0.0]
    for layer, stages in layers.items():
        for stage, style, width in (("before", (0, (1, 1.6)), 1.0), ("after", "solid", 1.6)):
            if stage in stages:
                series = thin(finite(stages[stage], positive=True))
                found += list(series[1])
                label = layer if stage == "after" else None
                style_of_layer = {"color": colors[layer], "linestyle": style, "linewidth": width, "label": label}
                draw_line(axis, series, f"{layer}, {stage}", **style_of_layer)
    condition_axis(axis, max(found) if highest is None else highest)


def condition_axis(axis: Axes, highest: float) -> None:
    """Make the vertical axis logarithmic from 1, below which no condition number lies, with plain numbers."""
    top = max(2.0, highest * 1.12)
    subs = (1, 1.5, 2, 3, 5) if top < 9 else (1, 2, 5) if top < 300 else (1,)
    axis.set_yscale("log")
    axis.set_ylim(0.96, top)
    axis.yaxis.set_major_locator(LogLocator(subs=subs))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}" if value < 1e5 else f"{value:.0e}"))
    axis.yaxis.set_minor_locator(NullLocator())


def layer_colors(layers: Sequence[str]) -> dict[str, str]:
    """Return a colour for each layer; from dark to light as the network goes on."""
    return dict(zip(layers, map(to_hex, colormaps["viridis"](np.linspace(0, 0.9, len(layers)))), strict=True))


def thin(series: Series) -> Series:
    """Return at most ``MAXIMUM_POINTS`` measurements, evenly spaced, the first and the last among them."""
    iterations, values = series
    if len(iterations) <= MAXIMUM_POINTS:
        return series
    kept = np.linspace(0, len(iterations) - 1, MAXIMUM_POINTS).round().astype(int)
    return iterations[kept], values[kept]


def tint(color: str, amount: float) -> str:
    """Return a colour mixed with white."""
    red, green, blue = (channel + (1 - channel) * amount for channel in to_rgb(color))
    return to_hex((red, green, blue))
