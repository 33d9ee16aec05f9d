"""The run folder of a command: where it is, that it is never overwritten, and how a resumed run continues it."""

import csv
import itertools
from pathlib import Path
from typing import Any, Optional

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.loggers.logger import rank_zero_experiment

CONFIG_FILE = "config.yaml"


def check_unused(folder: Path) -> None:
    """Refuse a folder that already holds a run.

    Raises:
        FileExistsError: naming the folder and the two ways out.
    """
    if (folder / CONFIG_FILE).exists():
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
        flush_logs_every_n_steps: log calls between writes to disk.
    """

    def __init__(self, save_dir: str, flush_logs_every_n_steps: int = 100) -> None:
        super().__init__(save_dir, name="", version="", flush_logs_every_n_steps=flush_logs_every_n_steps)

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
