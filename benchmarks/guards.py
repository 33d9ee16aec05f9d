"""The cost of NonFiniteGuard and CollapseMonitor at their defaults.

    python benchmarks/guards.py

Whole iterations of a Lightning training, with and without both callbacks in turns, so that a busy machine slows both
alike: the quickstart's networks and batch, and ResNets for 32x32, discriminators with PC-layers of degree 7. The ratio
is the median over pairs of neighbouring iterations. As it is no larger than the noise, the callbacks' own time is taken
directly as well: what the guard does in every iteration, and, by their intervals, the reading of its measurements, the
samples and the condition numbers.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from results_file import save_result

from pcgan_lightning.callbacks import CollapseMonitor, FixedPreconditioning, NonFiniteGuard
from pcgan_lightning.modules import GAN
from pcgan_lightning.networks import CNNDiscriminator, CNNGenerator, ResNetDiscriminator, ResNetGenerator

WARM_UP = 4  # iterations


def quickstart(arguments: argparse.Namespace) -> tuple[GAN, int]:
    networks = CNNGenerator(channels=1, width=16, latent_dim=64), CNNDiscriminator(channels=1, width=16)
    return GAN(*networks, ema_decay=0.98), 32


def resnets(arguments: argparse.Namespace) -> tuple[GAN, int]:
    networks = ResNetGenerator(width=arguments.width), ResNetDiscriminator(width=arguments.width)
    return GAN(*networks, ema_decay=0.999), arguments.batch_size


NETWORKS: dict[str, Callable[[argparse.Namespace], tuple[GAN, int]]] = {"quickstart": quickstart, "ResNet 32": resnets}


class TimedGuard(NonFiniteGuard):
    """Adds up the time of its own hooks in an iteration."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        for name in (
            "on_train_batch_start",
            "on_before_backward",
            "on_before_optimizer_step",
            "on_train_batch_end",
        ):
            setattr(self, name, self.timed(getattr(self, name)))

    def timed(self, hook: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            start = time.perf_counter()
            hook(*arguments)
            self.seconds += time.perf_counter() - start

        return call


class Turns(Callback):
    """Puts the callbacks into every other iteration and times all; the last in the list."""

    def __init__(self, guard: TimedGuard, monitor: CollapseMonitor, synchronize: Callable[[], None]) -> None:
        self.guard, self.monitor, self.synchronize = guard, monitor, synchronize
        self.durations: dict[bool, list[float]] = {False: [], True: []}
        self.own: list[float] = []
        self.rare: dict[str, float] = {}
        self.active = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.others = [c for c in trainer.callbacks if c not in (self.guard, self.monitor)]
        self.all = list(trainer.callbacks)
        self.start = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.synchronize()
        now = time.perf_counter()
        if trainer.global_step > WARM_UP:
            self.durations[self.active].append(now - self.start)
            if self.active:
                self.own.append(self.guard.seconds)
        self.guard.seconds = 0.0
        self.active = not self.active
        trainer.callbacks = self.all if self.active else self.others
        self.start = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Time what happens at intervals: a reading of as many iterations, and both looks of the monitor."""
        self.guard.on_before_backward(trainer, pl_module, torch.zeros((), device=pl_module.device))
        self.guard.on_before_backward(trainer, pl_module, torch.zeros((), device=pl_module.device))
        for optimizer in trainer.optimizers:
            self.guard.on_before_optimizer_step(trainer, pl_module, optimizer)
        self.guard._intervals = set()
        self.guard.on_train_batch_end(trainer, pl_module, None, None, 0)
        one = list(self.guard._ledger.measurements)

        def read() -> None:
            self.guard._ledger.measurements = one * self.guard.every_n_steps
            self.guard.check(trainer, pl_module)

        looks = {
            "reading": read,
            "samples": lambda: self.monitor._look_at_samples(trainer, pl_module),
            "conditions": lambda: self.monitor._look_at_conditions(trainer, pl_module),
        }
        for name, look in looks.items():
            times = []
            for _ in range(6):
                start = time.perf_counter()
                look()
                self.synchronize()
                times.append(time.perf_counter() - start)
            self.rare[name] = statistics.median(times[1:])


def measure(make: Callable[[argparse.Namespace], tuple[GAN, int]], arguments: argparse.Namespace) -> dict[str, Any]:
    """Train one kind of networks, and return times in seconds."""
    torch.manual_seed(0)
    gan, batch_size = make(arguments)
    images = torch.rand(16 * batch_size, *gan.discriminator.image_shape) * 2 - 1
    synchronize = torch.cuda.synchronize if arguments.accelerator == "cuda" else lambda: None
    guard, monitor = TimedGuard(), CollapseMonitor()
    turns = Turns(guard, monitor, synchronize)
    trainer = Trainer(
        accelerator=arguments.accelerator,
        devices=1,
        max_steps=WARM_UP + 2 * arguments.rounds,
        callbacks=[guard, monitor, FixedPreconditioning(7), turns],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(gan, torch.utils.data.DataLoader(images, batch_size=batch_size, shuffle=True))
    without, with_both = turns.durations[False], turns.durations[True]
    median, rare = statistics.median(without), turns.rare
    own = statistics.median(turns.own)
    seldom = (
        rare["reading"] / guard.every_n_steps
        + rare["samples"] / monitor.every_n_steps
        + rare["conditions"] / monitor.condition_every_n_steps
    )
    return {
        "batch_size": batch_size,
        "step_seconds": median,
        "ratio": statistics.median(a / b for a, b in zip(with_both, without, strict=False)),
        "guard_seconds": own,
        **{f"{name}_seconds": value for name, value in rare.items()},
        "share": (own + seldom) / median,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--width", type=int, default=64, help="of the ResNets")
    parser.add_argument("--batch_size", type=int, default=32, help="of the ResNets")
    parser.add_argument("--rounds", type=int, default=60, help="pairs of iterations, with and without")
    parser.add_argument("--accelerator", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/guards.json")
    arguments = parser.parse_args()

    result = {name: measure(NETWORKS[name], arguments) for name in arguments.networks}
    keys = ("step", "guard", "reading", "samples", "conditions")
    print(f"{'networks':12} {'ratio':>7} " + " ".join(f"{key + ' ms':>13}" for key in keys) + f" {'share':>8}")
    for name, row in result.items():
        times = " ".join(f"{1e3 * row[f'{key}_seconds']:13.2f}" for key in keys)
        print(f"{name:12} {row['ratio']:7.4f} {times} {100 * row['share']:7.2f}%")
    if arguments.save:
        settings = {k: v for k, v in vars(arguments).items() if k != "save"}
        print("saved", save_result("guards", settings, result).name)


if __name__ == "__main__":
    main()
