"""All methods of preconditioning on one experiment of PC-GAN: what its Tables 1 and 2 have in common."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import torch
from results_file import RESULTS, save_result
from table1_tables import METHODS, table1
from training_runs import FEATURES, ROOT, final_row, protocol, train

from pcgan_lightning.report import report

PAPER_ITERATIONS = 200_000
APC_INTERVAL = 1000
WITHOUT_CONFIG = {"fpc17": "fpc17", "apc-goal": "apc_goal"}  # not of the paper: SN's configuration, and a piece


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of both tables."""
    parser.add_argument("--source", help="another hub name, or folder as seen from the repository")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--iterations", type=int, default=PAPER_ITERATIONS)
    parser.add_argument("--minutes", type=int, help="stop each run after so many minutes of its own, resumed or not")
    parser.add_argument("--widths", type=int, nargs=2, metavar=("G", "D"), help="default: the configuration's")
    parser.add_argument("--betas", type=float, nargs=2, action="append", help="of both players' Adam; may be repeated")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--evaluate_every", type=int, metavar="K", help="default: a tenth of the iterations")
    parser.add_argument("--count", type=int, default=10_000, help="generated images of one scoring")
    parser.add_argument("--features", choices=FEATURES, default="classifier")
    parser.add_argument("--scores", nargs="+", help="default: all that the features allow")
    parser.add_argument("--parallel", type=int, default=1, help="runs side by side")
    parser.add_argument("--threads", type=int, help="of each run; default: the cores, shared evenly")
    parser.add_argument("--accelerate", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available())
    parser.add_argument("--compile_mode", default="default")
    parser.add_argument("--runs", type=Path, help="default: runs/ and the table's name")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/ and the table's name")


def apc_interval(iterations: int) -> int:
    """Return APC's interval, which keeps its share of the run."""
    return max(1, round(iterations * APC_INTERVAL / PAPER_ITERATIONS))


def command(
    arguments: argparse.Namespace, experiment: str, method: str, betas: tuple[float, float], seed: int
) -> list[str]:
    """Return the arguments of one run's `pcgan fit`, without its folder."""
    n = arguments.iterations
    every = arguments.evaluate_every or max(1, n // 10)
    call = ["--config", f"configs/pcgan/{experiment}_{'sn' if method in WITHOUT_CONFIG else method}.yaml"]
    if method in WITHOUT_CONFIG:
        call += ["--preconditioning", f"configs/shared/{WITHOUT_CONFIG[method]}.yaml"]
    call += [
        *(["--data.source", arguments.source] if arguments.source else []),
        *("--data.batch_size", str(arguments.batch_size)),
        *("--seed_everything", str(seed), "--trainer.max_steps", str(n)),
        *widths(arguments.widths),
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


def widths(chosen: Optional[Sequence[int]]) -> list[str]:
    """Return the arguments for both players' widths, none where the configuration's are kept."""
    if chosen is None:
        return []
    return ["--model.generator.width", str(chosen[0]), "--model.discriminator.width", str(chosen[1])]


def saved_rows(name: str, settings: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the other runs of the same settings that the results file has, whose folders may be gone."""
    path = RESULTS / f"{name}.json"
    content = json.loads(path.read_text()) if path.exists() else {"settings": {}, "result": []}
    free = {"seeds", "methods", "betas", "parallel", "threads", "minutes"}
    if any(content["settings"].get(key) != settings[key] for key in settings.keys() - free):
        return []
    known = [(row["method"], tuple(row["betas"]), row["seed"]) for row in rows]
    return [row for row in content["result"] if (row["method"], tuple(row["betas"]), row["seed"]) not in known]


def make_table(arguments: argparse.Namespace, name: str, experiment: str) -> None:
    """Train what is missing, print the table, write the report, and save the result if asked.

    Args:
        arguments: those of :func:`add_arguments`, and `dataset` and `updates`.
        name: of the table, its runs and its result.
        experiment: the beginning of the configurations' names.
    """
    folder = arguments.runs or ROOT / "runs" / name
    # Seed by seed, so that an early end leaves whole comparisons.
    keys = [(m, betas, seed) for seed in arguments.seeds for betas in arguments.betas for m in arguments.methods]
    runs = {key: folder / f"{key[0]}_betas{key[1][0]:g}_{key[2]}" for key in keys}
    hours, minutes = divmod(arguments.minutes or 0, 60)
    limits = ["--trainer.max_time", f"00:{hours:02d}:{minutes:02d}:00"] if arguments.minutes else []
    calls = {runs[key]: command(arguments, experiment, *key) for key in keys}
    train(calls, arguments.iterations, arguments.parallel, limits, threads=arguments.threads)
    folders = list(runs.values())
    result: list[dict[str, Any]] = [
        {"method": method, "betas": betas, "seed": seed, **final_row(folder)}
        for (method, betas, seed), folder in runs.items()
    ]
    settings = {k: v for k, v in vars(arguments).items() if k not in ("name", "runs", "source", "save", "time")}
    settings["apc_interval"] = apc_interval(arguments.iterations)
    settings["protocol"] = protocol(folders[0])
    result = [*saved_rows(name, settings, result), *result]
    settings |= {"seeds": sorted({row["seed"] for row in result})}
    settings |= {"methods": [method for method in METHODS if method in {row["method"] for row in result}]}
    settings |= {"betas": list(dict.fromkeys(tuple(row["betas"]) for row in result))}
    print("\n".join(table1({"settings": settings, "result": result})))
    report(folders, folder / "report.html")
    if arguments.save:
        print("saved", save_result(name, settings, result).name, file=sys.stderr)
