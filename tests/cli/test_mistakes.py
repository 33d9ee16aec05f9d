"""Malformed configs and calls: a non-zero status and one line that names the culprit, and nothing else.

Each source of mistakes goes through the whole command once; all others meet the function that refuses them.
"""

import os
import re
import subprocess
import sys

import pytest
import yaml
from helpers.command import one_byte_altered, one_error, pcgan, quickstart

from pcgan_lightning import modules
from pcgan_lightning.cli.command import EXPECTED_ERRORS, _report
from pcgan_lightning.cli.fit import _check_numbers
from pcgan_lightning.runs import check_config_file

CONFIGS = {
    "empty": ("", r"which is empty"),
    "binary": (bytes(range(256)), r"mistake\.yaml: "),
    "with a syntax error": ("trainer: [1\nmodel", r"mistake\.yaml: .*line [12]"),
    "a list": ("- 1", r"which is a list"),
    "a word": ("word", r"which is a str"),
    "with a tag": ("x: !!python/name:os.system", r"mistake\.yaml: .*tag.*os\.system"),
    "with a key twice": ("trainer: {}\ndata: {}\ntrainer: {}", r"mistake\.yaml: the key 'trainer' is"),
}


@pytest.mark.parametrize("mistake", CONFIGS)
def test_config_file(mistake, tmp_path):
    content, pattern = CONFIGS[mistake]
    path = tmp_path / "mistake.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=pattern) as error:
        check_config_file(path)
    assert "\n" not in str(error.value)


ARGUMENTS = {
    "unknown top key": ({"modle": {"x": 1}}, r"modle"),
    "misspelt nested key": ({"trainer": {"max_step": 3}}, r"max_step\b"),
    "misspelt key of a network": (["--model.discriminator.widht=3"], r"'widht'"),
    "misspelt option": (["--modle=3"], r"--modle=3"),
    "shortened option": (["--trainer.max_step=3"], r"--trainer\.max_step=3"),
    "wrong type": (["--trainer.max_steps=many"], r"trainer\.max_steps"),
    "null for the model": ({"model": None}, r"model"),
    "class that does not exist": (["--model.loss=Hinge"], r"Hinge"),
    "class of the wrong kind": (["--model.loss=torch.nn.Linear"], r'"loss": .*torch\.nn\.Linear'),
    "module that does not exist": (["--model.generator=nowhere.Generator"], r'"generator".*nowhere'),
    "abstract class": (["--model.loss=AdversarialLoss"], r"AdversarialLoss"),
    "missing argument": (
        ["--model.penalty=pcgan_lightning.losses.GradientPenalty", "--model.penalty.weight=null"],
        r"weight",
    ),
    "config of nothing": ({"model": "nowhere/model.yaml"}, r"nowhere/model\.yaml"),
    "no steps": (["--trainer.max_steps=0"], r"`max_steps` must be positive, .* got 0"),
    "negative steps": (["--trainer.max_steps=-3"], r"`max_steps` must be positive, .* got -3"),
    "seed": (["--seed_everything=-1"], r"`seed_everything` must be in .* got -1"),
}


@pytest.mark.parametrize("mistake", ARGUMENTS)
def test_arguments(mistake, parse, tmp_path, capsys):
    """What the parser refuses, in the line that the command makes of it, and what only the numbers tell."""
    arguments, pattern = ARGUMENTS[mistake]
    if isinstance(arguments, dict):
        path = tmp_path / "mistake.yaml"
        path.write_text(yaml.safe_dump(arguments))
        arguments = ["--config", path]
    with pytest.raises(EXPECTED_ERRORS) as error:
        _check_numbers(parse(*arguments))
    assert _report(str(error.value)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(pattern, line), line


def damaged_config(folder, run):
    (folder / "mistake.yaml").write_text("trainer: {}\ndata: {}\ntrainer: {}")
    return ("fit", "--config", folder / "mistake.yaml")


def loop_of_configs(folder, run):
    (folder / "mistake.yaml").write_text(f"config: {folder}/mistake.yaml")
    return ("--config", folder / "mistake.yaml")


def damaged_checkpoint(folder, run):
    one_byte_altered(folder / "mistake.ckpt", run / "checkpoints" / "last.ckpt")
    return ("--ckpt_path", folder / "mistake.ckpt")


def occupied(folder, run):
    (folder / "run").write_text("mine")
    return ()


def fit(*more):
    """Arguments beside those of the quickstart."""
    return lambda folder, run: more


def generate(*more):
    return lambda folder, run: (
        *("generate", run / "checkpoints" / "last.ckpt", "--output", folder / "generated"),
        *more,
    )


COMMANDS = {
    "unknown command": (lambda *_: ("train",), r"`command` must be one of .*got train"),
    "config missing": (fit("--config=nowhere.yaml"), r"nowhere\.yaml, which does not exist"),
    "config a folder": (lambda folder, run: ("--config", folder), r"`config` must be a YAML file .* a folder"),
    "config that is itself": (loop_of_configs, r"loop.*mistake\.yaml"),
    "the parser": (fit("--model.loss=Hinge"), r"Hinge"),
    "a number": (fit("--trainer.max_steps=0"), r"`max_steps` must be positive, .* got 0"),
    "a constructor": (fit("--model.discriminator_steps=0"), r"`discriminator_steps` must be at least 1, got 0"),
    "the trainer": (fit("--trainer.devices=0"), r"devices"),
    "a callback's setup": (
        fit("--preconditioning.target=critic"),
        r"`target` must name a submodule of GAN",
    ),
    "torch's optimizer": (fit("--model.generator_optimizer.lr=-1"), r"learning rate: -1"),
    "no such data": (fit("--data.source=nowhere.parquet"), r"`source` must be .* got 'nowhere\.parquet'"),
    "no checkpoint": (fit("--ckpt_path=nowhere.ckpt"), r"`ckpt_path` must be a checkpoint file or 'last', got nowhere"),
    "no last checkpoint": (lambda *_: ("validate", "--ckpt_path=last"), r"'last' needs a checkpoint in"),
    "no checkpoint to generate from": (lambda *_: ("generate", "nowhere.ckpt"), r"`checkpoint` must .* nowhere\.ckpt"),
    "damaged, to go on from": (damaged_checkpoint, r"mistake\.ckpt, which is damaged: .* is altered"),
    "another architecture": (
        lambda folder, run: ("--model.discriminator.width=3", "--ckpt_path", run / "checkpoints" / "last.ckpt"),
        r"argument `model\.discriminator\.width` must stay the checkpoint's in a run that goes on, 2, got 3",
    ),
    "another scale": (
        lambda folder, run: ("--preconditioning.scale=norm", "--ckpt_path", run / "checkpoints" / "last.ckpt"),
        r"argument `preconditioning\.scale` must stay the checkpoint's in a run that goes on, 'unit', got 'norm'",
    ),
    "a run folder that is a file": (occupied, r"`run_dir` must be a folder that can be written to, got .*run"),
    "a run folder that is taken": (lambda folder, run: ("--run_dir", run), r"`run_dir` must not hold a run yet"),
    "count": (generate("--count=0"), r"`count` must be at least 1, got 0"),
    "device": (generate("--device=abacus"), r"`device` must be .* got 'abacus'"),
    "a report of nothing": (lambda folder, run: ("report", folder / "nowhere"), r"`runs` must be run folders"),
}


@pytest.mark.parametrize("mistake", COMMANDS)
def test_command(mistake, finished, monkeypatch, tmp_path, capsys):
    make, pattern = COMMANDS[mistake]
    arguments = make(tmp_path, finished)
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    if not arguments or str(arguments[0]).startswith("--"):
        status = quickstart(monkeypatch, tmp_path / "run", *arguments)
    else:
        status = pcgan(monkeypatch, *arguments)
    assert status != 0
    error = capsys.readouterr().err
    assert "Traceback" not in error
    lines = error.splitlines()
    if "Seed set to" in error or not lines[0].startswith("pcgan"):  # it came to building, of which Lightning tells
        lines = [line for line in lines if line.startswith("pcgan: error:")]
    assert len(lines) == 1, error
    assert re.search(pattern, lines[0]), lines[0]
    assert not list(tmp_path.glob("run/checkpoints/*"))
    assert not (tmp_path / "run" / "config.yaml").exists(), "a run that never began must not claim its folder"
    assert not (tmp_path / "generated").exists()
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_bug_is_named_and_can_be_found(monkeypatch, tmp_path, capsys):
    """What nobody expects is told with its type, and its traceback is one word away."""

    def broken(*_):
        raise IndexError("list index out of range")

    monkeypatch.setattr(modules.GAN, "training_step", broken)
    assert quickstart(monkeypatch, tmp_path / "run") == 1
    assert one_error(capsys) == "pcgan: error: IndexError: list index out of range (--debug shows where)"
    with pytest.raises(IndexError):
        quickstart(monkeypatch, tmp_path / "again", "--debug")


@pytest.mark.slow
def test_as_a_shell_sees_it(finished, tmp_path):
    """In a process of its own: the status, one line on stderr and nothing on stdout."""
    command = [sys.executable, "-m", "pcgan_lightning.cli", *damaged_config(tmp_path, finished)]
    paths = os.pathsep.join(filter(None, sys.path))
    environment = os.environ | {"PYTHONPATH": paths, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "mistake.yaml: the key 'trainer' is" in line
