"""A run that goes on with other settings than its checkpoint's."""

import logging
import shutil

import pytest
import torch
import yaml
from helpers.command import one_error, quickstart

from pcgan_lightning.runs import claimed, read_checkpoint

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


def test_each_difference_is_told_in_a_line(folder, monkeypatch, caplog):
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")  # which may not pass on what it says
    logger.addHandler(caplog.handler)
    try:
        assert go_on(monkeypatch, folder, "--seed_everything=3", "--model.discriminator_steps=2") == 0
    finally:
        logger.removeHandler(caplog.handler)
    said = {record.getMessage() for record in caplog.records}
    assert {line for line in said if line.startswith("setting ")} == {
        "setting `seed_everything`, 0 in the checkpoint and 3 now, has no effect, "
        "the checkpoint's random numbers go on",
        "setting `model.discriminator_steps`, 1 in the checkpoint and 2 now, takes effect from here on",
        "setting `trainer.max_steps`, 4 in the checkpoint and 6 now, takes effect from here on",
    }


def test_a_folder_in_use_is_left_alone(folder, monkeypatch, capsys):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with claimed(folder):
        assert go_on(monkeypatch, folder) == 1
        assert "argument `run_dir` must be a folder that no other run writes to" in one_error(capsys)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert go_on(monkeypatch, folder) == 0


def test_another_optimizer_is_refused_at_once(folder, monkeypatch, capsys):
    before = (folder / "checkpoints" / "last.ckpt").read_bytes()
    assert go_on(monkeypatch, folder, "--model.generator_optimizer=torch.optim.SGD") == 1
    line = one_error(capsys)
    rule = "argument `model.generator_optimizer.class_path` must stay the checkpoint's in a run that goes on"
    assert f"{rule}, 'torch.optim.Adam', got 'torch.optim.SGD'" in line
    assert (folder / "checkpoints" / "last.ckpt").read_bytes() == before


@pytest.mark.parametrize(
    "strategy",
    ["ddp_spawn", "ddp_fork", "ddp_notebook_find_unused_parameters_true", "fsdp", "deepspeed_stage_2", "xla"],
)
def test_strategies_are_refused_at_once(strategy, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    assert quickstart(monkeypatch, folder, f"--trainer.strategy={strategy}", "--trainer.devices=2") == 1
    line = one_error(capsys)
    if strategy.startswith("ddp"):
        assert "argument `strategy` of the trainer must be 'auto' or 'ddp', with which each process keeps" in line
    assert not folder.exists()


def test_another_number_of_threads_is_told(folder, monkeypatch, caplog):
    threads = torch.get_num_threads()
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    logger.addHandler(caplog.handler)
    try:
        torch.set_num_threads(threads + 1)
        assert go_on(monkeypatch, folder) == 0
    finally:
        torch.set_num_threads(threads)
        logger.removeHandler(caplog.handler)
    said = {record.getMessage() for record in caplog.records}
    line = f"setting `threads`, {threads} in the checkpoint and {threads + 1} now, takes effect from here on, "
    assert f"{line}and sums may be rounded otherwise than before" in said
