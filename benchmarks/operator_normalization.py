"""The talk's second experiment: a GAN on CIFAR-10 whose layers are divided by the reshaped norm, or by the operator's.

    python benchmarks/operator_normalization.py --source FOLDER --parallel 2 --save

Goes on with what was interrupted, leaves out what is finished.

The plan, written down before the runs
--------------------------------------
"Spectral normalization in GANs" (Mazur, Pankov, Taktasheva) reports that a convolutional ResNet whose layers are
divided by the norm of the convolution as an operator, differentiated or held, "collapses almost immediately", while
the norm of the reshaped kernel trains well, its layers' operator norms rising from 1.5-1.6 to 2.5-3.6. Here:
configs/convolution_spectra/cifar10_resnet_{matrix,operator,operator_held}.yaml as shipped, but for widths 16, batch 16
and 800 iterations; the same for all three, seeds 1 to 3. A seed decides weights, latents and images.

Reported over every run: classifier FID and score (each quarter of the run) of the generator's weights, averaged over
a twentieth of the run, with 5,000 images; the mean over convolutions of the operator's norm and of the reshaped norm of
the normalised weight; the standard deviation of samples over latents, averaged over pixels. A run has collapsed if that
deviation is below 0.05 at the end (the images of CIFAR-10 have 0.49 there), or its FID is not below that of its
first quarter. The number that decides whether the operator's norm is worse: the last classifier FID, paired by seed,
with the range over seeds; three seeds allow no test.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from results_file import save_result
from training_runs import ROOT, protocol, rows, train

VARIANTS = ("matrix", "operator", "operator_held")
SCORES = {"fid": "metric/classifier_fid", "score": "metric/classifier_score", "deviation": "collapse/sample_deviation"}


def command(variant: str, seed: int, arguments: argparse.Namespace) -> list[str]:
    """Return the arguments of one run's `pcgan fit`, without its folder."""
    n, every = arguments.iterations, arguments.iterations // 8
    return [
        *("--config", f"configs/convolution_spectra/cifar10_resnet_{variant}.yaml"),
        *(["--data.source", arguments.source] if arguments.source else []),
        *("--data.batch_size", "16", "--seed_everything", str(seed), "--trainer.max_steps", str(n)),
        *("--model.generator.width", str(arguments.width), "--model.discriminator.width", str(arguments.width)),
        *("--model.ema_decay", f"{max(0.0, 1 - 20 / n):.6g}", "--spectrum.every_n_steps", str(every)),
        *("--collapse.every_n_steps", str(every), "--samples.every_n_steps", str(every)),
        *("--checkpoint.every_n_train_steps", str(n // 2), "--progress.refresh_every_n_steps", "100"),
        *("--scores", "ScoreLogger", "--scores.every_n_steps", str(n // 4), "--scores.count", str(arguments.count)),
        *("--scores.features", "ClassifierFeatures", "--scores.scores", "[fid, score]"),
    ]


def read(folder: Path) -> dict[str, dict[int, float]]:
    """Return what a run logged, iteration by iteration: scores, sample deviation, and the mean norms of its layers."""
    series: dict[str, dict[int, float]] = {}
    for row in rows(folder):
        found = {name: row[key] for name, key in SCORES.items() if key in row}
        norms = {
            k.removesuffix("/norm"): v for k, v in row.items() if k.startswith("operator/") and k.endswith("/norm")
        }
        if norms:
            found["operator_norm"] = sum(norms.values()) / len(norms)
            found["reshaped_norm"] = sum(v / row[f"{k}/norm_ratio"] for k, v in norms.items()) / len(norms)
        for name, value in found.items():
            series.setdefault(name, {})[int(row["step"])] = value
    return series


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", help="another hub name, or folder as seen from the repository")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--iterations", type=int, default=800)
    parser.add_argument("--width", type=int, default=16, help="of both networks")
    parser.add_argument("--count", type=int, default=5000, help="generated images of one scoring")
    parser.add_argument("--parallel", type=int, default=1, help="runs side by side")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "operator_normalization")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/operator_normalization.json")
    arguments = parser.parse_args()

    runs = {(v, seed): arguments.runs / f"{v}_{seed}" for seed in arguments.seeds for v in VARIANTS}
    calls = {folder: command(*key, arguments) for key, folder in runs.items()}
    train(calls, arguments.iterations, arguments.parallel, threads=1)
    result: list[dict[str, Any]] = []
    for (variant, seed), folder in runs.items():
        series = {name: {"iteration": list(s), "value": list(s.values())} for name, s in read(folder).items()}
        result.append({"variant": variant, "seed": seed, "series": series})
        print(variant, seed, {name: f"{s['value'][-1]:.4g}" for name, s in series.items()})
    if arguments.save:
        settings = {key: getattr(arguments, key) for key in ("seeds", "iterations", "width", "count")}
        settings["protocol"] = protocol(next(iter(runs.values())))
        print("saved", save_result("operator_normalization", settings, result).name, file=sys.stderr)


if __name__ == "__main__":
    main()
