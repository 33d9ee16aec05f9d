"""A small GAN in which a chosen tensor goes bad; run as a script, two processes of which only the second has one."""

import contextlib
import math
import sys
import time
from pathlib import Path

import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.multiprocessing import start_processes

from helpers import join_processes, short_fits, unused_port
from helpers.foreign_modules import image_loader
from pcgan_lightning.callbacks import NonFiniteError, NonFiniteGuard
from pcgan_lightning.data import ImageDataModule
from pcgan_lightning.modules import GAN
from pcgan_lightning.networks import CNNDiscriminator, CNNGenerator
from pcgan_lightning.spectra import original_parameters

CONVOLUTION = "discriminator.convolutions.2"


def gan(discriminator_steps=1, optimizer=lambda p: torch.optim.Adam(p, lr=1e-3, betas=(0.0, 0.9)), **kwargs):
    torch.manual_seed(1)
    networks = CNNGenerator(channels=1, latent_dim=4, width=2), CNNDiscriminator(channels=1, width=2)
    both = {"generator_optimizer": optimizer, "discriminator_optimizer": optimizer}
    return GAN(*networks, discriminator_steps=discriminator_steps, ema_decay=0.5, **both | kwargs)


def fit(folder, module, callbacks, max_steps=12, **options):
    data = ImageDataModule(batch_size=4, max_images=24, seed=0) if isinstance(module, GAN) else image_loader()
    return short_fits.fit(folder, module, max_steps, *callbacks, data=data, seed=2, **options)


class Injection(Callback):
    """Spoils one tensor at the moment at which it comes about, in some iterations; stands before the guard."""

    def __init__(self, kind, iterations=(7,), bad=math.nan, rank=None):
        self.kind, self.iterations, self.bad, self.rank = kind, iterations, bad, rank
        self.ended = False

    def due(self, trainer, kind):
        now = trainer.fit_loop.total_batch_idx + 1 in self.iterations
        return now and kind == self.kind and self.rank in (None, trainer.global_rank)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.losses = 0

    def on_before_backward(self, trainer, pl_module, loss):
        self.losses += 1
        if self.losses == 2 and self.due(trainer, "loss"):
            loss.data.fill_(self.bad)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        weight = original_parameters(pl_module)[f"{CONVOLUTION}.weight"]
        if self.due(trainer, "gradient") and weight.grad is not None:
            weight.grad.view(-1)[3] = self.bad

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        weight = original_parameters(pl_module)[f"{CONVOLUTION}.weight"].data
        if self.due(trainer, "weight"):
            weight.view(-1)[5] = self.bad
        if self.due(trainer, "average"):
            pl_module.averaged_generator.module.to_image.bias.data[0] = self.bad
        if self.due(trainer, "buffer"):
            pl_module.generator.convolutions[4].running_var[0] = self.bad
        if self.due(trainer, "singular value"):
            weight.zero_()

    def on_train_end(self, trainer, pl_module):
        self.ended = True


class ReportingGuard(NonFiniteGuard):
    """Each process writes why it stops, and when, and waits for the other: the first that is gone ends both."""

    def check(self, trainer, pl_module):
        try:
            return super().check(trainer, pl_module)
        except NonFiniteError as error:
            paths = [Path(trainer.default_root_dir) / f"process_{rank}" for rank in (0, 1)]
            paths[trainer.global_rank].write_text(f"{trainer.global_step} {error}")
            deadline = time.monotonic() + 30
            while not all(map(Path.exists, paths)) and time.monotonic() < deadline:
                time.sleep(0.05)
            raise


class Weights(Callback):
    """Each process's weights at the end."""

    def on_train_end(self, trainer, pl_module):
        torch.save(pl_module.state_dict(), Path(trainer.default_root_dir) / f"weights_{trainer.global_rank}")


def train(rank, port, folder, kind, *callbacks):
    join_processes(rank, 2, port)
    saving = ModelCheckpoint(every_n_train_steps=3, save_top_k=-1, filename="{step}")
    fit(folder, gan(), [Injection(kind, rank=1), *callbacks, saving], strategy="ddp", devices=2)


def train_two(folder, *arguments):
    folder.mkdir()
    start_processes(train, (unused_port(), folder, *arguments), 2, start_method="fork")


if __name__ == "__main__":
    root = Path(sys.argv[1])
    torch.set_num_threads(1)
    for kind in ("loss", "buffer"):
        with contextlib.suppress(Exception):
            train_two(root / kind, kind, ReportingGuard(every_n_steps=8))
    train_two(root / "restore", "loss", NonFiniteGuard("restore", every_n_steps=8), Weights())
