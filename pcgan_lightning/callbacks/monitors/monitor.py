"""The base of the monitors, of this package's and of your own."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Optional

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from matplotlib.figure import Figure
from torch import Tensor, nn
from typing_extensions import override

from pcgan_lightning.arguments import require_at_least
from pcgan_lightning.callbacks.loggers import log_figure, log_scalars
from pcgan_lightning.callbacks.targets import Target, completed_iterations, connected, resolve_target, target_name
from pcgan_lightning.modules import check_whole_networks
from pcgan_lightning.networks import evaluation_mode

USUAL_TARGETS: tuple[list[str], ...] = ([], ["discriminator"], ["generator", "discriminator"])


class Monitor(Callback):
    """Base of callbacks that measure something every so many iterations, and change nothing of the training.

    A subclass defines :meth:`measure`, which returns numbers by their names. The base calls it in time, with the module
    in evaluation mode, without gradients and with random numbers of its own; it keeps the numbers in :attr:`series`,
    which lives in checkpoints, and writes them to all loggers and to ``trainer.callback_metrics``. A subclass that has
    a picture to show at the end defines :meth:`figures`. When and where it measures is said by class attributes:

    - ``first``: an iteration to measure at besides the interval, 0 being before the training. Default: None;
    - ``at_end``: whether to measure after the last iteration too. Such a measurement is shown, but not saved unless it
      falls on the interval: a run that is continued must not remember where it happened to stop. Default: True;
    - ``first_process_alone``: whether only the first of several processes measures. Default: False;
    - ``needs_samples``: whether the module must have ``fixed_latents(count)`` and ``sample_images(latents)``, which
      :meth:`fixed_samples` asks for images. Default: False;
    - ``prefix``: put before the name of every number and picture. Default: nothing.

    Args:
        every_n_steps: iterations (training batches) between measurements.
        targets: the networks to look at: dotted names in the LightningModule, or functions of it.

    Attributes:
        series: ``{"iteration": [...], name: [...], ...}``, one entry a measurement.

    Raises:
        ValueError: for an interval below 1; at setup, for a target that is missing, or a strategy that divides it.
        TypeError: at setup, for a module that cannot sample, where samples are needed.

    Example:
        >>> class BiasLogger(Monitor):
        ...     first, prefix = 0, "bias/"
        ...
        ...     def __init__(self, every_n_steps: int = 100, target: Target = "discriminator"):
        ...         super().__init__(every_n_steps, [target])
        ...
        ...     def measure(self, trainer, pl_module, batch):
        ...         (network,) = self.networks(pl_module).values()
        ...         return {name: p.norm().item() for name, p in network.named_parameters() if "bias" in name}
    """

    first: ClassVar[Optional[int]] = None
    at_end: ClassVar[bool] = True
    first_process_alone: ClassVar[bool] = False
    needs_samples: ClassVar[bool] = False
    prefix: str = ""

    def __init__(self, every_n_steps: int = 1000, targets: Sequence[Target] = ()) -> None:
        require_at_least(1, every_n_steps=every_n_steps)
        self.every_n_steps = every_n_steps
        self.targets = tuple(targets)
        self.series: dict[str, Any] = {"iteration": []}
        self._ends_off_interval = False

    def measure(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", batch: Any) -> Any:
        """Return what is to be seen now, numbers by name.

        Args:
            trainer: the trainer.
            pl_module: the module, in evaluation mode.
            batch: of this iteration; None before the first iteration and after the last.
        """
        raise NotImplementedError

    def record(self, iteration: int, found: Any) -> Mapping[str, float]:
        """Extend the series by what :meth:`measure` returned, and return the numbers to log."""
        for name, value in ({"iteration": iteration} | found).items():
            self.series.setdefault(name, []).append(value)
        return found

    def show(self, trainer: "pl.Trainer", found: Any) -> None:
        """Show what :meth:`measure` returned in other forms, as a table; called in the first process."""

    def figures(self) -> Mapping[str, Figure]:
        """Return the pictures of the series for the end of the run, by name."""
        return {}

    def due(self, iteration: int) -> bool:
        """Return whether to measure after this iteration, 0 being before the training."""
        return iteration == self.first or (iteration > 0 and iteration % self.every_n_steps == 0)

    @contextmanager
    def undisturbed(self, pl_module: "pl.LightningModule") -> Iterator[None]:
        """Surround :meth:`measure`, and leave modes and random state as they were."""
        devices = [pl_module.device] if pl_module.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices), evaluation_mode(pl_module):
            yield

    def networks(self, pl_module: "pl.LightningModule") -> dict[str, nn.Module]:
        """Return the targets by name."""
        return {target_name(target): resolve_target(pl_module, target) for target in self.targets}

    def fixed_samples(self, pl_module: "pl.LightningModule", count: int) -> Tensor:
        """Return images of latents that are the same at every measurement, of the average where the run has one."""
        sampler: Any = pl_module  # `check_samples` has looked
        return sampler.sample_images(sampler.fixed_latents(count))

    def check_samples(self, pl_module: "pl.LightningModule", alternative: str = "") -> None:
        """Refuse a module that cannot sample, naming an alternative where there is one."""
        if not can_sample(pl_module):
            raise TypeError(
                f"{type(self).__name__} needs {alternative}a module with `fixed_latents(count)` and "
                f"`sample_images(latents)`, got {type(pl_module).__name__}"
            )

    @property
    @override
    def state_key(self) -> str:
        """The class's name; other targets than the usual ones tell two of these apart."""
        names = [target_name(target) for target in self.targets]
        return super().state_key if names in USUAL_TARGETS else self._generate_state_key(targets=names)

    @override
    def setup(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        if self.networks(pl_module):
            check_whole_networks(trainer)
        if self.needs_samples:
            self.check_samples(pl_module)

    @override
    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        if self._ends_off_interval:  # the same object goes on
            self.series, self._ends_off_interval = _without_last(self.series), False
        if completed_iterations(trainer) == 0 and self.due(0):
            self.measure_now(trainer, pl_module)

    @override
    def on_train_batch_end(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.due(completed_iterations(trainer)):
            self.measure_now(trainer, pl_module, batch)

    @override
    def on_train_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        if self.at_end and self.series["iteration"][-1:] != [completed_iterations(trainer)]:
            self.measure_now(trainer, pl_module)
            self._ends_off_interval = True
        if trainer.is_global_zero and not connected(trainer).fast_dev_run:
            for name, figure in self.figures().items():
                log_figure(trainer, f"{self.prefix}{name}", figure)

    def measure_now(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", batch: Any = None) -> None:
        """Measure, extend the series and log."""
        if trainer.is_global_zero or not self.first_process_alone:
            with self.undisturbed(pl_module):
                found = self.measure(trainer, pl_module, batch)
            self.take_up(trainer, found)

    def take_up(self, trainer: "pl.Trainer", found: Any) -> None:
        """Extend the series by what was found, and log it."""
        numbers = self.record(completed_iterations(trainer), found)
        if numbers:
            log_scalars(trainer, {f"{self.prefix}{name}": float(value) for name, value in numbers.items()})
        if trainer.is_global_zero:
            self.show(trainer, found)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"series": _without_last(self.series) if self._ends_off_interval else self.series}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.series, self._ends_off_interval = state_dict["series"], False


def can_sample(pl_module: nn.Module) -> bool:
    """Return whether a module makes images of latents, as those of this package."""
    return hasattr(pl_module, "fixed_latents") and hasattr(pl_module, "sample_images")


def _without_last(series: dict[str, Any]) -> dict[str, Any]:
    return {key: _without_last(value) if isinstance(value, dict) else value[:-1] for key, value in series.items()}
