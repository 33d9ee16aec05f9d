"""Modes of labelled data that a generator covers, over training."""

from typing import Any, Optional

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from pcgan_lightning.arguments import require_at_least
from pcgan_lightning.callbacks.loggers import log_scalars
from pcgan_lightning.callbacks.targets import check_interval, completed_iterations
from pcgan_lightning.metrics import ModeCoverage, score_generator


class ModeCoverageLogger(Callback):
    """Log how many modes the generator covers, and how evenly; see ``metrics.ModeCoverage``.

    Every `every_n_steps` iterations and after the last, as ``metric/modes_covered``, ``metric/kl_to_uniform`` and
    ``metric/sure_share``, in the loggers and in ``trainer.callback_metrics``. The samples come from latents that stay
    the same over a run and from run to run, of the generator's moving average where the run has one; no random state
    moves. Several processes share the samples.

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

    def __init__(
        self,
        every_n_steps: int = 500,
        count: int = 25_600,
        classifier: Optional[nn.Module] = None,
        confidence: float = 0.9,
        batch_size: int = 400,
    ) -> None:
        require_at_least(1, count=count, batch_size=batch_size)
        self.every_n_steps = check_interval(every_n_steps)
        self.count = count
        self.classifier = classifier
        self.confidence = confidence
        self.batch_size = batch_size
        self.metric: Optional[ModeCoverage] = None
        self.series: dict[str, list] = {"iteration": []}
        self._latents: Optional[Tensor] = None  # drawn once: row by row they take as long as judging the samples

    def setup(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        """Refuse what cannot sample, or whose samples the classifier cannot judge, before anything runs."""
        if not (hasattr(pl_module, "fixed_latents") and hasattr(pl_module, "sample_images")):
            raise TypeError(
                "ModeCoverageLogger needs a module with `fixed_latents(count)` and `sample_images(latents)`, "
                f"got {type(pl_module).__name__}"
            )
        made = tuple(pl_module.sample_images(pl_module.fixed_latents(1)).shape[1:])
        real = getattr(trainer.datamodule, "image_shape", made)
        if made != tuple(real):
            raise ValueError(f"argument `generator` must make images like the data's, {tuple(real)}, got {made}")
        self.metric = ModeCoverage(made, self.classifier, self.confidence)
        self.metric.check(self.count)
        self._latents = None

    def on_train_batch_end(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure at the interval."""
        if completed_iterations(trainer) % self.every_n_steps == 0 and not trainer.fast_dev_run:
            # For callbacks that monitor a value; the loggers have it already.
            pl_module.log_dict(self.measure(trainer, pl_module), logger=False)

    def on_train_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Measure the final generator."""
        if not trainer.fast_dev_run and self.series["iteration"][-1:] != [completed_iterations(trainer)]:
            self.measure(trainer, pl_module)

    def measure(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> dict[str, float]:
        """Measure now, extend the series, write to the loggers and return what was logged."""
        if self._latents is None:
            self._latents = pl_module.fixed_latents(self.count)
        latents = self._latents

        def generate(numbers: range) -> Tensor:
            return pl_module.sample_images(latents[numbers.start : numbers.stop : numbers.step])

        metric = self.metric.to(pl_module.device)
        found = score_generator(metric, generate, self.count, self.batch_size, trainer.global_rank, trainer.world_size)
        self.series["iteration"].append(completed_iterations(trainer))
        for name, value in found.items():
            self.series.setdefault(name, []).append(value)
        logged = {f"metric/{name}": value for name, value in found.items()}
        log_scalars(trainer, logged)
        return logged

    def state_dict(self) -> dict[str, Any]:
        """Return the series measured so far."""
        return {"series": self.series}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a checkpoint's series."""
        self.series = state_dict["series"]
