"""Figures 3, 4 and 5 of PC-GAN, as docs/pcgan_figure3.png and so on.

    python benchmarks/pcgan_figures.py                      # from what is saved under benchmarks/results
    python benchmarks/pcgan_figures.py --only 5 --train     # trains first, a minute or two of one core

Figure 3: the targets PL_b, the published polynomials, and at degree 9 the weighted least squares of (4) and (5) beside
the sup-norm fit of (3). Figure 4: the time of an iteration by method, as benchmarks/preconditioning_overhead.py and
benchmarks/mode_coverage.py --time saved it. Figure 5: estimated over exact spectral norm during training, as
`SpectralNormLogger` measures it in two runs of `pcgan fit` on stacked digits.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from results_file import RESULTS, save_result
from torch import Tensor
from training_runs import ROOT, rows, train

from pcgan_lightning.report import draw_line, layer_colors
from pcgan_lightning.spectra import (
    PUBLISHED_CUTOFFS,
    PUBLISHED_POLYNOMIALS,
    Polynomial,
    fit_minimax,
    fit_polynomial,
    piecewise_linear,
)

UPPER = 1.1  # the end of the interval that the polynomials are fitted on
COMPARED = 9  # the degree at which both kinds of fit are drawn
FPC = {f"fpc{degree}": f"FPC-{degree}" for degree in (3, 5, 7, 9, 17)}
NAMES = {"none": "none", "sn": "SN"} | FPC | {"apc": "APC"}
FITS = {"least squares (4), (5)": fit_polynomial, "sup norm (3)": fit_minimax}


def figure3() -> Figure:
    """Draw the targets, the published polynomials, and two kinds of fit at one degree."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    targets, published, fits = figure.subplots(1, 3, sharex=True)
    x = torch.linspace(0, UPPER, 1101, dtype=torch.float64)
    for index, (degree, cutoff) in enumerate(PUBLISHED_CUTOFFS.items()):
        targets.plot(x, piecewise_linear(cutoff)(x), color=f"C{index}", label=f"b = {cutoff}")
        published.plot(x, PUBLISHED_POLYNOMIALS[degree](x), color=f"C{index}", label=f"degree {degree}, b = {cutoff}")
    cutoff = PUBLISHED_CUTOFFS[COMPARED]
    fits.plot(x, piecewise_linear(cutoff)(x), color="black", linewidth=1, label=f"target, b = {cutoff}")
    for index, (name, fit) in enumerate(FITS.items()):
        for slope, style in ((None, "-"), (0.0, ":")):
            g = fit(cutoff, COMPARED, minimum_slope=slope)
            label = f"{name}{'' if slope is None else ', slope at least 0'}: {largest_error(g, cutoff, x):.3f}"
            fits.plot(x, g(x), style, color=f"C{index + 4}", label=label)
    for axis, title in ((targets, "Targets $PL_b$"), (published, "Published polynomials")):
        axis.set_title(title, fontsize=10)
    fits.set_title(f"Degree {COMPARED} fitted in two ways, and largest errors", fontsize=10)
    for axis in (targets, published, fits):
        axis.set(xlabel="singular value of SN(W)", xlim=(0, UPPER), ylim=(0, 1.22))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7.5, loc="lower right")
    return figure


def largest_error(g: Polynomial, cutoff: float, x: Tensor) -> float:
    return (g(x) - piecewise_linear(cutoff)(x)).abs().max().item()


def figure4() -> Figure:
    """Draw the time of an iteration by method, over that of spectral normalisation."""
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    saved = read("preconditioning_overhead")
    settings = saved["settings"]
    bars(left, saved["result"]["ratio"])
    left.set_title(f"ResNet 32, width {settings['width']}, batch {settings['batch_size']}", fontsize=10)
    left.set_xlabel("time of an iteration over that of torch's SN")
    seconds = read("mode_coverage_seconds")["result"]
    bars(right, {name: seconds[method] / seconds["sn"] for method, name in NAMES.items() if method in seconds})
    right.set_title("CNN 8 on stacked digits, batch 64", fontsize=10)
    right.set_xlabel("processor time of an iteration over that of SN")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    return figure


def bars(axis: Axes, ratios: dict[str, float]) -> None:
    """Draw one bar a method, and what the paper says of FPC and APC."""
    drawn = axis.barh(list(ratios), list(ratios.values()), color="#6baed6")
    axis.bar_label(drawn, fmt="%.2f", padding=-24, fontsize=8)
    axis.axvspan(1.2, 1.3, color="0.88", zorder=0, label="the paper's FPC")
    axis.axvline(1.1, color="0.5", linestyle=":", label="the paper's APC, at most")
    axis.set_xlim(0, 1.45)
    axis.invert_yaxis()


def figure5() -> Figure:
    """Draw estimated over exact spectral norms during training, one panel a method."""
    saved = read("spectral_norms")["result"]
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    axes = figure.subplots(1, len(saved), sharey=True, squeeze=False)[0]
    for axis, (method, run) in zip(axes, saved.items(), strict=True):
        for layer, color in layer_colors(list(run["ratios"])).items():
            label = layer if axis is axes[0] else None
            draw_line(axis, (run["iteration"], run["ratios"][layer]), layer, color=color, label=label, linewidth=1)
        axis.axhline(1 / UPPER, color="black", linestyle=":", label=f"1/{UPPER}" if axis is axes[0] else None)
        axis.set(title=NAMES[method], xlabel="iteration")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("estimated over exact spectral norm")
    figure.legend(loc="outside right center", fontsize=8)
    return figure


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train with each method, and return the ratios of all layers over iterations."""
    n = str(arguments.iterations)
    # In the place of the configuration's monitors, whose samples would take longer than the training.
    monitors = json.dumps([{"class_path": "SpectralNormLogger", "init_args": {"every_n_steps": arguments.every}}])
    runs = {}
    for method in arguments.methods:
        folder = arguments.runs / f"{method}_{n}"
        runs[folder] = [
            *("--config", f"configs/stacked_digits/{method}.yaml", "--trainer.max_steps", n),
            *("--trainer.callbacks", monitors),
        ]
    train(runs, arguments.iterations, parallel=1, threads=1)
    return {method: ratios(folder) for method, folder in zip(arguments.methods, runs, strict=True)}


def ratios(folder: Path) -> dict[str, Any]:
    """Return a run's iterations and the ratios of each layer."""
    found = [row for row in rows(folder) if "spectral_norm/lowest_ratio" in row]
    layers = [key.split("/")[1] for key in found[0] if key.startswith("spectral_norm/") and key.endswith("/ratio")]
    series = {layer: [round(row[f"spectral_norm/{layer}/ratio"], 6) for row in found] for layer in layers}
    return {"iteration": [int(row["step"]) for row in found], "ratios": series}


def read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())


FIGURES = {3: figure3, 4: figure4, 5: figure5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, nargs="+", choices=FIGURES, default=list(FIGURES))
    parser.add_argument("--train", action="store_true", help="the runs of Figure 5; writes results/spectral_norms.json")
    parser.add_argument("--methods", nargs="+", choices=NAMES, default=["sn", "fpc7"], help="of Figure 5")
    parser.add_argument("--iterations", type=int, default=400)
    parser.add_argument("--every", type=int, default=4, help="iterations between measurements")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "spectral_norms")
    parser.add_argument("--pictures", type=Path, default=ROOT / "docs")
    arguments = parser.parse_args()
    if arguments.train:
        result = measure(arguments)
        settings = {key: vars(arguments)[key] for key in ("methods", "iterations", "every")}
        print("saved", save_result("spectral_norms", settings, result).name, file=sys.stderr)
        for method, run in result.items():
            lowest = {layer: min(values) for layer, values in run["ratios"].items()}
            print(NAMES[method], ", ".join(f"{layer} {value:.4f}" for layer, value in lowest.items()))
    for number in arguments.only:
        path = arguments.pictures / f"pcgan_figure{number}.png"
        FIGURES[number]().savefig(path, dpi=130)
        print(path.name)


if __name__ == "__main__":
    main()
