"""Configs that name what would touch a file: the file stays untouched."""

import functools
import importlib
import operator
import re

import pytest
import yaml
from helpers.attacks import calls
from helpers.command import one_error, quickstart
from jsonargparse import ArgumentError
from jsonargparse.typing import Path_fr

from pcgan_lightning.runs import check_classes, check_config_file, read_checkpoint

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


# A function of the right type everywhere, and every call somewhere where no type protects.
ATTACKS = [(place, "own function") for place in PLACES if place != "untyped"]
ATTACKS += zip(("network", "optimizer", "callback", "target", "network"), calls(None), strict=True)


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
        assert value["class_path"] in one_error(capsys)


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
