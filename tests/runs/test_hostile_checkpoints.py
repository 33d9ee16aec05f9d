"""Checkpoints of strangers: no path that they name is written to or removed."""

import os

import lightning.pytorch as pl
import pytest
import torch
from helpers.listings import listing
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
    "RUN/checkpoints/../../treasure",
    "RUN/checkpoints/../../treasure/precious.ckpt",
    "RUN/checkpoints/../metrics.csv",
    "RUN/checkpoints/link",
    "RUN/checkpoints/link/precious.ckpt",
    "RUN/checkpoints/link.ckpt",
    "RUN/checkpoints/file.ckpt",
    "RUN/checkpoints/inner/../../metrics.ckpt",
    "RUN/checkpoints",
    "RUN/checkpoints/folder.ckpt",
    "RUN",
    "treasure",
    "../treasure",
    "treasure/precious.ckpt",
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
    home, checkpoints = tmp_path / "treasure", tmp_path / "run" / "checkpoints"
    for folder in (home / "folder.ckpt", checkpoints / "inner", checkpoints / "folder.ckpt"):
        folder.mkdir(parents=True)
    for path in (
        home / "precious.txt",
        home / "precious.ckpt",
        home / "folder.ckpt" / "x",
        tmp_path / "run/metrics.csv",
    ):
        path.write_text("precious")
    (checkpoints / "inner" / "x.ckpt").write_text("precious")
    (checkpoints / "link").symlink_to(home)
    (checkpoints / "link.ckpt").symlink_to(home)
    (checkpoints / "file.ckpt").symlink_to(home / "precious.ckpt")
    monkeypatch.setenv("HOME", str(home))
    return home


def placed(path, home):
    """Return a path with the folders' names in it."""
    if isinstance(path, list):
        return [placed(p, home) for p in path]
    if isinstance(path, bytes):
        return path.replace(b"HOME", os.fsencode(home))
    return path.replace("HOME", str(home)).replace("RUN", str(home.parent / "run")) if isinstance(path, str) else path


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("kind", [RunCheckpoint, ModelCheckpoint])
def test_paths_out_of_the_folder_are_dropped(kind, field, home, caplog):
    """Each in each field; the message is one line."""
    callback = kind(dirpath=home.parent / "run" / "checkpoints")
    for path in (placed(path, home) for path in PATHS):
        hostile = {str(path): torch.tensor(0.0)} if field == "best_k_models" else path
        checkpoint = {"callbacks": {callback.state_key: callback.state_dict() | {field: hostile}}}
        caplog.clear()
        drop_foreign_paths(checkpoint, [callback])
        assert checkpoint["callbacks"][callback.state_key][field] in ("", {}), path
        (line,) = (record.message for record in caplog.records)
        assert "left alone" in line
        assert "\n" not in line
        assert len(line) < 500


@pytest.mark.parametrize(
    "path", ["HOME", "local://HOME", "~/precious.ckpt", "RUN/../treasure", "a/../../treasure", "HOME/x.ckpt"]
)
def test_paths_of_other_callbacks_are_dropped(path, home):
    """Whatever their fields are called, as keys and within lists; what merely has a slash is no path."""
    path = placed(path, home)
    state = {"any": [path, {path: 1, "loss/generator": (path,)}], "series": {"loss/generator": [1.0]}, "monitor": "a/b"}
    checkpoint = {"callbacks": {"Callback": state}}
    drop_foreign_paths(checkpoint, [])
    kept = {"any": ["", {"loss/generator": ("",)}], "series": {"loss/generator": [1.0]}, "monitor": "a/b"}
    assert checkpoint["callbacks"]["Callback"] == kept


def test_own_checkpoints_are_taken_over(home):
    """Those in the folder or below it, there or not, a link among them included."""
    folder = home.parent / "run" / "checkpoints"
    (folder / "a.ckpt").write_text("")
    (folder / "b.ckpt").symlink_to("a.ckpt")
    paths = [str(folder / name) for name in ("a.ckpt", "b.ckpt", "gone.ckpt", "inner/x.ckpt")]
    callback = RunCheckpoint(dirpath=folder)
    state = callback.state_dict() | {"best_model_path": paths[0], "kth_best_model_path": paths[1]}
    state["best_k_models"] = {path: torch.tensor(1.0) for path in paths}
    checkpoint = {"callbacks": {callback.state_key: dict(state)}}
    drop_foreign_paths(checkpoint, [callback])
    assert checkpoint["callbacks"][callback.state_key] == state
    assert is_checkpoint_in("run/checkpoints/a.ckpt", folder)


def test_a_run_goes_on_from_a_hostile_checkpoint(home, caplog):
    """It saves, removes its own former checkpoints, and nothing else; with Lightning's own callback beside ours."""

    def fit(iterations, ckpt_path=None):
        folder = home.parent / "run" / "checkpoints"
        callbacks = [
            kind(dirpath=folder, filename=name, every_n_train_steps=1, save_last=True)
            for kind, name in ((RunCheckpoint, "iteration_ours{step}"), (ModelCheckpoint, "iteration_theirs{step}"))
        ]
        trainer = pl.Trainer(
            accelerator="cpu",
            max_steps=iterations,
            callbacks=callbacks,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        gan = GAN(MLPGenerator(latent_dim=2, **TINY), MLPDiscriminator(**TINY))
        trainer.fit(gan, DataLoader(torch.zeros(8, 2), batch_size=1), ckpt_path=ckpt_path)
        return next(folder.glob("iteration_theirs*"))

    content = torch.load(fit(2), weights_only=True)
    (home.parent / "run" / "checkpoints" / "last-v1.ckpt").unlink(missing_ok=True)
    for state in content["callbacks"].values():
        if "best_model_path" in state:
            state["best_model_path"] = f"local://{home}"
            state["last_model_path"] = f"{home.parent}/run/checkpoints/../../treasure"
    torch.save(content, home.parent / "hostile.ckpt")
    before = listing(home)
    fit(4, home.parent / "hostile.ckpt")
    assert listing(home) == before
    assert len([r for r in caplog.records if "left alone" in r.message]) == 2


def test_a_folder_is_never_removed_as_a_checkpoint(home):
    before = listing(home)
    AtomicCheckpointIO().remove_checkpoint(str(home))
    AtomicCheckpointIO().remove_checkpoint(f"local://{home}")
    assert listing(home) == before
    AtomicCheckpointIO().remove_checkpoint(home / "precious.ckpt")
    assert not (home / "precious.ckpt").exists()
