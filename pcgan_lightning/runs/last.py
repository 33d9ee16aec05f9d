"""Which checkpoint of a run is its last."""

import logging
from pathlib import Path
from typing import Optional

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from pcgan_lightning.runs.checkpoints import read_checkpoint
from pcgan_lightning.runs.folder import CHECKPOINTS, SLURM_CHECKPOINTS

log = logging.getLogger("lightning.pytorch")


def last_checkpoint(folder: Path, checkpoints: Optional[Path] = None) -> Optional[Path]:
    """Return the run's latest checkpoint that is whole, None if it has none at all; damaged ones are told of.

    It is kept for the run that starts from it (see :func:`read_checkpoint`).

    Args:
        folder: of the run.
        checkpoints: another folder than ``checkpoints`` in it where the run was told to save them.

    Raises:
        ValueError: if it has checkpoints, but all are damaged.
    """
    found = {*(folder / CHECKPOINTS).glob("*.ckpt"), *folder.glob(SLURM_CHECKPOINTS)}
    if checkpoints is not None:
        found |= {*checkpoints.glob("*.ckpt")}
    reasons = []
    for path in sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        try:
            read_checkpoint(path, keep=True)
        except ValueError as error:
            reasons.append(str(error))
        else:
            for reason in reasons:
                rank_zero_only(log.warning)(f"{reason}; the next older one is taken: {path.name}")
            return path
    if reasons:
        raise ValueError(f"all checkpoints in {folder} are damaged; {reasons[0]}")
    return None
