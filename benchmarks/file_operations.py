"""The file operations of a process, and what is to happen at each of them."""

import builtins
import io
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Optional

# What changes a folder or brings a file to disk; opening and writing are looked at more closely.
CALLS = ("fdatasync", "fsync", "ftruncate", "link", "mkdir", "remove", "rename", "replace", "rmdir", "symlink")
CALLS += ("truncate", "unlink")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class FileOperations:
    """Calls a function before each file operation of this process below a folder.

    An operation is a file opened for writing, what is first written to it, its truncation, or a call of
    :data:`CALLS`. At a write, half of it is in the file already. Since all that changes the folder is an operation, the
    moment after one is the moment before the next.

    Args:
        folder: what happens elsewhere is no operation.
        before: called with each operation, as ``replace checkpoints/last.ckpt``.
    """

    def __init__(self, folder: Path, before: Callable[[str], object]) -> None:
        self._folder, self._before = folder.resolve(), before
        self._pausing = False  # while `before` is at work, whose operations are not the process's own

    def watch(self) -> None:
        """Put this in the place of Python's own functions, for the rest of the process."""
        for name in CALLS:
            setattr(os, name, partial(self._call, name, getattr(os, name)))
        os.open = partial(self._open_descriptor, os.open)
        builtins.open = io.open = partial(self._open, io.open)

    def tell(self, name: str, path: Path) -> None:
        """Let an operation be known, if it is in the folder."""
        if path.is_relative_to(self._folder) and not self._pausing:
            self._pausing = True
            self._before(f"{name} {path.relative_to(self._folder)}")
            self._pausing = False

    def _call(self, name: str, function: Callable[..., Any], path: Any, *arguments: Any, **kwargs: Any) -> Any:
        # The second path of those that rename is the one that tells more.
        told = arguments[0] if name in ("link", "rename", "replace", "symlink") else path
        self.tell(name, _absolute(told, kwargs.get("dir_fd")))
        return function(path, *arguments, **kwargs)

    def _open_descriptor(self, function: Callable[..., int], path: Any, flags: int, *rest: Any, **kwargs: Any) -> int:
        if flags & _WRITES:
            self.tell("open", _absolute(path, kwargs.get("dir_fd")))
        return function(path, flags, *rest, **kwargs)

    def _open(self, function: Callable[..., Any], file: Any, mode: str = "r", *rest: Any, **kwargs: Any) -> Any:
        if not {*"wax+"} & {*mode}:
            return function(file, mode, *rest, **kwargs)
        path = _absolute(file)
        self.tell("open", path)
        return _WatchedFile(function(file, mode, *rest, **kwargs), path, self)


class _WatchedFile:
    """A file whose first write and whose truncation are operations."""

    def __init__(self, file: Any, path: Path, operations: FileOperations) -> None:
        self._file, self._path, self._operations, self._written = file, path, operations, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __iter__(self) -> Any:
        return iter(self._file)

    def __enter__(self) -> "_WatchedFile":
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.close()

    def write(self, content: Any) -> int:
        if self._written:
            return self._file.write(content)
        self._written, half = True, len(content) // 2
        done = self._file.write(content[:half])
        self._file.flush()
        self._operations.tell("write", self._path)
        return done + self._file.write(content[half:])

    def truncate(self, *size: int) -> int:
        self._operations.tell("truncate", self._path)
        return self._file.truncate(*size)


def _absolute(path: Any, folder: Optional[int] = None) -> Path:
    """Return the path of a file that is given by a path, in an open folder perhaps, or by its descriptor."""
    if isinstance(path, int):
        return Path(os.path.realpath(f"/proc/self/fd/{path}"))
    # The file itself may be a link; its folder is the real one.
    named = os.path.join(os.path.realpath(f"/proc/self/fd/{folder}") if folder else os.getcwd(), os.fsdecode(path))
    return Path(os.path.realpath(os.path.dirname(named))) / os.path.basename(named)
