"""Checkpoints of strangers: what they name is not written, removed, imported or opened outside the run folder."""

import hashlib
import logging
import os

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from pcgan_lightning import GAN
from pcgan_lightning.callbacks import RunCheckpoint
from pcgan_lightning.networks import MLPDiscriminator, MLPGenerator
from pcgan_lightning.runs import AtomicCheckpointIO, drop_foreign_paths, is_checkpoint_in

TINY = {"width": 2, "hidden_layers": 1}
# HOME is a folder with files beside the run folder, RUN the run folder.
PATHS = [
    "HOME",
    "HOME/",
    "HOME/precious.txt",
    "HOME/precious.ckpt",
    "HOME/folder.ckpt",
    "local://HOME",
    "local:///HOME",
    "file://HOME",
    "file://HOME/precious.ckpt",
    "memory://HOME",
    "RUN/checkpoints/../../home",
    "RUN/checkpoints/../../home/precious.ckpt",
    "RUN/checkpoints/../metrics.csv",
    "RUN/checkpoints/link",
    "RUN/checkpoints/link/precious.ckpt",
    "RUN/checkpoints/link.ckpt",
    "RUN/checkpoints/file.ckpt",
    "RUN/checkpoints/inner/x.ckpt",
    "RUN/checkpoints",
    "RUN/checkpoints/folder.ckpt",
    "RUN",
    "home",
    "../home",
    "home/precious.ckpt",
    "~",
    "~/precious.ckpt",
    ".",
    "\0",
    "x" * 5000 + ".ckpt",
    b"HOME",
    ["HOME"],
    3,
]
FIELDS = ["best_model_path", "kth_best_model_path", "last_model_path", "_last_checkpoint_saved", "best_k_models"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with files, beside the run folder, to which links within the run folder lead."""
    home, checkpoints = tmp_path / "home", tmp_path / "run" / "checkpoints"
    for folder in (home / "folder.ckpt", checkpoints / "inner", checkpoints / "folder.ckpt"):
        folder.mkdir(parents=True)
    for path in (home / "precious.txt", home / "precious.ckpt", home / "folder.ckpt" / "x", tmp_path / "run/metrics.csv"):
        path.write_text("precious")
    (checkpoints / "inner" / "x.ckpt").write_text("precious")
    (checkpoints / "link").symlink_to(home)
    (checkpoints / "link.ckpt").symlink_to(home)
    (checkpoints / "file.ckpt").symlink_to(home / "precious.ckpt")
    monkeypatch.setenv("HOME", str(home))
    return home


def listing(folder):
    """Return the digest of each file, folders and links included, but for what a run itself writes."""
    paths = [p for p in folder.rglob("*") if not p.name.startswith("iteration_") and p.name != "last.ckpt"]
    return {
        path: os.readlink(path) if path.is_symlink() else path.is_file() and hashlib.md5(path.read_bytes()).hexdigest()
        for path in paths
    }


def placed(path, home):
    """Return a path with the folders' names in it."""
    if isinstance(path, list):
        return [placed(p, home) for p in path]
    if isinstance(path, bytes):
        return path.replace(b"HOME", os.fsencode(home))
    return path.replace("HOME", str(home)).replace("RUN", str(home.parent / "run")) if isinstance(path, str) else path


def checkpoint_callback(kind, home, **options):
    folder = home.parent / "run" / "checkpoints"
    return kind(dirpath=folder, filename="iteration_{step}", every_n_train_steps=1, **options)


def fit(callback, iterations, ckpt_path=None):
    gan = GAN(MLPGenerator(latent_dim=2, **TINY), MLPDiscriminator(**TINY))
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=iterations,
        callbacks=[callback],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(gan, DataLoader(torch.zeros(8, 2), batch_size=1), ckpt_path=ckpt_path)


@pytest.mark.parametrize("kind", [RunCheckpoint, ModelCheckpoint])
@pytest.mark.parametrize("field", FIELDS)
def test_nothing_is_removed_that_a_checkpoint_names(kind, field, home, caplog):
    """The run goes on, saves, and removes its own former checkpoints; whatever else the field names stays."""
    caplog.set_level(logging.WARNING)
    monitored = {"monitor": "loss/generator", "save_top_k": 2} if "k" in field.split("_") or "kth" in field else {}
    fit(checkpoint_callback(kind, home, **monitored), 2)
    (path, *_) = (home.parent / "run" / "checkpoints").glob("iteration_*2*.ckpt")
    good = torch.load(path, weights_only=True)
    (key,) = (key for key in good["callbacks"] if "Checkpoint" in str(key))
    for number, attack in enumerate(PATHS):
        content = torch.load(path, weights_only=True)
        value = placed(attack, home)
        if field == "best_k_models":
            value = {str(value): torch.tensor(-1e9)}
            content["callbacks"][key]["kth_best_model_path"] = str(placed(attack, home))
        content["callbacks"][key][field] = value
        torch.save(content, home.parent / "hostile.ckpt")
        if number % 8 == 0 or "://" in str(attack) or "RUN/checkpoints/../.." in str(attack):  # in a run as well
            before = listing(home.parent)
            caplog.clear()
            fit(checkpoint_callback(kind, home, **monitored), 4, home.parent / "hostile.ckpt")
            assert listing(home.parent) == before, attack
            if field != "_last_checkpoint_saved":
                pass
            assert len([r for r in caplog.records if "left alone" in r.message]) == 1, attack
        callback = checkpoint_callback(kind, home, **monitored)
        drop_foreign_paths(content, [callback])
        assert content["callbacks"][key][field] in ("", {}), attack
