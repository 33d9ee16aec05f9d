"""Data sets of numbered images, away from the user's cache."""

from pathlib import Path

import datasets
import pytest
from helpers.images import dataset, encode, numbered

from pcgan_lightning.data import ImageDataModule


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """Nothing of these tests stays in, or comes from, the user's cache; nothing asks the network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    # Newer versions of `datasets` wait some seconds after closing a stream, for a fault of pyarrow at exit.
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture
def parquet_folder(tmp_path) -> Path:
    """`train.parquet` with images 0..39, `test.parquet` with images 100..109, a column of labels in both."""
    folder = tmp_path / "parquet"
    folder.mkdir()
    for split, first, last in (("train", 0, 40), ("test", 100, 110)):
        images = [encode(numbered(number)) for number in range(first, last)]
        dataset(images, label=list(range(first, last))).to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.fixture
def data_module():
    """Makes data modules, and stops their threads after the test."""
    made = []

    def make(source="digits", **settings):
        defaults = {"image_size": 8} if source == "digits" else {"image_size": 4}
        made.append(ImageDataModule(str(source), **defaults | settings))
        return made[-1]

    yield make
    for module in made:
        module.teardown("fit")


@pytest.fixture
def first():
    """The first batch that a module gives outside a Trainer."""

    def first(module):
        module.setup("fit")
        return next(iter(module.train_dataloader()))

    return first
