"""Seconds of an iteration of every method of benchmarks/mode_coverage.py, the methods taking turns in one process."""

import logging
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from training_runs import ROOT

from pcgan_lightning import callbacks, games, losses, modules, networks, optim  # noqa: F401 - for their short names
from pcgan_lightning.callbacks import Preconditioning
from pcgan_lightning.data import StackedDigits
from pcgan_lightning.modules import TwoPlayerModule


def composed(path: Path) -> dict[str, Any]:
    """Return a configuration with the pieces that it names; a whole one, named by `config`, completes it."""

    def fill(value: Any, folder: Path) -> Any:
        if isinstance(value, str) and value.endswith(".yaml"):
            return composed((folder / value).resolve())
        return {key: fill(entry, folder) for key, entry in value.items()} if isinstance(value, dict) else value

    own = fill(yaml.safe_load(path.read_text()), path.parent)
    return completed(own, own.pop("config", {}))


def completed(own: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with what it lacks of another."""
    shared = {key for key in own if isinstance(own[key], dict) and isinstance(whole.get(key), dict)}
    return whole | own | {key: completed(own[key], whole[key]) for key in shared}


class Stopwatch(Callback):
    """Remembers the processor seconds of each iteration, which other programs on the machine do not lengthen."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.began = time.process_time()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seconds.append(time.process_time() - self.began)


def run_briefly(method: str, iterations: int) -> list[float]:
    """Train a method's configuration without its monitors, and return the seconds of each iteration."""
    config = composed(ROOT / "configs" / "stacked_digits" / f"{method}.yaml")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(TwoPlayerModule, "model")
    parser.add_subclass_arguments(Preconditioning, "preconditioning", required=False, fail_untyped=False)
    config["model"].setdefault("class_path", "GAN")  # the command's default
    parsed = parser.parse_object({key: config[key] for key in ("model", "preconditioning") if key in config})
    seed_everything(0, verbose=False)
    built, watch = parser.instantiate_classes(parsed), Stopwatch()
    trainer = Trainer(
        max_steps=iterations,
        accelerator="cpu",
        callbacks=[built.preconditioning, watch] if built.get("preconditioning") else [watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(built.model, StackedDigits(batch_size=64))
    return watch.seconds[iterations // 3 :]  # the first ones warm up


def measure(methods: Sequence[str], rounds: int = 3, iterations: int = 60) -> dict[str, float]:
    """Return the median processor seconds of an iteration of each method, on one thread."""
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    seconds: dict[str, list[float]] = {method: [] for method in methods}
    for _ in range(rounds):
        for method in methods:
            seconds[method] += run_briefly(method, iterations)
    return {method: median(values) for method, values in seconds.items()}
