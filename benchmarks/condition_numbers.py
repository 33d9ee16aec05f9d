"""Condition numbers of SN, FPC-3, FPC-7 and APC on CIFAR-10 after a short run of the shipped configurations.

    python benchmarks/condition_numbers.py --source FOLDER_OF_CIFAR10_PARQUET_FILES

Reads the last `condition/...` row of each run's metrics.csv; runs that are finished already are not repeated.
"""

import argparse
import csv
import subprocess
import sys
from pathlib import Path

from results_file import save_result

METHODS = {"sn": "SN", "fpc3": "FPC-3", "fpc7": "FPC-7", "apc": "APC"}
COLUMNS = ("max", "second_max", "mean")
ROOT = Path(__file__).parents[1]


def command(method: str, source: str, iterations: int, run_dir: Path) -> list[str]:
    """Return the `pcgan fit` call of one method."""
    return [
        *("pcgan", "fit", "--config", f"configs/pcgan/cifar10_resnet_1-1_{method}.yaml"),
        *("--data.source", source, "--data.batch_size", "32", "--seed_everything", "0"),
        *("--model.generator.width", "64", "--model.discriminator.width", "32"),
        *("--trainer.max_steps", str(iterations), "--spectrum.every_n_steps", "100"),
        # The shipped interval of 3,000 iterations would let APC measure only once in so short a run.
        *(("--preconditioning.every_n_steps", "100") if method == "apc" else ()),
        *("--run_dir", str(run_dir)),
    ]


def final_conditions(run_dir: Path) -> dict[str, float]:
    """Return the last max, second max and mean modified condition number of a run."""
    with (run_dir / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["condition/max"]]
    return {"iteration": int(rows[-1]["step"])} | {c: float(rows[-1][f"condition/{c}"]) for c in COLUMNS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="uoft-cs/cifar10", help="hub name, or folder as seen from the repository")
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "condition_numbers")
    arguments = parser.parse_args()

    table = {}
    for method in arguments.methods:
        run_dir = arguments.runs / method
        if not (run_dir / "checkpoints" / "last.ckpt").exists():
            call = command(method, arguments.source, arguments.iterations, run_dir)
            print("$", *call, file=sys.stderr)
            subprocess.run([sys.executable, "-m", "pcgan_lightning.cli", *call[1:]], cwd=ROOT, check=True)
        table[method] = final_conditions(run_dir)
    print("| method | iterations | max | second max | mean |\n|---|---|---|---|---|")
    for method, row in table.items():
        print(f"| {METHODS[method]} | {row['iteration']} | " + " | ".join(f"{row[c]:.2f}" for c in COLUMNS) + " |")
    if list(table) == list(METHODS):
        settings = {"config": "configs/pcgan/cifar10_resnet_1-1_<method>.yaml", "batch_size": 32, "seed": 0}
        settings |= {"widths": "64/32", "iterations": arguments.iterations}
        print("saved", save_result("condition_numbers", settings, table).name, file=sys.stderr)


if __name__ == "__main__":
    main()
