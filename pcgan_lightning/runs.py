"""The run folder of a command: that it is never overwritten, how a resumed run continues it, and what it ran on."""

import itertools
import json
import logging
import os
import platform
import subprocess
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, Optional

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from pcgan_lightning.checkpoints import read_checkpoint
from pcgan_lightning.run_logger import METRICS_FILE, RunCSVLogger

log = logging.getLogger("lightning.pytorch")
CONFIG_FILE = "config.yaml"
ENVIRONMENT_FILE = "environment.json"


def check_unused(folder: Path) -> None:
    """Refuse a folder that already holds a run.

    Raises:
        FileExistsError: naming the folder and the two ways out.
    """
    if any((folder / name).exists() for name in (CONFIG_FILE, METRICS_FILE)):
        raise FileExistsError(
            f"argument `run_dir` must not hold a run yet, got {folder}; choose another folder with --run_dir, or "
            "continue that run with --ckpt_path last"
        )


def check_writable(folder: Path) -> None:
    """Refuse a folder that can't be written to, or made, and leave no trace.

    Raises:
        OSError: naming the folder and the reason.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b" ")
    except OSError as error:
        rule = "argument `run_dir` must be a folder that can be written to"
        raise OSError(f"{rule}, got {folder}: {error.strerror} ({there})") from error


def unused_path(path: Path) -> Path:
    """Return `path`, or the first of ``name_1``, ``name_2``, ... beside it that does not exist."""
    candidates = (path.with_stem(f"{path.stem}_{n}") if n else path for n in itertools.count())
    return next(c for c in candidates if not c.exists())


def last_checkpoint(folder: Path, checkpoints: Optional[Path] = None) -> Optional[Path]:
    """Return the run's latest checkpoint that is whole, None if it has none at all; damaged ones are told of.

    Args:
        folder: of the run.
        checkpoints: another folder than ``checkpoints`` in it where the run was told to save them.

    Raises:
        ValueError: if it has checkpoints, but all are damaged.
    """
    found = {*(folder / "checkpoints").glob("*.ckpt"), *folder.glob("hpc_ckpt_*.ckpt")}  # the latter are SLURM's
    if checkpoints is not None:
        found |= {*checkpoints.glob("*.ckpt")}
    reasons = []
    for path in sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        try:
            read_checkpoint(path)
        except ValueError as error:
            reasons.append(str(error))
        else:
            for reason in reasons:
                rank_zero_only(log.warning)(f"{reason}; the next older one is taken: {path.name}")
            return path
    if reasons:
        raise ValueError(f"all checkpoints in {folder} are damaged; {reasons[0]}")
    return None


class RunRecord(Callback):
    """Records what a run ran on, as ``environment.json``, and how fast, as ``iterations_per_second``.

    It also tells the loggers of a run folder where a resumed run goes on.
    """

    def on_load_checkpoint(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", checkpoint: dict[str, Any]
    ) -> None:
        """Keep the rows of ``metrics.csv`` up to the checkpoint's iteration."""
        for logger in _run_loggers(trainer):
            logger.continue_from(checkpoint["global_step"])

    def on_save_checkpoint(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", checkpoint: dict[str, Any]
    ) -> None:
        """Bring the rows to disk before a checkpoint that a resumed run would go on from."""
        for logger in _run_loggers(trainer):
            logger.to_disk()

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


def _run_loggers(trainer: "pl.Trainer") -> list[RunCSVLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, RunCSVLogger)]


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
