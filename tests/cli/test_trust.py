"""Attacks: configs and checkpoints that name what would touch a file, damaged checkpoints; the file stays untouched."""

import functools
import importlib
import math
import operator
import pickle
import random
import re
import sys
import time

import pytest
import torch
import yaml
from helpers.command import pcgan, quickstart
from jsonargparse import ArgumentError
from jsonargparse.typing import Path_fr

from pcgan_lightning import GAN
from pcgan_lightning.cli.fit import _check_checkpoint
from pcgan_lightning.cli.generate import load_gan
from pcgan_lightning.runs import check_classes, check_config_file, read_checkpoint

# What an attacker finds installed: a function and a class that run a command when they are called, in no list of
# Python's own dangerous names.
RUN = "torch.utils.collect_env.run"
PROCESS = "torch.distributed.elastic.multiprocessing.subprocess_handler.SubprocessHandler"
# Functions of the very types that are asked for, so that only their being functions speaks against them.
EVIL = '''
"""Harmless to import."""
from typing import Any, Callable, Iterable
from pathlib import Path
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import Strategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from pcgan_lightning.modules import TwoPlayerModule
from pcgan_lightning.losses import AdversarialLoss, DiscriminatorPenalty

def network(path: str) -> nn.Module: Path(path).touch()
def loss(path: str) -> AdversarialLoss: Path(path).touch()
def penalty(path: str) -> DiscriminatorPenalty: Path(path).touch()
def optimizer(path: str) -> Optimizer: Path(path).touch()
def scheduler(path: str) -> LRScheduler: Path(path).touch()
def model(path: str) -> TwoPlayerModule: Path(path).touch()
def data(path: str) -> LightningDataModule: Path(path).touch()
def callback(path: str) -> Callback: Path(path).touch()
def logger(path: str) -> Logger: Path(path).touch()
def strategy(path: str) -> Strategy: Path(path).touch()
def target(path: str) -> Callable[[nn.Module], nn.Module]: Path(path).touch()
def instantiate(*_: Any) -> None: Path(%r).touch()
def make_optimizer(parameters: Iterable) -> Optimizer: Path(%r).touch()

class Hooked(Callback):
    def __init__(self, *, whatever: Callable[[Any], Any] = lambda x: x) -> None: self.whatever = whatever

def hook(x: Any) -> Any: Path(%r).touch()

class Collector(Callback):
    def __init__(self, anything: Any) -> None: assert 'class_path' in anything, type(anything)

class NoGame(nn.Module):
    def __init__(self, **_: Any) -> None: Path(%r).touch()
'''


@pytest.fixture
def victim(tmp_path, monkeypatch):
    """The file that no attack may touch; the attacker's module can be imported."""
    path = tmp_path / "touched"
    (tmp_path / "evil_names.py").write_text(EVIL % ((str(path),) * 4))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("evil_names")
    yield path
    sys.modules.pop("evil_names", None)
    time.sleep(0.1)  # for a process that was started
    assert not path.exists()


def one_line(capsys):
    """Return the one line of stderr beside what Lightning says."""
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("pcgan: error:")]
    assert len(lines) == 1, error
    assert "Traceback" not in error
    return lines[0]


def calls(victim):
    """What to name, and with which arguments, to touch the file."""
    command = f"touch {victim}"
    return {
        "os.system": {"class_path": "os.system", "init_args": {"command": command}},
        "Popen": {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", str(victim)]}},
        "exec": {"class_path": "builtins.exec", "dict_kwargs": {"source": f"open({str(victim)!r}, 'w')"}},
        "installed function": {"class_path": RUN, "init_args": {"command": command}},
        "installed class": {
            "class_path": PROCESS,
            "init_args": {
                "entrypoint": "touch",
                "args": [str(victim)],
                "env": {},
                "stdout": None,
                "stderr": None,
                "local_rank_id": 0,
            },
        },
    }


PLACES = {
    "network": ("model.generator", "network"),
    "loss": ("model.loss", "loss"),
    "penalty": ("model.penalty", "penalty"),
    "optimizer": ("model.discriminator_optimizer", "optimizer"),
    "scheduler": ("model.generator_scheduler", "scheduler"),
    "model": ("model", "model"),
    "data": ("data", "data"),
    "callback": ("trainer.callbacks", "callback"),
    "preconditioning": ("preconditioning", "callback"),
    "scores": ("scores", "callback"),
    "logger": ("trainer.logger", "logger"),
    "plugins": ("trainer.plugins", None),
    "strategy": ("trainer.strategy", "strategy"),
    "target": ("spectrum.target", "target"),
    "untyped": ("anything", None),
}


def config_with(place, value):
    """Return a config with the value at a dotted place, in the form that a run's config.yaml has."""
    if place == "anything":
        place, value = "trainer.callbacks", [{"class_path": "evil_names.Collector", "init_args": {"anything": value}}]
    first, *rest = place.split(".")
    for name in reversed(rest):
        value = {name: value}
    if first == "model" and rest:
        value = {"class_path": "GAN", "init_args": value}
    return {first: value}


# Every call where no type protects, and a function of the right type everywhere.
ATTACKS = [(place, "own function") for place in PLACES if place != "untyped"]
ATTACKS += [(place, call) for place in ("network", "optimizer", "callback", "target") for call in calls(None)]


def attack(place, call, victim):
    key, own = PLACES[place]
    if call == "own function":
        return key, {"class_path": f"evil_names.{own or 'network'}", "init_args": {"path": str(victim)}}
    return key, calls(victim)[call]


@pytest.mark.parametrize(("place", "call"), ATTACKS)
def test_config_is_refused(place, call, victim, parse, tmp_path):
    key, value = attack(place, call, victim)
    path = tmp_path / "attack.yaml"
    path.write_text(yaml.safe_dump(config_with(key, value)))
    culprit = value["class_path"]
    with pytest.raises(
        (ValueError, ArgumentError), match="|".join((culprit, culprit.split(".")[-1], key.split(".")[-1]))
    ):
        check_classes(parse("--config", path))


@pytest.mark.parametrize(("place", "call"), [("optimizer", "own function"), ("untyped", "installed class")])
def test_config_calls_nothing(place, call, victim, monkeypatch, tmp_path, capsys):
    """Through the whole command; the run itself may well begin where the value is no more than data."""
    key, value = attack(place, call, victim)
    path = tmp_path / "attack.yaml"
    path.write_text(yaml.safe_dump(config_with(key, value)))
    status = quickstart(monkeypatch, tmp_path / "run", "--config", path, "--trainer.fast_dev_run=true")
    assert status == (0 if place == "untyped" else 1)
    if status:
        assert value["class_path"] in one_line(capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model.generator_optimizer=os.system"],
        ["--model.generator_optimizer=evil_names.make_optimizer"],
        ["--model.generator_scheduler=os.system"],
        ["--scores=ScoreLogger", "--scores.sample=os.system"],
        ["--preconditioning.layers=evil_names.model"],
        ["--trainer.callbacks+=JacobianSpectrumLogger", "--trainer.callbacks.losses=os.system"],
        # Arguments of a class that this package knows nothing of, of any name.
        ["--trainer.callbacks+=evil_names.Hooked", "--trainer.callbacks.whatever=os.system"],
        ["--trainer.callbacks+=evil_names.Hooked", "--trainer.callbacks.whatever=evil_names.hook"],
    ],
    ids=lambda a: a[-1],
)
def test_names_of_functions(arguments, victim, parse):
    named = arguments[-1].partition("=")[2]
    with pytest.raises((ValueError, ArgumentError), match=re.escape(named).replace("os", "(os|posix)")):
        check_classes(parse(*arguments))


def test_values_that_can_be_called_are_refused_whatever_their_key():
    """Functions, partials, bound methods and objects with ``__call__``; classes, paths and plain values are none."""
    for value in (print, functools.partial(print), [].append, operator.itemgetter(0), lambda: None):
        for key in ("x", "optimizer", "class_name"):
            with pytest.raises(ValueError, match=f"argument `a.{key}` must name a class, got .*, which is none"):
                check_classes({"a": [{key: value}]})
    check_classes({"kind": dict, "number": 3, "text": "os.system", "config": [Path_fr(__file__)]})


def test_defaults_may_be_functions(parse, victim):
    """Those of the classes that a configuration names, and of the classes that it is known to be for; no others."""
    hooked = importlib.import_module("evil_names").Hooked
    check_classes(parse("--trainer.callbacks+=evil_names.Hooked"))
    default = hooked.__init__.__kwdefaults__["whatever"]
    check_classes({"whatever": default}, owners=[hooked])
    with pytest.raises(ValueError, match="`whatever` must name a class"):
        check_classes({"whatever": default})


TEXTS = {
    "tag": "x: !!python/object/apply:os.system ['touch VICTIM']",
    "tag in a list": "trainer: {callbacks: [!!python/object/new:os.system [touch VICTIM]]}",
    "tag of a module": "data: !!python/module:os.system",
    "target key": "model: {_target_: os.system, command: touch VICTIM}",
    "call key": "model: {class_path: GAN, init_args: {generator: {__call__: os.system, args: [touch VICTIM]}}}",
}
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
# Written out, the aliases of the first are 9^9 entries.
TEXTS |= {"laughs": BOMB, "loop": "run_dir: &a [*a]", "deep": "x: " + "[" * 5000 + "]" * 5000}


@pytest.mark.parametrize("text", TEXTS)
def test_yaml_that_calls_or_explodes(text, victim, fit_parser, tmp_path):
    """As a config, or as one within another."""
    path = tmp_path / "attack.yaml"
    path.write_text(TEXTS[text].replace("VICTIM", str(victim)))
    for argument in ("--config", "--data"):
        with pytest.raises((ValueError, ArgumentError)):
            fit_parser.parse_args([argument, str(path)])
    if text not in ("target key", "call key"):  # which are names that nothing has
        with pytest.raises(ValueError, match=r"attack\.yaml: "):
            check_config_file(path)


def test_environment_is_not_read(monkeypatch, tmp_path):
    """Neither interpolation nor variables: a name in braces is a name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET", "told")
    monkeypatch.setenv("PL_FIT__TRAINER__MAX_STEPS", "9")
    name = "${oc.env:SECRET} ${SECRET} $SECRET"
    assert quickstart(monkeypatch, name, "--trainer.max_steps=1") == 0
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert read_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt")["global_step"] == 1


def nested(place, value):
    def change(arguments):
        arguments[place] = value

    return change


CHANGES = {
    **{f"_instantiator {path}": nested("_instantiator", path) for path in ("os.system", RUN, "evil_names.instantiate")},
    "_instantiator that is no text": nested("_instantiator", ["os", "system"]),
    **{
        f"_class_path {path}": nested("_class_path", path)
        for path in (
            "subprocess.Popen",
            "evil_names.model",
            "evil_names.NoGame",
            "torch.nn.Linear",
            "antigravity.x",
            "x",
        )
    },
    "_class_path that is no text": nested("_class_path", 3),
}


@pytest.fixture
def altered(finished, tmp_path):
    """A function that changes a good checkpoint and saves it elsewhere."""

    def make(change):
        content = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)
        change(content)
        path = tmp_path / "altered.ckpt"
        torch.save(content, path)
        return path

    return make


def assert_refused(checkpoint, pattern=""):
    """Both functions that read checkpoints refuse the file, in one line."""
    for read in (load_gan, GAN.load_from_checkpoint, _check_checkpoint):
        with pytest.raises(ValueError, match=re.escape(pattern)) as error:
            read(checkpoint)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", CHANGES)
def test_checkpoint_calls_nothing(change, altered, victim):
    path = altered(lambda content: CHANGES[change](content["hyper_parameters"]))
    assert_refused(path, "`" + change.partition(" ")[0] + "`")


@pytest.mark.parametrize("key", ["hparams", "module_arguments"])
def test_checkpoint_with_the_keys_of_old_releases(key, altered, victim):
    """Lightning still reads them."""
    path = altered(lambda content: content.update({key: {"_instantiator": "evil_names.instantiate"}}))
    assert_refused(path, "`_instantiator`")


@pytest.mark.parametrize(
    ("place", "call"),
    [
        *((place, "own function") for place in ("generator", "discriminator_optimizer", "loss", "anything")),
        *(("anything", call) for call in calls(None)),
        ("discriminator_optimizer", "installed class"),
    ],
)
def test_checkpoint_names_classes_of_modules_only(place, call, altered, victim):
    own = {"generator": "network", "discriminator_optimizer": "optimizer"}.get(place, "loss")
    value = {"class_path": f"evil_names.{own}", "init_args": {"path": str(victim)}}
    value = value if call == "own function" else calls(victim)[call]
    arguments = {place: {"a": [value]} if place == "anything" else value}
    path = altered(lambda content: content["hyper_parameters"].update(arguments))
    assert_refused(path, value["class_path"])


@pytest.mark.slow
def test_commands_call_nothing(altered, victim, finished, monkeypatch, tmp_path, capsys):
    """What the tests above show of the functions, of all commands: one line that names the file, nothing written."""
    value = {"class_path": RUN, "init_args": {"command": f"touch {victim}"}}
    path = altered(lambda content: content["hyper_parameters"].update(discriminator_optimizer=value))
    config = ("--config", finished / "config.yaml", "--ckpt_path", path)
    for arguments in (
        ("generate", path, "--output", tmp_path / "images"),
        ("evaluate", path, "--output", tmp_path / "scores.json"),
        *((subcommand, *config) for subcommand in ("validate", "test", "predict")),
        ("fit", *config, "--run_dir", tmp_path / "run"),
    ):
        before = sorted(tmp_path.iterdir())
        assert pcgan(monkeypatch, *arguments) == 1, arguments
        assert path.name in one_line(capsys)
        assert sorted(tmp_path.iterdir()) == before


def test_loading_with_lightnings_arguments(finished, tmp_path):
    """Open files, other arguments, a file of arguments: as Lightning has it."""
    checkpoint = finished / "checkpoints" / "last.ckpt"
    whole = GAN.load_from_checkpoint(checkpoint)
    with checkpoint.open("rb") as file:
        again = GAN.load_from_checkpoint(file, map_location="cpu", strict=True, weights_only=False)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    assert GAN.load_from_checkpoint(str(checkpoint), discriminator_steps=3).discriminator_steps == 3
    path = tmp_path / "hparams.yaml"
    path.write_text("_instantiator: os.system\n")
    with pytest.raises(ValueError, match="`_instantiator`"):
        GAN.load_from_checkpoint(checkpoint, hparams_file=path)


def test_pickle_that_calls(victim, tmp_path):
    """As a plain pickle, and within a checkpoint."""

    class Attack:
        def __reduce__(self):
            return eval, (f"open({str(victim)!r}, 'w')",)

    path = tmp_path / "pickle.ckpt"
    path.write_bytes(pickle.dumps(Attack()))
    assert_refused(path, "damaged")
    torch.save({"state_dict": {"generator.weight": Attack()}}, path)
    assert_refused(path, "not read for safety")


def test_truncated_checkpoints(finished, tmp_path):
    """Cut at fifty places, all are refused in one line."""
    whole = (finished / "checkpoints" / "last.ckpt").read_bytes()
    source = random.Random(0)
    path = tmp_path / "cut.ckpt"
    for _ in range(50):
        path.write_bytes(whole[: source.randrange(len(whole))])
        with pytest.raises(ValueError, match=r"a whole checkpoint, got .*cut\.ckpt, which is damaged: ") as error:
            read_checkpoint(path)
        assert "\n" not in str(error.value)


def test_flipped_bits(finished, tmp_path):
    """Fifty times one bit: refused, or nothing but bytes that mean nothing, and the content is the same."""
    original = finished / "checkpoints" / "last.ckpt"
    whole = original.read_bytes()
    expected = read_checkpoint(original)
    source = random.Random(0)
    path = tmp_path / "flipped.ckpt"
    refused = 0
    for _ in range(50):
        damaged = bytearray(whole)
        damaged[source.randrange(len(whole))] ^= 1 << source.randrange(8)
        path.write_bytes(damaged)
        message = refusal(path)
        refused += message is not None
        if message is None:
            assert same(read_checkpoint(path), expected)
        else:
            assert "flipped.ckpt" in message
            assert "\n" not in message
    assert refused > 10


def refusal(path):
    """Return the message with which a checkpoint is refused, or None."""
    try:
        read_checkpoint(path)
    except ValueError as error:
        return str(error)
    return None


def same(a, b):
    """Whether two contents of checkpoints are equal."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))
