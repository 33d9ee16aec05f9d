r"""SIGKILL at random times over runs of `pcgan fit`, each resumed: do they end where an undisturbed one does?

    python benchmarks/faults.py --save                       # 20 kills, minutes on two CPU cores
    python benchmarks/faults.py --kills 100 --iterations 1000
    python benchmarks/faults.py --points --save              # at each file operation in turn

The runs train a small GAN on scikit-learn's digits: adaptive preconditioning, moving average, learning-rate decay,
validation, spectra, a checkpoint every few iterations. Half of the kills hit a run each; the others come several to a
run. The times are spread over a whole run, start and end included, and drawn by the seed. Every run is started again
with the same command and `--ckpt_path last` until it ends, and its last checkpoint and metrics.csv are compared with
those of the undisturbed run.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Optional

import torch
from faults_tables import faults, faults_points
from results_file import save_result
from training_runs import ROOT

from pcgan_lightning.runs import CHECKPOINTS, LAST_CHECKPOINT, METRICS_FILE, read_rows

ARGUMENTS = (
    *("--config", str(ROOT / "configs" / "quickstart.yaml"), "--trainer.accelerator=cpu"),
    *("--model.generator.width=4", "--model.discriminator.width=4", "--data.batch_size=8"),
    *("--data.max_images=200", "--data.validation_split=test", "--preconditioning.every_n_steps=5"),
    *("--preconditioning.thresholds=[1.1,1.5,2,3]", "--model.ema_decay=0.9", "--spectrum.every_n_steps=4"),
    *("--model.generator_scheduler=LinearDecay", "--model.discriminator_scheduler=LinearDecay"),
    *("--samples.every_n_steps=20", "--trainer.log_every_n_steps=1", "--checkpoint.every_n_train_steps=3"),
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
)
# Smaller still, with something to write at almost every iteration.
POINTS = ("--ckpt_path=last", "--model.generator.width=2", "--model.discriminator.width=2", "--data.max_images=40")
POINTS += ("--checkpoint.every_n_train_steps=2", "--samples.every_n_steps=3", "--preconditioning.every_n_steps=2")
COMPARED = ("global_step", "epoch", "state_dict", "optimizer_states", "lr_schedulers", "callbacks", "latent_seed")
COMPARED += ("random_states", "ImageDataModule")
TIMINGS = ("iterations_per_second",)
KILLS_OF_A_RUN = 4  # of the runs that are killed several times


def start(folder: Path, iterations: int) -> subprocess.Popen:
    """Start, or resume, a run as a process group of its own."""
    command = [sys.executable, "-m", "pcgan_lightning.cli", "fit", *ARGUMENTS, "--ckpt_path=last"]
    command += [f"--trainer.max_steps={iterations}", "--run_dir", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    log = folder.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=file, cwd=ROOT, start_new_session=True)


def finish(folder: Path, process: subprocess.Popen) -> None:
    """Wait for a run's end.

    Raises:
        RuntimeError: if it fails.
    """
    if process.wait():
        raise RuntimeError(f"{folder.name} failed: {folder.with_suffix('.log').read_text().strip().splitlines()[-1]}")


def kill(folder: Path, process: subprocess.Popen, seconds: float) -> Optional[dict[str, Any]]:
    """Kill a run after some time; return where it was, None if it had ended before."""
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        checkpoints = sorted(path.name for path in (folder / CHECKPOINTS).glob("*"))
        reached = max((int(float(row["step"])) for row in rows(folder) if row.get("step")), default=None)
        return {"seconds": round(seconds, 2), "iteration": reached, "checkpoints": checkpoints}
    finish(folder, process)
    return None


def torment(folder: Path, times: list[float], iterations: int) -> list[dict[str, Any]]:
    """Start a run, kill it after each of some times, start it again, and see it to its end; return the kills."""
    found = []
    for seconds in times:
        where = kill(folder, start(folder, iterations), seconds)
        if where is None:  # it came too late
            return found
        found.append(where)
    finish(folder, start(folder, iterations))
    return found


def rows(folder: Path) -> list[dict[str, str]]:
    """Return what is in a run's metrics.csv, without timings and empty rows."""
    found = [{k: v for k, v in row.items() if k not in TIMINGS} for row in read_rows(folder / METRICS_FILE)]
    return [row for row in found if row.keys() - {"step"}]


def differences(folder: Path, reference: Path) -> list[str]:
    """Return in what the ends of two runs differ, at most a few."""
    first, second = (
        torch.load(path / LAST_CHECKPOINT, map_location="cpu", weights_only=True) for path in (folder, reference)
    )
    found = [name for key in COMPARED for name in _differences(first[key], second[key], key)]
    if rows(folder) != rows(reference):
        found.append("metrics.csv")
    return found[:5]


def _differences(first: Any, second: Any, name: str) -> list[str]:
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        # A checkpoint callback remembers paths; those of two runs differ.
        kept = [key for key in first if "path" not in str(key) and key not in ("dirpath", "best_k_models")]
        return [d for key in kept for d in _differences(first[key], second[key], f"{name}/{key}")]
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)) and len(first) == len(second):
        return [d for i, pair in enumerate(zip(first, second, strict=True)) for d in _differences(*pair, f"{name}/{i}")]
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        same = first.dtype == second.dtype and first.equal(second)
    else:
        same = first == second
    return [] if same else [name]


def all_differences(folder: Path, reference: Path) -> list[str]:
    """Return in what two runs differ, files that are there or pictures included, at most a few."""
    files = [{path.relative_to(run) for path in run.rglob("*") if path.is_file()} for run in (folder, reference)]
    # Each start leaves its configuration and environment, under a name of its own.
    odd = [
        str(path) for path in sorted(files[0] ^ files[1]) if not re.fullmatch(r"(config|environment)_\d+", path.stem)
    ]
    pictures = [path for path in sorted(files[0] & files[1]) if path.suffix == ".png"]
    odd += [str(path) for path in pictures if (folder / path).read_bytes() != (reference / path).read_bytes()]
    return [*differences(folder, reference), *odd][:5]


def plan(kills: int, duration: float, source: random.Random) -> dict[str, list[float]]:
    """Return the times of the kills, in seconds after each start, by run: first one each, then several to a run."""
    single = kills - kills // 2
    # One in each of as many equal parts of a run, so that no phase is left out.
    runs = {f"single_{n:02d}": [duration * (n + source.random()) / single] for n in range(single)}
    for n, first in enumerate(range(0, kills // 2, KILLS_OF_A_RUN)):
        count = min(KILLS_OF_A_RUN, kills // 2 - first)
        runs[f"several_{n:02d}"] = [duration * source.random() for _ in range(count)]
    return runs


def kill_at_random(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Kill runs at random times; return the result."""
    began = time.perf_counter()
    reference = folder / "reference"
    finish(reference, start(reference, arguments.iterations))
    duration = time.perf_counter() - began
    print(f"undisturbed: {arguments.iterations} iterations in {duration:.1f} s", flush=True)
    source = random.Random(arguments.seed)
    results, kills = [], 0
    with ThreadPoolExecutor(arguments.parallel) as pool:
        while kills < arguments.kills:  # one that came too late is made up for
            runs = plan(arguments.kills - kills, duration, source)
            folders = [folder / f"{name}_{len(results)}" for name in runs]
            tormented = pool.map(torment, folders, runs.values(), [arguments.iterations] * len(runs))
            for path, found in zip(folders, tormented, strict=True):
                unequal = differences(path, reference)
                kills += len(found)
                results.append({"run": path.name, "kills": found, "differences": unequal})
                places = ", ".join(_place(where) for where in found) or "none came in time"
                verdict = f"DIFFERENT in {', '.join(unequal)}" if unequal else "bit-identical"
                print(f"{path.name}: {len(found)} kills ({places}): {verdict}", flush=True)
    survived = sum(len(r["kills"]) for r in results if not r["differences"])
    print(f"{survived} of {kills} kills survived: the resumed run ended bit-identical")
    return {"kills": kills, "survived": survived, "seconds": duration, "runs": results}


def kill_at_points(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Kill runs at each of their file operations; return the result."""
    os.environ["OMP_NUM_THREADS"] = "1"
    from crash_points import crash_points, with_parsed  # what they import takes a while

    result: dict[str, Any] = {}

    def work(start: Any) -> None:
        result.update(crash_points(start, folder, all_differences, arguments.only))

    with_parsed([*ARGUMENTS, *POINTS, f"--trainer.max_steps={arguments.iterations}"], work)
    kills = len(result["operations"])
    return {"kills": kills, "survived": kills - len(result["different"]), **result}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", action="store_true", help="kill at each file operation of a tiny run")
    parser.add_argument("--only", nargs="+", help="numbers or beginnings of file operations; default: all")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--iterations", type=int, help="default: 300; 4 with --points")
    parser.add_argument("--seed", type=int, default=0, help="of the times of the kills")
    parser.add_argument("--parallel", type=int, default=1, help="runs side by side")
    parser.add_argument("--runs", type=Path, help="folder of the runs, kept; default: one that is removed")
    parser.add_argument(
        "--save", action="store_true", help="write benchmarks/results/faults.json or faults_points.json"
    )
    arguments = parser.parse_args()
    folder = arguments.runs or Path(tempfile.mkdtemp())
    if any(folder.glob("*")):
        sys.exit(f"argument `runs` must be an empty folder, got {folder}")
    arguments.iterations = arguments.iterations or (4 if arguments.points else 300)
    result = (kill_at_points if arguments.points else kill_at_random)(arguments, folder)
    if arguments.runs is None:
        shutil.rmtree(folder)
    used = ("iterations",) if arguments.points else ("kills", "iterations", "seed", "parallel")
    settings = {key: getattr(arguments, key) for key in used}
    table = faults_points if arguments.points else faults
    print("\n".join(table({"settings": settings, "result": result})))
    if arguments.save:
        print("saved", save_result(table.__name__, settings, result).name)
    sys.exit(int(result["survived"] < result["kills"]))


def _place(where: dict[str, Any]) -> str:
    if where["iteration"] is None:
        return "before any row"
    writing = " while a checkpoint was written" if any(n.endswith(".part") for n in where["checkpoints"]) else ""
    return f"iteration {where['iteration']}{writing}"


if __name__ == "__main__":
    main()
