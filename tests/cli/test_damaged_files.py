"""Damaged data and checkpoints: one line that names the file."""

import os

import datasets
import numpy as np
import pytest
import torch
from helpers.command import one_byte_altered
from PIL import Image

from pcgan_lightning import modules
from pcgan_lightning.cli.continuing import check_checkpoint
from pcgan_lightning.cli.generate import load_gan
from pcgan_lightning.data import ImageDataModule


def altered(change):
    """A checkpoint that a function has changed."""

    def make(path, good):
        content = torch.load(good, weights_only=True)
        change(content)
        torch.save(content, path)

    return make


def of_a_classifier(path, good):
    torch.save({"state_dict": modules.Classifier().state_dict(), "global_step": 1, "hyper_parameters": {}}, path)


def first_weight(content):
    return next(v for name, v in content["state_dict"].items() if name.startswith("generator.") and v.dim() > 1)


def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8))


def pictures(folder, count=12):
    """Write a folder of images; return its part for training."""
    train = folder / "train"
    train.mkdir(parents=True)
    for number in range(count):
        picture().save(train / f"{number:02d}.png")
    return train


def table(path):
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict({"image": [picture()] * 12}, features=features).to_parquet(path)


def undecodable(path):
    rows = {"image": [{"bytes": b"no image", "path": None}] * 12}
    datasets.Dataset.from_dict(rows, features=datasets.Features({"image": datasets.Image(decode=False)})).cast_column(
        "image", datasets.Image()
    ).to_parquet(path)


def truncated_table(path):
    table(path)
    path.write_bytes(path.read_bytes()[:-100])


def middle_broken(path):
    table(path)
    content = bytearray(path.read_bytes())
    content[20:220] = bytes(200)
    path.write_bytes(content)


def one_broken(folder):
    (pictures(folder) / "07.png").write_text("I am no picture")


def one_empty(folder):
    (pictures(folder) / "07.png").write_bytes(b"")


def one_deep(folder):
    Image.fromarray(np.zeros((8, 8), dtype=np.uint16)).save(pictures(folder) / "07.png")


DATA = {
    "parquet truncated": ("data.parquet", truncated_table, r"`source` must .*data\.parquet"),
    "parquet of random bytes": ("data.parquet", lambda p: p.write_bytes(os.urandom(999)), r"`source` must .*parquet"),
    "parquet of no bytes": ("data.parquet", lambda p: p.write_bytes(b""), r"`source` must .*data\.parquet"),
    "parquet broken within": ("data.parquet", middle_broken, r"`source` must "),
    "parquet of broken images": ("data.parquet", undecodable, r"`source` must hold readable images"),
    "text among the images": ("images", one_broken, r"`source` must hold readable .*07\.png"),
    "empty file among the images": ("images", one_empty, r"`source` must hold readable .*07\.png"),
    "16 bits among the images": ("images", one_deep, r"`source` must hold 8-bit .*07\.png"),
}


@pytest.mark.parametrize("mistake", DATA)
def test_damaged_data(mistake, tmp_path):
    name, make, pattern = DATA[mistake]
    make(tmp_path / name)
    with pytest.raises((ValueError, OSError), match=pattern) as error:
        ImageDataModule(str(tmp_path / name), channels=1, batch_size=4).setup("fit")
    assert "\n" not in str(error.value)


DAMAGED = {
    "a folder": (lambda path, good: path.mkdir(), r"must .*mistake\.ckpt"),
    "an empty file": (lambda path, good: path.touch(), r"mistake\.ckpt, which is damaged"),
    "a text": (lambda path, good: path.write_text("text"), r"mistake\.ckpt, which is damaged"),
    "half a checkpoint": (lambda p, good: p.write_bytes(good.read_bytes()[:5000]), r"mistake\.ckpt, which is damaged"),
    "one byte altered": (one_byte_altered, r"mistake\.ckpt, which is damaged: .*data/\d+ is altered"),
    "a tensor": (lambda path, good: torch.save(torch.ones(3), path), r"mistake\.ckpt, .* no `state_dict`"),
    "a list": (lambda path, good: torch.save([1], path), r"mistake\.ckpt, .* no `state_dict`"),
    "no state": (altered(lambda c: c.pop("state_dict")), r"mistake\.ckpt, .* no `state_dict`"),
}
TO_GENERATE = {
    "a classifier": (of_a_classifier, r"mistake\.ckpt, which holds no generator"),
    "a weight missing": (
        altered(lambda c: c["state_dict"].pop("generator.input.weight", c["state_dict"].popitem())),
        r"mistake\.ckpt: .*is only in this model",
    ),
    "a weight of another shape": (
        altered(lambda c: first_weight(c).resize_(1, 1)),
        r"mistake\.ckpt: .*has shape \(1, 1\) there",
    ),
    "a weight that is no number": (
        altered(lambda c: first_weight(c).fill_(float("nan"))),
        r"mistake\.ckpt, whose weights 'generator\..*' are not finite",
    ),
    "no arguments": (altered(lambda c: c.pop("hyper_parameters")), r"mistake\.ckpt: which lacks 'hyper_parameters'"),
    "arguments that are a list": (
        altered(lambda c: c.update(hyper_parameters=[1])),
        r"mistake\.ckpt: its `hyper_parameters` must be a mapping, got list",
    ),
    "no number": (altered(lambda c: c.pop("global_step")), r"mistake\.ckpt: which lacks 'global_step'"),
}
TO_GO_ON_FROM = {
    "a classifier": (of_a_classifier, r"mistake\.ckpt: it lacks "),
    "no loops": (altered(lambda c: c.pop("loops")), r"mistake\.ckpt: it lacks 'loops'"),
    "no optimizers": (altered(lambda c: c.pop("optimizer_states")), r"mistake\.ckpt: it lacks 'optimizer_states'"),
}
CHECKPOINTS = [(load_gan, mistake) for mistake in (DAMAGED | TO_GENERATE).items()]
CHECKPOINTS += [(check_checkpoint, mistake) for mistake in [next(iter(DAMAGED.items())), *TO_GO_ON_FROM.items()]]


@pytest.mark.parametrize(("read", "mistake"), CHECKPOINTS, ids=lambda p: p[0] if isinstance(p, tuple) else p.__name__)
def test_checkpoint(read, mistake, finished, tmp_path):
    make, pattern = mistake[1]
    path = tmp_path / "mistake.ckpt"
    make(path, finished / "checkpoints" / "last.ckpt")
    with pytest.raises((ValueError, OSError), match=pattern) as error:
        read(path)
    assert "\n" not in str(error.value)
