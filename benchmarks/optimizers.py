"""Time of one step of the normalised optimizers over the ResNets' parameters, beside torch's foreach Adam.

    python benchmarks/optimizers.py --save

All optimizers take turns in one process, each over its own copy of both players' parameters.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from results_file import save_result
from torch.optim import Adam
from torch.optim.optimizer import Optimizer

from pcgan_lightning.networks import ResNetDiscriminator, ResNetGenerator
from pcgan_lightning.optim import NSGDA, AdaDir, AdaNSGDA

REFERENCE = "torch Adam, foreach"
BETAS = (0.0, 0.9)
OPTIMIZERS: dict[str, Callable[[Iterable[Any]], Optimizer]] = {
    REFERENCE: lambda p: Adam(p, lr=1e-4, betas=BETAS, foreach=True),
    "NSGDA, global": lambda p: NSGDA(p, lr=1e-4),
    "NSGDA, layer": lambda p: NSGDA(p, lr=1e-4, scope="layer"),
    "NSGDA, tensor": lambda p: NSGDA(p, lr=1e-4, scope="tensor"),
    "AdaNSGDA, global": lambda p: AdaNSGDA(p, lr=1e-4, betas=BETAS),
    "AdaNSGDA, layer": lambda p: AdaNSGDA(p, lr=1e-4, betas=BETAS, scope="layer"),
    "AdaDir, global": lambda p: AdaDir(p, lr=1e-4, betas=BETAS),
}


def seconds(step: Callable[[], Any], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60, help="steps of each that are timed")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/optimizers.json")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    players = torch.nn.ModuleDict({"generator": ResNetGenerator(), "discriminator": ResNetDiscriminator()})
    steps = {}
    for name, make in OPTIMIZERS.items():
        own = copy.deepcopy(players).to(arguments.device)
        for parameter in own.parameters():
            parameter.grad = torch.randn_like(parameter)
        steps[name] = [make(list(network.named_parameters())).step for network in own.values()]
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(arguments.rounds + 5):
        for name, both in steps.items():
            elapsed = sum(seconds(step, arguments.device) for step in both)
            if turn >= 5:  # the first ones warm up
                times[name].append(elapsed)
    ratios = {
        name: statistics.median(a / b for a, b in zip(values, times[REFERENCE], strict=True))
        for name, values in times.items()
    }
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name in steps:
        print(f"{name:22} {1e3 * medians[name]:8.2f} ms {ratios[name]:6.3f}")
    if arguments.save:
        settings = {key: value for key, value in vars(arguments).items() if key != "save"}
        print("saved", save_result("optimizers", settings, {"median_seconds": medians, "ratio": ratios}).name)


if __name__ == "__main__":
    main()
