"""RunCheckpoint: a run resumed from any of its checkpoints is the run that was never interrupted."""

import functools
import json
import logging
import os
import random
import shutil
from datetime import timedelta

import lightning.pytorch as pl
import pytest
import pytorch_lightning
import torch
from helpers import killed_monitors, run_script
from helpers.foreign_modules import BOTH_NAMES, image_loader, make_two_player_gan
from helpers.guarded_runs import fit as fit_quickly
from helpers.guarded_runs import gan
from helpers.short_fits import assert_same
from lightning.pytorch.callbacks import Callback

from pcgan_lightning.callbacks import AdaptivePreconditioning, RunCheckpoint, RunRecord, SpectrumLogger
from pcgan_lightning.data import ImageDataModule
from pcgan_lightning.modules import GAN
from pcgan_lightning.networks import CNNDiscriminator, CNNGenerator
from pcgan_lightning.optim import LinearDecay
from pcgan_lightning.runs import AtomicCheckpointIO, RunCSVLogger, last_checkpoint, last_of, read_checkpoint, read_rows

NAMED = {"filename": "{step}", "auto_insert_metric_name": False}
EVERY = NAMED | {"every_n_train_steps": 1, "save_top_k": -1, "enable_version_counter": False}
EVERY_SECOND = NAMED | {"every_n_train_steps": 2}
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}


class Hooks(Callback):
    """Remembers what was called, in which epoch."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, *_):
        self.seen.append(("batch", trainer.global_step, trainer.current_epoch))

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.seen.append(("validation", trainer.global_step))

    def on_train_end(self, trainer, pl_module):
        self.seen.append(("end", trainer.global_step))


def fit(folder, ckpt_path=None, validation=True, checkpoint=None, callbacks=(), **limits):
    """Train with 5 iterations in an epoch and a checkpoint after each; return what was called."""
    pl.seed_everything(0, verbose=False)
    networks = {"channels": 1, "width": 2, "initialization": "xavier_uniform"}
    module = GAN(
        CNNGenerator(latent_dim=4, **networks),
        CNNDiscriminator(**networks),
        ema_decay=0.9,
        generator_scheduler=lambda optimizer: LinearDecay(optimizer, total_iterations=20),
    )
    data = ImageDataModule("digits", max_images=20, batch_size=4, validation_split="test" if validation else None)
    hooks = Hooks()
    trainer = pl.Trainer(
        default_root_dir=folder,
        logger=RunCSVLogger(str(folder)),
        log_every_n_steps=1,
        limit_val_batches=2,
        callbacks=[
            AdaptivePreconditioning(every_n_steps=3, thresholds=(1.1, 1.2, 1.3, 1.4)),
            SpectrumLogger(every_n_steps=2),
            RunRecord(),
            hooks,
            *callbacks,
            RunCheckpoint(dirpath=folder / "checkpoints", **(checkpoint or EVERY)),
        ],
        **QUIET | limits,
    )
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return hooks.seen


def series(folder):
    return [{k: v for k, v in row.items() if k != "iterations_per_second"} for row in read_rows(folder / "metrics.csv")]


LIMITS = {
    "steps": {"max_steps": 13},
    "epochs without validation": {"max_epochs": 3, "validation": False},
    "validation within epochs": {"max_steps": 13, "val_check_interval": 2},
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return the folder and the calls of a run of some limits, each made once."""

    @functools.cache
    def run(limits):
        folder = tmp_path_factory.mktemp("undisturbed") / "run"
        return folder, fit(folder, **LIMITS[limits])

    return run


# From within an epoch; from an epoch's end, and again from the next one's, or from within it.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "interruptions"),
    [
        *(("steps", interruptions) for interruptions in ([2], [5, 10], [10, 11])),
        ("epochs without validation", [5, 10]),
        ("validation within epochs", [4, 9]),
    ],
    ids=str,
)
def test_resumed_run_is_the_undisturbed_one(undisturbed, limits, interruptions, tmp_path):
    """Weights, optimizers, schedulers, average, callbacks, Lightning's own counts, the hooks called, metrics.csv."""
    reference, called = undisturbed(limits)
    folder = tmp_path / "run"
    shutil.copytree(reference, folder)
    for step in interruptions:
        for path in (folder / "checkpoints").iterdir():
            if int(path.stem) > step:
                path.unlink()
        again = fit(folder, ckpt_path=folder / "checkpoints" / f"{step}.ckpt", **LIMITS[limits])
        assert again == called[called.index(next(c for c in called if c[:2] == ("batch", step + 1))) :]
    last = max((reference / "checkpoints").iterdir(), key=lambda path: int(path.stem))
    ends = [torch.load(f / "checkpoints" / last.name, weights_only=True) for f in (reference, folder)]
    for end in ends:  # counts of all validation batches so far, which Lightning itself resets at odd moments
        end["loops"]["fit_loop"].pop("epoch_loop.val_loop.batch_progress")
        end["callbacks"] = {k: v for k, v in end["callbacks"].items() if "RunCheckpoint" not in k}  # which has paths
    assert_same(*ends)
    assert series(folder) == series(reference)


@pytest.mark.slow
@pytest.mark.parametrize("limits", LIMITS)
def test_validation_is_logged_at_its_iteration(undisturbed, limits):
    folder, called = undisturbed(limits)
    logged = [int(row["step"]) for row in series(folder) if "val/loss/generator" in row]
    assert logged == [c[1] for c in called if c[0] == "validation"]
    assert bool(logged) == LIMITS[limits].get("validation", True)


class Watch(Callback):
    """Remembers which checkpoints there are at each hook."""

    def __init__(self, folder):
        self.folder, self.seen = folder, {}

    def names(self):
        return sorted(path.name for path in self.folder.glob("*"))

    def on_validation_start(self, trainer, pl_module):
        self.seen[f"validation {trainer.global_step}"] = self.names()

    def on_train_end(self, trainer, pl_module):
        self.seen["end"] = self.names()


@pytest.mark.parametrize("last", [6, 10])  # without and with a validation after it
def test_last_checkpoint_comes_after_the_end_of_the_others(last, tmp_path):
    watch = Watch(tmp_path / "checkpoints")
    fit(tmp_path, callbacks=[watch], max_steps=last)
    assert watch.seen["validation 5"] == ["1.ckpt", "2.ckpt", "3.ckpt", "4.ckpt"]
    assert f"{last - 1}.ckpt" in watch.seen["end"]
    assert f"{last}.ckpt" not in watch.seen["end"]
    assert f"{last}.ckpt" in watch.names()


def test_epochs_as_interval(tmp_path):
    settings = {"filename": "{epoch}", "every_n_epochs": 1, "save_top_k": -1}
    watch = Watch(tmp_path / "checkpoints")
    fit(tmp_path, callbacks=[watch], checkpoint=settings, max_epochs=2)
    assert watch.seen["end"] == ["epoch=0.ckpt"]
    assert watch.names() == ["epoch=0.ckpt", "epoch=1.ckpt"]


def test_former_checkpoint_goes_after_the_new_one_is_there(tmp_path, monkeypatch):
    folder, present = tmp_path / "checkpoints", []
    unlink, replace = os.remove, os.replace

    def remember(what):
        present.append((what, sorted(path.name for path in folder.glob("*"))))

    def rename(part, path):
        if path.parent == folder:  # metrics.csv is written in the same way
            remember("renaming")
        replace(part, path)

    monkeypatch.setattr(AtomicCheckpointIO, "remove_checkpoint", lambda self, p: (remember("removing"), unlink(p)))
    monkeypatch.setattr(os, "replace", rename)
    fit(tmp_path, checkpoint=EVERY_SECOND, max_steps=5)
    assert present == [
        ("renaming", ["2.ckpt.part"]),
        ("renaming", ["2.ckpt", "4.ckpt.part"]),
        ("removing", ["2.ckpt", "4.ckpt"]),
    ]


def test_resumed_run_keeps_one_checkpoint(tmp_path):
    fit(tmp_path, checkpoint=EVERY_SECOND, max_steps=2)
    fit(tmp_path, ckpt_path=tmp_path / "checkpoints" / "2.ckpt", checkpoint=EVERY_SECOND, max_steps=4)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["4.ckpt"]


@pytest.mark.parametrize(
    ("kept", "steps", "left"), [(1, 5, ["4.ckpt"]), (1, 4, ["4.ckpt"]), (-1, 5, ["2.ckpt", "4.ckpt"])]
)
def test_what_a_killed_run_was_about_to_remove_is_removed(kept, steps, left, tmp_path):
    """A kill right after a checkpoint came to its place; no other one comes before the end."""
    settings = EVERY_SECOND | {"save_top_k": kept}
    fit(tmp_path, checkpoint=settings, max_steps=5)
    last = tmp_path / "checkpoints" / "4.ckpt"
    shutil.copy(last, last.with_name("2.ckpt"))
    fit(tmp_path, ckpt_path=last, checkpoint=settings, max_steps=steps)
    assert sorted(path.name for path in last.parent.iterdir()) == left


class Killed(Watch):
    """The files at each iteration's beginning, and an end in the middle."""

    def __init__(self, folder, iteration=9):
        super().__init__(folder)
        self.iteration = iteration

    def on_train_batch_start(self, trainer, *_):
        self.seen[trainer.global_step] = self.names()
        if trainer.global_step == self.iteration:
            raise RuntimeError("killed")


def test_nothing_is_saved_within_an_iteration(tmp_path):
    killed = Killed(tmp_path / "checkpoints", 3)
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path, checkpoint=EVERY_SECOND | {"save_last": True}, callbacks=[killed], max_steps=5)
    assert killed.names() == ["2.ckpt", "last.ckpt"]
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 2
    with pytest.raises(ValueError, match="`save_on_exception` must be false"):
        RunCheckpoint(save_on_exception=True)


@pytest.mark.parametrize(
    ("settings", "files", "told"),
    [
        ({}, ["8.ckpt"], False),
        ({"monitor": "step"}, ["4.ckpt", "last.ckpt"], False),
        ({"monitor": "step", "mode": "max"}, ["8.ckpt"], False),
        ({"monitor": "epoch"}, ["4.ckpt", "last.ckpt"], False),
        ({"monitor": "epoch", "save_last": True}, ["4.ckpt", "last.ckpt"], False),
        ({"monitor": "loss/generatr"}, ["last.ckpt"], True),
        ({"monitor": "val/loss/generator", "save_last": True}, ["last.ckpt"], True),
    ],
    ids=str,
)
def test_a_checkpoint_is_there_after_each_interval(settings, files, told, tmp_path, caplog):
    """Whatever is monitored: a number of Lightning's, a misspelt metric, one that comes after a validation only."""
    folder = tmp_path / "checkpoints"
    watch = Killed(folder)
    every = {"dirpath": folder, **NAMED, "every_n_train_steps": 4}
    logging.getLogger("lightning.pytorch").addHandler(caplog.handler)
    try:
        with pytest.raises(RuntimeError, match="killed"):
            fit_quickly(tmp_path, gan(), [watch, RunCheckpoint(**every, **settings)])
    finally:
        logging.getLogger("lightning.pytorch").removeHandler(caplog.handler)
    assert all(watch.seen[step] for step in (4, 5, 8, 9))
    assert watch.seen[9] == files
    assert read_checkpoint(last_of([folder / name for name in files]))["global_step"] == 8  # the newest, best or not
    # A set: where other tests have let this logger propagate, the handler sees each line twice.
    lines = {record.getMessage() for record in caplog.records if "must name a metric" in record.getMessage()}
    assert len(lines) == told
    for line in lines:
        assert f"got {settings['monitor']!r}, which has no value at iteration 4, where there are epoch, loss/" in line


@pytest.mark.slow
def test_killed_at_any_iteration_with_any_monitor(tmp_path):
    """Seven monitors, each killed by SIGKILL at a random iteration: the last multiple of 4 is there to go on from."""
    done = run_script(killed_monitors, tmp_path, str(random.SystemRandom().randrange(2**32)), check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    killed = json.loads((tmp_path / "killed.json").read_text())
    assert len(killed) == 7
    for folder, iteration in killed.items():
        found = last_checkpoint(tmp_path / folder)
        held = 0 if found is None else read_checkpoint(found)["global_step"]
        assert held == iteration // 4 * 4, (folder, killed)


def test_time_as_interval(tmp_path):
    """With manual optimization Lightning's own would save nothing."""
    fit(tmp_path, checkpoint=EVERY | {"every_n_train_steps": 0, "train_time_interval": timedelta(0)}, max_steps=3)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1.ckpt", "2.ckpt", "3.ckpt"]


@BOTH_NAMES
def test_modules_of_others(pl, tmp_path):
    checkpoint = RunCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=4, save_top_k=-1)
    trainer = pl.Trainer(max_epochs=1, logger=False, default_root_dir=tmp_path, callbacks=[checkpoint], **QUIET)
    trainer.fit(make_two_player_gan(pl)(), image_loader())
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["step=4.ckpt", "step=8.ckpt"]


def test_comes_last_for_the_other_package(tmp_path):
    """Or it would save before a callback behind it had looked."""
    saving, other = RunCheckpoint(), SpectrumLogger()
    trainer = pytorch_lightning.Trainer(callbacks=[saving, other], default_root_dir=tmp_path, logger=False)
    saving.setup(trainer, None, "fit")
    assert trainer.callbacks[-1] is saving
