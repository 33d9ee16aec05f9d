r"""Theorem 1 of PC-GAN: its bound on random deep linear networks, and how depth and condition numbers slow them down.

    python benchmarks/theorem1.py --save     # one CPU core, minutes

Random settings: pyramids of depth 1 to 8, one to five Gaussian samples, weights Gaussian or of a given condition
number, regions of random margins. Without PC-layers this is the theorem's own case: Equation (2) has to hold at every
update while the weights are in R. With FPC-7 the same is counted for the effective weights, which it does not cover.

Curves: widths 6, 12, ..., 12, 3, four orthonormal samples, targets of norm 1/2, which every method can reach; singular
values from 1 down to 1 / condition number; tau = 2^(1/L) and mu_l = 0.7 times the values at the start, so that the
learning rate falls only as 1 / L. `FPC-7 at the start` begins at the effective weights of FPC-7 and then trains without
PC-layers: the theorem covers it, and it tells the better start from the PC-layer's work during training.
"""

import argparse
import math
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from random_pyramids import random_run
from results_file import save_result
from torch import Tensor

from pcgan_lightning.spectra import (
    Descent,
    SpectralRegion,
    gradient_descent,
    linear_network,
    precondition,
    remove_preconditioning,
)

RATIO = 1e-3
METHODS = {"plain": None, "FPC-7": 7, "FPC-7 at the start": 7, "SN": 1}
COLORS = {"plain": "#4D4D4D", "SN": "#D55E00", "FPC-7 at the start": "#6baed6", "FPC-7": "#08519c"}
PICTURE = Path(__file__).parents[1] / "docs" / "theorem1.png"


def summary(run: Descent) -> dict[str, Any]:
    """Return what counts of a run; `nearest` is the smallest decrease in R over what the theorem promises of it."""
    before, after = run.errors[:-1][: run.left], run.errors[1:][: run.left]
    promised = run.mu / run.beta * before
    clear = promised > 400 * run.rounding * before.sqrt()  # elsewhere the ratio would be one of rounding errors
    nearest = ((before - after) / promised)[clear]
    return {
        "rate": run.mu / run.beta,
        "updates": len(before),
        "left": run.left,
        "violations": len(run.violations()),
        "nearest": nearest.min().item() if len(nearest) else None,
        "iterations_to_ratio": run.iterations_to(RATIO),
        "end": (run.errors[-1] / run.errors[0]).item(),
    }


def curve_run(depth: int, condition: float, method: str, seed: int, iterations: int) -> Descent:
    """Train one network of the curves until the squared error has fallen to `RATIO`."""
    network = linear_network((6, *[12] * (depth - 1), 3), condition, seed)
    if METHODS[method] is not None:
        precondition(network, METHODS[method], layers="all")
    if method == "FPC-7 at the start":
        remove_preconditioning(network)
    source = torch.Generator().manual_seed(seed)
    inputs, targets = (orthonormal(4, width, source) for width in (6, 3))
    region = SpectralRegion.around(network, 0.7, 2 ** (1 / depth))
    return gradient_descent(network, inputs, targets / 2, iterations, region, until=RATIO)


def orthonormal(rows: int, cols: int, source: torch.Generator) -> Tensor:
    return torch.nn.init.orthogonal_(torch.empty(rows, cols, dtype=torch.float64), generator=source)


def random_settings(count: int, iterations: int) -> list[dict[str, Any]]:
    """Return a row of each random setting without PC-layers, and of the first quarter of them with FPC-7."""
    rows: list[dict[str, Any]] = []
    for degree, own in ((None, count), (7, count // 4)):
        for seed in range(own):
            widths, run = random_run(seed, iterations, degree)
            rows.append({"seed": seed, "degree": degree, "widths": widths} | summary(run))
        updates, violations = (sum(row[key] for row in rows[-own:]) for key in ("updates", "violations"))
        print(f"{own} random settings, degree {degree}: (2) is violated at {violations} of {updates}", flush=True)
    return rows


def curves(arguments: argparse.Namespace, seed: int, method: str) -> list[dict[str, Any]]:
    """Return a row of each run of the curves."""
    rows = []
    for depth, condition in product(arguments.depths, arguments.conditions):
        row = {"depth": depth, "condition": condition, "method": method, "seed": seed}
        rows.append(row | summary(curve_run(depth, condition, method, seed, arguments.iterations)))
        print(rows[-1], flush=True)
    return rows


def draw(curves: list[dict[str, Any]], iterations: int, path: Path) -> None:
    """Draw iterations to `RATIO` over depth, and the theorem's rate below, one column a condition number."""
    conditions = sorted({row["condition"] for row in curves})
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    upper, lower = figure.subplots(2, len(conditions), sharex=True, sharey="row", squeeze=False)
    for condition, above, below in zip(conditions, upper, lower, strict=True):
        for number, method in enumerate(METHODS):
            own = [row for row in curves if row["condition"] == condition and row["method"] == method]
            if not own:
                continue
            reached = [row | {"value": row["iterations_to_ratio"] or math.inf} for row in own]
            shift = 1 + 0.04 * (number - 1.5)  # so that equal values stay visible
            line(above, reached, method, shift, cap=1.6 * iterations)
            if method in ("plain", "FPC-7"):  # the other two begin at the weights of these
                line(below, [row | {"value": row["rate"]} for row in own], method)
        above.axhline(1.25 * iterations, color="gray", linewidth=0.8, linestyle=":")
        above.set(title=f"condition number {condition:g}", yscale="log", ylim=(8, 2.2 * iterations))
        below.set(xlabel="depth L", yscale="log", xscale="log")
        below.set_xticks(sorted({row["depth"] for row in curves}), labels=sorted({row["depth"] for row in curves}))
        below.minorticks_off()
    upper[0].set_ylabel(f"iterations to {RATIO:g} of $\\|e(0)\\|^2$\n(above the dots: not reached)")
    lower[0].set_ylabel(r"the theorem's rate $\mu / \beta$")
    upper[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def line(axis: Axes, rows: list[dict[str, Any]], method: str, shift: float = 1.0, cap: float = math.inf) -> None:
    """Draw the median over seeds against depth; hollow above the cap."""
    depths = sorted({row["depth"] for row in rows})
    values = [min(cap, median(row["value"] for row in rows if row["depth"] == depth)) for depth in depths]
    axis.plot([depth * shift for depth in depths], values, color=COLORS[method], label=method, linewidth=1.2)
    faces = ["white" if value == cap else COLORS[method] for value in values]
    axis.scatter([depth * shift for depth in depths], values, c=faces, edgecolors=COLORS[method], s=28, zorder=3)
    axis.grid(alpha=0.3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", type=int, default=200, help="random settings")
    parser.add_argument("--random_iterations", type=int, default=60)
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--conditions", type=float, nargs="+", default=[1.0, 10.0, 100.0, 1000.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--iterations", type=int, default=400, help="of the curves, at most")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/theorem1.json, docs/theorem1.png")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # matrices so small that more threads wait for one another
    settings = {key: value for key, value in vars(arguments).items() if key != "save"} | {"ratio": RATIO}
    found = {"random": random_settings(arguments.random, arguments.random_iterations), "curves": []}
    for seed, method in product(arguments.seeds, METHODS):
        found["curves"] += curves(arguments, seed, method)
        if arguments.save:
            print("saved", save_result("theorem1", settings, found).name, flush=True)
            draw(found["curves"], arguments.iterations, PICTURE)


if __name__ == "__main__":
    main()
