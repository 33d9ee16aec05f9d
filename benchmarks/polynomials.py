"""Layer time of the polynomials: g(SN(W)) forward, and forward with backward, of degree 17 and others over degree 9.

    python benchmarks/polynomials.py --save

The degrees take turns, and times are processor seconds, so that other work on the machine slows all of them
alike, or none; the ratio is the median of the rounds'.
"""

import argparse
import statistics
import time

import torch
from results_file import save_result
from torch import nn

from pcgan_lightning.spectra import precondition

SHAPES = ((128, 1152), (256, 2304), (512, 4608))
REFERENCE = 9


def passes(layer: nn.Module, cotangent: torch.Tensor) -> tuple[float, float]:
    """Return the processor seconds of a forward, and of a forward and backward, through one layer's weight."""
    times = []
    for backward in (False, True):
        start = time.process_time()
        weight = layer.weight
        if backward:
            weight.backward(cotangent)
        times.append(time.process_time() - start)
    return times[0], times[1]


def compare(rows: int, cols: int, degrees: list[int], rounds: int) -> dict[str, dict[str, float]]:
    """Return milliseconds and ratios to degree 9 of each degree for one shape, forward and forward with backward."""
    layers = {}
    for degree in degrees:
        torch.manual_seed(0)
        layers[degree] = precondition(nn.Linear(cols, rows, bias=False), degree, "all")
    cotangent = torch.randn(rows, cols)
    times: dict[int, list[tuple[float, float]]] = {degree: [] for degree in degrees}
    for turn in range(rounds + 2):
        for degree in degrees if turn % 2 else reversed(degrees):
            found = passes(layers[degree], cotangent)
            if turn >= 2:  # the first two warm up
                times[degree].append(found)
    result = {}
    for degree in degrees:
        pairs = list(zip(times[degree], times[REFERENCE], strict=True))
        row = {}
        for index, name in enumerate(("forward", "both")):
            row[f"{name}_milliseconds"] = 1e3 * statistics.median(own[index] for own, _ in pairs)
            row[f"{name}_ratio"] = statistics.median(own[index] / other[index] for own, other in pairs)
        result[str(degree)] = row
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--degrees", type=int, nargs="+", default=[9, 11, 13, 15, 17])
    parser.add_argument("--rounds", type=int, nargs=3, default=(200, 60, 20), help="for each of the three shapes")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/polynomials.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    degrees = sorted({REFERENCE, *arguments.degrees})
    result = {}
    print(f"{'shape':12} {'degree':>6} {'forward ms':>11} {'ratio':>6} {'with backward':>14} {'ratio':>6}")
    for (rows, cols), rounds in zip(SHAPES, arguments.rounds, strict=True):
        result[f"{rows}x{cols}"] = found = compare(rows, cols, degrees, rounds)
        for degree, row in found.items():
            columns = [f"{row[f'{n}_milliseconds']:.2f} {row[f'{n}_ratio']:6.3f}" for n in ("forward", "both")]
            print(f"{f'{rows}x{cols}':12} {degree:>6} {columns[0]:>18} {columns[1]:>21}", flush=True)
    if arguments.save:
        settings = {key: value for key, value in vars(arguments).items() if key != "save"}
        print("saved", save_result("polynomials", settings, result).name)


if __name__ == "__main__":
    main()
