"""Writing numbers, tables and pictures to every logger of a trainer, and pictures to the run folder.

Loggers are told apart by what they can do rather than by class, since ``lightning.pytorch`` and ``pytorch_lightning``
have one of each kind.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from pcgan_lightning.callbacks.targets import connected
from pcgan_lightning.runs import write_whole


def run_folder(trainer: "pl.Trainer") -> Path:
    """Return the folder of the run's files: the first logger's, or the trainer's root.

    Lightning's own ``trainer.log_dir`` talks to the other processes, which must not wait for one that saves a file.
    """
    logger = trainer.loggers[0] if trainer.loggers else None
    return Path(getattr(logger, "log_dir", None) or getattr(logger, "save_dir", None) or trainer.default_root_dir)


def log_scalars(trainer: "pl.Trainer", metrics: Mapping[str, float]) -> None:
    """Write numbers to all loggers at the trainer's global step, and to ``trainer.callback_metrics``.

    The latter is what callbacks such as ``ModelCheckpoint`` monitor. Lightning's own ``log`` would go through all of
    these numbers again after every batch.
    """
    for logger in trainer.loggers:
        logger.log_metrics(dict(metrics), step=trainer.global_step)
    trainer.callback_metrics.update({name: torch.tensor(float(value)) for name, value in metrics.items()})


def log_table(trainer: "pl.Trainer", key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a table to the loggers that show tables: W&B as a table, TensorBoard as Markdown text."""
    logger: Any
    for logger in trainer.loggers:
        if hasattr(logger, "log_table"):
            logger.log_table(key=key, columns=list(columns), data=[list(r) for r in rows], step=trainer.global_step)
        elif hasattr(logger.experiment, "add_text"):
            lines = [columns, ["---"] * len(columns), *rows]
            text = "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)
            logger.experiment.add_text(key, text, global_step=trainer.global_step)


def log_picture(trainer: "pl.Trainer", key: str, file: str, picture: Image.Image) -> None:
    """Save a picture as PNG under `file` in the run folder, and show it in the loggers that show images."""
    if not trainer.is_global_zero or connected(trainer).fast_dev_run:
        return
    write_whole(run_folder(trainer) / file, partial(picture.save, format="PNG"))
    logger: Any
    for logger in trainer.loggers:
        if hasattr(logger, "log_image"):
            logger.log_image(key=key, images=[picture], step=trainer.global_step)
        elif hasattr(logger.experiment, "add_image"):
            pixels = np.asarray(picture.convert("RGB"))
            logger.experiment.add_image(key, pixels, global_step=trainer.global_step, dataformats="HWC")


def log_figure(trainer: "pl.Trainer", key: str, figure: Figure) -> None:
    """Save a figure of matplotlib as ``<key>.png``; see :func:`log_picture`."""
    figure.set_dpi(120)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    log_picture(trainer, key, f"{key}.png", Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"))


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
