"""Table 1 of PC-GAN: all methods of preconditioning on CIFAR-10 or STL-10, beside the published numbers.

    python benchmarks/table1.py --source FOLDER                                 # the paper's size, on an accelerator
    python benchmarks/table1.py --source FOLDER --dataset stl10 --updates 5-1   # another part of the paper
    python benchmarks/table1.py --source FOLDER --seeds 1 2 3 --betas 0.5 0.999 --betas 0 0.9 --widths 16 16 \
        --batch_size 16 --iterations 800 --evaluate_every 800 --count 5000 --scores fid score --parallel 2 --save

Trains the shipped configurations with `pcgan fit`, goes on with what was interrupted, leaves out what is finished,
scores every K iterations, prints the table and writes runs/table1/report.html. What the paper gives as counts of its
200,000 iterations keeps its share of a shorter run: APC's interval (1,000) and the horizon of the generator's average
(10,000).

`--time` measures processor seconds of an iteration at (1, 1) and (5, 1) instead: the paper says "about 1/3".

The plan of the third command, written down before its runs
-----------------------------------------------------------
The paper's claim is that SN-GAN fails with (1, 1) updates, with large condition numbers, and that preconditioning mends
it. Compared are SN, FPC-3, FPC-7, FPC-17, APC, APC with a goal of 5, and SVD, with both pairs of betas that the
authors' commands have, seeds 1 to 3 each; a seed decides weights, latents and images, and is shared by all methods. The
number that decides is the averaged generator's classifier FID after the last iteration; a method differs from SN if a
two-sided Wilcoxon signed-rank test over the six pairs of runs with equal seed and betas has p <= 0.05, which takes all
six of one sign (p = 1/32). The six comparisons are not corrected for their number. Condition numbers and classifier
score are described. No run is left out. So few iterations of so small networks cannot show a failure that the paper
reports after 200,000: what can be seen is whether the condition numbers order themselves as published, and whether
preconditioning costs anything early on.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from results_file import save_result
from table1_tables import METHODS, table1
from training_runs import FEATURES, ROOT, final_row, protocol, seconds_of_iteration, train

from pcgan_lightning.report import report

PAPER_ITERATIONS = 200_000
APC_INTERVAL = 1000
WITHOUT_CONFIG = {"fpc17": "fpc17", "apc-goal": "apc_goal"}  # not of the paper: SN's configuration, and a piece


def apc_interval(iterations: int) -> int:
    """Return APC's interval, which keeps its share of the run."""
    return max(1, round(iterations * APC_INTERVAL / PAPER_ITERATIONS))


def command(arguments: argparse.Namespace, method: str, betas: tuple[float, float], seed: int) -> list[str]:
    """Return the arguments of one run's `pcgan fit`, without its folder."""
    n = arguments.iterations
    experiment = f"configs/pcgan/{arguments.dataset}_resnet_{arguments.updates}"
    generator_width, discriminator_width = arguments.widths
    every = arguments.evaluate_every or max(1, n // 10)
    call = ["--config", f"{experiment}_{'sn' if method in WITHOUT_CONFIG else method}.yaml"]
    if method in WITHOUT_CONFIG:
        call += ["--preconditioning", f"configs/shared/{WITHOUT_CONFIG[method]}.yaml"]
    call += [
        *(["--data.source", arguments.source] if arguments.source else []),
        *("--data.batch_size", str(arguments.batch_size)),
        *("--seed_everything", str(seed), "--trainer.max_steps", str(n)),
        *("--model.generator.width", str(generator_width), "--model.discriminator.width", str(discriminator_width)),
        *("--model.ema_decay", f"{max(0.0, 1 - 20 / n):.6g}", "--spectrum.every_n_steps", str(max(1, n // 60))),
        *("--samples.every_n_steps", str(every), "--checkpoint.every_n_train_steps", str(every)),
        *("--scores", "ScoreLogger", "--scores.every_n_steps", str(every), "--scores.count", str(arguments.count)),
        *("--scores.features", FEATURES[arguments.features], "--progress.refresh_every_n_steps", "100"),
    ]
    if arguments.scores:
        call += ["--scores.scores", f"[{', '.join(arguments.scores)}]"]
    for player in ("generator", "discriminator"):
        call += [f"--model.{player}_optimizer.betas", "[{:g}, {:g}]".format(*betas)]
    if method.startswith("apc"):
        call += ["--preconditioning.every_n_steps", str(apc_interval(n))]
    if arguments.accelerate:
        call += ["--trainer.precision", "bf16-mixed", "--trainer.callbacks+=Acceleration"]
        call += [f"--trainer.callbacks.compile_mode={arguments.compile_mode}"]
        call += ["--model.generator_optimizer.fused=true", "--model.discriminator_optimizer.fused=true"]
        call += ["--scores.batch_size", "1000"]
    return call


def measured(arguments: argparse.Namespace, updates: str) -> float:
    """Return the processor seconds of an iteration of SN with these updates, without scores."""
    arguments = argparse.Namespace(**vars(arguments) | {"updates": updates, "accelerate": False})
    call = command(arguments, "sn", arguments.betas[0], 0)
    call = call[: call.index("--scores")]
    return min(seconds_of_iteration(call) for _ in range(3))


def parsed() -> argparse.Namespace:
    """Return the command line's arguments."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=("cifar10", "stl10"), default="cifar10")
    parser.add_argument("--updates", choices=("1-1", "5-1"), default="1-1", help="of the discriminator and generator")
    parser.add_argument("--source", help="another hub name, or folder as seen from the repository")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--iterations", type=int, default=PAPER_ITERATIONS)
    parser.add_argument("--minutes", type=int, help="stop each run after so many minutes of its own, resumed or not")
    parser.add_argument("--widths", type=int, nargs=2, default=(256, 128), metavar=("G", "D"))
    parser.add_argument("--betas", type=float, nargs=2, action="append", help="of both players' Adam; may be repeated")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--evaluate_every", type=int, metavar="K", help="default: a tenth of the iterations")
    parser.add_argument("--count", type=int, default=10_000, help="generated images of one scoring")
    parser.add_argument("--features", choices=FEATURES, default="classifier")
    parser.add_argument("--scores", nargs="+", help="default: all that the features allow")
    parser.add_argument("--parallel", type=int, default=1, help="runs side by side")
    parser.add_argument("--threads", type=int, help="of each run; default: the cores, shared evenly")
    parser.add_argument("--accelerate", action=argparse.BooleanOptionalAction, default=cuda)
    parser.add_argument("--compile_mode", default="default")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "table1")
    parser.add_argument(
        "--time", action="store_true", help="measure the time of (1, 1) and (5, 1) updates, train nothing"
    )
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/table1.json")
    arguments = parser.parse_args()
    default = (0.0, 0.9) if arguments.updates == "5-1" else (0.5, 0.999)
    arguments.betas = [tuple(pair) for pair in arguments.betas or [default]]
    return arguments


def main() -> None:
    arguments = parsed()
    if arguments.time:
        seconds = {updates: measured(arguments, updates) for updates in ("1-1", "5-1")}
        print(f"{seconds}, ratio {seconds['1-1'] / seconds['5-1']:.3f}")
        if arguments.save:
            settings = {key: getattr(arguments, key) for key in ("dataset", "widths", "batch_size")}
            print("saved", save_result("table1_time", settings, seconds).name, file=sys.stderr)
        return
    # Seed by seed, so that an early end leaves whole comparisons.
    keys = [(m, betas, seed) for seed in arguments.seeds for betas in arguments.betas for m in arguments.methods]
    runs = {key: arguments.runs / f"{key[0]}_betas{key[1][0]:g}_{key[2]}" for key in keys}
    hours, minutes = divmod(arguments.minutes or 0, 60)
    limits = ["--trainer.max_time", f"00:{hours:02d}:{minutes:02d}:00"] if arguments.minutes else []
    calls = {runs[key]: command(arguments, *key) for key in keys}
    train(calls, arguments.iterations, arguments.parallel, limits, threads=arguments.threads)
    folders = list(runs.values())
    result: list[dict[str, Any]] = [
        {"method": method, "betas": betas, "seed": seed, **final_row(folder)}
        for (method, betas, seed), folder in runs.items()
    ]
    settings = {k: v for k, v in vars(arguments).items() if k not in ("runs", "source", "save")}
    settings["apc_interval"] = apc_interval(arguments.iterations)
    settings["protocol"] = protocol(folders[0])
    print("\n".join(table1({"settings": settings, "result": result})))
    report(folders, arguments.runs / "report.html")
    if arguments.save:
        print("saved", save_result("table1", settings, result).name, file=sys.stderr)


if __name__ == "__main__":
    main()
