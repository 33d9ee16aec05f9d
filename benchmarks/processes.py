"""What it costs that processes train together: `ddp` against as many trainings that know nothing of each other.

    python benchmarks/processes.py

The same processes train a few iterations with `strategy="ddp"`, then each by itself with the same local batch, in
turns, so that a busy machine slows both alike. The ratio is the median over the rounds of the ratio within a round, of
the slowest process's time.
"""

import argparse
import logging
import os
import socket
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from results_file import save_result
from torch.multiprocessing import start_processes

from pcgan_lightning.callbacks import FixedPreconditioning
from pcgan_lightning.data.loaders import MemoryLoader
from pcgan_lightning.modules import GAN
from pcgan_lightning.networks import CNNDiscriminator, CNNGenerator, ResNetDiscriminator, ResNetGenerator

WARM_UP = 2  # iterations


class Stopwatch(Callback):
    """Measures the mean time of an iteration after the first ones."""

    def __init__(self, synchronize: bool) -> None:
        self.synchronize = torch.cuda.synchronize if synchronize else lambda: None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == WARM_UP:
            self.synchronize()
            self.start = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.synchronize()
        self.seconds = (time.perf_counter() - self.start) / (trainer.global_step - WARM_UP)


def train(arguments: argparse.Namespace, rank: int, together: bool) -> float:
    """Return the seconds of an iteration of this process."""
    torch.manual_seed(0)
    if arguments.networks == "resnet":
        gan = GAN(ResNetGenerator(width=arguments.width), ResNetDiscriminator(width=arguments.width))
    else:
        gan = GAN(CNNGenerator(width=arguments.width), CNNDiscriminator(width=arguments.width))
    world = (rank, arguments.processes) if together else (0, 1)
    images = torch.randint(0, 256, (256, 3, 32, 32), dtype=torch.uint8)
    stopwatch = Stopwatch(arguments.accelerator == "cuda")
    trainer = Trainer(
        accelerator=arguments.accelerator,
        devices=arguments.processes if together else [rank] if arguments.accelerator == "cuda" else 1,
        strategy="ddp" if together else "auto",
        max_steps=WARM_UP + arguments.iterations,
        callbacks=[FixedPreconditioning(7), stopwatch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(gan, MemoryLoader(images, arguments.batch_size, 1, *world))
    return stopwatch.seconds


def process(rank: int, arguments: argparse.Namespace, port: int, folder: str) -> None:
    """Train in turns, as one of several processes."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "benchmark"}
    os.environ |= {"WORLD_SIZE": str(arguments.processes), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"GROUP_RANK": "0"}
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    times = []
    for _ in range(arguments.rounds):
        together = train(arguments, rank, True)
        torch.distributed.barrier()
        times.append((together, train(arguments, rank, False)))
        torch.distributed.barrier()
    torch.save(times, Path(folder) / f"{rank}.pt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--networks", choices=("resnet", "cnn"), default="resnet")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=32, help="of one process")
    parser.add_argument("--iterations", type=int, default=6, help="of one training, after a warm-up")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--accelerator", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/processes.json")
    arguments = parser.parse_args()

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with TemporaryDirectory() as folder:
        start_processes(process, (arguments, port, folder), arguments.processes, start_method="spawn")
        found = torch.tensor([torch.load(path) for path in sorted(Path(folder).iterdir())])  # [process, round, 2]
    rounds = found.amax(dim=0).tolist()
    result = {
        "together_seconds": statistics.median(together for together, _ in rounds),
        "alone_seconds": statistics.median(alone for _, alone in rounds),
        "ratio": statistics.median(together / alone for together, alone in rounds),
        "ratios": sorted(together / alone for together, alone in rounds),
    }
    print(
        f"{arguments.processes} processes, seconds an iteration: ddp {result['together_seconds']:.3f}, each alone "
        f"{result['alone_seconds']:.3f}, ratio {result['ratio']:.3f} "
        f"({result['ratios'][0]:.3f} to {result['ratios'][-1]:.3f})"
    )
    if arguments.save:
        settings = {k: v for k, v in vars(arguments).items() if k != "save"}
        print("saved", save_result("processes", settings, result).name)


if __name__ == "__main__":
    main()
