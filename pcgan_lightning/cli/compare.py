"""`pcgan compare`: several configurations trained side by side, and one page over them."""

import os
import re
import subprocess
import sys
import time
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Optional

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from pcgan_lightning.arguments import require_at_least
from pcgan_lightning.report import report
from pcgan_lightning.runs import CONFIG_FILE, METRICS_FILE, check_writable, read_rows, read_yaml

LOG_FILE = "log.txt"
PAGE = "report.html"
SECONDS_BETWEEN_LOOKS = 2.0


def compare(
    configs: list[Path],
    folder: Path = Path("runs/comparison"),
    parallel: Optional[int] = None,
    open: bool = False,
    arguments: Sequence[str] = (),
) -> None:
    """Train configurations side by side, each in a process of its own, and write one page over all of them.

    The run of ``sn.yaml`` is ``FOLDER/sn``, with what it printed in ``log.txt``; the page is ``FOLDER/report.html``.
    Called again, finished runs stay as they are and interrupted ones go on.

    Args:
        configs: configurations of `pcgan fit`, of different file names.
        folder: where the runs and the page go.
        parallel: runs at the same time, at least 1; they share the cores. None: as many as there are cores.
        open: show the page in a browser.
        arguments: further arguments of every `pcgan fit`.

    Raises:
        ValueError: for no configuration, or two of one name.
        FileNotFoundError: for a configuration that does not exist.
        ChildProcessError: after all others have ended and the page is written, for a run that failed.
    """
    names = [config.stem for config in configs]
    if not configs or len({*names}) < len(names):
        raise ValueError(f"argument `configs` must be files of different names, at least one, got {names}")
    for config in configs:
        if not config.is_file():
            raise FileNotFoundError(
                f"argument `configs` must be configuration files, got {config}, which does not exist"
            )
    require_at_least(1, parallel=parallel)
    check_writable(folder)
    cores = os.cpu_count() or 1
    parallel = min(parallel or cores, len(configs))
    threads = {"OMP_NUM_THREADS": str(max(1, cores // parallel)), "OMP_WAIT_POLICY": "PASSIVE"}
    runs = {folder / config.stem: config for config in configs}
    failed = _train(runs, arguments, parallel, threads | os.environ)
    measured = [run for run in runs if (run / METRICS_FILE).exists()]
    if measured:
        report(measured, folder / PAGE)
        if open:
            webbrowser.open((folder / PAGE).absolute().as_uri())
    if failed:
        said = "; ".join(f"{run.name}: {_last_line(run)}" for run in failed)
        raise ChildProcessError(f"{len(failed)} of {len(runs)} runs failed, see {LOG_FILE} of each: {said}")


def _train(runs: dict[Path, Path], arguments: Sequence[str], parallel: int, environment: dict[str, str]) -> list[Path]:
    """Train what waits as soon as there is room, with a bar for each run; return the folders of those that failed."""
    waiting, failed = [*runs], []
    running: dict[Path, subprocess.Popen[bytes]] = {}
    with _bars() as bars, _ended(running):
        tasks = {run: bars.add_task(run.name, total=None) for run in runs}
        while waiting or running:
            while waiting and len(running) < parallel:
                run = waiting.pop(0)
                running[run] = _start(run, runs[run], arguments, environment)
            time.sleep(SECONDS_BETWEEN_LOOKS)
            for run, process in [*running.items()]:
                status = process.poll()
                _show_progress(bars, tasks[run], run)
                if status is not None:
                    del running[run]
                    failed += [run] if status else []
    return failed


@contextmanager
def _ended(running: dict[Path, "subprocess.Popen[bytes]"]) -> Iterator[None]:
    """End what still runs when this process is ended; a run saves a checkpoint before it stops."""
    try:
        yield
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def _bars() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


def _start(run: Path, config: Path, arguments: Sequence[str], environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    """Start `pcgan fit`, which begins the run or goes on with it."""
    run.mkdir(parents=True, exist_ok=True)
    call = ["fit", "--config", str(config), *arguments, "--run_dir", str(run), "--ckpt_path", "last"]
    with (run / LOG_FILE).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "pcgan_lightning.cli", *call], stdout=log, stderr=log, env=environment
        )


def _show_progress(bars: Progress, task: TaskID, run: Path) -> None:
    """Bring a bar to where the run's tables say that it is."""
    if not (run / METRICS_FILE).exists():
        return
    steps = [int(float(row["step"])) for row in read_rows(run / METRICS_FILE)[-1:] if "step" in row]
    total = read_yaml(run / CONFIG_FILE, "configs")["trainer"]["max_steps"] if (run / CONFIG_FILE).exists() else None
    bars.update(task, completed=max(steps, default=0), total=total)


def _last_line(run: Path) -> str:
    lines = re.split(r"[\r\n]+", (run / LOG_FILE).read_text(errors="replace").strip())
    return lines[-1].removeprefix("pcgan: error: ")
