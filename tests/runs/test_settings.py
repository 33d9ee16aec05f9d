"""Settings that are not the checkpoint's: each takes effect, is refused, or is named."""

import copy

import pytest

from pcgan_lightning.runs.settings import compare_settings


def adam(rate):
    return {"class_path": "torch.optim.Adam", "init_args": {"lr": rate, "betas": [0.0, 0.9], "amsgrad": False}}


FORMER = {
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
    "preconditioning": {"class_path": "FixedPreconditioning", "init_args": {"degree": 3}},
    "trainer": {"max_steps": 10, "precision": None, "devices": "auto", "callbacks": None},
    "checkpoint": {"every_n_train_steps": 4},
    "guard": {"action": "stop"},
    "scores": None,
    "threads": 1,
}
EFFECT, REFUSED, REMAINS = "takes effect", "must stay the checkpoint's", "has no effect"
CHANGES = [
    ("seed_everything", 1, REMAINS),
    ("model.class_path", "SimultaneousGAN", REFUSED),
    ("model.generator.width", 8, REFUSED),
    ("model.generator.class_path", "ResNetGenerator", REFUSED),
    ("model.generator.initialization", "orthogonal", REMAINS),
    ("model.discriminator.width", 8, REFUSED),
    ("model.loss.class_path", "WassersteinLoss", EFFECT),
    ("model.generator_optimizer.lr", 1e-4, EFFECT),
    ("model.generator_optimizer.betas", [0.5, 0.9], EFFECT),
    ("model.generator_optimizer.amsgrad", True, REFUSED),
    ("model.discriminator_optimizer.class_path", "torch.optim.SGD", REFUSED),
    ("model.generator_scheduler.class_path", "torch.optim.lr_scheduler.StepLR", REFUSED),
    ("model.generator_scheduler.total_iterations", 20, EFFECT),
    ("model.generator_scheduler.start", 0.1, REMAINS),
    ("model.discriminator_scheduler", {"class_path": "LinearDecay"}, REFUSED),
    ("model.discriminator_steps", 2, EFFECT),
    ("model.penalty", {"class_path": "GradientPenalty"}, EFFECT),
    ("model.ema_decay", 0.9, EFFECT),
    ("data.class_path", "StackedDigits", EFFECT),
    ("data.batch_size", 16, EFFECT),
    ("data.max_images", 100, EFFECT),
    ("data.seed", 3, REMAINS),
    ("preconditioning.degree", 5, EFFECT),
    ("preconditioning", None, EFFECT),
    ("trainer.max_steps", 20, EFFECT),
    ("trainer.precision", "bf16-mixed", EFFECT),
    ("trainer.devices", 2, EFFECT),
    ("checkpoint.every_n_train_steps", 2, EFFECT),
    ("guard.action", "restore", EFFECT),
    ("scores", {"every_n_steps": 3}, EFFECT),
    ("threads", 2, EFFECT),
    ("someone_else", 3, "may have no effect"),
]


def changed(name, value):
    """Return the settings with one other value."""
    settings = copy.deepcopy(FORMER)
    *path, key = name.split(".")
    inner = settings
    for part in path:
        inner = inner.get("init_args", inner).setdefault(part, {})
    (inner if key == "class_path" else inner.get("init_args", inner))[key] = value
    return settings


@pytest.mark.parametrize(("name", "value", "outcome"), CHANGES, ids=[name for name, _, _ in CHANGES])
def test_no_change_is_silent(name, value, outcome):
    (found,) = compare_settings(FORMER, changed(name, value))
    assert (found.name, found.now, found.refused) == (name, value, outcome == REFUSED)
    assert outcome in str(found)
    assert "\n" not in str(found)


def test_what_is_about_the_call_is_not_compared():
    assert compare_settings(FORMER, FORMER | {"run_dir": "runs/two", "ckpt_path": "last"}) == []


def test_a_stranger_can_not_break_the_line():
    (found,) = compare_settings({"a\nb": "c\n" * 1000}, {})
    assert "\n" not in str(found)
    assert len(str(found)) < 300
