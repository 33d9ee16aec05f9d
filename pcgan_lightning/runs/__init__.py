"""The run folder: names of its files, whole writes, reading and continuing, checkpoints, and what is trusted.

What needs torch or Lightning is imported on first use, so that a report is made without them.
"""

import importlib
from typing import TYPE_CHECKING, Any

from pcgan_lightning.runs.evaluations import evaluation_path, save_scores
from pcgan_lightning.runs.folder import (
    CHECKPOINTS,
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    EVALUATIONS,
    LAST_CHECKPOINT,
    METRICS_FILE,
    SAMPLES,
    SPECTRA,
    WANDB_ID_FILE,
    check_no_run,
    check_unused,
    check_writable,
    last_config,
    require_checkpoint_file,
    unused_path,
)
from pcgan_lightning.runs.metrics_csv import read_numbers, read_rows
from pcgan_lightning.runs.settings import NOT_COMPARED, SETTINGS, compare_settings
from pcgan_lightning.runs.writing import write_whole

if TYPE_CHECKING:
    from pcgan_lightning.runs.checkpoints import AtomicCheckpointIO, read_checkpoint
    from pcgan_lightning.runs.csv_logger import RunCSVLogger
    from pcgan_lightning.runs.last import last_checkpoint, last_of
    from pcgan_lightning.runs.lock import claimed
    from pcgan_lightning.runs.machine import environment
    from pcgan_lightning.runs.records import check_records, read_record, write_config
    from pcgan_lightning.runs.saved_paths import drop_foreign_paths, is_checkpoint_in, without_foreign_paths
    from pcgan_lightning.runs.trust import HYPER_PARAMETERS, check_classes, check_hyper_parameters
    from pcgan_lightning.runs.yaml_files import check_config_file, distrust_configs, load_yaml, read_yaml

_HOMES = {
    "HYPER_PARAMETERS": "trust",
    "AtomicCheckpointIO": "checkpoints",
    "RunCSVLogger": "csv_logger",
    "check_classes": "trust",
    "check_config_file": "yaml_files",
    "check_hyper_parameters": "trust",
    "check_records": "records",
    "claimed": "lock",
    "distrust_configs": "yaml_files",
    "drop_foreign_paths": "saved_paths",
    "environment": "machine",
    "is_checkpoint_in": "saved_paths",
    "last_checkpoint": "last",
    "last_of": "last",
    "load_yaml": "yaml_files",
    "read_checkpoint": "checkpoints",
    "read_record": "records",
    "read_yaml": "yaml_files",
    "without_foreign_paths": "saved_paths",
    "write_config": "records",
}

__all__ = [
    "CHECKPOINTS",
    "CONFIG_FILE",
    "ENVIRONMENT_FILE",
    "EVALUATIONS",
    "HYPER_PARAMETERS",
    "LAST_CHECKPOINT",
    "METRICS_FILE",
    "NOT_COMPARED",
    "SAMPLES",
    "SETTINGS",
    "SPECTRA",
    "WANDB_ID_FILE",
    "AtomicCheckpointIO",
    "RunCSVLogger",
    "check_classes",
    "check_config_file",
    "check_hyper_parameters",
    "check_no_run",
    "check_records",
    "check_unused",
    "check_writable",
    "claimed",
    "compare_settings",
    "distrust_configs",
    "drop_foreign_paths",
    "environment",
    "evaluation_path",
    "is_checkpoint_in",
    "last_checkpoint",
    "last_config",
    "last_of",
    "load_yaml",
    "read_checkpoint",
    "read_numbers",
    "read_record",
    "read_rows",
    "read_yaml",
    "require_checkpoint_file",
    "save_scores",
    "unused_path",
    "without_foreign_paths",
    "write_config",
    "write_whole",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
