"""Checkpoint files: written whole or not at all, read without trust."""

import logging
import pickle
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any, Optional, Union

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from typing_extensions import override

from pcgan_lightning.runs.folder import require_checkpoint_file
from pcgan_lightning.runs.writing import write_whole

MARK_OF_A_FOLDER = 0x10  # of the attributes in a zip file

log = logging.getLogger("lightning.pytorch")

MapLocation = Union[str, torch.device, Callable[[Any, str], Any], None]

# The content of one file at most, by path, size and time of change: what a run that starts from it looks at first.
_kept: dict[tuple[str, int, int], dict[str, Any]] = {}


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint plugin for local files, of which none is ever half written, or trusted when read.

    A checkpoint is written beside its place as ``<name>.part``, brought to disk, and then renamed; a crash or a full
    disk leaves the former one as it was. Reading is :func:`read_checkpoint`. The modules of this package use it in
    place of Lightning's default; ``Trainer(plugins=[AtomicCheckpointIO()])`` does so for any other.

    Raises:
        OSError: if a checkpoint can't be written; what was written of it is removed.
        ValueError: for a file that is no whole checkpoint.
    """

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Union[str, Path], storage_options: Optional[Any] = None
    ) -> None:
        try:
            write_whole(Path(path), partial(torch.save, checkpoint))
        except (OSError, RuntimeError) as error:
            # torch's writer hides the cause when it fails to close its file after it.
            causes = [e for e in (error, error.__context__) if isinstance(e, OSError)]
            reason = (causes[0].strerror if causes else None) or str(error).splitlines()[0]
            raise OSError(f"checkpoint {path} can't be written, former ones are untouched: {reason}") from error

    @override
    def load_checkpoint(
        self, path: Union[str, Path], map_location: MapLocation = "cpu", weights_only: Optional[bool] = None
    ) -> dict[str, Any]:
        # `weights_only` is always true.
        return read_checkpoint(Path(path), map_location)

    @override
    def remove_checkpoint(self, path: Union[str, Path]) -> None:
        # Lightning would remove a folder with all that is in it, and what other protocols than files name.
        file = Path(path)
        if file.is_dir():
            log.warning(f"the checkpoint {path} is a folder, which is left alone")
        else:
            file.unlink(missing_ok=True)


def read_checkpoint(
    path: Union[str, Path, IO[bytes]],
    map_location: MapLocation = "cpu",
    argument: str = "ckpt_path",
    keep: bool = False,
) -> dict[str, Any]:
    """Return the content of a checkpoint of Lightning's, whose bytes are all as they were written.

    Nothing in the file is executed (``weights_only=True``), and a sum over each of its parts, which torch stores but
    does not look at, tells whether it was cut or altered.

    Args:
        path: the file, or an open one, which is left at its beginning.
        map_location: of ``torch.load``.
        argument: whose value `path` is, for the messages.
        keep: whether the next call for the same file gets the same content, without reading it again. A run that
            starts from a checkpoint looks at it several times before Lightning loads it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or no checkpoint.
    """
    rule = f"argument `{argument}` must be a whole checkpoint"
    file = None if hasattr(path, "read") else Path(path)
    if file is not None:
        require_checkpoint_file(file, argument)
    key = (str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) if file is not None else None
    content = _kept.pop(key, None) if map_location == "cpu" else None  # type: ignore[arg-type]  # None is no key
    _kept.clear()
    if content is None:
        content = _read(path, map_location, rule)
    if keep and key is not None:
        _kept[key] = content
    return content


def iteration_of(path: Path, argument: str = "ckpt_path") -> int:
    """Return the iteration that a checkpoint holds, without reading its tensors.

    Raises:
        ValueError: if it can't be read, or holds none.
    """
    rule = f"argument `{argument}` must be a whole checkpoint"
    if not path.is_file():
        raise ValueError(f"{rule}, got {path}, which is no file")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"]
    except Exception as error:  # a damaged file may fail in any way
        raise ValueError(f"{rule}, got {path}, which is damaged: {_first_line(error)}") from error
    if type(found) is not int or found < 0:
        raise ValueError(f"{rule}, got {path}, whose `global_step` is no number of iterations")
    return found


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _read(path: Union[str, Path, IO[bytes]], map_location: MapLocation, rule: str) -> dict[str, Any]:
    rewind = partial(path.seek, 0) if hasattr(path, "seek") else lambda: None
    try:
        with zipfile.ZipFile(path) as archive:
            # What is marked as a folder torch would not read at all, and leave the tensor whatever memory holds.
            folders = (entry.filename for entry in archive.infolist() if entry.external_attr & MARK_OF_A_FOLDER)
            damaged = next(folders, None) or archive.testzip()
        if damaged is not None:
            raise ValueError(f"{damaged} is altered")
        rewind()
        content = torch.load(path, map_location=map_location, weights_only=True)
        rewind()
    except pickle.UnpicklingError as error:
        raise ValueError(f"{rule}, got {path}, which holds objects that are not read for safety") from error
    except Exception as error:  # a damaged file may fail in any way
        raise ValueError(f"{rule}, got {path}, which is damaged: {_first_line(error)}") from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise ValueError(f"{rule}, got {path}, which holds no `state_dict`")
    return content
