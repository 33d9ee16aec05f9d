"""Runs of `pcgan fit` in processes of their own: side by side, and continued where they were interrupted."""

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Optional

import torch

from pcgan_lightning.runs import ENVIRONMENT_FILE, EVALUATIONS, LAST_CHECKPOINT, METRICS_FILE, read_numbers

ROOT = Path(__file__).parents[1]
FEATURES = {"classifier": "ClassifierFeatures", "inception": "InceptionFeatures"}
CONDITIONS = ("max", "second_max", "mean")


def train(
    runs: Mapping[Path, Sequence[str]],
    iterations: int,
    parallel: int,
    limits: Sequence[str] = (),
    threads: Optional[int] = None,
) -> None:
    """Train what is not finished.

    Args:
        runs: folder of each run -> arguments of its `pcgan fit`, without the folder.
        iterations: a run that has done so many is finished.
        parallel: runs side by side; they share the cores.
        limits: further arguments of all, which may change when a run is continued.
        threads: of each run. None: the cores, shared evenly.

    Raises:
        SystemExit: before anything is trained, if a folder holds a run of other settings; after all others have
            ended, if a run failed for another reason than that it diverged.
    """
    for folder, arguments in runs.items():
        settings = folder / "command.txt"
        if settings.exists() and settings.read_text() != " ".join(arguments):
            sys.exit(f"argument `runs` must hold runs of these settings, got {folder}, made by: {settings.read_text()}")
    with ThreadPoolExecutor(parallel) as pool:
        # Runs side by side must not wait for one another in busy loops.
        threads = threads or max(1, (os.cpu_count() or 1) // parallel)
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
        pending = [(f, call) for f, call in runs.items() if iterations_done(f) < iterations and not diverged(f)]
        done = list(pool.map(lambda run: _train(*run, [*limits], environment), pending))
    if not all(done):
        sys.exit(f"{done.count(False)} of {len(done)} runs failed, see above")


def _train(folder: Path, arguments: Sequence[str], limits: list[str], environment: dict[str, str]) -> bool:
    call = [*arguments, *limits, "--run_dir", str(folder), "--ckpt_path", "last"]
    print("$ pcgan fit", *call, file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "command.txt").write_text(" ".join(arguments))
    with (folder / "log.txt").open("a") as log:
        program = [sys.executable, "-m", "pcgan_lightning.cli", "fit", *call]
        failed = subprocess.run(program, cwd=ROOT, env=environment, stdout=log, stderr=log, check=False).returncode
    if failed:
        print(f"{folder.name}: {_last_words(folder)}", file=sys.stderr)
    return not failed or diverged(folder)


def diverged(folder: Path) -> bool:
    """Return whether a run ended because its weights were no longer finite."""
    return "is not finite, training stops" in _last_words(folder)


def _last_words(folder: Path) -> str:
    log = folder / "log.txt"
    lines = log.read_text().strip().splitlines() if log.exists() else []
    return lines[-1] if lines else ""


def iterations_done(folder: Path) -> int:
    """Return the iterations of a run that ended by itself, 0 of one that was interrupted or never begun."""
    last = folder / LAST_CHECKPOINT
    return torch.load(last, map_location="cpu", weights_only=True)["global_step"] if last.exists() else 0


def seconds_of_iteration(call: list[str]) -> float:
    """Return the processor seconds of an iteration of a run: the difference between 40 and 10 iterations, over 30."""

    def seconds(iterations: int) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with tempfile.TemporaryDirectory() as folder:
            program = [sys.executable, "-m", "pcgan_lightning.cli", "fit", *call, "--run_dir", f"{folder}/run"]
            program += ["--trainer.max_steps", str(iterations)]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return (seconds(40) - seconds(10)) / 30


def rows(folder: Path) -> list[dict[str, float]]:
    """Return the rows of a run's metrics.csv, without empty cells."""
    return read_numbers(folder / METRICS_FILE)


def final_row(folder: Path) -> dict[str, Any]:
    """Return the last scores and condition numbers of a run, its median speed, and the commit that it began with."""
    found = rows(folder)
    last: dict[str, Any] = {"iterations": int(max(row["step"] for row in found))}
    for row in found:
        last |= {key.removeprefix("metric/"): value for key, value in row.items() if key.startswith("metric/")}
        last |= {key: row[f"condition/{key}"] for key in CONDITIONS if f"condition/{key}" in row}
    speeds = sorted(row["iterations_per_second"] for row in found if "iterations_per_second" in row)
    if speeds:
        last["iterations_per_second"] = speeds[len(speeds) // 2]
    began = json.loads((folder / ENVIRONMENT_FILE).read_text())
    return last | {key: began[key] for key in ("commit", "threads", "hardware")}


def protocol(folder: Path) -> str:
    """Return the sentence that a run's last scores were written with."""
    return json.loads(max((folder / EVALUATIONS).glob("iteration_*.json")).read_text())["protocol"]
