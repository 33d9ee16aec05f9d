"""Malformed configs, data and checkpoints: a non-zero status and one line that names the culprit, and nothing else."""

import os
import re
import subprocess
import sys

import datasets
import numpy as np
import pytest
import torch
from helpers import ROOT
from helpers.command import pcgan, quickstart
from PIL import Image

from pcgan_lightning.modules import GAN, Classifier

QUICKSTART = ROOT / "configs" / "quickstart.yaml"


def fit(*more):
    """Arguments beside those of the quickstart."""
    return lambda folder, run: more


def config(content, *more):
    """The same with one more config, whose bytes are given."""

    def arguments(folder, run):
        path = folder / "mistake.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.format(folder=folder).encode())
        return ("--config", path, *more)

    return arguments


def images(make, *more):
    """The same with a folder of images of one's own, which `make` fills."""

    def arguments(folder, run):
        source = folder / "images" / "train"
        source.mkdir(parents=True)
        make(source)
        return ("--data.source", source.parent, *more)

    return arguments


def parquet(make, *more):
    """The same with a parquet file that `make` writes."""

    def arguments(folder, run):
        path = folder / "data.parquet"
        make(path)
        return ("--data.source", path, *more)

    return arguments


def generate(make, *more):
    """`pcgan generate` of a checkpoint that `make` writes, beside a good one."""

    def arguments(folder, run):
        path = folder / "mistake.ckpt"
        make(path, run / "checkpoints" / "last.ckpt")
        return ("generate", path, "--output", folder / "generated", *more)

    return arguments


def resume(make):
    """A fit that is continued from a checkpoint that `make` writes."""

    def arguments(folder, run):
        path = folder / "mistake.ckpt"
        make(path, run / "checkpoints" / "last.ckpt")
        return ("--ckpt_path", path)

    return arguments


def altered(change):
    """A checkpoint that a function has changed."""

    def make(path, good):
        content = torch.load(good, weights_only=True)
        change(content)
        torch.save(content, path)

    return make


def one_byte_altered(path, good):
    content = bytearray(good.read_bytes())
    weights = max(torch.load(good, weights_only=True)["state_dict"].values(), key=lambda tensor: tensor.numel())
    place = content.index(weights.numpy().tobytes())
    content[place + 5] ^= 1
    path.write_bytes(content)


def of_a_classifier(path, good):
    torch.save({"state_dict": Classifier().state_dict(), "global_step": 1, "hyper_parameters": {}}, path)


def first_weight(content):
    return next(v for name, v in content["state_dict"].items() if name.startswith("generator.") and v.dim() > 1)


def occupied(folder, run):
    (folder / "run").write_text("mine")
    return ()


def picture(mode="L", size=(8, 8)):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)).convert(mode)


def pictures(folder, count=12, **kwargs):
    for number in range(count):
        picture(**kwargs).save(folder / f"{number:02d}.png")


def table(path, column="image", count=12):
    features = datasets.Features({column: datasets.Image()})
    datasets.Dataset.from_dict({column: [picture()] * count}, features=features).to_parquet(path)


def undecodable(path):
    rows = {"image": [{"bytes": b"no image", "path": None}] * 12}
    datasets.Dataset.from_dict(rows, features=datasets.Features({"image": datasets.Image(decode=False)})).cast_column(
        "image", datasets.Image()
    ).to_parquet(path)


def without_images(path):
    datasets.Dataset.from_dict({"label": [1, 2, 3]}).to_parquet(path)


def truncated_table(path):
    table(path)
    path.write_bytes(path.read_bytes()[:-100])


def middle_broken(path):
    table(path)
    content = bytearray(path.read_bytes())
    content[20:220] = bytes(200)
    path.write_bytes(content)


def one_broken(folder):
    pictures(folder)
    (folder / "07.png").write_text("I am no picture")


def one_empty(folder):
    pictures(folder)
    (folder / "07.png").write_bytes(b"")


def one_deep(folder):
    pictures(folder)
    Image.fromarray(np.zeros((8, 8), dtype=np.uint16)).save(folder / "07.png")


MISTAKES = {
    # configs
    "config missing": (fit("--config=nowhere.yaml"), r"nowhere\.yaml, which does not exist"),
    "config empty": (config(""), r"mistake\.yaml, which is empty"),
    "config a folder": (lambda folder, run: ("--config", folder), r"`config` must be a YAML file .* a folder"),
    "config binary": (config(bytes(range(256))), r"mistake\.yaml: "),
    "config with a syntax error": (config(b"trainer: [1\nmodel"), r"mistake\.yaml: .*line 2|mistake\.yaml: .*line 1"),
    "config a list": (config("- 1"), r"mistake\.yaml, which is a list"),
    "config a word": (config("word"), r"mistake\.yaml, which is a str"),
    "config with a tag": (config("x: !!python/name:os.system"), r"mistake\.yaml: .*tag.*os\.system"),
    "config with a key twice": (
        config("trainer: {{}}\ndata: {{}}\ntrainer: {{}}"),
        r"mistake\.yaml: the key 'trainer' is",
    ),
    "config that is itself": (config("config: {folder}/mistake.yaml"), r"loop.*mistake\.yaml"),
    "config of nothing": (config("model: nowhere/model.yaml"), r"nowhere/model\.yaml"),
    "unknown top key": (config("modle: {{x: 1}}"), r"modle"),
    "misspelt nested key": (config("trainer: {{max_step: 3}}"), r"max_step\b"),
    "misspelt key of a network": (fit("--model.discriminator.widht=3"), r"'widht'"),
    "misspelt option": (fit("--modle=3"), r"--modle=3"),
    "wrong type": (fit("--trainer.max_steps=many"), r"trainer\.max_steps"),
    "null for a number": (
        config("data: {{init_args: {{batch_size: null}}}}"),
        r"`batch_size` must be positive, got None",
    ),
    "null for the model": (config("model: null"), r"model"),
    "class that does not exist": (fit("--model.loss=Hinge"), r"Hinge"),
    "class of the wrong kind": (fit("--model.loss=torch.nn.Linear"), r'"loss": .*torch\.nn\.Linear'),
    "module that does not exist": (fit("--model.generator=nowhere.Generator"), r'"generator".*nowhere'),
    "abstract class": (fit("--model.loss=AdversarialLoss"), r"AdversarialLoss"),
    "missing argument": (
        fit("--model.penalty=pcgan_lightning.losses.GradientPenalty", "--model.penalty.weight=null"),
        r"weight",
    ),
    "unknown command": (lambda *_: ("train",), r"`command` must be one of .*got train"),
    # values
    "degree": (fit("--preconditioning=FixedPreconditioning", "--preconditioning.degree=4"), r"`degree` must .* got 4"),
    "thresholds": (fit("--preconditioning.thresholds=[5,4,20,30]"), r"`thresholds` must .* got \(5\.0, 4"),
    "too few thresholds": (fit("--preconditioning.thresholds=[5,10,20]"), r"`degrees` must be one more than the 3"),
    "target": (fit("--preconditioning.target=critic"), r"`target` must name a submodule of GAN .* got 'critic'"),
    "target without a matrix": (
        fit("--spectrum.target=generator.convolutions.1"),
        r"`target` must hold a Linear, Conv or ConvTranspose layer, got 'generator\.convolutions\.1'",
    ),
    "image size": (fit("--model.generator.image_size=40"), r"`image_size` must be one of .* got 40"),
    "no updates": (fit("--model.discriminator_steps=0"), r"`discriminator_steps` must be at least 1, got 0"),
    "averaging": (fit("--model.ema_decay=1"), r"`ema_decay` must be in \[0, 1\), got 1"),
    "interval": (fit("--samples.every_n_steps=0"), r"`every_n_steps` must be at least 1, got 0"),
    "no steps": (fit("--trainer.max_steps=0"), r"`max_steps` must be positive, .* got 0"),
    "negative steps": (fit("--trainer.max_steps=-3"), r"`max_steps` must be positive, .* got -3"),
    "batch of none": (fit("--data.batch_size=0"), r"`batch_size` must be positive, got 0"),
    "no devices": (fit("--trainer.devices=0"), r"devices"),
    "negative rate": (fit("--model.generator_optimizer.lr=-1"), r"learning rate: -1"),
    "rate that is no number": (fit("--model.generator_optimizer.lr=.nan"), r"learning rate: nan"),
    "infinite rate": (
        fit("--model.generator_optimizer.lr=.inf"),
        r"`generator_optimizer` must have a finite learning rate, its `lr`, got \[inf\]",
    ),
    "negative rate of NSGDA": (
        fit("--model.generator_optimizer=NSGDA", "--model.generator_optimizer.lr=-1"),
        r"`lr` must .*, got -1\.0",
    ),
    "missing layer scales": (
        fit("--model.discriminator_optimizer=NSGDA", "--model.discriminator_optimizer.layer_scales=nowhere.json"),
        r"`layer_scales` must be a JSON file, got nowhere\.json, which does not exist",
    ),
    "seed": (fit("--seed_everything=-1"), r"`seed_everything` must be in .* got -1"),
    # what does not fit together
    "networks of different shapes": (fit("--model.discriminator.channels=3"), r"generator and discriminator must have"),
    "data of another shape": (fit("--data.image_size=16"), r"data and discriminator must have the same image shape"),
    "decay without an end": (
        fit("--model.generator_scheduler=LinearDecay", "--trainer.max_steps=-1", "--trainer.max_epochs=1"),
        r"`generator_scheduler` needs `total_iterations`",
    ),
    "decay of a plateau": (
        fit(
            "--model.generator_scheduler=lightning.pytorch.cli.ReduceLROnPlateau",
            "--model.generator_scheduler.monitor=loss",
        ),
        r"`generator_scheduler` must not need a metric, got ReduceLROnPlateau",
    ),
    # data
    "no such data": (fit("--data.source=nowhere.parquet"), r"`source` must be .* got 'nowhere\.parquet'"),
    "folder without images": (images(lambda folder: None), r"`source` must .*images"),
    "channels": (fit("--data.channels=3"), r"`channels` must be 1"),
    "parquet truncated": (parquet(truncated_table, "--data.channels=1"), r"`source` must .*data\.parquet"),
    "parquet of random bytes": (parquet(lambda p: p.write_bytes(os.urandom(999))), r"`source` must .*data\.parquet"),
    "parquet of no bytes": (parquet(lambda p: p.write_bytes(b"")), r"`source` must .*data\.parquet"),
    "parquet broken within": (parquet(middle_broken, "--data.channels=1"), r"`source` must "),
    "parquet without images": (parquet(without_images), r"`image_column` must .*'label'"),
    "parquet of broken images": (parquet(undecodable, "--data.channels=1"), r"`source` must hold readable images"),
    "column that is not there": (
        parquet(table, "--data.channels=1", "--data.image_column=picture"),
        r"`image_column` must .*got 'picture'",
    ),
    "column of numbers": (parquet(without_images, "--data.image_column=label"), r"`image_column` must .*got 'label'"),
    "split that is not there": (parquet(table, "--data.channels=1", "--data.split=test"), r"`source` must .*'test'"),
    "text among the images": (images(one_broken, "--data.channels=1"), r"`source` must hold readable .*07\.png"),
    "empty file among the images": (images(one_empty, "--data.channels=1"), r"`source` must hold readable .*07\.png"),
    "16 bits among the images": (
        images(one_deep, "--data.channels=1"),
        r"`source` must hold 8-bit .*07\.png",
    ),
    "grey images for RGB": (images(pictures), r"`channels` must be 1, as in the first image"),
    "coloured images for grey": (
        images(lambda folder: pictures(folder, mode="RGB"), "--data.channels=1"),
        r"`channels` must be 3, as in the first image",
    ),
    "one image for a batch of 64": (
        images(lambda folder: pictures(folder, 1), "--data.channels=1", "--data.batch_size=64"),
        r"`batch_size`.*64|64",
    ),
    # checkpoints
    "no checkpoint": (fit("--ckpt_path=nowhere.ckpt"), r"`ckpt_path` must be a checkpoint file or 'last', got nowhere"),
    "no last checkpoint": (lambda *_: ("validate", "--ckpt_path=last"), r"'last' needs a checkpoint in"),
    "no checkpoint to generate from": (lambda *_: ("generate", "nowhere.ckpt"), r"`checkpoint` must .* nowhere\.ckpt"),
    "a folder": (generate(lambda path, good: path.mkdir()), r"`checkpoint` must .*mistake\.ckpt"),
    "a folder to go on from": (resume(lambda path, good: path.mkdir()), r"`ckpt_path` must .*mistake\.ckpt"),
    "an empty file": (generate(lambda path, good: path.write_bytes(b"")), r"mistake\.ckpt, which is damaged"),
    "an empty file to go on from": (resume(lambda path, good: path.touch()), r"mistake\.ckpt, which is damaged"),
    "a text": (generate(lambda path, good: path.write_text("text")), r"mistake\.ckpt, which is damaged"),
    "half a checkpoint": (
        resume(lambda path, good: path.write_bytes(good.read_bytes()[:5000])),
        r"mistake\.ckpt, which is damaged",
    ),
    "one byte altered": (generate(one_byte_altered), r"mistake\.ckpt, which is damaged: .*data/\d+ is altered"),
    "one byte altered, to go on from": (resume(one_byte_altered), r"mistake\.ckpt, which is damaged: .* is altered"),
    "a tensor": (generate(lambda path, good: torch.save(torch.ones(3), path)), r"mistake\.ckpt, .* no `state_dict`"),
    "a list": (resume(lambda path, good: torch.save([1], path)), r"mistake\.ckpt, .* no `state_dict`"),
    "weights alone": (generate(altered(lambda c: c.pop("state_dict"))), r"mistake\.ckpt, .* no `state_dict`"),
    "a classifier": (generate(of_a_classifier), r"mistake\.ckpt, which holds no generator"),
    "a classifier to go on from": (resume(of_a_classifier), r"mistake\.ckpt: it lacks "),
    "a weight missing": (
        generate(altered(lambda c: c["state_dict"].pop("generator.input.weight", c["state_dict"].popitem()))),
        r"mistake\.ckpt: .*is only in this model",
    ),
    "a weight of another shape": (
        generate(altered(lambda c: first_weight(c).resize_(1, 1))),
        r"mistake\.ckpt: .*has shape \(1, 1\) there",
    ),
    "a weight that is no number": (
        generate(altered(lambda c: first_weight(c).fill_(float("nan")))),
        r"mistake\.ckpt, whose weights 'generator\..*' are not finite",
    ),
    "without its arguments": (
        generate(altered(lambda c: c.pop("hyper_parameters"))),
        r"mistake\.ckpt: which lacks 'hyper_parameters'",
    ),
    "with arguments that are a list": (
        generate(altered(lambda c: c.update(hyper_parameters=[1]))),
        r"mistake\.ckpt: its `hyper_parameters` must be a mapping, got list",
    ),
    "without its number": (
        generate(altered(lambda c: c.pop("global_step"))),
        r"mistake\.ckpt: which lacks 'global_step'",
    ),
    "without its loops": (resume(altered(lambda c: c.pop("loops"))), r"mistake\.ckpt: it lacks 'loops'"),
    "without its optimizers": (
        resume(altered(lambda c: c.pop("optimizer_states"))),
        r"mistake\.ckpt: it lacks 'optimizer_states'",
    ),
    "another architecture": (
        lambda folder, run: ("--model.discriminator.width=3", "--ckpt_path", run / "checkpoints" / "last.ckpt"),
        r"the checkpoint must be of this model's architecture, but 'discriminator\.",
    ),
    # paths
    "a run folder that is a file": (occupied, r"`run_dir` must be a folder that can be written to, got .*run"),
    "a run folder that is taken": (lambda folder, run: ("--run_dir", run), r"`run_dir` must not hold a run yet"),
    "count": (generate(altered(lambda c: None), "--count=0"), r"`count` must be at least 1, got 0"),
    "device": (generate(altered(lambda c: None), "--device=abacus"), r"`device` must be .* got 'abacus'"),
    "a report of nothing": (lambda folder, run: ("report", folder / "nowhere"), r"`runs` must be run folders"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_gets_one_line(mistake, finished, monkeypatch, tmp_path, capsys):
    make, pattern = MISTAKES[mistake]
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

    monkeypatch.setattr(GAN, "training_step", broken)
    assert quickstart(monkeypatch, tmp_path / "run") == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pcgan: error:")]
    assert lines == ["pcgan: error: IndexError: list index out of range (--debug shows where)"]
    with pytest.raises(IndexError):
        quickstart(monkeypatch, tmp_path / "again", "--debug")


@pytest.mark.slow
@pytest.mark.parametrize("mistake", ["config with a key twice", "one byte altered"])
def test_as_a_shell_sees_it(mistake, finished, tmp_path):
    """In a process of its own: the status, one line on stderr and nothing on stdout."""
    make, pattern = MISTAKES[mistake]
    arguments = make(tmp_path, finished)
    command = ["fit"] if arguments[0] == "--config" else []
    done = subprocess.run(
        [sys.executable, "-m", "pcgan_lightning.cli", *command, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert re.search(pattern, done.stderr)
