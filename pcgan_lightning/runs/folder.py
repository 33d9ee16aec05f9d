"""The run folder of a command: the names of its files, that it is never overwritten, where a resumed run goes on."""

import itertools
import logging
import os
import tempfile
from pathlib import Path
from typing import Optional

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from pcgan_lightning.runs.checkpoints import read_checkpoint
from pcgan_lightning.runs.metrics_csv import METRICS_FILE

log = logging.getLogger("lightning.pytorch")
CONFIG_FILE = "config.yaml"
ENVIRONMENT_FILE = "environment.json"
WANDB_ID_FILE = "wandb_id.txt"


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
