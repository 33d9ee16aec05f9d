"""Pictures of benchmarks/mode_coverage.py: modes and condition numbers over iterations, and what goes with success."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from mode_coverage_analysis import EARLY, MECHANISMS, MODES, typical

# Okabe and Ito's colours, safe for colour-blind readers; the degrees from light to dark blue.
COLORS = {
    "none": "#4D4D4D",
    "sn": "#D55E00",
    "fpc3": "#9ecae1",
    "fpc5": "#6baed6",
    "fpc7": "#3182bd",
    "fpc9": "#08519c",
    "fpc17": "#009E73",
    "apc": "#CC79A7",
}
OTHER = "#E69F00"
LABELS = {
    "condition": "largest modified condition number",
    "generator_gradient": "gradient of the generator, sum of norms",
    "learning": "fall of D's loss in 10 extra steps",
}


def over_iterations(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str], path: Path) -> None:
    """Draw modes over iterations, one line a method, with a band over seeds, and condition numbers below."""
    figure = Figure(figsize=(8, 6.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for method in names:
        chosen = [row for row in rows if row["method"] == method]
        if chosen:
            label = f"{names[method]} ({len(chosen)})"
            _band(upper, [row["series"][MODES] for row in chosen], COLORS.get(method, OTHER), label)
            _band(lower, [row["series"]["condition"] for row in chosen], COLORS.get(method, OTHER), "")
    upper.set(ylabel="modes covered, of 1,000", ylim=(0, 1020))
    upper.legend(title="median over seeds (their number); band: all", fontsize=8, title_fontsize=8, ncols=2)
    lower.set(ylabel=LABELS["condition"], xlabel="iteration", yscale="log", xlim=(0, None))
    _plain_numbers(lower.yaxis)
    for axis in (upper, lower):
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def _plain_numbers(axis: Axis) -> None:
    """Label a logarithmic axis, which may hold no power of ten, with numbers as they are written."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _band(axis: Axes, series: Sequence[Mapping[int, float]], color: str, label: str) -> None:
    steps = sorted(set.intersection(*(set(one) for one in series)))  # a run that diverged has fewer
    values = np.array([[one[step] for step in steps] for one in series])
    if not steps:
        return
    axis.plot(steps, np.median(values, axis=0), color=color, label=label, marker="o", markersize=2.5)
    axis.fill_between(steps, values.min(axis=0), values.max(axis=0), color=color, alpha=0.12, linewidth=0)


def scatter(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str], path: Path) -> None:
    """Draw the final modes of every run over each mechanism's median in the run's first iterations."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    axes = figure.subplots(1, len(MECHANISMS), sharey=True)
    for axis, mechanism in zip(axes, MECHANISMS, strict=True):
        for method in names:
            points = [(typical(row["series"][mechanism], EARLY), row[MODES]) for row in rows if row["method"] == method]
            points = [point for point in points if point[0] is not None]
            if points:
                axis.scatter(*zip(*points, strict=True), s=22, color=COLORS.get(method, OTHER), label=names[method])
        axis.set(xlabel=f"{LABELS[mechanism]},\nmedian up to iteration {EARLY:,}")
        axis.grid(alpha=0.3)
        if mechanism != "learning":  # which may be negative
            axis.set_xscale("log")
            _plain_numbers(axis.xaxis)
    axes[0].set_ylabel("modes at the end")
    axes[-1].legend(fontsize=7)
    figure.savefig(path, dpi=130)
