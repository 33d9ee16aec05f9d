"""Where the loggers of a fit write: the run folder, or a folder of their own."""

import importlib.util
from pathlib import Path
from typing import Optional

from jsonargparse import Namespace

from pcgan_lightning.arguments import import_path
from pcgan_lightning.runs import WANDB_ID_FILE, RunCSVLogger, read_checkpoint

LOGGER_PACKAGES = {
    "CometLogger": ("comet_ml",),
    "MLFlowLogger": ("mlflow",),
    "NeptuneLogger": ("neptune",),
    "TensorBoardLogger": ("tensorboard", "tensorboardX"),
    "WandbLogger": ("wandb",),
}


def send_logs_to(folder: Path, trainer: Namespace, checkpoint: Optional[Path]) -> None:
    """Give a fit `metrics.csv`, and the configured loggers without a folder of their own the run folder.

    There they go on with the run that `checkpoint` continues: TensorBoard in the same folder, where the steps after the
    checkpoint are hidden, and W&B in the same run, which can't drop them: its rows between the checkpoint and the
    interruption appear twice, with the same values at the same ``trainer/global_step``.
    """
    if trainer.logger is False or trainer.fast_dev_run:
        return
    loggers = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
    loggers = [logger for logger in loggers if logger not in (None, True)]
    for logger in loggers:
        kind, arguments = logger.class_path.rpartition(".")[2], logger.init_args
        _check_package(kind)
        if arguments.get("save_dir") not in (None, "."):
            continue
        arguments["save_dir"] = str(folder)
        if kind == "TensorBoardLogger" and arguments.get("version") is None:
            step = -1 if checkpoint is None else read_checkpoint(checkpoint, keep=True)["global_step"]
            arguments["version"] = 0
            logger["dict_kwargs"] = {"purge_step": step + 1} | dict(logger.get("dict_kwargs") or {})
        continued_run = folder / WANDB_ID_FILE
        if kind == "WandbLogger" and checkpoint is not None and continued_run.exists():
            arguments["id"] = arguments.get("id") or continued_run.read_text().strip()  # `version` goes before both
    own = Namespace(class_path=import_path(RunCSVLogger), init_args=Namespace(save_dir=str(folder)))
    trainer.logger = [own, *loggers]


def _check_package(logger: str) -> None:
    """Say what to install for a logger of Lightning's; the parser would only say that it is no valid logger."""
    packages = LOGGER_PACKAGES.get(logger, ())
    if packages and not any(importlib.util.find_spec(package) for package in packages):
        raise ModuleNotFoundError(
            f"argument `trainer.logger` {logger} needs the package {packages[0]}, which is not installed: "
            f"pip install {packages[0]}"
        )
