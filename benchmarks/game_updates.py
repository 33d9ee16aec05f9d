"""Time and memory of an iteration of ConOpt and of JARE over one of SimGD, with PC-layers and without.

    python benchmarks/game_updates.py --save

One iteration is that of SimultaneousGAN without Lightning: one forward pass, both players' gradients at one point, two
steps of Adam; CNNs for CIFAR-10, log loss. For the time all variants take turns in one process, so that a busy machine
slows all of them alike. For the memory each runs in a fresh process: the peak beyond what it took before its first
iteration (on an accelerator, of what torch allocates there). Operations are those of convolutions and linear layers,
without PC-layers. At the least, ConOpt needs three times those of SimGD: the second pass through the gradients goes
through each product once more for each of its two factors, and then back through the forward pass.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from results_file import save_result
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pcgan_lightning.games import JARE, ConOpt, GameMethod, SimGD
from pcgan_lightning.losses import NonSaturatingLoss
from pcgan_lightning.networks import CNNDiscriminator, CNNGenerator
from pcgan_lightning.spectra import precondition, shared_weights

METHODS: dict[str, GameMethod] = {"SimGD": SimGD(), "ConOpt": ConOpt(10.0), "JARE": JARE(10.0)}
WEIGHTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "plain": lambda network: network,
    "PC-layers of degree 7": lambda network: precondition(network, 7),
}
VARIANTS = [(method, weights) for weights in WEIGHTS for method in METHODS]
REFERENCE = "SimGD"


class Iteration:
    """Two players and their optimizers; calling it trains both once."""

    def __init__(self, method: str, weights: str, width: int, batch_size: int, device: str) -> None:
        torch.manual_seed(0)
        self.method, self.loss, self.device = METHODS[method], NonSaturatingLoss(), device
        self.generator = CNNGenerator(width=width).to(device)
        self.discriminator = WEIGHTS[weights](CNNDiscriminator(width=width)).to(device)
        self.players = [list(network.parameters()) for network in (self.generator, self.discriminator)]
        self.optimizers = [torch.optim.Adam(own, 1e-4, (0.5, 0.999)) for own in self.players]
        self.real = torch.rand(batch_size, *self.discriminator.image_shape, device=device) * 2 - 1

    def __call__(self) -> None:
        fake = self.generator(torch.randn(len(self.real), self.generator.latent_dim, device=self.device))
        with shared_weights():
            real_scores, fake_scores = self.discriminator(self.real), self.discriminator(fake)
        losses = self.loss.generator(fake_scores), self.loss.discriminator(real_scores, fake_scores)
        for own, optimizer, gradients in zip(
            self.players, self.optimizers, self.method(*losses, *self.players), strict=True
        ):
            for parameter, gradient in zip(own, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()


def seconds(function: Callable[[], object], device: str) -> float:
    """Time one call, waiting for the accelerator."""
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_mebibytes(iteration: Iteration) -> float:
    """Return how much more memory three iterations take at their peak than there was in use before."""
    if iteration.device == "cuda":
        before = torch.cuda.memory_allocated()
        peak = torch.cuda.max_memory_allocated
        unit = 2**20
    else:
        before, unit = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 2**10  # Linux counts in KiB
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # noqa: E731
    for _ in range(3):
        iteration()
    return (peak() - before) / unit


def operations(method: str, width: int, batch_size: int) -> int:
    """Return the floating-point operations of one iteration without PC-layers."""
    iteration = Iteration(method, "plain", width, batch_size, "cpu")
    with FlopCounterMode(display=False) as counter:
        iteration()
    return counter.get_total_flops()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=16, help="of both networks; the paper's is 64")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=20, help="iterations of each variant that are timed")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--memory_of", nargs=2, metavar=("METHOD", "WEIGHTS"), help="print one variant's peak and end")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/game_updates.json")
    arguments = parser.parse_args()
    size = arguments.width, arguments.batch_size, arguments.device
    if arguments.memory_of:
        print(peak_mebibytes(Iteration(*arguments.memory_of, *size)))
        return

    memory = {}
    for variant in VARIANTS:
        command = [sys.executable, __file__, "--memory_of", *variant]
        command += [f"--width={size[0]}", f"--batch_size={size[1]}", f"--device={size[2]}"]
        memory[variant] = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    iterations = {variant: Iteration(*variant, *size) for variant in VARIANTS}
    times: dict[tuple[str, str], list[float]] = {variant: [] for variant in VARIANTS}
    for turn in range(arguments.rounds + 2):
        for variant, iteration in iterations.items():
            elapsed = seconds(iteration, arguments.device)
            if turn >= 2:  # the first two warm up
                times[variant].append(elapsed)

    rows = []
    for method, weights in VARIANTS:
        own, reference = times[method, weights], times[REFERENCE, weights]
        rows.append(
            {
                "method": method,
                "weights": weights,
                "median_seconds": statistics.median(own),
                # Within a turn, for load on the machine that comes and goes.
                "time_ratio": statistics.median(a / b for a, b in zip(own, reference, strict=True)),
                "peak_mebibytes": memory[method, weights],
                "memory_ratio": memory[method, weights] / memory[REFERENCE, weights],
            }
        )
        print(
            f"{method:8} {weights:24} {1e3 * rows[-1]['median_seconds']:8.1f} ms {rows[-1]['time_ratio']:6.2f}"
            f"{rows[-1]['peak_mebibytes']:9.1f} MiB {rows[-1]['memory_ratio']:6.2f}"
        )
    counts = {method: operations(method, *size[:2]) for method in METHODS}
    ratios = {method: count / counts[REFERENCE] for method, count in counts.items()}
    print("operations, ratio:", ", ".join(f"{method} {ratio:.2f}" for method, ratio in ratios.items()))
    if arguments.save:
        settings = {key: value for key, value in vars(arguments).items() if key not in ("save", "memory_of")}
        print("saved", save_result("game_updates", settings, {"rows": rows, "operation_ratio": ratios}).name)


if __name__ == "__main__":
    main()
