"""Modes of labelled data that a generator covers, over training."""

from typing import Any, Optional

import lightning.pytorch as pl
from torch import Tensor, nn
from typing_extensions import override

from pcgan_lightning.arguments import require_at_least
from pcgan_lightning.callbacks.monitors.monitor import Monitor
from pcgan_lightning.callbacks.targets import connected
from pcgan_lightning.metrics import ModeCoverage, latent_sampler, score_generator


class ModeCoverageLogger(Monitor):
    """Log how many modes the generator covers, and how evenly; see ``metrics.ModeCoverage``.

    Every `every_n_steps` iterations and after the last, as ``metric/modes_covered``, ``metric/kl_to_uniform`` and
    ``metric/sure_share``, in the loggers and in ``trainer.callback_metrics``. The samples come from latents that stay
    the same over a run and from run to run, of the generator's moving average where the run has one; no random state
    moves. Several processes share the samples. A ``fast_dev_run`` measures nothing.

    Args:
        every_n_steps: iterations (training batches) between measurements.
        count: samples of one measurement, of all processes together; at least as many as there are modes.
        classifier: tells the class of an image, or of each of its channels. None: that of scikit-learn's digits.
        confidence: the probability in (0, 1] from which the classifier counts as sure.
        batch_size: samples made and seen at once.

    Attributes:
        series: ``{"iteration": [...], "modes_covered": [...], "kl_to_uniform": [...], "sure_share": [...]}``.

    Raises:
        ValueError: for arguments out of range; before training, for a classifier of other images, fewer samples than
            modes, or a generator of other images than the data's.
        TypeError: before training, for a module without ``fixed_latents`` and ``sample_images``.
    """

    needs_samples = True
    prefix = "metric/"

    def __init__(
        self,
        every_n_steps: int = 500,
        count: int = 25_600,
        classifier: Optional[nn.Module] = None,
        confidence: float = 0.9,
        batch_size: int = 400,
    ) -> None:
        super().__init__(every_n_steps)
        require_at_least(1, count=count, batch_size=batch_size)
        self.count = count
        self.classifier = classifier
        self.confidence = confidence
        self.batch_size = batch_size
        self.metric: Optional[ModeCoverage] = None
        self._latents: Optional[Tensor] = None  # drawn once: row by row they take as long as judging the samples

    @override
    def setup(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        made: Any = tuple(self.fixed_samples(pl_module, 1).shape[1:])
        real = tuple(getattr(getattr(trainer, "datamodule", None), "image_shape", made))
        if made != real:
            raise ValueError(f"argument `generator` must make images like the data's, {real}, got {made}")
        self.metric = ModeCoverage(made, self.classifier, self.confidence)
        self.metric.check(self.count)
        self._latents = None

    @override
    def measure_now(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", batch: Any = None) -> None:
        if not connected(trainer).fast_dev_run:
            super().measure_now(trainer, pl_module, batch)

    @override
    def measure(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", batch: Any) -> dict[str, float]:
        if self._latents is None:
            sampler: Any = pl_module  # `setup` has looked
            self._latents = sampler.fixed_latents(self.count)
        assert self.metric is not None  # setup has made it
        sample = latent_sampler(pl_module, self._latents)
        share: dict[str, Any] = {"rank": trainer.global_rank, "world_size": trainer.world_size}
        return score_generator(self.metric.to(pl_module.device), sample, self.count, self.batch_size, **share)
