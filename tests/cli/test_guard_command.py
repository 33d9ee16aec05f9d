"""The guards of every run of the command."""

import csv

import pytest
import torch
import yaml
from helpers import ROOT
from helpers.command import one_error, pcgan

from pcgan_lightning.callbacks import CollapseMonitor, NonFiniteGuard
from pcgan_lightning.cli.fit import PCGANCLI
from pcgan_lightning.modules import GAN

pytestmark = pytest.mark.slow

CONFIG = ROOT / "configs" / "quickstart.yaml"
TINY = [
    *("--data.max_images=64", "--data.batch_size=8", "--model.generator.width=2", "--model.discriminator.width=2"),
    *("--trainer.accelerator=cpu", "--trainer.enable_model_summary=false", "--progress.refresh_every_n_steps=1000"),
]


def quickstart(monkeypatch, folder, *more):
    return pcgan(monkeypatch, "fit", "--config", CONFIG, "--run_dir", folder, *TINY, *more)


def steps_of(folder):
    with (folder / "metrics.csv").open() as file:
        return [int(float(row["step"])) for row in csv.DictReader(file) if row["loss/generator"]]


def test_a_run_that_diverges_ends_in_one_line(tmp_path, monkeypatch, capsys):
    """Steps 1e30 long, from a good checkpoint on: status 1, and the file is the same byte by byte."""
    folder = tmp_path / "run"
    assert quickstart(monkeypatch, folder, "--trainer.max_steps=4", "--trainer.log_every_n_steps=1") == 0
    good = (folder / "checkpoints" / "last.ckpt").read_bytes()
    capsys.readouterr()
    step = GAN.step

    def long(self, player):
        for group in self.optimizer_of(player).param_groups:
            group["lr"] = 1e30
        step(self, player)

    monkeypatch.setattr(GAN, "step", long)
    arguments = ("--trainer.max_steps=60", "--checkpoint.every_n_train_steps=10", "--ckpt_path=last")
    assert quickstart(monkeypatch, folder, *arguments) == 1
    line = one_error(capsys)
    assert "of iteration 5 is not finite, training stops: the last good checkpoint is " in line
    assert f"{folder}/checkpoints/last.ckpt, continue from it with smaller steps" in line
    assert line.endswith(" (--ckpt_path last continues, --guard.action=restore lets it go back by itself)")
    assert {p.name: p.read_bytes() for p in (folder / "checkpoints").iterdir()} == {"last.ckpt": good}


def test_a_diverging_optimizer(tmp_path, monkeypatch, capsys):
    """As somebody would ask for it, with nothing to go back to."""
    sgd = ("--model.discriminator_optimizer=torch.optim.SGD", "--model.discriminator_optimizer.lr=1e30")
    assert quickstart(monkeypatch, tmp_path / "run", "--trainer.max_steps=20", *sgd) == 1
    line = one_error(capsys)
    assert "of iteration 1 is not finite, training stops: no checkpoint was written yet, begin again" in line
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_restoring_leaves_no_double_in_the_series(tmp_path, monkeypatch):
    """One bad loss in iteration 7: back to iteration 5, and on to the end; every iteration is logged once."""
    update = GAN.update

    def spoiled(self, player, loss):
        seventh = self.trainer.fit_loop.total_batch_idx == 6
        update(self, player, loss * torch.nan if seventh and player == "discriminator" else loss)

    monkeypatch.setattr(GAN, "update", spoiled)
    arguments = ("--checkpoint.every_n_train_steps=5", "--trainer.log_every_n_steps=1", "--trainer.max_steps=12")
    folder = tmp_path / "run"
    assert quickstart(monkeypatch, folder, *arguments, "--guard.action=restore", "--guard.every_n_steps=4") == 0
    assert steps_of(folder) == list(range(1, 13))
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 12
    assert all(value.isfinite().all() for value in last["state_dict"].values())
    (state,) = [s for key, s in last["callbacks"].items() if "NonFiniteGuard" in key]
    assert state == {"restored": 1}


@pytest.mark.parametrize("command", ["fit", "validate"])
def test_guards_are_part_of_a_fit_alone(tmp_path, monkeypatch, command):
    """The guard stands first, so that nothing measures before it has read."""
    kinds = []
    build = PCGANCLI._instantiate_trainer

    def noted(self, *args):
        trainer = build(self, *args)
        kinds.extend(map(type, trainer.callbacks))
        return trainer

    monkeypatch.setattr(PCGANCLI, "_instantiate_trainer", noted)
    run = ("--config", CONFIG, "--run_dir", tmp_path / "run", *TINY, "--trainer.fast_dev_run=true")
    assert pcgan(monkeypatch, command, *run, "--data.validation_split=test") == 0
    assert (kinds[:2] == [NonFiniteGuard, CollapseMonitor]) == (command == "fit")
    assert any(k in kinds for k in (NonFiniteGuard, CollapseMonitor)) == (command == "fit")


def test_their_settings_are_saved(tmp_path, monkeypatch):
    changed = ("--collapse.patience=7", "--guard.restores=2", "--trainer.max_steps=1")
    assert quickstart(monkeypatch, tmp_path / "run", *changed) == 0
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert saved["collapse"]["patience"] == 7
    assert saved["guard"] == {"action": "stop", "every_n_steps": 50, "restores": 2}
