"""Grids of generated images, or pictures of generated points, over training."""

from typing import Any

import lightning.pytorch as pl
from typing_extensions import override

from pcgan_lightning.arguments import require_at_least
from pcgan_lightning.callbacks.loggers import log_picture
from pcgan_lightning.callbacks.monitors.monitor import Monitor
from pcgan_lightning.callbacks.targets import completed_iterations, connected
from pcgan_lightning.data import draw_samples


class SampleGridLogger(Monitor):
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

    first = 0
    needs_samples = True

    def __init__(self, every_n_steps: int = 1000, count: int = 64) -> None:
        super().__init__(every_n_steps)
        require_at_least(1, count=count)
        self.count = count

    @override
    def measure(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", batch: Any) -> dict[str, float]:
        centers = getattr(connected(trainer).datamodule, "centers", None)
        picture = draw_samples(self.fixed_samples(pl_module, self.count), centers)
        log_picture(trainer, "samples", f"samples/iteration_{completed_iterations(trainer):07d}.png", picture)
        return {}

    @override
    def state_dict(self) -> dict[str, Any]:
        return {}  # the pictures are on the disk
