"""Which checkpoint of a run is its last."""

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Optional

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from pcgan_lightning.runs.checkpoints import iteration_of, read_checkpoint
from pcgan_lightning.runs.folder import CHECKPOINTS, SLURM_CHECKPOINTS

log = logging.getLogger("lightning.pytorch")


def last_checkpoint(folder: Path, checkpoints: Optional[Path] = None) -> Optional[Path]:
    """Return the run's whole checkpoint of the highest iteration, None if it has none at all; others are told of.

    The checkpoint is kept for the run that starts from it (see :func:`read_checkpoint`).

    Args:
        folder: of the run.
        checkpoints: another folder than ``checkpoints`` in it where the run was told to save them.

    Raises:
        ValueError: if it has checkpoints, but all are damaged.
    """
    found = {*(folder / CHECKPOINTS).glob("*.ckpt"), *folder.glob(SLURM_CHECKPOINTS)}
    if checkpoints is not None:
        found |= {*checkpoints.glob("*.ckpt")}
    try:
        return last_of(found, keep=True)
    except ValueError as error:
        raise ValueError(f"all checkpoints in {folder} are damaged; {error}") from None


def last_of(paths: Collection[Path], keep: bool = False) -> Optional[Path]:
    """Return the whole checkpoint of the highest iteration, None for no path at all; others are told of.

    The iteration is the one that the checkpoint itself holds; of the same one, the file that was changed last is taken.
    Times decide nothing else: a copied file must not rewind a run.

    Args:
        paths: of checkpoints.
        keep: whether its content is kept for the next that reads it (see :func:`read_checkpoint`).

    Raises:
        ValueError: if all are damaged, with the reason of one.
    """
    reasons, ages = [], {}
    for path in sorted(paths):
        try:
            # A single one need not be asked; the run that starts from it reads it once.
            ages[path] = (iteration_of(path) if len(paths) > 1 else 0, path.stat().st_mtime_ns)
        except (ValueError, OSError) as error:
            reasons.append(str(error))
    for path in sorted(ages, key=lambda path: ages[path], reverse=True):
        try:
            read_checkpoint(path, keep=keep)
        except (ValueError, OSError) as error:
            reasons.append(str(error))
        else:
            for reason in reasons:
                rank_zero_only(log.warning)(f"{reason}; it is passed by, and {path.name} taken")
            return path
    if reasons:
        raise ValueError(reasons[0])
    return None
