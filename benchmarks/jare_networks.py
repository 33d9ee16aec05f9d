r"""Networks A to F on CIFAR-10 with the standard GAN, ConOpt, SN and JARE: do all losses stay finite?

    python benchmarks/jare_networks.py --source FOLDER                               # the paper's width, 200 iterations
    python benchmarks/jare_networks.py --source FOLDER --width 8 --batch_size 16 --parallel 2 --save   # two CPU cores

Trains the shipped configurations configs/jare/cifar10_* with `pcgan fit`, logs both losses at every iteration, and says
whether all are finite. Goes on with what was interrupted. So few iterations do not say which method is better.
"""

import argparse
import math
from pathlib import Path
from statistics import fmean
from typing import Any

from results_file import save_result
from tables import NETWORK_METHODS, jare_networks
from training_runs import ROOT, final_row, rows, train

NETWORKS = "abcdef"
LOSSES = ("loss/generator", "loss/discriminator")


def command(arguments: argparse.Namespace, network: str, method: str) -> list[str]:
    """Return the arguments of one run's `pcgan fit`, without its folder."""
    iterations = str(arguments.iterations)
    return [
        *("--config", f"configs/jare/cifar10_{network}_{method}.yaml", "--seed_everything", str(arguments.seed)),
        *("--data.source", arguments.source, "--data.validation_split", "null"),
        *("--data.max_images", str(arguments.max_images), "--data.batch_size", str(arguments.batch_size)),
        *(f"--model.{player}.width={arguments.width}" for player in ("generator", "discriminator")),
        *("--trainer.max_steps", iterations, "--trainer.log_every_n_steps", "1"),
        *("--spectrum.every_n_steps", iterations, "--samples.every_n_steps", iterations),
        *("--checkpoint.every_n_train_steps", iterations, "--progress.refresh_every_n_steps", "20"),
    ]


def row(network: str, method: str, folder: Path) -> dict[str, Any]:
    """Return a run's losses, means over the last tenth of its iterations, and whether all it logged were finite."""
    logged = [r for r in rows(folder) if LOSSES[0] in r]
    end = logged[-max(1, len(logged) // 10) :]
    last = final_row(folder)
    return {
        "network": network.upper(),
        "method": method,
        "iterations": len(logged),
        "finite": all(math.isfinite(r[loss]) for r in logged for loss in LOSSES),
        **{loss.removeprefix("loss/"): fmean(r[loss] for r in end) for loss in LOSSES},
        **{key: last[key] for key in ("iterations_per_second", "commit", "threads")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="uoft-cs/cifar10", help="hub name, or folder as seen from the repository")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--methods", nargs="+", choices=NETWORK_METHODS, default=list(NETWORK_METHODS))
    parser.add_argument("--width", type=int, default=64, help="of both players")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--max_images", type=int, default=2000, help="of the training split; decoded for each run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parallel", type=int, default=1, help="runs side by side")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "jare_networks")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/jare_networks.json")
    arguments = parser.parse_args()

    runs = {(n, m): arguments.runs / f"{n}_{m}" for n in arguments.networks for m in arguments.methods}
    calls = {folder: command(arguments, *run) for run, folder in runs.items()}
    train(calls, arguments.iterations, arguments.parallel)

    settings = {k: v for k, v in vars(arguments).items() if k not in ("runs", "source", "save")}
    settings["config"] = "configs/jare/cifar10_<network>_<method>.yaml"
    result = [row(*run, folder) for run, folder in runs.items()]
    print("\n".join(jare_networks({"settings": settings, "result": result})))
    if arguments.save:
        print("saved", save_result("jare_networks", settings, result).name)


if __name__ == "__main__":
    main()
