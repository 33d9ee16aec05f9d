"""A few iterations under every kind of ddp on two processes, and what is refused there; the argument is a folder."""

import logging
import sys
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.multiprocessing import ProcessRaisedException, start_processes

from helpers import join_processes, unused_port
from helpers.foreign_modules import image_loader, make_classifier
from helpers.short_fits import fit, small_game
from pcgan_lightning.callbacks import FixedPreconditioning

STRATEGIES = {
    "ddp": lambda: "ddp",
    "unused": lambda: "ddp_find_unused_parameters_true",
    "views": lambda: DDPStrategy(gradient_as_bucket_view=True),
    "static": lambda: DDPStrategy(static_graph=True),
    "hook": lambda: DDPStrategy(ddp_comm_hook=fp16_compress_hook),
}


def zero(parameters):
    weights = [p[1] if isinstance(p, tuple) else p for p in parameters]
    return ZeroRedundancyOptimizer(weights, torch.optim.Adam, lr=1e-3)


class Classifier(make_classifier(pl)):
    def configure_optimizers(self):
        return zero(self.parameters())


def train(folder, strategy, **options):
    """Return the weights, or what was said of the strategy; with a line for each iteration in the folder."""
    torch.manual_seed(0)
    gan = small_game(ema_decay=0.5, **options)
    try:
        fit(folder, gan, 4, FixedPreconditioning(3), Steps(folder), strategy=strategy, devices=2)
    except (ValueError, ProcessRaisedException) as error:
        return str(error)
    return {name: value.clone() for name, value in gan.state_dict().items()}


class Steps(pl.Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_start(self, trainer, *_):
        with (self.folder / "iterations").open("a") as file:
            file.write("one\n")


def one_of_two(rank, port, folder):
    join_processes(rank, 2, port)
    found = {name: train(folder, make()) for name, make in STRATEGIES.items()}
    (folder / "iterations").unlink(missing_ok=True)
    found["zero"] = train(folder, "ddp", discriminator_optimizer=zero)
    try:
        network = FixedPreconditioning(3, target="backbone")
        fit(folder, Classifier(), 2, network, Steps(folder), data=image_loader(), strategy="ddp", devices=2)
        found["others"] = "trained"
    except ValueError as error:
        found["others"] = str(error)
    torch.save(found, folder / f"{rank}.pt")


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    start_processes(one_of_two, (unused_port(), folder), 2, start_method="fork")
    torch.save(train(folder, "ddp_fork"), folder / "fork.pt")
