"""What the runs of the report were made with: their settings, hardware, versions and speed."""

import json
from collections.abc import Sequence
from typing import Any, Optional

import numpy as np

from pcgan_lightning.report.run_data import Run, finite
from pcgan_lightning.report.tables import MISSING

_ABSENT = object()
# With a single run nothing differs; these tell most about it. The text is the beginning of a dotted key.
IMPORTANT_SETTINGS = (
    "seed_everything",
    "trainer.max_steps",
    "trainer.precision",
    "data.init_args.source",
    "data.init_args.image_size",
    "data.init_args.batch_size",
    "model.class_path",
    "model.init_args.generator.",
    "model.init_args.discriminator.",
    "model.init_args.loss.",
    "model.init_args.discriminator_steps",
    "model.init_args.generator_optimizer.class_path",
    "model.init_args.generator_optimizer.init_args.lr",
    "model.init_args.generator_optimizer.init_args.betas",
    "model.init_args.discriminator_optimizer.class_path",
    "model.init_args.discriminator_optimizer.init_args.lr",
    "model.init_args.discriminator_optimizer.init_args.betas",
    "model.init_args.ema_decay",
    "preconditioning",
)


def differing_settings(runs: Sequence[Run]) -> tuple[list[tuple[str, list[str]]], list[tuple[str, str]]]:
    """Return the settings that differ, one text a run, and those that are the same in all runs with a configuration.

    The run folder is left out. A run without ``config.yaml`` differs in nothing.
    """
    configs = [run.config for run in runs if run.config is not None]
    keys = dict.fromkeys(key for config in configs for key in config if key != "run_dir")
    differing, common = [], []
    for key in keys:
        if len({_text(config.get(key, _ABSENT)) for config in configs}) > 1:
            differing.append((key, [_text((run.config or {}).get(key, _ABSENT)) for run in runs]))
        else:
            common.append((key, _text(configs[0][key])))
    return differing, common


def important_settings(common: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the settings that tell most about a run."""
    return [(key, text) for key, text in common if key.startswith(IMPORTANT_SETTINGS)]


def _text(value: Any) -> str:
    if value is _ABSENT:
        return MISSING
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def environments(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Return what the runs ran on and how fast, one text a run, without the rows that no run has."""
    fields = dict.fromkeys(field for run in runs for field in run.environment if field != "versions")
    rows = {field: [_plain(run.environment.get(field)) for run in runs] for field in fields}
    versions = [run.environment.get("versions") or {} for run in runs]
    for package in sorted({name for found in versions for name in found}):
        rows[package] = [_plain(found.get(package)) for found in versions]
    speeds = [_speed(run) for run in runs]
    rows["iterations per second (median)"] = [f"{s:,.3g}" if s else MISSING for s in speeds]
    times = [_duration(run.iterations / s) if s else MISSING for run, s in zip(runs, speeds, strict=True)]
    rows["wall-clock, by that speed"] = times
    return [(field, texts) for field, texts in rows.items() if set(texts) != {MISSING}]


def _plain(value: Any) -> str:
    return MISSING if value is None else str(value)


def _speed(run: Run) -> Optional[float]:
    _, values = finite(run.series.get("iterations_per_second", (np.empty(0), np.empty(0))), positive=True)
    return float(np.median(values)) if len(values) else None


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"about {seconds / size:.1f} {unit}"
    return f"about {seconds:.0f} s"
