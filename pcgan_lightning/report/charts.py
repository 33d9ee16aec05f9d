"""The charts of the report, each an ``<svg>`` of runs or of one run."""

import re
from collections.abc import Sequence

import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from pcgan_lightning.report.drawing import condition_axis, draw_condition_numbers, draw_line, draw_singular_values, thin
from pcgan_lightning.report.run_data import Run, Series, finite
from pcgan_lightning.report.svg import column_width, label_iterations, new_figure, to_svg

MAXIMUM_BANDS = 3  # more of them on one another are mud
SMALLEST = r"singular_value/(.+)/smallest_\d+"
CONDITION = r"condition/(.+)/(?:after|before)"
DEGREE = r"degree/(.+)"
# Light to dark, so that degrees are told apart by lightness as well.
DEGREE_COLORS = {1: "#e3e9ef", 3: "#a8d5d0", 5: "#55a9b5", 7: "#2f6f9f", 9: "#27356b"}
OTHER_DEGREE = "#b8a6c9"


def degree_color(degree: float) -> str:
    """Return the colour of a polynomial's degree."""
    return DEGREE_COLORS.get(int(degree), OTHER_DEGREE)


def run_chart(runs: Sequence[Run], column: str, title: str, columns: int = 3, height: float = 2.1) -> str:
    """Draw one column of all runs that have it over iterations; a condition number on a logarithmic axis."""
    figure, (axis,) = new_figure(column_width(columns), height)
    logarithmic = column.startswith("condition/")
    highest = 0.0
    for run in runs:
        if column in run.series:
            iterations, values = thin(finite(run.series[column], positive=logarithmic))
            draw_line(axis, (iterations, values), run.name, color=run.color, linestyle=run.dash)
            highest = max(highest, *values, 0.0)
    if logarithmic:
        condition_axis(axis, highest)
    else:
        axis.yaxis.set_major_locator(MaxNLocator(5))
        axis.margins(y=0.08)
    label_iterations(axis)
    return to_svg(figure, title)


def loss_chart(runs: Sequence[Run], column: str, title: str) -> str:
    """Draw a loss of all runs: the mean of each window of iterations, and where most of its values lie."""
    figure, (axis,) = new_figure(column_width(2), 2.1)
    for run in runs:
        if column not in run.series:
            continue
        iterations, low, mean, high = windows(finite(run.series[column]))
        if len(runs) <= MAXIMUM_BANDS:
            axis.fill_between(iterations, low, high, color=run.color, alpha=0.15, linewidth=0)
        draw_line(axis, (iterations, mean), run.name, color=run.color, linestyle=run.dash)
    axis.yaxis.set_major_locator(MaxNLocator(5))
    label_iterations(axis)
    return to_svg(figure, title)


def spectrum_chart(run: Run, layers: Sequence[str], highest: float, columns: int) -> str:
    """Draw Figure 1 of a run: the smallest singular values of each layer."""
    across = {1: 4, 2: 2}.get(columns, 1)
    rows = -(-len(layers) // across)
    figure, axes = new_figure(column_width(columns), rows + 0.6, rows, across, top=0.24, left=0.34)
    lines = {
        layer: {
            column.rpartition("/")[2].replace("_", " "): run.series[column]
            for column in sorted(c for c in run.series if c.startswith(f"singular_value/{layer}/smallest_"))
        }
        for layer in layers
    }
    draw_singular_values(axes, lines, run.color, highest)
    bottom = axes[: len(layers)][-across:]
    for axis in bottom:  # the last of a column may stand above the figure's last row
        axis.tick_params(labelbottom=True)
    label_iterations(*bottom)
    return to_svg(figure, f"Smallest singular values of each layer, {run.name}")


def condition_chart(run: Run, colors: dict[str, str], highest: float, columns: int) -> str:
    """Draw Figure 2 of a run: the modified condition number of each layer."""
    figure, (axis,) = new_figure(column_width(columns), 2.9)
    layers = {
        layer: {
            stage: run.series[column]
            for stage in ("before", "after")
            if (column := f"condition/{layer}/{stage}") in run.series
        }
        for layer in run.layers(CONDITION)
    }
    draw_condition_numbers(axis, layers, colors, highest)
    label_iterations(axis)
    return to_svg(figure, f"Modified condition number of each layer, {run.name}")


def degree_chart(run: Run, columns: int) -> str:
    """Draw the degree of each layer's polynomial over iterations as a band, with the last degree beside it."""
    layers = run.layers(DEGREE)
    names = 0.12 + 0.068 * max(map(len, layers))
    figure, (axis,) = new_figure(column_width(columns), 0.2 * len(layers) + 0.6, left=names, right=0.3)
    end = max(run.iterations, 1)
    for row, layer in enumerate(layers):
        iterations, degrees = finite(run.series[f"degree/{layer}"])
        for start, stop, degree in spans((iterations, degrees), end):
            axis.add_patch(Rectangle((start, row - 0.42), stop - start, 0.84, color=degree_color(degree), linewidth=0))
        if len(degrees):
            axis.annotate(f"{degrees[-1]:g}", (1, row), (4, 0), ("axes fraction", "data"), "offset points", va="center")
    axis.set_xlim(0, end)
    axis.set_ylim(len(layers) - 0.5, -0.5)
    axis.set_yticks(range(len(layers)), layers)
    axis.grid(visible=False)
    axis.spines["left"].set_visible(False)
    label_iterations(axis)
    return to_svg(figure, f"Degree of each layer's polynomial, {run.name}")


def highest_value(runs: Sequence[Run], pattern: str) -> float:
    """Return the largest finite value in the columns of all runs that match a pattern, or 0."""
    columns = [s for run in runs for column, s in run.series.items() if re.fullmatch(pattern, column)]
    return max((float(finite(series)[1].max(initial=0)) for series in columns), default=0.0)


def spans(series: Series, end: int) -> list[tuple[float, float, float]]:
    """Return (start, stop, value) of each stretch of equal values; the last one lasts until `end`."""
    iterations, values = series
    starts = [i for i in range(len(iterations)) if i == 0 or values[i] != values[i - 1]]
    stops = [*(iterations[i] for i in starts[1:]), end]
    return [(float(iterations[i]), float(stop), float(values[i])) for i, stop in zip(starts, stops, strict=True)]


def windows(series: Series) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the last iteration, 10th percentile, mean and 90th percentile of each of at most 100 windows."""
    iterations, values = series
    count = min(len(iterations), max(40, min(100, len(iterations) // 10)))
    parts = np.array_split(values, count) if count else []
    ends = np.cumsum([len(part) for part in parts], dtype=int) - 1
    low, high = (np.array([np.percentile(part, q) for part in parts]) for q in (10, 90))
    return iterations[ends], low, np.array([part.mean() for part in parts]), high
