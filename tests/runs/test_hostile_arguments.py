"""Arguments in the checkpoints of strangers: nothing that they name is imported, called or opened."""

import importlib
import sys

import lightning.pytorch as pl
import pytest
import torch
from helpers.listings import listing

from pcgan_lightning import GAN
from pcgan_lightning.cli.generate import load_gan
from pcgan_lightning.networks import MLPDiscriminator, MLPGenerator
from pcgan_lightning.runs import HYPER_PARAMETERS, check_hyper_parameters

TINY = {"width": 2, "hidden_layers": 1}
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
