"""The cost of a training step under each kind of preconditioning, and of logging the spectrum.

    python benchmarks/preconditioning_overhead.py

One step is the GAN module's iteration, (1, 1): both players' updates with Adam, ResNet for 32x32, hinge loss. The
variants take turns within one process, so that a busy machine slows all of them alike; medians and their ratios to
torch's spectral norm are printed. `torch SN, uncached` is torch's spectral norm as it is mostly used, without the
cache that lets both passes of a discriminator update share one normalised weight.
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
from results_file import save_result
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from pcgan_lightning.callbacks.monitors.spectrum import measure_layers
from pcgan_lightning.losses import HingeLoss
from pcgan_lightning.networks import ResNetDiscriminator, ResNetGenerator
from pcgan_lightning.spectra import precondition, weight_layers

REFERENCE = "torch SN"


def torch_spectral_norm(network: nn.Module) -> nn.Module:
    """Put torch's own spectral norm on every layer with a weight matrix."""
    for layer in weight_layers(network).values():
        parametrizations.spectral_norm(layer)
    return network


VARIANTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "none": lambda network: network,
    REFERENCE: torch_spectral_norm,
    "torch SN, uncached": torch_spectral_norm,
    **{f"degree {d}": (lambda network, d=d: precondition(network, d)) for d in (1, 3, 5, 7, 9)},
}


class Step:
    """One player pair and its optimizers; calling it trains both once."""

    def __init__(self, generator: nn.Module, discriminator: nn.Module, batch_size: int, cached: bool) -> None:
        self.generator, self.discriminator = generator, discriminator
        self.optimizers = [torch.optim.Adam(n.parameters(), 2e-4, (0.0, 0.9)) for n in (generator, discriminator)]
        self.loss = HingeLoss()
        self.batch_size, self.cached = batch_size, cached
        self.device = next(generator.parameters()).device
        self.real = torch.rand(batch_size, *discriminator.image_shape, device=self.device) * 2 - 1

    def latents(self) -> torch.Tensor:
        return torch.randn(self.batch_size, self.generator.latent_dim, device=self.device)

    def __call__(self) -> None:
        with torch.no_grad():
            fake = self.generator(self.latents())
        if self.cached:
            with parametrize.cached():
                scores = self.discriminator(self.real), self.discriminator(fake)
        else:
            scores = self.discriminator(self.real), self.discriminator(fake)
        self.update(1, self.loss.discriminator(*scores))
        self.discriminator.requires_grad_(False)
        self.update(0, self.loss.generator(self.discriminator(self.generator(self.latents()))))
        self.discriminator.requires_grad_(True)

    def update(self, player: int, loss: torch.Tensor) -> None:
        self.optimizers[player].zero_grad()
        loss.backward()
        self.optimizers[player].step()


def seconds(function: Callable[[], object], device: str) -> float:
    """Time one call, waiting for the accelerator."""
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def logging_seconds(discriminator: nn.Module, repeats: int, device: str) -> float:
    """Return the median time of one full measurement as SpectrumLogger does it, written to a CSV file."""
    from pcgan_lightning.runs import RunCSVLogger

    with tempfile.TemporaryDirectory() as folder:
        logger = RunCSVLogger(folder)

        def measure() -> None:
            rows = measure_layers(discriminator, 5)
            logger.log_metrics({f"{n}/{k}": r[k] for n, r in rows.items() for k in ("before", "after")}, step=0)
            logger.save()

        return statistics.median(seconds(measure, device) for _ in range(repeats))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64, help="of the discriminator, and of the generator")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=20, help="steps of each variant that are timed")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/preconditioning_overhead.json")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    generator = ResNetGenerator(width=arguments.width).to(arguments.device)
    discriminator = ResNetDiscriminator(width=arguments.width).to(arguments.device)
    steps = {
        name: Step(
            copy.deepcopy(generator),
            prepare(copy.deepcopy(discriminator)),
            arguments.batch_size,
            cached="uncached" not in name,
        )
        for name, prepare in VARIANTS.items()
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(arguments.rounds + 2):
        for name, step in steps.items():
            elapsed = seconds(step, arguments.device)
            if turn >= 2:  # the first two warm up
                times[name].append(elapsed)

    medians = {name: statistics.median(values) for name, values in times.items()}
    # Ratios within a turn, for load on the machine that comes and goes.
    ratios = {
        name: statistics.median(a / b for a, b in zip(values, times[REFERENCE], strict=True))
        for name, values in times.items()
    }
    measure = logging_seconds(steps["degree 9"].discriminator, 5, arguments.device)
    share = measure / (1000 * medians["degree 9"])
    print(f"{'variant':20} {'median ms':>10} {'ratio to ' + REFERENCE:>18}")
    for name in steps:
        print(f"{name:20} {1e3 * medians[name]:10.1f} {ratios[name]:18.3f}")
    print(f"full spectrum: {1e3 * measure:.1f} ms a measurement, {100 * share:.4f}% of 1,000 iterations at degree 9")
    if arguments.save:
        settings = {k: v for k, v in vars(arguments).items() if k != "save"}
        result = {"median_seconds": medians, "ratio": ratios, "spectrum_seconds": measure, "spectrum_share": share}
        print("saved", save_result("preconditioning_overhead", settings, result).name)


if __name__ == "__main__":
    main()
