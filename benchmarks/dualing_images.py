"""Dualing GANs on images: digits and CIFAR-10, each method for as many seconds of a processor.

    python benchmarks/dualing_images.py --source FOLDER --parallel 2 --save

Goes on with what was interrupted, leaves out what is finished.

The plan, written down before the runs
--------------------------------------
configs/dualing/digits_{gan,linear}.yaml as shipped, and cifar10_{gan,scores,cost}.yaml with networks of width 16 and
batch 32; seeds 1 to 3, which decide weights, latents and images. Each method gets the same seconds of a processor:
those of an iteration are measured first, as the difference between runs of 10 and 40 iterations without scores, over
30, and the number of iterations is the budget (60 s for digits, 100 s for CIFAR-10) over it. Reported: FID and
inception-like score of the last generator with the features of a classifier of ours (digits: `DigitFeatures`; CIFAR-10:
`ClassifierFeatures`), 5,000 images. The number that decides is that FID, paired by seed; three seeds allow no test, so
only differences that all seeds share, and that are larger than the ranges over seeds, are called differences. Nothing
is tuned for any method; C and Delta of the configurations are guesses, since the poster gives none. The poster's
inception scores (standard GAN 5.61, scores 5.40, cost 5.43) are those of other networks and more training. No run is
left out; of one that diverges the last scores before count.

The first runs had C = 1e-4 on CIFAR-10, and neither linearization learnt anything: the discriminator had won within 150
iterations, with scores of 10 and all dual variables at their bounds. So trials of `cost` with one seed that is none of
these (7), 500 to 800 iterations each, varied C: at 0.01 and 0.1 it still wins, at 0.2 and 0.4 the generator learns, at
1 the discriminator's weights vanish. The configurations have C = 0.3 now, and the runs of both linearizations were
repeated with it, before which this paragraph was written; the first ones stay in the table. One number that was chosen
by trials for the linearizations, none for the standard GAN, is an advantage for the former.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from results_file import save_result
from training_runs import ROOT, final_row, iterations_done, protocol, seconds_of_iteration, train

SMALL = ["--model.method.weight_decay", "0.0001"]
METHODS: dict[str, dict[str, tuple[str, list[str]]]] = {  # what it is called -> configuration, and what differs from it
    "digits": {"gan": ("gan", []), "linear": ("linear", [])},
    "cifar10": {
        "gan": ("gan", []),
        "scores": ("scores", []),
        "cost": ("cost", []),
        "scores, C = 0.0001": ("scores", SMALL),
        "cost, C = 0.0001": ("cost", SMALL),
    },
}
FEATURES = {"digits": "DigitFeatures", "cifar10": "ClassifierFeatures"}


def command(data: str, method: str, arguments: argparse.Namespace) -> list[str]:
    """Return the arguments of a run's `pcgan fit`, without seed, length and folder."""
    config, changes = METHODS[data][method]
    call = ["--config", f"configs/dualing/{data}_{config}.yaml", *changes, "--progress.refresh_every_n_steps", "100"]
    if data == "cifar10":
        call += [f"--model.{player}.width={arguments.width}" for player in ("generator", "discriminator")]
        call += ["--data.batch_size", "32", *(["--data.source", arguments.source] if arguments.source else [])]
    return call


def measured_seconds(arguments: argparse.Namespace) -> dict[str, float]:
    """Return seconds of an iteration of each method; those of a former call, so that all seeds have equal lengths."""
    path = arguments.runs / "seconds.json"
    if not path.exists():
        # C takes no time.
        pairs = [(data, method) for data in arguments.data for method in METHODS[data] if not METHODS[data][method][1]]
        found = {f"{d}_{m}": seconds_of_iteration(command(d, m, arguments)) for d, m in pairs}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found))
    return json.loads(path.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", help="another hub name of CIFAR-10, or folder as seen from the repository")
    parser.add_argument("--data", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--methods", nargs="+", help="default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--seconds", type=float, nargs=2, default=(60.0, 100.0), metavar=("DIGITS", "CIFAR10"))
    parser.add_argument("--width", type=int, default=16, help="of the networks for CIFAR-10")
    parser.add_argument("--count", type=int, default=5000, help="generated images of a scoring")
    parser.add_argument("--parallel", type=int, default=1, help="runs side by side")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "dualing_images")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/dualing_images.json")
    arguments = parser.parse_args()

    seconds, budgets = measured_seconds(arguments), dict(zip(METHODS, arguments.seconds, strict=True))
    result: list[dict[str, Any]] = []
    for data in arguments.data:
        for method in METHODS[data]:
            if method not in (arguments.methods or METHODS[data]):
                continue
            of_iteration = seconds[f"{data}_{METHODS[data][method][0]}"]
            iterations = round(budgets[data] / of_iteration)
            call = [*command(data, method, arguments), "--trainer.max_steps", str(iterations)]
            call += ["--scores", "ScoreLogger", "--scores.every_n_steps", str(max(1, iterations // 4))]
            call += ["--scores.count", str(arguments.count), "--scores.features", FEATURES[data]]
            call += ["--scores.scores", "[fid, score]"]
            name = f"{data}_{method}".replace(", C = ", "_")
            runs = {seed: arguments.runs / f"{name}_{seed}" for seed in arguments.seeds}
            calls = {folder: [*call, "--seed_everything", str(seed)] for seed, folder in runs.items()}
            train(calls, iterations, arguments.parallel, threads=1)
            for seed, folder in runs.items():
                row = {"data": data, "method": method, "seed": seed, "planned": iterations, **final_row(folder)}
                row |= {"finished": iterations_done(folder) == iterations, "protocol": protocol(folder)}
                result.append(row | {"seconds_of_iteration": of_iteration})
                print({key: row[key] for key in row if key in ("data", "method", "seed", "planned") or "_" in key})
    if arguments.save:
        settings = {key: getattr(arguments, key) for key in ("seeds", "seconds", "width", "count")}
        print("saved", save_result("dualing_images", settings, result).name, file=sys.stderr)


if __name__ == "__main__":
    main()
