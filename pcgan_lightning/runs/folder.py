"""The run folder: the names of its files, and whether a run may take it."""

import itertools
import os
import tempfile
from pathlib import Path

# All within the run folder.
CONFIG_FILE = "config.yaml"
ENVIRONMENT_FILE = "environment.json"
METRICS_FILE = "metrics.csv"
LOCK_FILE = "run.lock"
OWNER_FILE = "run.owner"  # while a run writes
WANDB_ID_FILE = "wandb_id.txt"
CHECKPOINTS = "checkpoints"
LAST_CHECKPOINT = f"{CHECKPOINTS}/last.ckpt"
SLURM_CHECKPOINTS = "hpc_ckpt_*.ckpt"  # as Lightning calls them
EVALUATIONS = "evaluations"
SAMPLES = "samples"
SPECTRA = "spectra"


# Any of them tells that a folder is a run's.
_OF_A_RUN = (CONFIG_FILE, METRICS_FILE, ENVIRONMENT_FILE, CHECKPOINTS, EVALUATIONS, SAMPLES, SPECTRA)


def check_no_run(folder: Path) -> None:
    """Refuse a folder that already holds a run.

    Raises:
        FileExistsError: naming the folder and the two ways out.
    """
    if any((folder / name).exists() for name in _OF_A_RUN) or any(folder.glob(SLURM_CHECKPOINTS)):
        raise FileExistsError(
            f"argument `run_dir` must not hold a run yet, got {folder}; choose another folder with --run_dir, or "
            "continue that run with --ckpt_path last"
        )


def check_unused(folder: Path) -> None:
    """Refuse a folder that holds a run or anything else, but for the lock of a run that never began.

    Raises:
        FileExistsError: naming the folder, what it holds, and the ways out.
    """
    check_no_run(folder)
    own = (LOCK_FILE, OWNER_FILE, f"{OWNER_FILE}.part")
    found = sorted(path.name for path in folder.glob("*") if path.name not in own)
    if found:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise FileExistsError(
            f"argument `run_dir` must be a folder without anything else in it, got {folder}, which holds {found[0]!r}"
            f"{more}; choose another folder with --run_dir"
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


def last_config(folder: Path) -> Path:
    """Return the configuration of a run's last continuation, by the numbers that :func:`unused_path` gives them."""
    first = folder / CONFIG_FILE
    names = (path.stem.removeprefix(f"{first.stem}_") for path in folder.glob(f"{first.stem}_*{first.suffix}"))
    last = max((int(name) for name in names if name.isdecimal()), default=0)
    return first.with_stem(f"{first.stem}_{last}") if last else first


def require_checkpoint_file(path: Path, argument: str = "ckpt_path") -> None:
    """Refuse what is no file, before anything is imported that reads one.

    Raises:
        FileNotFoundError: naming the argument and the path.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"argument `{argument}` must be a whole checkpoint file, got {path}, which does not exist"
        )
