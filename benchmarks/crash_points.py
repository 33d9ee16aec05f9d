r"""Every file operation of a run as the moment of a kill: what `python benchmarks/faults.py --points` does.

A killed process leaves what is in its folder at that moment. So one run is copied right before each of its file
operations, and in the middle of those that write (see file_operations.py), and each copy is started again as a killed
run would be; copies of the same content once. At every twentieth point a run is really killed in the copy's place. All
processes are forked from one that has imported everything and parsed the arguments.
"""

import hashlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Optional

from file_operations import FileOperations

from pcgan_lightning.cli import main
from pcgan_lightning.cli.fit import PCGANCLI

RUN = "run"
KILL_EVERY = 20
# Called by the process of a run before each of its file operations, with its number and what it is.
Before = Callable[[int, str], object]
# Lets a run in a folder come to its end; returns its file operations and its exit status, negative for a signal.
Start = Callable[..., tuple[list[str], int]]


class _Finished(BaseException):
    """All that was to be done between parsing and training is done."""


class _Forked(BaseException):
    """This is the process of a run, which goes on by itself."""


def with_parsed(arguments: Sequence[str], work: Callable[[Start], None]) -> None:
    """Parse the arguments of `pcgan fit` once, and call `work` with a function that starts such a run in a folder."""
    after_parsing = PCGANCLI.before_instantiate_classes

    def fork_here(cli: PCGANCLI) -> None:
        try:
            work(_start)
        except _Forked:
            after_parsing(cli)
        else:
            raise _Finished

    PCGANCLI.before_instantiate_classes = fork_here
    owner, status = os.getpid(), 1
    try:
        main(["fit", *arguments, "--run_dir", RUN])
        status = 0
    except _Finished:
        return
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        PCGANCLI.before_instantiate_classes = after_parsing
        if os.getpid() != owner:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    sys.exit(status)  # the arguments are wrong


def _start(folder: Path, before: Optional[Before] = None) -> tuple[list[str], int]:
    """Go on to train in a process of its own, with the run in a folder, and its log beside it; wait for its end."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        folder.mkdir(parents=True, exist_ok=True)
        log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(folder)
        told = 0

        def tell(operation: str) -> None:
            nonlocal told
            os.write(writing, f"{operation}\n".encode())
            if before is not None:
                before(told, operation)
            told += 1

        FileOperations(folder, tell).watch()
        raise _Forked
    os.close(writing)
    with os.fdopen(reading) as told_of:
        operations = told_of.read().splitlines()
    return operations, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def crash_points(
    start: Start, folder: Path, compare: Callable[[Path, Path], list[str]], only: Optional[Sequence[str]] = None
) -> dict[str, Any]:
    """Kill a run at each of its file operations, and let it go on.

    Args:
        start: see :func:`with_parsed`.
        folder: of all runs.
        compare: returns in what the end of a run differs from that of the undisturbed one.
        only: numbers, or beginnings, of the operations to die at. None: all.

    Returns:
        The operations, the places among them where a process was killed, the count of different contents that were
        started again, and the differences by place.
    """
    here, undisturbed = folder / "here", folder / "undisturbed"  # a run that goes on does so in its own place
    operations, status = start(here, partial(_copy, here, folder))
    if status:
        raise RuntimeError(f"the undisturbed run failed: {_last_words(here)}")
    here.rename(undisturbed)
    killed: list[int] = []
    ends: dict[str, list[str]] = {}
    different: dict[int, list[str]] = {}
    points = [
        (number, operation)
        for number, operation in enumerate(operations)
        if only is None or str(number) in only or operation.startswith(tuple(only))
    ]
    for place, (number, operation) in enumerate(points):
        if number % KILL_EVERY == KILL_EVERY - 1:
            killed.append(place)
            told, status = start(here, partial(_kill, number))
            if status != -signal.SIGKILL or told != operations[: number + 1]:
                raise RuntimeError(f"operation {number} is {operation}, and of a killed run {told[-1]}")
        else:
            (folder / f"{number:03d}").rename(here)
        content = _digest(here)
        if content not in ends:
            _, status = start(here)
            ends[content] = [f"failed: {_last_words(here)}"] if status else compare(here / RUN, undisturbed / RUN)
        if ends[content]:
            different[place] = ends[content]
        print(f"{number:3} {operation}: {', '.join(ends[content]) or 'bit-identical'}", flush=True)
        shutil.rmtree(here)
    return {
        "operations": [operation for _, operation in points],
        "killed": killed,
        "resumed": len(ends),
        "different": different,
    }


def _copy(source: Path, folder: Path, number: int, operation: str) -> None:
    shutil.copytree(source, folder / f"{number:03d}")


def _kill(at: int, number: int, operation: str) -> None:
    if number == at:
        os.kill(os.getpid(), signal.SIGKILL)


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(f"{path.relative_to(folder)}\n".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"folder")
    return digest.hexdigest()


def _last_words(folder: Path) -> str:
    return (folder.with_suffix(".log").read_text().strip().splitlines() or ["nothing was said"])[-1]
