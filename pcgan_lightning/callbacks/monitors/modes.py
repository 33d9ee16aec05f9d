"""Modes that a generator of a mixture covers, over training."""

from collections.abc import Sequence
from typing import Any, Optional

import lightning.pytorch as pl
import torch
from torch import Tensor
from typing_extensions import override

from pcgan_lightning.arguments import require_at_least
from pcgan_lightning.callbacks.monitors.monitor import Monitor
from pcgan_lightning.callbacks.targets import connected
from pcgan_lightning.metrics import MixtureCoverage, mode_coverage


class ModeLogger(Monitor):
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

    needs_samples = True
    prefix = "metric/"

    def __init__(
        self,
        every_n_steps: int = 500,
        count: int = 2500,
        centers: Optional[Sequence[Sequence[float]]] = None,
        std: Optional[float] = None,
        deviations: float = 3.0,
        minimum_share: float = 0.008,
    ) -> None:
        super().__init__(every_n_steps)
        require_at_least(1, count=count)
        self.count = count
        self.centers = None if centers is None else torch.as_tensor(centers, dtype=torch.float32)
        self.std = std
        self.deviations = deviations
        self.minimum_share = minimum_share
        self.series |= {"modes_covered": [], "high_quality_share": []}

    @override
    def setup(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._coverage(trainer, self._of_mixture(trainer, "centers"))  # refuses arguments out of range

    @override
    def measure(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", batch: Any) -> dict[str, float]:
        found = self._coverage(trainer, self.fixed_samples(pl_module, self.count))
        return {"modes_covered": found.modes_covered, "high_quality_share": found.high_quality_share}

    def _coverage(self, trainer: "pl.Trainer", samples: Tensor) -> MixtureCoverage:
        centers, std = self._of_mixture(trainer, "centers"), self._of_mixture(trainer, "std")
        return mode_coverage(samples, centers, std, self.deviations, self.minimum_share)

    def _of_mixture(self, trainer: "pl.Trainer", name: str) -> Any:
        """Return the argument of this name, or what the data module has for it."""
        if getattr(self, name) is not None:
            return getattr(self, name)
        data = connected(trainer).datamodule
        if not hasattr(data, name):
            raise TypeError(
                f"ModeLogger needs the argument `{name}`, or a data module with it, got {type(data).__name__}"
            )
        return getattr(data, name)
