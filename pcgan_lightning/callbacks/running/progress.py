"""A progress bar in iterations, made for games."""

import math
from typing import Any, Optional

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from typing_extensions import override

from pcgan_lightning.arguments import require_at_least
from pcgan_lightning.callbacks.monitors.spectrum import SpectrumLogger
from pcgan_lightning.callbacks.targets import completed_iterations, connected

# Short names, so that all fits a line of 80 characters.
LABELS = {"loss/discriminator": "D", "loss/generator": "G", "condition/max": "κ"}


class GANProgressBar(ProgressBar):
    r"""One bar over the whole run, in iterations.

    It shows iterations/s, the losses of both players (D, G) and the largest modified condition number (κ), the latest
    ``condition/max`` of a ``SpectrumLogger``, where the trainer has one. Whatever else the module logs with
    ``prog_bar=True`` is shown too. Everything is read only when the bar is drawn, so that an accelerator is not made
    to wait in between.

    Args:
        refresh_every_n_steps: iterations between redraws, at least 1.
    """

    def __init__(self, refresh_every_n_steps: int = 10) -> None:
        super().__init__()
        require_at_least(1, refresh_every_n_steps=refresh_every_n_steps)
        self.refresh_every_n_steps = refresh_every_n_steps
        self._enabled = True
        self._progress: Optional[Progress] = None  # while it is open, with its only task
        self._task = TaskID(0)

    @override
    def disable(self) -> None:
        """Show nothing (Lightning calls this on all processes but the first)."""
        self._enabled = False

    @override
    def enable(self) -> None:
        self._enabled = True

    @override
    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        if not self._enabled:
            return
        self._progress = Progress(
            MofNCompleteColumn(),
            BarColumn(bar_width=16),
            _IterationsPerSecond(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}"),
        )
        self._progress.start()
        self._task = self._progress.add_task(
            "train", total=_total_iterations(trainer), completed=completed_iterations(trainer), metrics=""
        )

    @override
    def on_train_batch_end(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if completed_iterations(trainer) % self.refresh_every_n_steps == 0:
            self._redraw(trainer, pl_module)

    @override
    def on_train_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        self._redraw(trainer, pl_module)
        self._close()

    @override
    def on_exception(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", exception: BaseException) -> None:
        """Leave the terminal in order."""
        self._close()

    @override
    def get_metrics(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> dict[str, Any]:
        """Return what is shown: logged progress-bar metrics and the largest modified condition number."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        largest = [c.latest_summary["max"] for c in _spectrum_loggers(trainer) if c.latest_summary]
        return metrics | ({"condition/max": max(largest)} if largest else {})

    def _redraw(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        if self._progress is not None:
            metrics = self.get_metrics(trainer, pl_module)
            self._progress.update(
                self._task,
                completed=completed_iterations(trainer),
                metrics=" ".join(f"{LABELS.get(k, k)} {_brief(v)}" for k, v in metrics.items()),
            )

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class _IterationsPerSecond(ProgressColumn):
    @override
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.2f} it/s")


def _spectrum_loggers(trainer: "pl.Trainer") -> list[SpectrumLogger]:
    return [c for c in connected(trainer).callbacks if isinstance(c, SpectrumLogger)]


def _total_iterations(trainer: "pl.Trainer") -> Optional[int]:
    """Return the run's length where ``max_steps`` or ``max_epochs`` tells it."""
    limits = [trainer.max_steps if trainer.max_steps and trainer.max_steps > 0 else math.inf]
    if trainer.max_epochs and trainer.max_epochs > 0:
        limits.append(trainer.max_epochs * trainer.num_training_batches)
    total = min(limits)
    return None if math.isinf(total) else int(total)


def _brief(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
