"""Digests of short runs: a change that should change nothing must leave every line as it was.

Each configuration is trained by `pcgan fit` for some iterations, in a process of its own and on one thread. A line
holds the configuration's name and three digests: of all weights and buffers, of all optimizer states, and of
`metrics.csv` without the columns that measure time.

    python benchmarks/digests.py > before.txt    # on the former commit
    python benchmarks/digests.py > after.txt     # on the new one: diff before.txt after.txt prints nothing

CIFAR-10's configurations read scikit-learn's digits, so that nothing is downloaded.
"""

import argparse
import csv
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
SMALL = ["--data.source=digits", "--data.validation_split=null", "--data.batch_size=8"]
GREY = [f"--model.{player}.channels=1" for player in ("generator", "discriminator")]
TIMES = ("iterations_per_second", "jacobian/seconds")


def narrow(width: int) -> list[str]:
    """Return the arguments that make both players `width` wide and grey."""
    return [*SMALL, *GREY, *(f"--model.{player}.width={width}" for player in ("generator", "discriminator"))]


RUNS = {
    "quickstart": ("quickstart", []),
    "(5,1) FPC-3": ("pcgan/cifar10_resnet_5-1_fpc3", narrow(8)),
    "(1,1) APC": ("pcgan/cifar10_cnn_1-1_apc", [*narrow(8), "--preconditioning.every_n_steps=7"]),
    "WGAN-GP, nSGDA": ("nsgda/cifar10_wgan_gp_nsgda", narrow(8)),
    "DCGAN, Ada-nSGDA": ("nsgda/cifar10_dcgan_ada_nsgda", narrow(8)),
    "JARE, network C": ("jare/cifar10_c_jare", narrow(8)),
    "ConOpt, mixture": ("jare/mixture_conopt", []),
    "SimGD, mixture": ("jare/mixture_simgd", []),
    "two processes": ("quickstart", ["--trainer.devices=2", "--trainer.strategy=ddp"]),
    "bf16": ("quickstart", ["--trainer.precision=bf16-mixed"]),
}


def train(config: str, arguments: list[str], iterations: int, folder: Path) -> None:
    """Train one configuration with the samples, spectra and scores that its config asks for, more often."""
    call = [sys.executable, "-m", "pcgan_lightning.cli", "fit", "--config", f"configs/{config}.yaml", *arguments]
    call += [f"--run_dir={folder}", "--seed_everything=0", f"--trainer.max_steps={iterations}"]
    call += ["--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1", "--spectrum.every_n_steps=20"]
    call += ["--trainer.enable_progress_bar=false", "--collapse.every_n_steps=10"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{config}: {done.stderr.strip().splitlines()[-1]}")


def leaves(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all values in nested mappings and sequences with their names, in the order of the names."""
    if isinstance(content, dict):
        for key in sorted(content, key=str):
            yield from leaves(content[key], f"{name}.{key}")
    elif isinstance(content, (list, tuple)):
        for number, value in enumerate(content):
            yield from leaves(value, f"{name}.{number}")
    else:
        yield name, content


def digest(content: Any) -> str:
    """Return a digest of nested tensors, numbers and strings, bit for bit."""
    found = hashlib.blake2b(digest_size=8)
    for name, value in leaves(content):
        found.update(name.encode())
        if isinstance(value, torch.Tensor):
            found.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
        else:
            found.update(repr(value).encode())
    return found.hexdigest()


def measurements(path: Path) -> list[tuple[str, ...]]:
    """Return the cells of `metrics.csv` but for those that measure time."""
    with path.open(newline="") as file:
        rows = [{key: row[key] for key in sorted(row) if row[key] and key not in TIMES} for row in csv.DictReader(file)]
    return [tuple(f"{key}={value}" for key, value in row.items()) for row in rows if set(row) != {"step"}]


def main() -> None:
    """Train all configurations and print their digests."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--only", nargs="*", choices=RUNS, default=list(RUNS))
    options = parser.parse_args()
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            train(*RUNS[name], options.iterations, Path(folder))
            state = torch.load(Path(folder) / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
            found = state["state_dict"], state["optimizer_states"], measurements(Path(folder) / "metrics.csv")
            print(f"{name:18}", *map(digest, found), flush=True)


if __name__ == "__main__":
    main()
