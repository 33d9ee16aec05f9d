"""Modes that a generator of a mixture covers, over training."""

from collections.abc import Sequence
from typing import Any, Optional

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from pcgan_lightning.callbacks.loggers import log_scalars
from pcgan_lightning.callbacks.targets import check_interval, completed_iterations
from pcgan_lightning.metrics import MixtureCoverage, mode_coverage


class ModeLogger(Callback):
    """Log how much of a mixture of Gaussians the generator has found; see ``metrics.mode_coverage``.

    Every `every_n_steps` iterations and after the last, as ``metric/modes_covered`` and ``metric/high_quality_share``,
    in the loggers and in ``trainer.callback_metrics``. The samples come from latents that stay the same over a run and
    from run to run, of the generator's moving average where the run has one; no random state moves.

    Args:
        every_n_steps: iterations (training batches) between measurements.
        count: samples of one measurement, at least 1.
        centers: of the modes, ``[K, d]``. None: ``centers`` of the data module, as ``MixtureOfGaussians`` has them.
        std: standard deviation of every mode. None: ``std`` of the data module.
        deviations: a sample within so many standard deviations of its nearest mode is of high quality.
        minimum_share: the least share of all samples, of high quality and nearest to a mode, that covers it.

    Attributes:
        series: ``{"iteration": [...], "modes_covered": [...], "high_quality_share": [...]}``, one entry a measurement.

    Raises:
        ValueError: for arguments out of range.
        TypeError: before training, for a module without ``fixed_latents`` and ``sample_images``, or where neither the
            arguments nor the data module tell the modes.
    """

    def __init__(
        self,
        every_n_steps: int = 500,
        count: int = 2500,
        centers: Optional[Sequence[Sequence[float]]] = None,
        std: Optional[float] = None,
        deviations: float = 3.0,
        minimum_share: float = 0.008,
    ) -> None:
        if count < 1:
            raise ValueError(f"argument `count` must be at least 1, got {count}")
        self.every_n_steps = check_interval(every_n_steps)
        self.count = count
        self.centers = None if centers is None else torch.as_tensor(centers, dtype=torch.float32)
        self.std = std
        self.deviations = deviations
        self.minimum_share = minimum_share
        self.series: dict[str, list] = {"iteration": [], "modes_covered": [], "high_quality_share": []}

    def setup(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        """Refuse a module that cannot sample, unknown modes and arguments out of range, before anything runs."""
        if not (hasattr(pl_module, "fixed_latents") and hasattr(pl_module, "sample_images")):
            raise TypeError(
                "ModeLogger needs a module with `fixed_latents(count)` and `sample_images(latents)`, "
                f"got {type(pl_module).__name__}"
            )
        for name in ("centers", "std"):
            if getattr(self, name) is None and not hasattr(trainer.datamodule, name):
                raise TypeError(
                    f"ModeLogger needs the argument `{name}`, or a data module with it, got "
                    f"{type(trainer.datamodule).__name__}"
                )
        self._coverage(trainer, self._mixture(trainer)[0])

    def on_train_batch_end(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure at the interval."""
        if completed_iterations(trainer) % self.every_n_steps == 0:
            found = self.measure(trainer, pl_module)
            # For callbacks that monitor a value; the loggers have it already.
            pl_module.log_dict(_named(found), logger=False)

    def on_train_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Measure the final generator."""
        if self.series["iteration"][-1:] != [completed_iterations(trainer)]:
            self.measure(trainer, pl_module)

    def measure(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> MixtureCoverage:
        """Measure now, extend the series, write to the loggers and return what was found."""
        samples = pl_module.sample_images(pl_module.fixed_latents(self.count))
        found = self._coverage(trainer, samples)
        self.series["iteration"].append(completed_iterations(trainer))
        self.series["modes_covered"].append(found.modes_covered)
        self.series["high_quality_share"].append(found.high_quality_share)
        log_scalars(trainer, _named(found))
        return found

    def _mixture(self, trainer: "pl.Trainer") -> tuple[Tensor, float]:
        centers = trainer.datamodule.centers if self.centers is None else self.centers
        return centers, trainer.datamodule.std if self.std is None else self.std

    def _coverage(self, trainer: "pl.Trainer", samples: Tensor) -> MixtureCoverage:
        return mode_coverage(samples, *self._mixture(trainer), self.deviations, self.minimum_share)

    def state_dict(self) -> dict[str, Any]:
        """Return the series measured so far."""
        return {"series": self.series}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a checkpoint's series."""
        self.series = state_dict["series"]


def _named(found: MixtureCoverage) -> dict[str, float]:
    return {
        "metric/modes_covered": float(found.modes_covered),
        "metric/high_quality_share": found.high_quality_share,
    }
