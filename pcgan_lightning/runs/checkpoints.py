"""Checkpoint files: written whole or not at all, read without trust."""

import os
import pickle
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any, Optional, Union

import torch
from lightning.fabric.plugins import TorchCheckpointIO

MapLocation = Union[str, torch.device, Callable[[Any, str], Any], None]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint plugin for local files, of which none is ever half written, or trusted when read.

    A checkpoint is written beside its place as ``<name>.part``, brought to disk, and then renamed; a crash or a full
    disk leaves the former one as it was. Reading is :func:`read_checkpoint`. The modules of this package use it in
    place of Lightning's default; ``Trainer(plugins=[AtomicCheckpointIO()])`` does so for any other.

    Raises:
        OSError: if a checkpoint can't be written; what was written of it is removed.
        ValueError: for a file that is no whole checkpoint.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Union[str, Path], storage_options: Optional[Any] = None
    ) -> None:
        """Write a checkpoint, then give it its name."""
        path = Path(path)
        part = path.with_name(f"{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            _bring_to_disk(path.parent)
        except (OSError, RuntimeError) as error:
            part.unlink(missing_ok=True)
            # torch's writer hides the cause when it fails to close its file after it.
            causes = [e for e in (error, error.__context__) if isinstance(e, OSError)]
            reason = (causes[0].strerror if causes else None) or str(error).splitlines()[0]
            raise OSError(f"checkpoint {path} can't be written, former ones are untouched: {reason}") from error

    def load_checkpoint(
        self, path: Union[str, Path], map_location: MapLocation = "cpu", weights_only: Optional[bool] = None
    ) -> dict[str, Any]:
        """Read a checkpoint; `weights_only` is always true."""
        return read_checkpoint(Path(path), map_location)


def read_checkpoint(
    path: Union[str, Path, IO[bytes]], map_location: MapLocation = "cpu", argument: str = "ckpt_path"
) -> dict[str, Any]:
    """Return the content of a checkpoint of Lightning's, whose bytes are all as they were written.

    Nothing in the file is executed (``weights_only=True``), and a sum over each of its parts, which torch stores but
    does not look at, tells whether it was cut or altered.

    Args:
        path: the file, or an open one, which is left at its beginning.
        map_location: of ``torch.load``.
        argument: whose value `path` is, for the messages.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or no checkpoint.
    """
    rule = f"argument `{argument}` must be a whole checkpoint"
    if not hasattr(path, "read") and not Path(path).is_file():
        raise FileNotFoundError(f"{rule} file, got {path}, which does not exist")
    rewind = partial(path.seek, 0) if hasattr(path, "seek") else lambda: None
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"{damaged} is altered")
        rewind()
        content = torch.load(path, map_location=map_location, weights_only=True)
        rewind()
    except pickle.UnpicklingError as error:
        raise ValueError(f"{rule}, got {path}, which holds objects that are not read for safety") from error
    except Exception as error:  # a damaged file may fail in any way
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{rule}, got {path}, which is damaged: {reason}") from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise ValueError(f"{rule}, got {path}, which holds no `state_dict`")
    return content


def _bring_to_disk(folder: Path) -> None:
    """Make a renaming last, where the system can be asked to."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
