"""What a run leaves about itself: its environment, its speed, and where its loggers go on."""

import json
import math
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from typing_extensions import override

from pcgan_lightning.callbacks.targets import connected
from pcgan_lightning.runs import (
    ENVIRONMENT_FILE,
    RunCSVLogger,
    compare_settings,
    environment,
    unused_path,
    write_whole,
)

_THREADS = "threads"  # of torch, in checkpoints


class RunRecord(Callback):
    """Records what a run ran on, as ``environment.json``, and how fast, as ``iterations_per_second``.

    It also tells the loggers of a run folder where a resumed run goes on, and says in one line if that has another
    number of threads than the run before.
    """

    def __init__(self) -> None:
        self._since = math.nan  # when the speed was measured last, in seconds, and the iteration then
        self._iteration = 0

    @override
    def on_load_checkpoint(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", checkpoint: dict[str, Any]
    ) -> None:
        """Keep the rows of ``metrics.csv`` up to the checkpoint's iteration, and tell of another number of threads."""
        for logger in _run_loggers(trainer):
            logger.continue_from(checkpoint["global_step"])
        former = checkpoint.get(_THREADS)
        if type(former) is int and trainer.state.fn == "fit":  # those of old releases do not tell
            # Here and not with the settings of the command: Lightning sets the number when the processes have begun.
            for difference in compare_settings({_THREADS: former}, {_THREADS: torch.get_num_threads()}):
                rank_zero_info(str(difference))

    @override
    def on_save_checkpoint(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", checkpoint: dict[str, Any]
    ) -> None:
        """Bring the rows to disk before a checkpoint that a resumed run would go on from."""
        checkpoint[_THREADS] = torch.get_num_threads()
        for logger in _run_loggers(trainer):
            logger.to_disk()

    @override
    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Write the environment, beside that of an earlier part of the run."""
        if trainer.is_global_zero and not connected(trainer).fast_dev_run:
            path = unused_path(Path(trainer.default_root_dir) / ENVIRONMENT_FILE)
            write_whole(path, json.dumps(environment(), indent=2) + "\n")
        self._since, self._iteration = time.perf_counter(), trainer.global_step

    @override
    def on_train_batch_end(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the mean speed since the last time, all that went on included."""
        interval = connected(trainer).log_every_n_steps
        if interval and trainer.global_step % interval == 0:
            now, done = time.perf_counter(), trainer.global_step - self._iteration
            if done:
                for logger in trainer.loggers:
                    logger.log_metrics({"iterations_per_second": done / (now - self._since)}, trainer.global_step)
            self._since, self._iteration = now, trainer.global_step


def _run_loggers(trainer: "pl.Trainer") -> list[RunCSVLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, RunCSVLogger)]
