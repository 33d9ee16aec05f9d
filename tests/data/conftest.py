import io
import threading
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import PIL.Image
import pytest


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


def numbered(number, mode="RGB", size=(4, 4)):
    """An image of one flat colour, which says its number."""
    return PIL.Image.new(mode, size, number if mode == "L" else (number, 255 - number, 7))


def numbers(batch):
    """The numbers of the images of a batch in [-1, 1], from their first channel."""
    return np.rint((batch[:, 0, 0, 0].numpy() + 1) * 127.5).astype(int).tolist()


def all_numbers(batches):
    return [number for batch in batches for number in numbers(batch)]


def encode(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return {"bytes": file.getvalue(), "path": None}


def own_threads():
    """How many threads `map_ahead` has running."""
    return sum(thread.name.startswith("map_ahead") for thread in threading.enumerate())


def dataset(images, column="img", **labels):
    features = {column: datasets.Image(), **{name: datasets.Value("int64") for name in labels}}
    return datasets.Dataset.from_dict({column: images, **labels}, features=datasets.Features(features))


def stream(images, num_shards=1):
    """A stream as `StreamingLoader` takes it."""
    undecoded = dataset(images).cast_column("img", datasets.Image(decode=False))
    return undecoded.to_iterable_dataset(num_shards)


@pytest.fixture
def make():
    """Helpers, for test files cannot import one another."""
    helpers = (numbered, numbers, all_numbers, encode, own_threads, dataset, stream)
    return SimpleNamespace(**{helper.__name__: helper for helper in helpers})


@pytest.fixture
def parquet_folder(tmp_path) -> Path:
    """`train.parquet` with images 0..39, `test.parquet` with images 100..109, a column of labels in both."""
    folder = tmp_path / "parquet"
    folder.mkdir()
    for split, first, last in (("train", 0, 40), ("test", 100, 110)):
        images = [encode(numbered(number)) for number in range(first, last)]
        dataset(images, label=list(range(first, last))).to_parquet(folder / f"{split}.parquet")
    return folder
