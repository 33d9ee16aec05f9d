"""Checkpoints of strangers: what they name is not written, removed, imported or opened outside the run folder."""

import hashlib
import importlib
import os
import sys

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from pcgan_lightning import GAN
from pcgan_lightning.callbacks import RunCheckpoint
from pcgan_lightning.cli.evaluate import _data_of
from pcgan_lightning.cli.generate import load_gan
from pcgan_lightning.networks import MLPDiscriminator, MLPGenerator
from pcgan_lightning.report.run_data import read_runs
from pcgan_lightning.runs import (
    HYPER_PARAMETERS,
    AtomicCheckpointIO,
    check_hyper_parameters,
    drop_foreign_paths,
    is_checkpoint_in,
    last_checkpoint,
)
from pcgan_lightning.spectra import Polynomial

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
    "path", ["HOME", "local://HOME", "~/precious.ckpt", "RUN/../home", "a/../../home", "HOME/x.ckpt"]
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
    """Those in the folder, there or not, a link among them included."""
    folder = home.parent / "run" / "checkpoints"
    (folder / "a.ckpt").write_text("")
    (folder / "b.ckpt").symlink_to("a.ckpt")
    paths = [str(folder / name) for name in ("a.ckpt", "b.ckpt", "gone.ckpt")]
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
            state["last_model_path"] = f"{home.parent}/run/checkpoints/../../home"
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


# Functions, modules that nobody has imported, classes of other kinds, and texts of which a class is made.
NAMES = [
    "os.system",
    "subprocess.Popen",
    "builtins.eval",
    "antigravity.x",
    "not_imported.Network",
    "not_imported.inner.function",
    "imported_names.function",
    "imported_names.Other",
    "imported_names.instance",
    "imported_names.missing",
    "imported_names.Lazy",
    "torch.load",
    "torch.hub.load",
    "torch.utils.collect_env.run",
    "torch.utils.tensorboard.SummaryWriter",
    "torch.distributed.elastic.multiprocessing.subprocess_handler.SubprocessHandler",
    "torch_fidelity.calculate_metrics",
    "lightning.pytorch.Trainer",
    "pcgan_lightning.cli.__main__.main",
    "pcgan_lightning.cli.fit.PCGANCLI",
    "pcgan_lightning.runs.write_whole",
    "pcgan_lightning.runs.trust.sys",
    "pcgan_lightning.data.ImageDataModule",
    "pcgan_lightning.runs.AtomicCheckpointIO",
    "{class_path: os.system, init_args: {command: touch x}}",
    "!!python/name:os.system",
    "imported_names.",
    "a\nb",
]
FILES = ["WEIGHTS", "weights", "./weights", "../weights", "~/weights", "file://WEIGHTS", "http://127.0.0.1/weights"]
FILES += ["weights.pt", "C:\\weights", "hub:weights", "$HOME/weights"]
# Every argument of a game, those of a nested object, and a name that nothing has.
PLACES = ["generator", "discriminator", "loss", "penalty", "generator_optimizer", "discriminator_optimizer"]
PLACES += ["generator_scheduler", "discriminator_scheduler", "ema_decay", "discriminator_steps", "anything", "method"]
IMPORTABLE = """
from pathlib import Path
from torch import nn
Path("imported").touch()
def function(*_, **__): Path("called").touch()
class Other:
    def __init__(self, *_, **__): Path("called").touch()
class Own(nn.Module): pass
instance = Other.__new__(Other)
def __getattr__(name): Path("asked").touch(); raise AttributeError(name)
"""


@pytest.fixture
def imports(tmp_path, monkeypatch):
    """The names of all modules that are looked for; `imported_names` is there already, `not_imported` is not."""
    for name in ("imported_names", "not_imported"):
        (tmp_path / f"{name}.py").write_text(IMPORTABLE)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("imported_names")
    (tmp_path / "imported").unlink()
    (tmp_path / "weights").write_bytes(b"cposix\nsystem\n(S'touch called'\ntR.")
    (tmp_path / "weights.pt").write_bytes(b"cposix\nsystem\n(S'touch called'\ntR.")
    monkeypatch.setenv("HOME", str(tmp_path))
    found = []

    class Recorder:
        def find_spec(self, name, path=None, target=None):
            found.append(name)

    monkeypatch.setattr(sys, "meta_path", [Recorder(), *sys.meta_path])
    yield found
    for name in ("imported_names", "not_imported"):
        sys.modules.pop(name, None)


def in_places(value):
    """Yield arguments with the value in every place: itself, as what is to be made, and as an argument of that."""
    inner = {"class_path": "torch.optim.Adam", "init_args": {"lr": value, "betas": [value]}}
    grafted = {"class_path": "pcgan_lightning.optim.Grafted", "init_args": {"magnitude": value, "direction": inner}}
    for place in PLACES:
        for hostile in (value, [value], {"class_path": value}, {"class_path": value, "init_args": {}}, inner, grafted):
            yield {place: hostile}


@pytest.mark.parametrize("value", [*NAMES, *FILES])
def test_arguments_of_a_checkpoint_import_and_open_nothing(value, imports, tmp_path):
    value = value.replace("WEIGHTS", str(tmp_path / "weights"))
    before = listing(tmp_path)
    for arguments in in_places(value):
        for key in HYPER_PARAMETERS:
            with pytest.raises(ValueError, match=r"^checkpoint: argument `.*` must ") as error:
                check_hyper_parameters({key: arguments}, GAN, "checkpoint")
            assert "\n" not in str(error.value)
            assert len(str(error.value)) < 400
    assert listing(tmp_path) == before
    assert {name.partition(".")[0] for name in imports} <= {"pcgan_lightning"}


@pytest.mark.parametrize("value", ["not_imported.function", "imported_names.function", "weights", "./weights.pt"])
def test_hostile_arguments_are_refused_before_anything_is_built(value, imports, tmp_path):
    """Through the whole of ``load_from_checkpoint``; an argument that is given anew is not looked at."""
    gan = GAN(MLPGenerator(latent_dim=2, **TINY), MLPDiscriminator(**TINY))
    content = {"state_dict": gan.state_dict(), "pytorch-lightning_version": pl.__version__, "global_step": 1}
    content |= {"hyper_parameters": dict(gan.hparams) | {"generator_optimizer": value}, "epoch": 0, "loops": {}}
    torch.save(content, tmp_path / "hostile.ckpt")
    before = listing(tmp_path)
    for read in (GAN.load_from_checkpoint, load_gan):
        with pytest.raises(ValueError, match="argument `generator_optimizer` must"):
            read(tmp_path / "hostile.ckpt")
    assert listing(tmp_path) == before
    assert not [name for name in imports if name.startswith(("not_imported", "imported_names"))]
    GAN.load_from_checkpoint(tmp_path / "hostile.ckpt", generator_optimizer=torch.optim.SGD)


def test_classes_that_are_there_already_may_be_named(imports):
    """A network of the user's own, torch's optimizers, and what this package has, by old paths as well."""
    names = ["imported_names.Own", "torch.optim.Adam", "torch.optim.adam.Adam", "pcgan_lightning.games.JARE"]
    names += ["pcgan_lightning.networks.cnn.CNNGenerator", "pcgan_lightning.losses.HingeLoss"]
    for name in names:
        for value in (name, {"class_path": name, "init_args": {"initialization": "xavier_uniform", "x": "a b-1"}}):
            check_hyper_parameters({"hyper_parameters": {"generator": value}}, GAN, "checkpoint")


def test_last_is_the_highest_iteration_whatever_the_times(tmp_path, caplog):
    """Not an old file that was touched; what is no checkpoint is told of in a line each."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for iteration, time in ((4, 9e9), (12, 1e9), (8, 2e9), (12, 5e8)):
        path = folder / f"{iteration}_{time:.0f}.ckpt"
        torch.save({"state_dict": {}, "global_step": iteration}, path)
        os.utime(path, (time, time))
    expected = folder / "12_1000000000.ckpt"
    (folder / "cut.ckpt").write_bytes(expected.read_bytes()[:-100])
    (folder / "folder.ckpt").mkdir()
    (folder / "lost.ckpt").symlink_to("nowhere")
    torch.save({"state_dict": {}, "global_step": "99"}, folder / "text.ckpt")
    torch.save({"state_dict": {}, "global_step": -1}, folder / "below.ckpt")
    assert last_checkpoint(tmp_path) == expected
    assert [line.count("is passed by") for line in caplog.messages] == [1] * 5
    expected.write_bytes(expected.read_bytes()[:-100])
    assert last_checkpoint(tmp_path).name == "12_500000000.ckpt"


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text", [BOMB, "x: [&a [*a]]", "x: " + "[" * 5000, "x: 1\nx: 2", "x: !!python/name:os.system", "x: 2020-99-99"]
)
def test_yaml_of_a_run_folder_is_refused_in_one_line(text, tmp_path):
    """By the report, and by an evaluation that looks for its data."""
    (tmp_path / "config.yaml").write_text(text)
    (tmp_path / "metrics.csv").write_text("step,x\n1,2\n")
    for read in (lambda: read_runs([tmp_path]), lambda: _data_of(tmp_path, tmp_path / "x.ckpt")):
        with pytest.raises(ValueError, match=r"config\.yaml: ") as error:
            read()
        assert "\n" not in str(error.value)


def test_giants_are_refused(tmp_path):
    (tmp_path / "metrics.csv").write_text("step" + "".join(f",{n}" for n in range(10**6)) + "\n1" + "," * 10**6 + "\n")
    with pytest.raises(ValueError, match=r"at most 10,000 columns, got 1,000,001"):
        read_runs([tmp_path])
    with pytest.raises(ValueError, match=r"`coefficients` must be at most 100, got 200,000$"):
        Polynomial((float("nan"),) * 200_000)
