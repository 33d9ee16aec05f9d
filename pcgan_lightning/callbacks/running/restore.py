"""Bringing a training that goes on back to a checkpoint's state."""

import copy
import logging
from pathlib import Path
from typing import Any, Optional

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from pcgan_lightning.callbacks.targets import connected
from pcgan_lightning.modules import TwoPlayerModule
from pcgan_lightning.runs import last_of, read_checkpoint

log = logging.getLogger("lightning.pytorch")


def restore_state(trainer: "pl.Trainer", pl_module: "pl.LightningModule", path: Path, *untouched: Callback) -> None:
    """Restore networks, optimizers, averages, schedulers, loss scale and callbacks; data and iterations go on.

    Args:
        trainer: in training.
        pl_module: its module.
        path: of the checkpoint.
        *untouched: callbacks that keep their state.
    """
    content = read_checkpoint(path)
    trainer.strategy.load_model_state_dict(content, strict=pl_module.strict_loading)
    trainer.strategy.load_optimizer_state_dict(content)
    for config, state in zip(trainer.lr_scheduler_configs, content["lr_schedulers"], strict=True):
        config.scheduler.load_state_dict(state)
    if isinstance(pl_module, TwoPlayerModule):  # the run may have been started with others than the checkpoint's
        pl_module.apply_options(content.get("optimizer_options", {}))
    precision = type(trainer.precision_plugin).__qualname__
    if precision in content:
        trainer.precision_plugin.load_state_dict(content[precision])
    # What checkpoints remember is the files that are there; they are there still.
    untouched = (*untouched, *checkpoint_callbacks(trainer))
    for callback in connected(trainer).callbacks:
        if not any(callback is one for one in untouched):
            callback.on_load_checkpoint(trainer, pl_module, content)
            state = content.get("callbacks", {}).get(callback.state_key)
            if state:
                callback.load_state_dict(copy.deepcopy(state))
    # An iteration that accumulates must not begin with them.
    pl_module.zero_grad()


def update_checkpoint(trainer: "pl.Trainer", checkpoint: dict[str, Any]) -> None:
    """Put the state as it is now into a checkpoint that is about to be written."""
    strategy, precision = trainer.strategy, trainer.precision_plugin
    checkpoint["state_dict"] = strategy.lightning_module_state_dict()
    checkpoint["optimizer_states"] = [strategy.optimizer_state(o) for o in trainer.optimizers]
    checkpoint["lr_schedulers"] = [c.scheduler.state_dict() for c in trainer.lr_scheduler_configs]
    checkpoint["callbacks"] = {c.state_key: s for c in connected(trainer).callbacks if (s := c.state_dict())}
    if state := precision.state_dict():
        checkpoint[type(precision).__qualname__] = state


def checkpoint_callbacks(trainer: "pl.Trainer") -> list[Any]:
    """Return the callbacks that write checkpoints."""
    # By what they have, since `lightning.pytorch` and `pytorch_lightning` have a class each.
    return [callback for callback in connected(trainer).callbacks if hasattr(callback, "best_model_path")]


def latest_checkpoint(trainer: "pl.Trainer") -> Optional[Path]:
    """Return the whole checkpoint of the highest iteration that this run wrote or started from.

    Every process gets the same. None: there is none, or none that is whole, of which a warning tells.
    """
    paths = [trainer.ckpt_path]
    for callback in checkpoint_callbacks(trainer):
        if not getattr(callback, "save_weights_only", False):
            keys = ("_last_checkpoint_saved", "last_model_path", "best_model_path")
            paths += [getattr(callback, key, None) for key in keys]
    files = {Path(path) for path in paths if path and Path(path).is_file()}
    last = None
    if trainer.is_global_zero:
        try:
            last = last_of(files)
        except ValueError as error:
            log.warning(str(error))
    return trainer.strategy.broadcast(last)
