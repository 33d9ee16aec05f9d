"""The run folder: names of its files, whole writes, reading and continuing, checkpoints, and what is trusted."""

from pcgan_lightning.runs.checkpoints import AtomicCheckpointIO, read_checkpoint
from pcgan_lightning.runs.environment import environment
from pcgan_lightning.runs.folder import (
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    WANDB_ID_FILE,
    check_unused,
    check_writable,
    last_checkpoint,
    unused_path,
)
from pcgan_lightning.runs.metrics_csv import METRICS_FILE, RunCSVLogger
from pcgan_lightning.runs.trust import (
    HYPER_PARAMETERS,
    check_classes,
    check_config_file,
    check_hyper_parameters,
    distrust_configs,
)

__all__ = [
    "CONFIG_FILE",
    "ENVIRONMENT_FILE",
    "HYPER_PARAMETERS",
    "METRICS_FILE",
    "WANDB_ID_FILE",
    "AtomicCheckpointIO",
    "RunCSVLogger",
    "check_classes",
    "check_config_file",
    "check_hyper_parameters",
    "check_unused",
    "check_writable",
    "distrust_configs",
    "environment",
    "last_checkpoint",
    "read_checkpoint",
    "unused_path",
]
