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

from method_runs import add_arguments, command, make_table
from results_file import save_result
from training_runs import seconds_of_iteration


def experiment(arguments: argparse.Namespace) -> str:
    """Return the beginning of the configurations' names."""
    return f"{arguments.dataset}_resnet_{arguments.updates}"


def measured(arguments: argparse.Namespace, updates: str) -> float:
    """Return the processor seconds of an iteration of SN with these updates, without scores."""
    arguments = argparse.Namespace(**vars(arguments) | {"updates": updates, "accelerate": False})
    call = command(arguments, experiment(arguments), "sn", arguments.betas[0], 0)
    call = call[: call.index("--scores")]
    return min(seconds_of_iteration(call) for _ in range(2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=("cifar10", "stl10"), default="cifar10")
    parser.add_argument("--updates", choices=("1-1", "5-1"), default="1-1", help="of the discriminator and generator")
    parser.add_argument(
        "--time", action="store_true", help="measure the time of (1, 1) and (5, 1) updates, train nothing"
    )
    parser.add_argument("--name", default="table1", help="of the result that is saved and the folder of its runs")
    add_arguments(parser)
    arguments = parser.parse_args()
    default = (0.0, 0.9) if arguments.updates == "5-1" else (0.5, 0.999)
    arguments.betas = [tuple(pair) for pair in arguments.betas or [default]]
    if arguments.time:
        seconds = {updates: measured(arguments, updates) for updates in ("1-1", "5-1")}
        print(f"{seconds}, ratio {seconds['1-1'] / seconds['5-1']:.3f}")
        if arguments.save:
            settings = {key: getattr(arguments, key) for key in ("dataset", "widths", "batch_size")}
            print("saved", save_result("table1_time", settings, seconds).name, file=sys.stderr)
        return
    make_table(arguments, arguments.name, experiment(arguments))


if __name__ == "__main__":
    main()
