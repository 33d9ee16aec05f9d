"""Pictures over training: singular values and condition numbers of PC-GAN, magnitudes and balance of nSGDA."""

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


def magnitude_figure(iterations: list[int], layers: dict[str, list[float]]) -> Image.Image:
    """Draw each layer's adaptive magnitude over its first value, as in Figures 2b and 5b of the nSGDA paper."""
    figure = Figure(figsize=(8.5, 4.5), layout="constrained")
    axis = figure.subplots()
    for (name, values), color in zip(
        layers.items(), colormaps["turbo"](np.linspace(0.05, 0.95, len(layers))), strict=True
    ):
        first = next((v for v in values if v and not math.isnan(v)), math.nan)
        axis.plot(iterations, [v / first for v in values], color=color, label=name or "(root)", lw=1)
    axis.set_xlabel("iteration")
    axis.set_ylabel("adaptive magnitude / its first value")
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=7)
    return _render(figure)


def balance_figure(series: dict[str, Any]) -> Image.Image:
    """Draw both players' relative speeds, and the ratio of gradients to their first ones."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    axes = figure.subplots(1, 3)
    titles = {"relative_speed": "step size * gradient / weights", "relative_step": "step / weights"}
    for axis, (key, title) in zip(axes, titles.items(), strict=False):
        for player, entry in series["players"].items():
            axis.plot(entry["iteration"], entry[key], label=player, marker=_marker(entry))
        axis.set_title(title, fontsize=10)
        axis.set_yscale("log")
        axis.legend(fontsize=8)
    axes[2].plot(series["iteration"], series["gradient_ratio"], color="black", marker=_marker(series))
    axes[2].set_title("gradients / their first values, summed", fontsize=10)
    for axis in axes:
        axis.set_xlabel("iteration")
        axis.grid(alpha=0.3)
    return _render(figure)


def jacobian_figure(series: dict[str, list]) -> Image.Image:
    """Draw eigenvalues in the complex plane, later ones darker, and the phase and conditioning factors over time."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    plane, *axes = figure.subplots(1, 3)
    points = [(t, *pair) for t, pairs in zip(series["iteration"], series["eigenvalues"], strict=True) for pair in pairs]
    if points:
        iterations, real, imaginary = zip(*points, strict=True)
        drawn = plane.scatter(real, imaginary, c=iterations, cmap="viridis_r", s=14)
        figure.colorbar(drawn, ax=plane, label="iteration")
    # Most of the interest is in the angle, but eigenvalues differ by orders of magnitude.
    plane.set_xscale("symlog", linthresh=1e-3)
    plane.set_yscale("symlog", linthresh=1e-3)
    plane.axvline(0.0, color="gray", lw=0.8)
    plane.set(xlabel="real part", ylabel="imaginary part", title="eigenvalues of the Jacobian")
    for axis, key, title in zip(axes, ("zeta", "tau"), ("phase factor", "conditioning factor"), strict=True):
        axis.plot(series["iteration"], series[key], color="black", marker=_marker(series))
        axis.set(xlabel="iteration", title=title, yscale="log")
        axis.grid(alpha=0.3)
    return _render(figure)


def _marker(series: dict[str, Any]) -> str:
    # A single measurement draws no line.
    return "o" if len(series["iteration"]) < 3 else ""


def _render(figure: Figure) -> Image.Image:
    figure.set_dpi(120)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
