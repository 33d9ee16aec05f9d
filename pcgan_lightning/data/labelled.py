"""Images with labels, to train a classifier on."""

from pathlib import Path
from typing import Optional

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset

from pcgan_lightning.data.decoding import decode_dataset
from pcgan_lightning.data.loaders import normalize
from pcgan_lightning.data.sources import open_source, undecoded_images

__all__ = ["LabelledImageDataModule"]


class LabelledImageDataModule(LightningDataModule):
    """Square images with class labels: float32 in [-1, 1], [batch, channels, image_size, image_size], and int64.

    All images are decoded once and kept in memory as uint8.

    Args:
        source: a local parquet file or folder, or a dataset of the Hugging Face hub, as for `ImageDataModule`.
        name: configuration of a hub dataset.
        split: what to train on.
        validation_split: what to validate on.
        image_column: the column of images. None: the only one of type Image.
        label_column: the column of labels, of type ClassLabel or integers from 0 on.
        image_size: height and width; other images are resized by the shorter side and centre cropped.
        channels: 1 or 3.
        batch_size: images of a batch.
        decode_workers: threads that decode.
    """

    def __init__(
        self,
        source: str = "uoft-cs/cifar10",
        name: Optional[str] = None,
        split: str = "train",
        validation_split: str = "test",
        image_column: Optional[str] = None,
        label_column: str = "label",
        image_size: int = 32,
        channels: int = 3,
        batch_size: int = 256,
        decode_workers: int = 2,
    ) -> None:
        super().__init__()
        for argument, value in {
            "image_size": image_size,
            "batch_size": batch_size,
            "decode_workers": decode_workers,
        }.items():
            if value < 1:
                raise ValueError(f"argument `{argument}` must be positive, got {value}")
        if channels not in (1, 3):
            raise ValueError(f"argument `channels` must be 1 or 3, got {channels}")
        self.source = source
        self.name = name
        self.split = split
        self.validation_split = validation_split
        self.image_column = image_column
        self.label_column = label_column
        self.image_shape = (channels, image_size, image_size)
        self.batch_size = batch_size
        self.decode_workers = decode_workers
        self._sets: dict[str, TensorDataset] = {}

    def prepare_data(self) -> None:
        """Downloads, once on each machine."""
        if not Path(self.source).expanduser().exists():
            for split in (self.split, self.validation_split):
                open_source(self.source, self.name, split, streaming=False)

    def setup(self, stage: str) -> None:
        """Decodes both splits, once."""
        for split in (self.split, self.validation_split):
            if split not in self._sets:
                self._sets[split] = TensorDataset(*self._decode(split))

    def train_dataloader(self) -> DataLoader:
        """Shuffled batches; what does not fill a last one is dropped."""
        images = self._sets[self.split]
        return _loader(images, BatchSampler(RandomSampler(images), self.batch_size, drop_last=True))

    def val_dataloader(self) -> DataLoader:
        """The validation images in order."""
        images = self._sets[self.validation_split]
        return _loader(images, BatchSampler(SequentialSampler(images), self.batch_size, drop_last=False))

    def on_after_batch_transfer(self, batch: list[Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Scales the images on the device that trains."""
        images, labels = batch
        return normalize(images), labels

    def _decode(self, split: str) -> tuple[Tensor, Tensor]:
        from datasets import ClassLabel, Value  # see `sources`

        dataset = open_source(self.source, self.name, split, streaming=False)
        labels = dataset.features.get(self.label_column)
        if not isinstance(labels, (ClassLabel, Value)) or not labels.dtype.startswith("int"):
            raise ValueError(
                f"argument `label_column` must name a column of integers of {self.source!r}, got "
                f"{self.label_column!r}, where the columns are {list(dataset.features)}"
            )
        images = undecoded_images(dataset, self.image_column, self.source)
        pixels = decode_dataset(images, self.image_shape, self.decode_workers, f"decoding {self.source}, {split}")
        return pixels, torch.tensor(dataset[self.label_column][:], dtype=torch.int64)


def _loader(images: TensorDataset, batches: BatchSampler) -> DataLoader:
    # Batches are indexed as a whole: gathering them image by image would take longer than a small network's step.
    return DataLoader(images, batch_size=None, sampler=batches)
