"""Files that are written whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Union


def write_whole(path: Path, content: Union[str, bytes, Callable[[IO[bytes]], object]]) -> None:
    """Write a file beside its place as ``<name>.part``, bring it to disk, and only then give it its name.

    A crash or a full disk leaves the former file as it was; what was written of the new one is removed. Missing folders
    are made.

    Args:
        path: of the file; one that is there is replaced.
        content: text (as UTF-8), bytes, or a function that writes to the open file.

    Raises:
        OSError: if it can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    _bring_to_disk(path.parent)


def _bring_to_disk(folder: Path) -> None:
    """Make a renaming last, where the system can be asked to."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
