"""What Lightning and this library add to the plain torch loop of one tiny GAN.

    python benchmarks/step.py [--rounds 15] [--save]

All variants in one process, taking turns: a plain loop; a Lightning module with manual optimization and nothing else;
`GAN` under a bare Trainer; and with guard, collapse monitor, progress bar and checkpoints at their defaults. Each turn
is a run of so many iterations, the first fifth of which warms up; milliseconds of the processor an iteration, so that
other programs count little. What is compared is the excess over the loop of the same round; medians over rounds.
`--profile` prints what the last variant spends its time on.
"""

import argparse
import contextlib
import cProfile
import io
import logging
import pstats
import statistics
import tempfile
import time
import warnings
from typing import Any, Optional

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from results_file import save_result
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pcgan_lightning.callbacks import CollapseMonitor, GANProgressBar, NonFiniteGuard, RunCheckpoint
from pcgan_lightning.losses import HingeLoss
from pcgan_lightning.modules import GAN
from pcgan_lightning.networks import CNNDiscriminator, CNNGenerator

BATCH, WARM_UP = 32, 5
VARIANTS = ("plain loop", "minimal Lightning", "GAN, bare Trainer", "GAN, defaults")


def networks() -> tuple[nn.Module, nn.Module]:
    """Return the players: small CNNs for 8x8."""
    torch.manual_seed(0)
    generator = CNNGenerator(image_size=8, latent_dim=16, width=8, initialization="torch")
    return generator, CNNDiscriminator(image_size=8, width=8, initialization="torch")


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=2e-4, betas=(0.0, 0.9))


class Iteration:
    """The two updates of one iteration, the discriminator's first."""

    def __init__(self) -> None:
        self.generator, self.discriminator = networks()
        self.loss = HingeLoss()
        self.optimizers = adam(self.generator.parameters()), adam(self.discriminator.parameters())

    def __call__(self, real: Tensor) -> None:
        of_generator, of_discriminator = self.optimizers
        with torch.no_grad():
            fake = self.generator(torch.randn(BATCH, 16))
        loss = self.loss.discriminator(self.discriminator(real), self.discriminator(fake))
        of_discriminator.zero_grad()
        loss.backward()
        of_discriminator.step()
        self.discriminator.requires_grad_(False)
        loss = self.loss.generator(self.discriminator(self.generator(torch.randn(BATCH, 16))))
        of_generator.zero_grad()
        loss.backward()
        of_generator.step()
        self.discriminator.requires_grad_(True)


class Minimal(pl.LightningModule):
    """The same in a LightningModule with manual optimization."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = networks()
        self.loss = HingeLoss()

    def configure_optimizers(self) -> Any:
        return adam(self.generator.parameters()), adam(self.discriminator.parameters())

    def training_step(self, real: Tensor, _: int) -> None:
        of_generator, of_discriminator = self.optimizers()
        with torch.no_grad():
            fake = self.generator(torch.randn(BATCH, 16))
        loss = self.loss.discriminator(self.discriminator(real), self.discriminator(fake))
        of_discriminator.zero_grad()
        self.manual_backward(loss)
        of_discriminator.step()
        self.discriminator.requires_grad_(False)
        loss = self.loss.generator(self.discriminator(self.generator(torch.randn(BATCH, 16))))
        of_generator.zero_grad()
        self.manual_backward(loss)
        of_generator.step()
        self.discriminator.requires_grad_(True)


class Stopwatch(Callback):
    """Measures from the end of the warm-up to the end of the run."""

    def __init__(self, warm_up: int) -> None:
        self.warm_up = warm_up

    def on_train_batch_start(self, *arguments: Any) -> None:
        if arguments[-1] == self.warm_up:
            self.began = time.process_time()

    def on_train_end(self, *_: Any) -> None:
        self.seconds = time.process_time() - self.began


def seconds_of(variant: str, iterations: int, profile: Optional[cProfile.Profile] = None) -> float:
    """Return the processor seconds of an iteration."""
    warm_up = iterations // WARM_UP
    torch.manual_seed(1)
    batches = [torch.rand(BATCH, 3, 8, 8) * 2 - 1] * iterations
    if variant == "plain loop":
        step = Iteration()
        for number, real in enumerate(batches):
            if number == warm_up:
                began = time.process_time()
            step(real)
        return (time.process_time() - began) / (iterations - warm_up)
    watch = Stopwatch(warm_up)
    callbacks: list[Callback] = [watch]
    if variant == "GAN, defaults":
        callbacks = [NonFiniteGuard(), CollapseMonitor(), GANProgressBar(), RunCheckpoint(), watch]
    module = Minimal() if variant == "minimal Lightning" else GAN(*networks(), generator_optimizer=adam)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        trainer = pl.Trainer(
            accelerator="cpu",
            default_root_dir=folder,
            max_steps=iterations if variant.startswith("GAN") else 2 * iterations,
            callbacks=callbacks,
            logger=False,
            enable_progress_bar=variant == "GAN, defaults",
            enable_checkpointing=variant == "GAN, defaults",
            enable_model_summary=False,
        )
        if profile is not None:
            profile.enable()
        trainer.fit(module, DataLoader(batches, batch_size=None))
        if profile is not None:
            profile.disable()
    return watch.seconds / (iterations - warm_up)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=250, help="of a turn")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/step.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if arguments.profile:
        profile = cProfile.Profile()
        seconds_of(VARIANTS[-1], arguments.iterations, profile)
        pstats.Stats(profile).sort_stats("tottime").print_stats(45)
        return

    turns = [{name: seconds_of(name, arguments.iterations) for name in VARIANTS} for _ in range(arguments.rounds)]
    loop, minimal = VARIANTS[:2]
    result: dict[str, Any] = {}
    for name in VARIANTS:
        excess = sorted(1e3 * (turn[name] - turn[loop]) for turn in turns)
        result[name] = {
            "milliseconds": 1e3 * statistics.median(turn[name] for turn in turns),
            "excess": statistics.median(excess),
            "quartiles": statistics.quantiles(excess, n=4)[::2] if len(excess) > 1 else excess * 2,
        }
        result[name]["times_minimal"] = result[name]["excess"] / (result[minimal]["excess"] if name != loop else 1.0)
        print(name, {key: value for key, value in result[name].items()})
    if arguments.save:
        settings = {"batch_size": BATCH, "iterations": arguments.iterations, "rounds": arguments.rounds}
        print("saved", save_result("step", settings, result).name)


if __name__ == "__main__":
    main()
