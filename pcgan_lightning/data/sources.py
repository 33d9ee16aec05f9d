"""Where images come from: scikit-learn's digits, local files, or the Hugging Face hub."""

import functools
from collections.abc import Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Union

import numpy as np
import PIL.Image

from pcgan_lightning.data.decoding import color_channels, open_image

# `datasets` is imported where it is used: it takes a while, and whoever only puts a callback on a module of their own
# needs none of it; nor must a folder of that name beside their script be imported in its place.
if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

Images = Union["Dataset", "IterableDataset"]  # the latter is a stream, which has no length


def is_stream(dataset: Images) -> bool:
    """Whether a dataset is read as one goes and has no length."""
    return not isinstance(dataset, Sized)


# Of scikit-learn's 1797, so that 1500 are left.
DIGITS_TEST_IMAGES = 297


def check_digits(**arguments: Optional[str]) -> None:
    """Refuse arguments of a source that scikit-learn's digits do not have."""
    known: dict[str, list[Optional[str]]] = {"name": [None], "split": ["train"], "validation_split": [None, "test"]}
    for name, value in arguments.items():
        if value not in known[name]:
            raise ValueError(f"argument `{name}` must be in {known[name]} for 'digits', got {value!r}")


def digits_and_labels() -> tuple[np.ndarray, np.ndarray]:
    """Scikit-learn's 1797 digits, uint8 [1797, 8, 8], their 17 levels scaled to 0..255, and what they show, [1797]."""
    from sklearn.datasets import load_digits  # takes a second to import, which nobody else should wait

    digits = load_digits()
    return np.rint(digits.images * (255 / 16)).astype(np.uint8), digits.target


def open_digits(split: str, hold_out: bool) -> "Dataset":
    """Scikit-learn's digits: grey, 8x8, their 17 levels scaled to 0..255.

    Args:
        split: `"train"`, or `"test"` for the images held out.
        hold_out: whether the last 297 images are kept from training.
    """
    digits = _encoded_digits()
    if not hold_out:
        return digits
    first = len(digits) - DIGITS_TEST_IMAGES
    return digits.select(range(first) if split == "train" else range(first, len(digits)))


@functools.cache
def _encoded_digits() -> "Dataset":
    """All digits as one dataset, made once in a process: it takes as long as dozens of small iterations."""
    import datasets

    images = [PIL.Image.fromarray(image) for image in digits_and_labels()[0]]
    return datasets.Dataset.from_dict({"image": images}, features=datasets.Features({"image": datasets.Image()}))


def open_source(source: str, name: Optional[str], split: str, streaming: bool) -> Images:
    """Opens a split of a source with the `datasets` library.

    Args:
        source: a local parquet file (whose one split is `"train"`), a local folder of parquet files or of
            images, or else the name of a dataset on the Hugging Face hub.
        name: configuration of a hub dataset.
        split: a split or, where not streamed, a slice of one, such as `"train[:1000]"`.
        streaming: read as one goes, rather than download and convert everything first.

    Raises:
        ValueError: if it cannot be opened: one line with the source and the reason.
    """
    path = Path(source).expanduser()
    if path.exists() and name is not None:
        raise ValueError(f"argument `name` must be None for the local source {source!r}, got {name!r}")
    if path.is_file() and path.suffix == ".parquet":
        where: dict[str, Any] = {"path": "parquet", "data_files": {"train": str(path)}}
    elif path.is_dir():
        builder = "parquet" if next(path.rglob("*.parquet"), None) else "imagefolder"
        where = {"path": builder, "data_dir": str(path)}
    elif path.exists() or source.startswith(("/", ".", "~")) or path.suffix == ".parquet":
        raise ValueError(
            "argument `source` must be 'digits', an existing parquet file or folder or the name of a dataset "
            f"on the Hugging Face hub, got {source!r}"
        )
    else:
        where = {"path": source, "name": name}
    import datasets

    try:
        return datasets.load_dataset(**where, split=split, streaming=streaming)
    except Exception as error:  # network, hub, file system, format, split
        hidden = isinstance(error, datasets.exceptions.DatasetGenerationError) and error.__cause__ is not None
        reason = error.__cause__ if hidden else error
        raise ValueError(
            f"argument `source` must be a dataset that opens, got {source!r}, split {split!r}, which failed "
            f"with {type(reason).__name__}: {' '.join(str(reason).split())}"
        ) from error


def first_of_stream(stream: "IterableDataset", count: int) -> "Dataset":
    """The first so many rows of a stream, in memory."""
    from datasets import Dataset

    return Dataset.from_list(list(stream.take(count)), stream.features)


def undecoded_images(dataset: Images, image_column: Optional[str], source: str) -> Images:
    """The column of images alone, undecoded: `{"bytes": ..., "path": ...}`.

    Raises:
        ValueError: if there is no column `image_column`, or if that is None and not exactly one column is of
            type `datasets.Image`, or if the column can't be read as images.
    """
    import datasets

    features = dataset.features or {}
    found = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
    column = found[0] if image_column is None and len(found) == 1 else image_column
    if column not in features:
        raise ValueError(
            f"argument `image_column` must name the column of images of {source!r}, got {image_column!r}, "
            f"where the columns are {list(features)} and those of type Image are {found}"
        )
    if hasattr(dataset, "decode"):
        # New versions of `datasets` stream a folder of the hub with decoding built in; a cast leaves it in.
        dataset = dataset.decode(False)
    try:
        return dataset.select_columns(column).cast_column(column, datasets.Image(decode=False))
    except Exception as error:  # Arrow has many kinds
        raise ValueError(
            f"argument `image_column` must name a column of images of {source!r}, got {column!r}, which holds "
            f"{features[column]}"
        ) from error


def check_first_image(dataset: Images, channels: int, source: str, split: str) -> None:
    """Refuses a dataset of one column of undecoded images without any, or whose first has other channels."""
    first = next(iter(dataset), None)
    if first is None:
        raise ValueError(f"argument `source` must hold images, got {source!r}, empty {split!r}")
    found = color_channels(open_image(next(iter(first.values()))))
    if found != channels:
        raise ValueError(
            f"argument `channels` must be {found}, as in the first image of {source!r} (split {split!r}), got "
            f"{channels}"
        )
