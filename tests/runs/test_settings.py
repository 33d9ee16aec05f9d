"""Settings that are not the checkpoint's: each takes effect, is refused, or is named."""

import importlib

import pytest
from helpers import ROOT

from pcgan_lightning.runs.settings import compare_settings

EFFECT, REFUSED, REMAINS = "takes effect", "is refused", "has no effect"
# Of the changes in benchmarks/settings_matrix.py.
EXPECTED = {
    "seed_everything": REMAINS,
    "model.class_path": REFUSED,
    "model.generator.width": REFUSED,
    "model.generator.class_path": REFUSED,
    "model.generator.initialization": REMAINS,
    "model.discriminator.width": REFUSED,
    "model.loss.class_path": EFFECT,
    "model.generator_optimizer.lr": EFFECT,
    "model.generator_optimizer.betas": EFFECT,
    "model.generator_optimizer.amsgrad": REFUSED,
    "model.discriminator_optimizer.class_path": REFUSED,
    "model.generator_scheduler.class_path": REFUSED,
    "model.generator_scheduler.total_iterations": EFFECT,
    "model.generator_scheduler.start": REMAINS,
    "model.discriminator_scheduler": REFUSED,
    "model.discriminator_steps": EFFECT,
    "model.penalty": EFFECT,
    "model.ema_decay": EFFECT,
    "data.class_path": EFFECT,
    "data.batch_size": EFFECT,
    "data.max_images": EFFECT,
    "data.seed": REMAINS,
    "preconditioning.degree": EFFECT,
    "preconditioning.scale": REFUSED,
    "preconditioning": EFFECT,
    "trainer.max_steps": EFFECT,
    "trainer.precision": EFFECT,
    "trainer.devices": EFFECT,
    "checkpoint.every_n_train_steps": EFFECT,
    "guard.action": EFFECT,
    "scores": EFFECT,
    "threads": EFFECT,
    "someone_else": "may have no effect",
}


@pytest.fixture
def matrix(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("settings_matrix")


def test_no_change_is_silent(matrix):
    found = matrix.outcomes()
    assert found.keys() == EXPECTED.keys()
    assert {name: said for name, (_, _, said) in found.items() if EXPECTED[name] not in said} == {}


@pytest.mark.parametrize("name", EXPECTED)
def test_each_change_is_told_in_a_line(name, matrix):
    (found,) = compare_settings(matrix.FORMER, matrix.changed(name, dict(matrix.CHANGES)[name]))
    assert found.refused == (EXPECTED[name] == REFUSED)
    assert ("must stay the checkpoint's" if found.refused else EXPECTED[name]) in str(found)
    assert "\n" not in str(found)


def test_the_table_shows_all_of_them(matrix):
    table = matrix.settings_matrix()
    assert len(table) == len(EXPECTED) + 2
    assert "| `model.generator_optimizer.lr` | `0.001` | `0.0001` | takes effect from here on |" in table


def test_what_is_about_the_call_is_not_compared(matrix):
    assert compare_settings(matrix.FORMER, matrix.FORMER | {"run_dir": "runs/two", "ckpt_path": "last"}) == []


def test_a_run_from_before_there_was_a_scale_goes_on(matrix):
    former, now = (
        {"preconditioning": {"init_args": arguments}} for arguments in ({"degree": 3}, {"degree": 3, "scale": "unit"})
    )
    assert compare_settings(former, now) == []
    now["preconditioning"]["init_args"]["scale"] = "learnable"
    (found,) = compare_settings(former, now)
    assert str(found) == (
        "argument `preconditioning.scale` must stay the checkpoint's in a run that goes on, 'unit', got 'learnable'"
    )


def test_a_stranger_can_not_break_the_line():
    (found,) = compare_settings({"a\nb": "c\n" * 1000}, {})
    assert "\n" not in str(found)
    assert len(str(found)) < 300
