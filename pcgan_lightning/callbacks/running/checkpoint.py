"""Checkpoints from which a killed run goes on as if it had never been interrupted."""

import logging
import time
from pathlib import Path
from typing import Any, Optional, Union

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from typing_extensions import override

from pcgan_lightning.callbacks.running._endings import begin_next_epoch, run_ends, validation_follows
from pcgan_lightning.runs import is_checkpoint_in, without_foreign_paths

log = logging.getLogger("lightning.pytorch")


class RunCheckpoint(ModelCheckpoint):
    """Lightning's ``ModelCheckpoint``, saving only where a resumed run neither skips nor repeats anything.

    - Where validation follows the batch, the checkpoint waits for its end: Lightning skips the validation when it
      resumes from a checkpoint made before.
    - At the end of the run it waits for ``on_train_end`` of the other callbacks, which a run that is resumed there
      never comes to.
    - After each interval a checkpoint of it is there, whatever is monitored: where the value is not among the best, or
      where there is none yet, ``last.ckpt`` is saved. The first time that there is none, a line tells of it and of the
      metrics that there are; the value's own checkpoint comes after the next validation.
    - Nothing is saved when an error stops the run within an iteration.

    A former checkpoint is removed only after the new one is in its place.

    Args:
        **kwargs: of ``ModelCheckpoint``. ``train_time_interval`` works with manual optimization as well.

    Raises:
        ValueError: for ``save_on_exception``.
    """

    dirpath: Union[str, Path]  # known from setup on

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if getattr(self, "save_on_exception", False):  # older releases of Lightning have no such argument
            raise ValueError("argument `save_on_exception` must be false: no run can go on from within an iteration")
        self._waits_for_validation = False
        self._has_told = False  # that the monitored metric has no value
        self._at_the_end: Optional[dict[str, Any]] = None  # epoch and step that give what waits for the end its name

    @override
    def setup(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        """Come last, where a Trainer of ``pytorch_lightning`` does not see to it."""
        if not isinstance(trainer, pl.Trainer):
            trainer.callbacks = [c for c in trainer.callbacks if c is not self] + [self]
        super().setup(trainer, pl_module, stage)

    @override
    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Begin to measure time, and go on in the right epoch."""
        super().on_train_start(trainer, pl_module)
        begin_next_epoch(trainer)

    @override
    def on_train_batch_end(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save at the interval, or settle what to wait for."""
        if not self._is_due(trainer):
            return
        if run_ends(trainer):
            self._wait_for_end(trainer)
        elif validation_follows(trainer):
            self._waits_for_validation = True
        else:
            self._waits_for_validation = not self._knows_monitored(trainer)
            self._save(trainer)

    @override
    def on_validation_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Save what waited for the validation, or at the interval in epochs."""
        if trainer.sanity_checking:
            return
        due, self._waits_for_validation = self._waits_for_validation, False
        if run_ends(trainer):
            if due or (not self._should_save_on_train_epoch_end(trainer) and self._epoch_is_due(trainer)):
                self._wait_for_end(trainer)
        elif due:
            self._save(trainer)
        else:
            super().on_validation_end(trainer, pl_module)

    @override
    def on_train_epoch_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        if not run_ends(trainer, in_epoch=False):
            super().on_train_epoch_end(trainer, pl_module)
        elif self._should_save_on_train_epoch_end(trainer) and self._epoch_is_due(trainer):
            self._wait_for_end(trainer)

    @override
    def on_train_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        if self._at_the_end is not None:
            self._save(trainer, **self._at_the_end)
            self._at_the_end = None
        super().on_train_end(trainer, pl_module)

    @override
    def on_exception(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", exception: BaseException) -> None:
        """Save nothing."""

    def _is_due(self, trainer: "pl.Trainer") -> bool:
        if self._every_n_train_steps >= 1 and trainer.global_step % self._every_n_train_steps == 0:
            return True
        interval = self._train_time_interval
        if interval is None:
            return False
        since = self._last_time_checked
        due = since is not None and time.monotonic() - since >= interval.total_seconds()
        due = trainer.strategy.broadcast(due)
        if due:
            self._last_time_checked = time.monotonic()
        return due

    def _epoch_is_due(self, trainer: "pl.Trainer") -> bool:
        return self._every_n_epochs >= 1 and (trainer.current_epoch + 1) % self._every_n_epochs == 0

    def _knows_monitored(self, trainer: "pl.Trainer") -> bool:
        return self.monitor is None or self.monitor in self._monitor_candidates(trainer)

    @override
    def _monitor_candidates(self, trainer: "pl.Trainer") -> dict[str, Any]:
        # A `step` that was logged, the x-axis of the last validation perhaps, must not name the file.
        return super()._monitor_candidates(trainer) | {"step": torch.tensor(trainer.global_step)}

    @override
    def _should_remove_checkpoint(self, trainer: "pl.Trainer", previous: str, current: str) -> bool:
        # Lightning never removes the one that a run was resumed from, so that each interruption would leave a file.
        if "://" in str(self.dirpath):
            return super()._should_remove_checkpoint(trainer, previous, current)
        return previous != current and is_checkpoint_in(str(previous), self.dirpath)

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(without_foreign_paths(state_dict, self.dirpath))

    def _wait_for_end(self, trainer: "pl.Trainer") -> None:
        now = self._monitor_candidates(trainer)
        self._at_the_end = {key: now[key] for key in ("epoch", "step")}

    def _save(self, trainer: "pl.Trainer", **place: Any) -> None:
        if not self._should_skip_saving_checkpoint(trainer):
            candidates = self._monitor_candidates(trainer) | place
            if self._knows_monitored(trainer) or self.save_top_k == 0:
                self._save_topk_checkpoint(trainer, candidates)
            else:
                self._tell_of_metrics(trainer, candidates)
            self._save_last_checkpoint(trainer, candidates)
            if self.save_top_k != 0 and self._last_global_step_saved != trainer.global_step:
                # The value is not among the best, or there is none: a killed run goes on from here all the same.
                self._save_checkpoint(trainer, self.format_checkpoint_name(candidates, self.CHECKPOINT_NAME_LAST))

    def _tell_of_metrics(self, trainer: "pl.Trainer", candidates: dict[str, Any]) -> None:
        if not self._has_told and trainer.is_global_zero:
            log.warning(
                f"argument `monitor` must name a metric, got {self.monitor!r}, which has no value at iteration "
                f"{trainer.global_step}, where there are {', '.join(sorted(candidates))}; last.ckpt is saved without it"
            )
        self._has_told = True
