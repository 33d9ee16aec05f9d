"""One setting changed at a time in a run that goes on: takes effect, is refused, or is named; none is silent.

python benchmarks/settings_matrix.py    # prints the table of docs/interruptions.md
"""

import copy
import sys
from typing import Any

from markdown_tables import markdown

from pcgan_lightning.runs import compare_settings


def adam(rate: float) -> dict[str, Any]:
    return {"class_path": "torch.optim.Adam", "init_args": {"lr": rate, "betas": [0.0, 0.9], "amsgrad": False}}


FORMER: dict[str, Any] = {
    "seed_everything": 0,
    "run_dir": "runs/one",
    "ckpt_path": None,
    "model": {
        "class_path": "GAN",
        "init_args": {
            "generator": {"class_path": "CNNGenerator", "init_args": {"width": 16, "initialization": "normal"}},
            "discriminator": {"class_path": "CNNDiscriminator", "init_args": {"width": 16}},
            "loss": {"class_path": "HingeLoss"},
            "generator_optimizer": adam(1e-3),
            "discriminator_optimizer": adam(1e-3),
            "generator_scheduler": {"class_path": "LinearDecay", "init_args": {"total_iterations": 9, "start": 0.5}},
            "discriminator_scheduler": None,
            "discriminator_steps": 1,
            "penalty": None,
            "ema_decay": 0.5,
        },
    },
    "data": {"class_path": "ImageDataModule", "init_args": {"batch_size": 8, "max_images": None, "seed": None}},
    "preconditioning": {"class_path": "FixedPreconditioning", "init_args": {"degree": 3, "scale": "unit"}},
    "trainer": {"max_steps": 10, "precision": None, "devices": "auto", "callbacks": None},
    "checkpoint": {"every_n_train_steps": 4},
    "guard": {"action": "stop"},
    "scores": None,
    "threads": 1,
}
CHANGES: list[tuple[str, Any]] = [
    ("seed_everything", 1),
    ("model.class_path", "SimultaneousGAN"),
    ("model.generator.width", 8),
    ("model.generator.class_path", "ResNetGenerator"),
    ("model.generator.initialization", "orthogonal"),
    ("model.discriminator.width", 8),
    ("model.loss.class_path", "WassersteinLoss"),
    ("model.generator_optimizer.lr", 1e-4),
    ("model.generator_optimizer.betas", [0.5, 0.9]),
    ("model.generator_optimizer.amsgrad", True),
    ("model.discriminator_optimizer.class_path", "torch.optim.SGD"),
    ("model.generator_scheduler.class_path", "torch.optim.lr_scheduler.StepLR"),
    ("model.generator_scheduler.total_iterations", 20),
    ("model.generator_scheduler.start", 0.1),
    ("model.discriminator_scheduler", {"class_path": "LinearDecay"}),
    ("model.discriminator_steps", 2),
    ("model.penalty", {"class_path": "GradientPenalty"}),
    ("model.ema_decay", 0.9),
    ("data.class_path", "StackedDigits"),
    ("data.batch_size", 16),
    ("data.max_images", 100),
    ("data.seed", 3),
    ("preconditioning.degree", 5),
    ("preconditioning.scale", "norm"),
    ("preconditioning", None),
    ("trainer.max_steps", 20),
    ("trainer.precision", "bf16-mixed"),
    ("trainer.devices", 2),
    ("checkpoint.every_n_train_steps", 2),
    ("guard.action", "restore"),
    ("scores", {"every_n_steps": 3}),
    ("threads", 2),
    ("someone_else", 3),
]
SILENT = "SILENT"


def changed(name: str, value: Any) -> dict[str, Any]:
    """Return the settings with one other value."""
    settings = copy.deepcopy(FORMER)
    *path, key = name.split(".")
    inner = settings
    for part in path:
        inner = inner.get("init_args", inner).setdefault(part, {})
    (inner if key == "class_path" else inner.get("init_args", inner))[key] = value
    return settings


def outcomes() -> dict[str, tuple[Any, Any, str]]:
    """Return for each changed setting its value in the checkpoint, that of now, and what becomes of it."""
    found = {}
    for name, value in CHANGES:
        differences = compare_settings(FORMER, changed(name, value))
        if [difference.name for difference in differences] == [name]:
            found[name] = (differences[0].former, differences[0].now, differences[0].outcome)
        else:
            found[name] = (None, value, SILENT)
    return found


def settings_matrix() -> list[str]:
    """Return the table."""
    rows = [[f"`{name}`", _shown(a), _shown(b), outcome] for name, (a, b, outcome) in outcomes().items()]
    return markdown(["setting", "in the checkpoint", "now", "what becomes of it"], rows)


def _shown(value: Any) -> str:
    return f"`{value.get('class_path', value) if isinstance(value, dict) else value}`"


if __name__ == "__main__":
    print("\n".join(settings_matrix()))
    sys.exit(int(SILENT in {outcome for _, _, outcome in outcomes().values()}))
