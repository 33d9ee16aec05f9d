r"""Modes of the mixture of Gaussians that SimGD, ConOpt and JARE find, over several seeds.

    python benchmarks/mixture.py --save                         # the paper's 20,000 steps
    python benchmarks/mixture.py --iterations 2000 --save       # a CPU core, an hour
    python benchmarks/mixture.py --width 64 --lr 1e-3 --iterations 2500 --save mixture_small

The settings are those of configs/jare/mixture_<method>.yaml; the runs take turns in one process. Each leaves its
checkpoint under --runs, from which another call goes on: it trains what has fewer iterations than are asked for.
"""

import argparse
import logging
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from results_file import save_result
from tables import GAME_METHODS, mixture
from training_runs import ROOT

from pcgan_lightning.callbacks import ModeLogger
from pcgan_lightning.data import MixtureOfGaussians
from pcgan_lightning.games import JARE, ConOpt, GameMethod, SimGD
from pcgan_lightning.losses import SaturatingLoss
from pcgan_lightning.modules import SimultaneousGAN
from pcgan_lightning.networks import MLPDiscriminator, MLPGenerator


def train(path: Path, method: GameMethod, seed: int, arguments: argparse.Namespace) -> dict[str, list]:
    """Train one run as far as is asked for, and return its series of modes."""
    modes = ModeLogger(every_n_steps=arguments.every)
    if path.exists():
        saved = torch.load(path, weights_only=True)
        if saved["global_step"] >= arguments.iterations:
            return saved["callbacks"][modes.state_key]["series"]
    seed_everything(seed, verbose=False)
    optimizer = partial(torch.optim.RMSprop, lr=arguments.lr, alpha=0.9, eps=1e-5)
    networks = MLPGenerator(width=arguments.width), MLPDiscriminator(width=arguments.width)
    module = SimultaneousGAN(
        *networks, SaturatingLoss(), method, generator_optimizer=optimizer, discriminator_optimizer=optimizer
    )
    trainer = Trainer(
        max_steps=arguments.iterations,
        accelerator="cpu",
        callbacks=[modes],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, MixtureOfGaussians(), ckpt_path=path if path.exists() else None)
    trainer.save_checkpoint(path)
    return modes.series


def row(method: str, seed: int, series: dict[str, list], iterations: int) -> dict[str, Any]:
    """Return the series of one run and its last entry by name."""
    last = series["iteration"].index(iterations)
    final = {name: series[name][last] for name in ("modes_covered", "high_quality_share")}
    return {"method": method, "seed": seed, **final, "series": series}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--gamma", type=float, default=10.0, help="of ConOpt and JARE")
    parser.add_argument("--width", type=int, default=256, help="of both players")
    parser.add_argument("--lr", type=float, default=1e-4, help="of RMSProp, both players")
    parser.add_argument("--every", type=int, default=500, help="iterations between measurements")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "mixture", help="folder of the checkpoints")
    parser.add_argument("--save", nargs="?", const="mixture", metavar="NAME", help="write benchmarks/results/NAME.json")
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")

    methods = {"simgd": SimGD(), "conopt": ConOpt(arguments.gamma), "jare": JARE(arguments.gamma)}
    folder = arguments.runs / f"gamma{arguments.gamma:g}_width{arguments.width}_lr{arguments.lr:g}"
    rows = []
    for seed in arguments.seeds:
        for name, method in methods.items():
            series = train(folder / f"{name}_{seed}.ckpt", method, seed, arguments)
            rows.append(row(name, seed, series, arguments.iterations))
            found = f"{rows[-1]['modes_covered']} modes, share {rows[-1]['high_quality_share']:.3f}"
            print(f"{GAME_METHODS[name]}, seed {seed}: {found}", flush=True)
    settings = {key: value for key, value in vars(arguments).items() if key not in ("runs", "save")}
    settings["config"] = "configs/jare/mixture_<method>.yaml"
    print("\n".join(mixture({"settings": settings, "result": rows})))
    if arguments.save:
        print("saved", save_result(arguments.save, settings, rows).name)


if __name__ == "__main__":
    main()
