"""Table 1 of PC-GAN: SN, FPC-3, FPC-7 and APC on CIFAR-10 with (1, 1) updates, beside the published numbers.

    python benchmarks/table1.py --source FOLDER                        # the paper's size, on an accelerator
    python benchmarks/table1.py --source FOLDER --widths 32 16 --iterations 3000 --parallel 2 --save    # two CPU cores

Trains the shipped configurations with `pcgan fit`, goes on with what was interrupted, leaves out what is finished,
scores every K iterations, prints the table and writes runs/table1/report.html. What the paper gives as counts of its
200,000 iterations keeps its share of a shorter run: APC's interval (3,000) and the horizon of the generator's average
(10,000).
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from readme_tables import METHODS, table1
from results_file import save_result

from pcgan_lightning.report import report

ROOT = Path(__file__).parents[1]
PAPER_ITERATIONS = 200_000
FEATURES = {"classifier": "ClassifierFeatures", "inception": "InceptionFeatures"}


def command(arguments: argparse.Namespace, method: str, seed: int) -> list[str]:
    """Return the `pcgan fit` call of one run, without its folder."""
    n = arguments.iterations
    generator_width, discriminator_width = arguments.widths
    every = arguments.evaluate_every or max(1, n // 10)
    call = [
        *("pcgan", "fit", "--config", f"configs/pcgan/cifar10_resnet_1-1_{method}.yaml"),
        *("--data.source", arguments.source, "--data.batch_size", str(arguments.batch_size)),
        *("--seed_everything", str(seed), "--trainer.max_steps", str(n)),
        *("--model.generator.width", str(generator_width), "--model.discriminator.width", str(discriminator_width)),
        *("--model.ema_decay", f"{max(0.0, 1 - 20 / n):.6g}", "--spectrum.every_n_steps", str(max(1, n // 60))),
        *("--samples.every_n_steps", str(every), "--checkpoint.every_n_train_steps", str(every)),
        *("--scores", "ScoreLogger", "--scores.every_n_steps", str(every), "--scores.count", str(arguments.count)),
        *("--scores.features", FEATURES[arguments.features], "--progress.refresh_every_n_steps", "100"),
    ]
    if method == "apc":
        call += ["--preconditioning.every_n_steps", str(max(1, round(n * 3000 / PAPER_ITERATIONS)))]
    if arguments.minutes:
        call += ["--trainer.max_time", f"00:{arguments.minutes // 60:02d}:{arguments.minutes % 60:02d}:00"]
    if arguments.accelerate:
        call += ["--trainer.precision", "bf16-mixed", "--trainer.callbacks+=Acceleration"]
        call += [f"--trainer.callbacks.compile_mode={arguments.compile_mode}"]
        call += ["--model.generator_optimizer.fused=true", "--model.discriminator_optimizer.fused=true"]
        call += ["--scores.batch_size", "1000"]
    return call


def train(arguments: argparse.Namespace, method: str, seed: int) -> Path:
    """Train one run, or what is left of it, and return its folder."""
    run_dir = arguments.runs / f"{method}_{seed}"
    asked, settings = " ".join(command(arguments, method, seed)), run_dir / "command.txt"
    if settings.exists() and settings.read_text() != asked:
        sys.exit(f"argument `runs` must hold runs of the same settings, got {run_dir}, made by: {settings.read_text()}")
    if (run_dir / "checkpoints" / "last.ckpt").exists():
        return run_dir
    call = [*command(arguments, method, seed), "--run_dir", str(run_dir)]
    if any((run_dir / "checkpoints").glob("*.ckpt")):
        call += ["--ckpt_path", "last"]
    else:  # interrupted before its first checkpoint, if begun at all
        shutil.rmtree(run_dir, ignore_errors=True)
    print("$", *call, file=sys.stderr)
    threads = max(1, (os.cpu_count() or 1) // arguments.parallel)
    # Runs side by side must not wait for one another in busy loops.
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    run_dir.mkdir(parents=True, exist_ok=True)
    settings.write_text(asked)
    with (run_dir / "log.txt").open("a") as log:
        program = [sys.executable, "-m", "pcgan_lightning.cli", *call[1:]]
        done = subprocess.run(program, cwd=ROOT, env=environment, stdout=log, stderr=log, check=False)
    if done.returncode:
        sys.exit(f"{method}, seed {seed}: {(run_dir / 'log.txt').read_text().strip().splitlines()[-1]}")
    return run_dir


def final_row(run_dir: Path) -> dict[str, Any]:
    """Return the last scores and condition numbers of a run, its median speed, and the commit that it began with."""
    with (run_dir / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    last: dict[str, Any] = {"iterations": max(int(float(row["step"])) for row in rows)}
    for key in rows[0]:
        values = [float(row[key]) for row in rows if row[key]]
        if key.startswith("metric/") and values:
            last[key.removeprefix("metric/")] = values[-1]
        elif key in ("condition/max", "condition/second_max", "condition/mean"):
            last[key.removeprefix("condition/")] = values[-1]
        elif key == "iterations_per_second" and values:
            last[key] = sorted(values)[len(values) // 2]
    began = json.loads((run_dir / "environment.json").read_text())
    return last | {key: began[key] for key in ("commit", "threads", "hardware")}


def main() -> None:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="uoft-cs/cifar10", help="hub name, or folder as seen from the repository")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--iterations", type=int, default=PAPER_ITERATIONS)
    parser.add_argument("--minutes", type=int, help="stop each run after so many minutes")
    parser.add_argument("--widths", type=int, nargs=2, default=(256, 128), metavar=("G", "D"))
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--evaluate_every", type=int, metavar="K", help="default: a tenth of the iterations")
    parser.add_argument("--count", type=int, default=10_000, help="generated images of one scoring")
    parser.add_argument("--features", choices=FEATURES, default="classifier")
    parser.add_argument("--parallel", type=int, default=1, help="runs side by side")
    parser.add_argument("--accelerate", action=argparse.BooleanOptionalAction, default=cuda)
    parser.add_argument("--compile_mode", default="default")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "table1")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/table1.json")
    arguments = parser.parse_args()

    jobs = [(method, seed) for seed in arguments.seeds for method in arguments.methods]
    with ThreadPoolExecutor(arguments.parallel) as pool:
        folders = list(pool.map(lambda job: train(arguments, *job), jobs))
    result = [
        {"method": method, "seed": seed, **final_row(folder)}
        for (method, seed), folder in zip(jobs, folders, strict=True)
    ]
    settings = {k: v for k, v in vars(arguments).items() if k not in ("runs", "source", "save")}
    settings["config"] = "configs/pcgan/cifar10_resnet_1-1_<method>.yaml"
    settings["protocol"] = protocol(folders[0])
    print("\n".join(table1({"settings": settings, "result": result})))
    report(folders, arguments.runs / "report.html")
    if arguments.save:
        print("saved", save_result("table1", settings, result).name, file=sys.stderr)


def protocol(run_dir: Path) -> str:
    """Return the sentence that a run's last scores were written with."""
    return json.loads(max((run_dir / "evaluations").glob("iteration_*.json")).read_text())["protocol"]


if __name__ == "__main__":
    main()
