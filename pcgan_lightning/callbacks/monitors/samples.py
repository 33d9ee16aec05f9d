"""Grids of generated images, or pictures of generated points, over training."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from pcgan_lightning.callbacks.loggers import log_picture
from pcgan_lightning.callbacks.targets import check_interval, completed_iterations
from pcgan_lightning.data import draw_samples


class SampleGridLogger(Callback):
    """Log a grid of images generated from latents that stay the same over a run, and from run to run.

    Before the first iteration, every `every_n_steps` iterations and after the last, as
    ``samples/iteration_<n>.png`` in the run folder and as an image in W&B and TensorBoard. The generator's moving
    average is used where the run has one. Points in the plane, ``[N, 2]``, are drawn as such instead, with the
    ``centers`` of the data module's modes where it has them.

    Args:
        every_n_steps: iterations (training batches) between grids.
        count: images in a grid, at least 1.

    Raises:
        ValueError: for arguments out of range.
        TypeError: at setup, for a module without ``fixed_latents`` and ``sample_images``, as the modules of this
            package have them.
    """

    def __init__(self, every_n_steps: int = 1000, count: int = 64) -> None:
        if count < 1:
            raise ValueError(f"argument `count` must be at least 1, got {count}")
        self.every_n_steps = check_interval(every_n_steps)
        self.count = count
        self._last: int = -1

    def setup(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        """Refuse a module that cannot sample, before anything runs."""
        if not (hasattr(pl_module, "fixed_latents") and hasattr(pl_module, "sample_images")):
            raise TypeError(
                "SampleGridLogger needs a module with `fixed_latents(count)` and `sample_images(latents)`, "
                f"got {type(pl_module).__name__}"
            )

    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Log the untrained generator's images; a resumed run has its own already."""
        if trainer.fit_loop.total_batch_idx < 0:
            self.log_grid(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log a grid at the interval."""
        if completed_iterations(trainer) % self.every_n_steps == 0:
            self.log_grid(trainer, pl_module)

    def on_train_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Log the final generator's images."""
        if self._last != completed_iterations(trainer):
            self.log_grid(trainer, pl_module)

    def log_grid(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Generate and log a grid now."""
        self._last = completed_iterations(trainer)
        images = pl_module.sample_images(pl_module.fixed_latents(self.count))
        picture = draw_samples(images, getattr(trainer.datamodule, "centers", None))
        log_picture(trainer, "samples", f"samples/iteration_{self._last:07d}.png", picture)
