"""A run that goes on: whether its checkpoint will do, and which of its settings are not the checkpoint's."""

import json
from pathlib import Path

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from pcgan_lightning.modules import TwoPlayerModule
from pcgan_lightning.runs import (
    CHECKPOINTS,
    NOT_COMPARED,
    SETTINGS,
    check_hyper_parameters,
    compare_settings,
    read_checkpoint,
)


def checkpoints_in(folder: Path) -> dict[Path, int]:
    """Return what tells whether another run has saved a checkpoint between two calls."""
    return {path: path.stat().st_mtime_ns for path in (folder / CHECKPOINTS).glob("*.ckpt")}


def settings_of(parser: LightningArgumentParser, config: Namespace) -> str:
    """Return a configuration in JSON, but for what is about the call and not about the training."""
    settings = json.loads(parser.dump(config, format="json", skip_none=False))
    return json.dumps({name: value for name, value in settings.items() if name not in NOT_COMPARED})


def compare_with(checkpoint: Path, parser: LightningArgumentParser, config: Namespace) -> None:
    """Tell in one line of each setting that is not the checkpoint's, and refuse those that can't be changed.

    Raises:
        ValueError: naming the first setting that is refused.
    """
    try:
        former = json.loads(str(read_checkpoint(checkpoint, keep=True).get(SETTINGS)))
    except (ValueError, RecursionError):
        former = None
    if not isinstance(former, dict):  # there are none, or they are not ours
        rank_zero_info(f"{checkpoint} does not tell the settings of its run: they are not compared")
        return
    for difference in compare_settings(former, json.loads(settings_of(parser, config))):
        if difference.refused:
            raise ValueError(str(difference))
        rank_zero_info(str(difference))


def check_checkpoint(path: Path, subcommand: str = "fit") -> None:
    """Refuse a file that is no whole checkpoint of a game of this package, or that holds too little to go on from."""
    if not path.is_file():
        raise FileNotFoundError(f"argument `ckpt_path` must be a checkpoint file or 'last', got {path}")
    content = read_checkpoint(path, keep=True)
    needed: tuple[str, ...] = ("pytorch-lightning_version", "global_step")
    needed += ("loops", "optimizer_states", "lr_schedulers") if subcommand == "fit" else ()
    rule = f"argument `ckpt_path` must be a checkpoint of this package, got {path}"
    for name in needed:
        if name not in content:
            raise ValueError(f"{rule}: it lacks {name!r}")
    # A fit makes its module of the configuration, whatever the checkpoint's arguments are.
    check_hyper_parameters(content, TwoPlayerModule, rule, built=subcommand != "fit")
