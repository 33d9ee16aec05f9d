"""The run folder of a command: that it is never overwritten, how a resumed run continues it, and what it ran on."""

import csv
import itertools
import json
import os
import platform
import subprocess
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, Optional

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment

CONFIG_FILE = "config.yaml"
METRICS_FILE = ExperimentWriter.NAME_METRICS_FILE
ENVIRONMENT_FILE = "environment.json"


def check_unused(folder: Path) -> None:
    """Refuse a folder that already holds a run.

    Raises:
        FileExistsError: naming the folder and the two ways out.
    """
    if any((folder / name).exists() for name in (CONFIG_FILE, METRICS_FILE)):
        resumable = any((folder / "checkpoints").glob("*.ckpt"))
        remedy = "continue that run with --ckpt_path last" if resumable else "remove it: the run left no checkpoint"
        rule = "argument `run_dir` must not hold a run yet"
        raise FileExistsError(f"{rule}, got {folder}; choose another folder with --run_dir, or {remedy}")


def unused_path(path: Path) -> Path:
    """Return `path`, or the first of ``name_1``, ``name_2``, ... beside it that does not exist."""
    candidates = (path.with_stem(f"{path.stem}_{n}") if n else path for n in itertools.count())
    return next(c for c in candidates if not c.exists())


def last_checkpoint(folder: Path) -> Path:
    """Return the run's latest checkpoint.

    Raises:
        FileNotFoundError: if it has none.
    """
    checkpoints = sorted((folder / "checkpoints").glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    if not checkpoints:
        raise FileNotFoundError(f"argument `ckpt_path` 'last' needs a checkpoint in {folder}/checkpoints, found none")
    return checkpoints[-1]


class RunCSVLogger(CSVLogger):
    """Lightning's CSV logger, writing ``metrics.csv`` right into the run folder and continuing one that is there.

    Args:
        save_dir: the run folder.
    """

    def __init__(self, save_dir: str) -> None:
        # Each row is on disk before the next checkpoint is, or a killed run would resume with a gap.
        super().__init__(save_dir, name="", version="", flush_logs_every_n_steps=1)

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """The writer of ``metrics.csv``."""
        if self._experiment is None:
            self._experiment = _ContinuedWriter(log_dir=self.log_dir)
        return self._experiment


class _ContinuedWriter(ExperimentWriter):
    """Keeps the rows of an interrupted run up to the step at which it is resumed."""

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir=log_dir)
        self._former: Optional[list[dict[str, Any]]] = None

    def _check_log_dir_exists(self) -> None:
        # Lightning's writer would delete the file here.
        pass

    def log_metrics(self, metrics_dict: dict[str, float], step: Optional[int] = None) -> None:
        if self._former is None:
            self._former = _read_rows(Path(self.metrics_file_path))
            kept = [row for row in self._former if step is None or int(row["step"]) < step]
            self.metrics.extend(kept)
            Path(self.metrics_file_path).unlink(missing_ok=True)
        # Some releases of Lightning hand over a logged step as a float.
        super().log_metrics(metrics_dict, None if step is None else int(step))


def _read_rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{key: value for key, value in row.items() if value != ""} for row in csv.DictReader(file)]


class RunRecord(Callback):
    """Records what a run ran on, as ``environment.json``, and how fast, as ``iterations_per_second``."""

    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Write the environment, beside that of an earlier part of the run."""
        if trainer.is_global_zero and not trainer.fast_dev_run:
            path = unused_path(Path(trainer.default_root_dir) / ENVIRONMENT_FILE)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(environment(), indent=2) + "\n")
        self._since, self._iteration = time.perf_counter(), trainer.global_step

    def on_train_batch_end(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the mean speed since the last time, all that went on included."""
        if trainer.log_every_n_steps and trainer.global_step % trainer.log_every_n_steps == 0:
            now, done = time.perf_counter(), trainer.global_step - self._iteration
            if done:
                for logger in trainer.loggers:
                    logger.log_metrics({"iterations_per_second": done / (now - self._since)}, trainer.global_step)
            self._since, self._iteration = now, trainer.global_step


def environment() -> dict[str, Any]:
    """Return date, commit, hardware, threads and versions."""
    return {
        "date": date.today().isoformat(),
        "commit": _commit(),
        "hardware": torch.cuda.get_device_name() if torch.cuda.is_available() else _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "lightning", "pcgan_lightning")},
    }


def _commit() -> str:
    """Return the commit that this package is run from, empty outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+changes", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:  # no git
        return ""


def _processor() -> str:
    cores = os.cpu_count()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return f"{line.partition(':')[2].strip()}, {cores} cores"
    return f"{platform.processor() or platform.machine()}, {cores} cores"
