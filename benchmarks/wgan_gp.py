r"""WGAN-GP on CIFAR-10 with Adam, Ada-nSGDA, nSGDA and SGDA: a sweep of step sizes for each, then longer runs.

    python benchmarks/wgan_gp.py --source FOLDER                                  # the paper's size, on an accelerator
    python benchmarks/wgan_gp.py --source FOLDER --width 16 --batch_size 16 \
        --sweep_iterations 300 --iterations 500 --parallel 2  --save              # two CPU cores

Trains the shipped configurations of configs/nsgda with `pcgan fit`, both players with the same step size. Every
optimizer gets the same number of step sizes, evenly spaced on a log scale, and the same iterations for each; the best
by FID is trained again from scratch for longer. The decay of the step sizes keeps the paper's share of a run (45,000 of
100,000 iterations). Goes on with what was interrupted. Prints the table and, with --save, draws docs/wgan_gp.png.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from results_file import save_result
from tables import OPTIMIZERS, wgan_gp
from training_runs import FEATURES, ROOT, diverged, final_row, protocol, rows, train

# Upwards from the paper's 2e-4 for Adam and for grafts of its length, since short runs like long steps. A normalised
# step of length lr moves a layer of n weights as far as Adam does with lr / sqrt(n): a fiftieth of it for n = 2,304.
STEP_SIZES = {
    "adam": (2e-4, 8e-4, 3.2e-3, 1.28e-2),
    "ada_nsgda": (2e-4, 8e-4, 3.2e-3, 1.28e-2),
    "nsgda": (1e-2, 4e-2, 1.6e-1, 6.4e-1),
    "sgda": (1e-3, 4e-3, 1.6e-2, 6.4e-2),
}


def command(arguments: argparse.Namespace, method: str, step_size: float, seed: int, iterations: int) -> list[str]:
    """Return the arguments of one run's `pcgan fit`, without its folder."""
    every = iterations if iterations == arguments.sweep_iterations else max(1, iterations // 10)
    decay = str(math.ceil(iterations * 100 / 45))
    call = [
        *("--config", f"configs/nsgda/cifar10_wgan_gp_{method}.yaml", "--data.source", arguments.source),
        *("--seed_everything", str(seed), "--trainer.max_steps", str(iterations)),
        *("--data.batch_size", str(arguments.batch_size), "--spectrum.every_n_steps", str(iterations)),
        *("--samples.every_n_steps", str(every), "--checkpoint.every_n_train_steps", str(every)),
        *("--scores", "ScoreLogger", "--scores.every_n_steps", str(every), "--scores.count", str(arguments.count)),
        *(
            "--scores.features",
            FEATURES[arguments.features],
            "--scores.scores",
            "[fid]",
            "--progress.refresh_every_n_steps",
            "100",
        ),
    ]
    for player in ("generator", "discriminator"):
        call += [f"--model.{player}.width", str(arguments.width), f"--model.{player}_optimizer.lr", str(step_size)]
        call += [f"--model.{player}_scheduler.total_iterations", decay]
    if arguments.accelerate:  # not compiled: the gradient penalty is differentiated twice
        call += ["--trainer.precision", "bf16-mixed", "--trainer.callbacks+=Acceleration"]
        call += ["--trainer.callbacks.compile_mode=null", "--scores.batch_size", "1000"]
    return call


def main() -> None:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="uoft-cs/cifar10", help="hub name, or folder as seen from the repository")
    parser.add_argument("--methods", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument("--width", type=int, default=128, help="of both players")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--sweep_iterations", type=int, default=4500)
    parser.add_argument("--iterations", type=int, default=45_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the longer runs")
    parser.add_argument("--count", type=int, default=5000, help="generated images of one scoring")
    parser.add_argument("--features", choices=FEATURES, default="classifier")
    parser.add_argument("--parallel", type=int, default=1, help="runs side by side")
    parser.add_argument("--accelerate", action=argparse.BooleanOptionalAction, default=cuda)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "wgan_gp")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/wgan_gp.json and the curves")
    arguments = parser.parse_args()

    short, long = arguments.sweep_iterations, arguments.iterations
    sweep = {(m, lr, 0): arguments.runs / f"sweep_{m}_{lr}" for m in arguments.methods for lr in STEP_SIZES[m]}
    train({folder: command(arguments, *run, short) for run, folder in sweep.items()}, short, arguments.parallel)
    swept = [row(run, folder) for run, folder in sweep.items()]
    best = {
        m: min((r["fid"], r["step_size"]) for r in swept if r["method"] == m and r["fid"] is not None)[1]
        for m in arguments.methods
    }
    final = {(m, lr, s): arguments.runs / f"{m}_{lr}_{s}" for s in arguments.seeds for m, lr in best.items()}
    train({folder: command(arguments, *run, long) for run, folder in final.items()}, long, arguments.parallel)

    settings = {k: v for k, v in vars(arguments).items() if k not in ("runs", "source", "save")}
    settings["config"] = "configs/nsgda/cifar10_wgan_gp_<method>.yaml"
    settings["protocol"] = protocol(next(iter(final.values())))
    result = {"sweep": swept, "final": [row(run, folder) for run, folder in final.items()]}
    print("\n".join(wgan_gp({"settings": settings, "result": result})))
    if arguments.save:
        print("saved", save_result("wgan_gp", settings, result).name)
        draw(settings, result).savefig(ROOT / "docs" / "wgan_gp.png", dpi=120, bbox_inches="tight")


def row(run: tuple[str, float, int], folder: Path) -> dict[str, Any]:
    """Return a run's last row and the curve of its FID, which is None for a run that diverged."""
    method, step_size, seed = run
    last = final_row(folder)
    name = next(key for key in last if key.endswith("fid"))
    curve = [(int(r["step"]), r[f"metric/{name}"]) for r in rows(folder) if f"metric/{name}" in r]
    fid = None if diverged(folder) or not math.isfinite(last[name]) else last[name]
    return {"method": method, "step_size": step_size, "seed": seed, "fid": fid, "curve": curve, **last}


def draw(settings: dict[str, Any], result: dict[str, Any]) -> Figure:
    """Return the curves of the sweep over step sizes, and of the longer runs over iterations."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, (method, name) in enumerate(OPTIMIZERS.items()):
        swept = [r for r in result["sweep"] if r["method"] == method]
        multiples = [r["step_size"] / STEP_SIZES[method][0] for r in swept]
        left.plot(
            multiples, [math.nan if r["fid"] is None else r["fid"] for r in swept], "o-", color=f"C{number}", label=name
        )
        for run in (r for r in result["final"] if r["method"] == method):
            label = f"{name}, {run['step_size']:g}" if run["seed"] == settings["seeds"][0] else None
            right.plot(*zip(*run["curve"], strict=True), color=f"C{number}", label=label)
    left.set(
        xscale="log", yscale="log", xlabel="step size / smallest of the sweep", ylabel=f"{settings['features']} FID"
    )
    left.set_title(f"sweep, {settings['sweep_iterations']:,} iterations")
    right.set(yscale="log", xlabel="iterations", title="best step size of each, from scratch")
    left.legend()
    right.legend()
    return figure


if __name__ == "__main__":
    main()
