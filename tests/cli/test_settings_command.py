"""A run that goes on with other settings than its checkpoint's."""

import shutil

import pytest
import yaml
from helpers.command import one_error, quickstart

from pcgan_lightning.runs import read_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(finished, tmp_path):
    """A run of four iterations, to go on with."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def go_on(monkeypatch, folder, *settings):
    return quickstart(monkeypatch, folder, "--ckpt_path=last", "--trainer.max_steps=6", *settings)


def rates(folder):
    content = read_checkpoint(folder / "checkpoints" / "last.ckpt")
    return [group["lr"] for optimizer in content["optimizer_states"] for group in optimizer["param_groups"]]


def test_the_advice_after_a_divergence_helps(folder, monkeypatch, capsys):
    """Steps that are too long end the run; "continue from it with smaller steps" brings it to its end."""
    assert go_on(monkeypatch, folder, "--model.discriminator_optimizer.lr=1e30") == 1
    assert "continue from it with smaller steps" in one_error(capsys)
    assert go_on(monkeypatch, folder, "--model.discriminator_optimizer.lr=1e-5") == 0
    assert rates(folder) == [0.01, 1e-5]
    config = yaml.safe_load(sorted(folder.glob("config*.yaml"))[-1].read_text())
    assert config["model"]["init_args"]["discriminator_optimizer"]["init_args"]["lr"] == 1e-5


def test_each_difference_is_told_in_a_line(folder, monkeypatch, capfd):
    assert go_on(monkeypatch, folder, "--seed_everything=3", "--model.discriminator_steps=2") == 0
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("argument `")]
    assert lines == [
        "argument `seed_everything`, 0 in the checkpoint and 3 now, has no effect, "
        "the checkpoint's random numbers go on",
        "argument `model.discriminator_steps`, 1 in the checkpoint and 2 now, takes effect from here on",
        "argument `trainer.max_steps`, 4 in the checkpoint and 6 now, takes effect from here on",
    ]


def test_another_optimizer_is_refused_at_once(folder, monkeypatch, capsys):
    before = (folder / "checkpoints" / "last.ckpt").read_bytes()
    assert go_on(monkeypatch, folder, "--model.generator_optimizer=torch.optim.SGD") == 1
    line = one_error(capsys)
    assert "argument `model.generator_optimizer.class_path`, 'torch.optim.Adam' in the checkpoint and" in line
    assert "can't be changed in a run that goes on" in line
    assert (folder / "checkpoints" / "last.ckpt").read_bytes() == before
