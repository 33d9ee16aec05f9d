"""Table 1 of PC-GAN: SN, FPC-3, FPC-7 and APC on CIFAR-10 with (1, 1) updates, beside the published numbers.

    python benchmarks/table1.py --source FOLDER                        # the paper's size, on an accelerator
    python benchmarks/table1.py --source FOLDER --widths 32 16 --iterations 3000 --parallel 2 --save    # two CPU cores

Trains the shipped configurations with `pcgan fit`, goes on with what was interrupted, leaves out what is finished,
scores every K iterations, prints the table and writes runs/table1/report.html. What the paper gives as counts of its
200,000 iterations keeps its share of a shorter run: APC's interval (1,000) and the horizon of the generator's average
(10,000).
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from results_file import save_result
from tables import METHODS, table1
from training_runs import FEATURES, ROOT, final_row, protocol, train

from pcgan_lightning.report import report

PAPER_ITERATIONS = 200_000
APC_INTERVAL = 1000


def apc_interval(iterations: int) -> int:
    """Return APC's interval, which keeps its share of the run."""
    return max(1, round(iterations * APC_INTERVAL / PAPER_ITERATIONS))


def command(arguments: argparse.Namespace, method: str, seed: int) -> list[str]:
    """Return the arguments of one run's `pcgan fit`, without its folder."""
    n = arguments.iterations
    generator_width, discriminator_width = arguments.widths
    every = arguments.evaluate_every or max(1, n // 10)
    call = [
        *("--config", f"configs/pcgan/cifar10_resnet_1-1_{method}.yaml"),
        *("--data.source", arguments.source, "--data.batch_size", str(arguments.batch_size)),
        *("--seed_everything", str(seed), "--trainer.max_steps", str(n)),
        *("--model.generator.width", str(generator_width), "--model.discriminator.width", str(discriminator_width)),
        *("--model.ema_decay", f"{max(0.0, 1 - 20 / n):.6g}", "--spectrum.every_n_steps", str(max(1, n // 60))),
        *("--samples.every_n_steps", str(every), "--checkpoint.every_n_train_steps", str(every)),
        *("--scores", "ScoreLogger", "--scores.every_n_steps", str(every), "--scores.count", str(arguments.count)),
        *("--scores.features", FEATURES[arguments.features], "--progress.refresh_every_n_steps", "100"),
    ]
    for player in ("generator", "discriminator"):
        call += [f"--model.{player}_optimizer.betas", json.dumps(arguments.betas)]
    if method == "apc":
        call += ["--preconditioning.every_n_steps", str(apc_interval(n))]
    if arguments.accelerate:
        call += ["--trainer.precision", "bf16-mixed", "--trainer.callbacks+=Acceleration"]
        call += [f"--trainer.callbacks.compile_mode={arguments.compile_mode}"]
        call += ["--model.generator_optimizer.fused=true", "--model.discriminator_optimizer.fused=true"]
        call += ["--scores.batch_size", "1000"]
    return call


def main() -> None:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="uoft-cs/cifar10", help="hub name, or folder as seen from the repository")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--iterations", type=int, default=PAPER_ITERATIONS)
    parser.add_argument("--minutes", type=int, help="stop each run after so many minutes of its own, resumed or not")
    parser.add_argument("--widths", type=int, nargs=2, default=(256, 128), metavar=("G", "D"))
    parser.add_argument("--betas", type=float, nargs=2, default=(0.5, 0.999), help="of both players' Adam")
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

    runs = {(m, seed): arguments.runs / f"{m}_{seed}" for seed in arguments.seeds for m in arguments.methods}
    hours, minutes = divmod(arguments.minutes or 0, 60)
    limits = ["--trainer.max_time", f"00:{hours:02d}:{minutes:02d}:00"] if arguments.minutes else []
    calls = {folder: command(arguments, *run) for run, folder in runs.items()}
    train(calls, arguments.iterations, arguments.parallel, limits)
    folders = list(runs.values())
    result = [{"method": m, "seed": seed, **final_row(folder)} for (m, seed), folder in runs.items()]
    settings = {k: v for k, v in vars(arguments).items() if k not in ("runs", "source", "save")}
    settings["config"] = "configs/pcgan/cifar10_resnet_1-1_<method>.yaml"
    settings["apc_interval"] = apc_interval(arguments.iterations)
    settings["protocol"] = protocol(folders[0])
    print("\n".join(table1({"settings": settings, "result": result})))
    report(folders, arguments.runs / "report.html")
    if arguments.save:
        print("saved", save_result("table1", settings, result).name, file=sys.stderr)


if __name__ == "__main__":
    main()
