"""Iterations/s of a training run as it is configured for speed, beside the same step in plain eager torch.

    python benchmarks/throughput.py                                         # the paper's size, on an accelerator
    python benchmarks/throughput.py --widths 32 16 --iterations 40 --save   # on a CPU

Both train the ResNets for 32x32 with hinge loss, (1, 1) updates and an average of the generator's weights, on random
images that lie on the device. The library: Lightning's Trainer and GAN with the method's callback and, on an
accelerator, Acceleration, bf16 autocast and fused Adam; neither loggers nor monitors. APC keeps the degree that it
starts with: a switch costs one compilation for each new combination of degrees, which is not timed. Plain: a loop of a
few lines, float32, torch's spectral norm and AveragedModel, no compilation. Each is warmed up, then timed over the last
two thirds of its iterations. Also printed: FLOPs of one iteration's networks, and their share of the device's peak in
the run's precision.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from results_file import save_result
from tables import METHODS
from torch import Tensor, nn
from torch.nn.functional import relu
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim import Adam
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.flop_counter import FlopCounterMode

from pcgan_lightning.callbacks import Acceleration, AdaptivePreconditioning, FixedPreconditioning
from pcgan_lightning.data import MemoryLoader
from pcgan_lightning.modules import GAN
from pcgan_lightning.networks import ResNetDiscriminator, ResNetGenerator

CALLBACKS: dict[str, Callable[[], Callback]] = {
    "sn": lambda: FixedPreconditioning(degree=1),
    "fpc3": lambda: FixedPreconditioning(degree=3),
    "fpc7": lambda: FixedPreconditioning(degree=7),
    "apc": AdaptivePreconditioning,
}
# Dense peaks in FLOP/s in bf16 and in float32 without tensor cores, from the makers' data sheets; where a device is not
# listed, no share is printed.
PEAKS = {"H100 PCIe": (756e12, 51e12), "H100": (989e12, 67e12), "H200": (989e12, 67e12), "A100": (312e12, 19.5e12)}
PLAIN = "plain eager torch, float32"


class Stopwatch(Callback):
    """Times the iterations after the warm-up, waiting for the device only at both ends."""

    def __init__(self, warmup: int) -> None:
        self.warmup = warmup

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step in (self.warmup, trainer.max_steps):
            self.seconds = now(pl_module.device) - getattr(self, "started", 0.0)
            self.started = now(pl_module.device)


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def library(arguments: argparse.Namespace, method: str, images: Tensor) -> float:
    """Return iterations/s of a training run of the package."""
    fast, warmup = arguments.accelerate, arguments.iterations // 3
    stopwatch = Stopwatch(warmup)
    adam = lambda p: Adam(p, lr=2e-4, betas=(0.0, 0.9), fused=fast or None)  # noqa: E731
    gan = GAN(*networks(arguments), generator_optimizer=adam, discriminator_optimizer=adam, ema_decay=0.9999)
    trainer = pl.Trainer(
        accelerator=images.device.type,
        devices=1,
        precision="bf16-mixed" if fast else "32-true",
        max_steps=arguments.iterations,
        callbacks=[
            CALLBACKS[method](),
            stopwatch,
            *([Acceleration(compile_mode=arguments.compile_mode)] if fast else []),
        ],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(gan, train_dataloaders=MemoryLoader(images, arguments.batch_size))
    return (arguments.iterations - warmup) / stopwatch.seconds


def plain(arguments: argparse.Namespace, images: Tensor) -> float:
    """Return iterations/s of the same step in plain eager torch."""
    generator, discriminator = (network.to(images.device) for network in networks(arguments))
    for layer in discriminator.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            spectral_norm(layer)
    steps = plain_steps(generator, discriminator, images, arguments.batch_size)
    warmup = arguments.iterations // 3
    for _ in range(warmup):
        next(steps)
    started = now(images.device)
    for _ in range(arguments.iterations - warmup):
        next(steps)
    return (arguments.iterations - warmup) / (now(images.device) - started)


def plain_steps(generator: nn.Module, discriminator: nn.Module, images: Tensor, batch_size: int) -> Iterator[None]:
    averaged = AveragedModel(generator, multi_avg_fn=get_ema_multi_avg_fn(0.9999))
    optimizers = [Adam(n.parameters(), lr=2e-4, betas=(0.0, 0.9)) for n in (generator, discriminator)]
    while True:
        real = images[torch.randint(len(images), (batch_size,), device=images.device)].float() / 127.5 - 1
        with torch.no_grad():
            fake = generator(torch.randn(batch_size, generator.latent_dim, device=images.device))
        loss = relu(1 - discriminator(real)).mean() + relu(1 + discriminator(fake)).mean()
        optimizers[1].zero_grad()
        loss.backward()
        optimizers[1].step()
        discriminator.requires_grad_(False)
        loss = -discriminator(generator(torch.randn(batch_size, generator.latent_dim, device=images.device))).mean()
        optimizers[0].zero_grad()
        loss.backward()
        optimizers[0].step()
        averaged.update_parameters(generator)
        discriminator.requires_grad_(True)
        yield


def flops(arguments: argparse.Namespace, images: Tensor) -> int:
    """Return the FLOPs of one iteration's networks, forward and backward, without normalisation of weights."""
    generator, discriminator = (network.to(images.device) for network in networks(arguments))
    with FlopCounterMode(display=False) as counter:
        next(plain_steps(generator, discriminator, images, arguments.batch_size))
    return counter.get_total_flops()


def networks(arguments: argparse.Namespace) -> tuple[nn.Module, nn.Module]:
    generator_width, discriminator_width = arguments.widths
    return ResNetGenerator(width=generator_width), ResNetDiscriminator(width=discriminator_width)


def main() -> None:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs=2, default=(256, 128), metavar=("G", "D"))
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--iterations", type=int, default=600, help="of each, a third of them to warm up")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--accelerate", action=argparse.BooleanOptionalAction, default=cuda)
    parser.add_argument("--compile_mode", default="default")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/throughput.json")
    arguments = parser.parse_args()
    if arguments.iterations < 3:
        parser.error(f"argument `iterations` must be at least 3, a third to warm up, got {arguments.iterations}")
    images = torch.randint(256, (10_000, 3, 32, 32), dtype=torch.uint8, device=arguments.device)

    work = flops(arguments, images)
    speeds = {PLAIN: plain(arguments, images)}
    speeds |= {METHODS[method]: library(arguments, method, images) for method in arguments.methods}
    result = {"flops_per_iteration": work, "iterations_per_second": speeds}
    device = torch.cuda.get_device_name() if images.device.type == "cuda" else ""
    peaks = next((values for name, values in PEAKS.items() if name in device), None)
    if peaks:
        peak_of = {name: peaks[0] if arguments.accelerate and name != PLAIN else peaks[1] for name in speeds}
        result["share_of_peak"] = {name: speed * work / peak_of[name] for name, speed in speeds.items()}
    print(f"{work / 1e9:.1f} GFLOP an iteration")
    for name, speed in speeds.items():
        share = f", {100 * result['share_of_peak'][name]:.1f}% of the device's peak" if peaks else ""
        print(f"{name:28} {speed:8.2f} iterations/s, {speed / speeds[PLAIN]:.2f} times plain{share}")
    if arguments.save:
        settings = {key: value for key, value in vars(arguments).items() if key != "save"}
        print("saved", save_result("throughput", settings, result).name)


if __name__ == "__main__":
    main()
