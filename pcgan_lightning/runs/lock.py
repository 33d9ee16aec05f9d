"""One writer at a time in a run folder."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pcgan_lightning.runs.folder import LOCK_FILE, OWNER_FILE
from pcgan_lightning.runs.writing import write_whole


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Be the only process that writes to a run folder meanwhile, which is made if it is missing.

    The system gives a lock back when its owner ends, in whatever way: nothing has to be cleaned up after a kill. The
    lock's file stays, and means nothing by itself.

    Raises:
        BlockingIOError: naming the owner, if there is another.
    """
    folder.mkdir(parents=True, exist_ok=True)
    owner = folder / OWNER_FILE
    lock = FileLock(folder / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise BlockingIOError(
            f"argument `run_dir` must be a folder that no other run writes to, got {folder}, which belongs to "
            f"{_read(owner)}; wait for its end, or choose another folder with --run_dir"
        ) from None
    try:
        write_whole(owner, f"process {os.getpid()} on {platform.node()}\n")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _read(owner: Path) -> str:
    try:
        with owner.open(encoding="utf-8", errors="replace") as file:
            return ascii(file.read(200).strip())[1:-1] or "another process"
    except OSError:  # it has only just begun, or ended
        return "another process"
