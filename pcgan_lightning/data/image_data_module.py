"""Real images for GANs, from any dataset that the `datasets` library opens."""

import warnings
from math import prod
from pathlib import Path
from typing import Literal, Optional, Union

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from pcgan_lightning.arguments import require_not_negative, require_positive
from pcgan_lightning.data.cache import decode_cached, encoded_images
from pcgan_lightning.data.decoding import decode_dataset, open_image
from pcgan_lightning.data.loaders import MemoryLoader, SequentialLoader
from pcgan_lightning.data.real_images import RealImages, digest_encoded
from pcgan_lightning.data.sources import (
    Images,
    check_digits,
    check_first_image,
    first_of_stream,
    is_stream,
    open_digits,
    open_source,
    undecoded_images,
)
from pcgan_lightning.data.streaming import StreamingLoader

# A datamodule without validation images is no mistake here.
warnings.filterwarnings("ignore", "Total length of `list` across ranks is zero")

# Of a local dataset too large for memory. Their order is shuffled, beyond what the buffer reaches.
LOCAL_SHARDS = 64
# Of a stream, which has no end, and of what is too large for memory: as many as CIFAR-10 has.
STREAMED_REAL_IMAGES = 50_000


class ImageDataModule(LightningDataModule):
    """Square images for GANs: float32 in [-1, 1], [batch, channels, image_size, image_size], without labels.

    A batch of the train loader holds the real images of **one iteration** of the GAN: `discriminator_steps *
    batch_size` of them, where `discriminator_steps` is that attribute of the LightningModule, or 1 if it has
    none. The module cuts it with `chunk`.

    Images that fit in memory are decoded once, kept as uint8 on the device that trains, and shuffled as a
    whole (:class:`MemoryLoader`); others are streamed (:class:`StreamingLoader`). Their order depends on the
    seed alone, `n` processes with batch `b` see in each update what one with batch `n * b` would, and a run
    resumed from a Lightning checkpoint goes on with the very next batch.

    Args:
        source: one of

            * `"digits"`: scikit-learn's 1797 handwritten digits, 8x8 and grey, without a download. Its splits
              are `"train"` and, for `validation_split`, `"test"`, which holds out the last 297.
            * a local parquet file, whose one split is `"train"`.
            * a local folder of parquet files or of images, whose splits are told by file or folder names with
              `train`, `validation` or `test` in them.
            * a dataset on the Hugging Face hub, such as `"uoft-cs/cifar10"`.
        name: configuration of a hub dataset.
        split: what to train on: a split or, where not streamed, a slice of one, such as `"train[:-1000]"`.
        validation_split: what to validate, test and predict on, likewise. It is always held in memory.
        image_column: the column of images. None: the only one of type Image.
        image_size: height and width. Images of another size are resized by their shorter side (bicubic,
            antialiased) and centre cropped.
        channels: 1 (grey) or 3 (RGB), the same as in the source, which is told by its first image; stray
            images of the other kind are converted. None: 1 for `"digits"`, 3 for everything else.
        batch_size: real images of one discriminator update in one process.
        shuffle_buffer: for streams: encoded images held in memory to shuffle from.
        streaming: True: stream, without ever downloading or decoding everything. False: decode everything,
            whatever its size. None: download; then decode everything if it takes no more than
            `memory_limit_gb`, else stream it from disk.
        memory_limit_gb: for `streaming=None`, in 1e9 bytes of decoded images of `split`.
        iterations_per_epoch: for streams, which have no end: batches that Lightning calls an epoch.
        decode_workers: threads that decode.
        seed: fixes the order of the images. None: torch's initial seed, which `seed_everything` sets. A
            resumed run keeps the seed that it began with.
        max_images: take the first so many images of each split only. None: all.
        cache: keep 10,000 or more decoded images in the cache folder (`$PCGAN_CACHE`), for the next start.

    Attributes:
        image_shape: (channels, height, width).

    Example:
        >>> data = ImageDataModule(source="digits", image_size=16, batch_size=32, seed=0)
        >>> data.setup("fit")
        >>> next(iter(data.train_dataloader())).shape
        torch.Size([32, 1, 16, 16])
    """

    def __init__(
        self,
        source: str = "digits",
        name: Optional[str] = None,
        split: str = "train",
        validation_split: Optional[str] = None,
        image_column: Optional[str] = None,
        image_size: int = 32,
        channels: Optional[int] = None,
        batch_size: int = 64,
        shuffle_buffer: int = 10_000,
        streaming: Optional[bool] = None,
        memory_limit_gb: float = 8.0,
        iterations_per_epoch: int = 1000,
        decode_workers: int = 2,
        seed: Optional[int] = None,
        max_images: Optional[int] = None,
        cache: bool = True,
    ) -> None:
        super().__init__()
        require_positive(image_size=image_size, batch_size=batch_size, shuffle_buffer=shuffle_buffer)
        require_positive(memory_limit_gb=memory_limit_gb, iterations_per_epoch=iterations_per_epoch)
        require_positive(decode_workers=decode_workers, max_images=max_images)
        if channels not in (None, 1, 3):
            raise ValueError(f"argument `channels` must be 1, 3 or None, got {channels}")
        require_not_negative(seed=seed)
        if source == "digits":
            check_digits(name=name, split=split, validation_split=validation_split)

        self.source = source
        self.name = name
        self.split = split
        self.validation_split = validation_split
        self.image_column = image_column
        self.image_size = image_size
        self.channels = channels or (1 if source == "digits" else 3)
        self.batch_size = batch_size
        self.shuffle_buffer = shuffle_buffer
        self.streaming = streaming
        self.memory_limit_gb = memory_limit_gb
        self.iterations_per_epoch = iterations_per_epoch
        self.decode_workers = decode_workers
        self.seed = seed
        self.max_images = max_images
        self.cache = cache
        self.image_shape = (self.channels, image_size, image_size)

        self._train_data: Union[Tensor, Images, None] = None
        self._validation_images: Optional[Tensor] = None
        self._train_loader: Union[MemoryLoader, StreamingLoader, None] = None
        self._resume_from: dict[str, int] = {}

    def prepare_data(self) -> None:
        """Downloads, once on each machine rather than in each of its processes."""
        if self.source != "digits" and not self.streaming:
            self._open(self.split)
            if self.validation_split is not None:
                self._open(self.validation_split)

    def setup(self, stage: str) -> None:
        """Decodes what the stage needs, once; a later stage or run finds it done."""
        if stage == "fit":
            # A stream keeps its place in itself: the threads of a loader before would move it for the next one.
            self.teardown(stage)
            self._train_loader, self._resume_from = None, {}
            if self._train_data is None:
                self._train_data = self._memory_or_stream(self._open(self.split))
        elif self.validation_split is None:
            verb = getattr(stage, "value", stage)
            raise ValueError(f"argument `validation_split` must name a split to {verb} on, such as 'test', got None")
        if self.validation_split is not None and self._validation_images is None:
            self._validation_images = self._decode(self._open(self.validation_split), self.validation_split)

    def train_dataloader(self) -> Union[MemoryLoader, StreamingLoader]:
        """A loader that goes on where this run, or the one that it resumes, stands in the data."""
        state = self.state_dict()
        self.teardown("fit")
        device, rank, world_size = self._placement()
        module, seed = None, torch.initial_seed() if self.seed is None else self.seed
        if self.trainer is not None:
            overfit = self.trainer.overfit_batches  # type: ignore[attr-defined]  # Lightning sets it later
            if overfit:
                raise ValueError(
                    "argument `overfit_batches` of the Trainer must be 0, for every epoch is shuffled, got "
                    f"{overfit} (use `max_images` of ImageDataModule)"
                )
            module, seed = self.trainer.lightning_module, self.trainer.strategy.broadcast(seed)
        iteration = {
            "batch_size": self.batch_size,
            "discriminator_steps": getattr(module, "discriminator_steps", 1),
            "rank": rank,
            "world_size": world_size,
            "seed": seed,
        }
        if isinstance(self._train_data, Tensor):
            self._train_data = self._train_data.to(device)
            self._train_loader = MemoryLoader(self._train_data, **iteration)
        else:
            self._train_loader = StreamingLoader(
                self._train_data,
                self.image_shape,
                iterations_per_epoch=self.iterations_per_epoch,
                shuffle_buffer=self.shuffle_buffer,
                workers=self.decode_workers,
                device=device,
                **iteration,
            )
        if state:
            self._train_loader.load_state_dict(state)
        return self._train_loader

    def val_dataloader(self) -> Union[SequentialLoader, list]:
        """The validation images in order; an empty list, which Lightning skips, if there are none."""
        if self._validation_images is None:
            return []
        device, rank, world_size = self._placement()
        if len(self._validation_images) < world_size:
            raise ValueError(
                f"argument `validation_split` must hold an image for each of the {world_size} processes, got "
                f"{len(self._validation_images)}"
            )
        self._validation_images = self._validation_images.to(device)
        return SequentialLoader(self._validation_images, self.batch_size, rank, world_size)

    def real_images(self, part: Literal["train", "validation"] = "train", count: Optional[int] = None) -> RealImages:
        """The first images of a split, to compare generated ones with; works before and after `setup`.

        Args:
            part: `"train"` for `split`, `"validation"` for `validation_split`.
            count: how many at most. None: all, or 50,000 of a stream or of what is too large for memory.
        """
        split = self.split if part == "train" else self.validation_split
        if split is None:
            raise ValueError("argument `validation_split` must name a split to compare with, such as 'test', got None")
        dataset = self._open(split)
        if is_stream(dataset):
            dataset = first_of_stream(dataset, count or STREAMED_REAL_IMAGES)
        elif count is not None or not self._fits(dataset):
            dataset = dataset.take(min(count or STREAMED_REAL_IMAGES, len(dataset)))
        kind = open_image(next(iter(dataset[0].values()))).format
        lossy = ", stored as JPEG: not comparable with scores against lossless originals" if kind == "JPEG" else ""
        source = Path(self.source).name if Path(self.source).expanduser().exists() else self.source

        def load() -> Tensor:
            known = self._train_data if part == "train" else self._validation_images
            return known[: len(dataset)] if isinstance(known, Tensor) else self._decode(dataset, split)

        return RealImages(
            description=f"{source} (split {split}, {self.image_size}x{self.image_size}{lossy})",
            count=len(dataset),
            image_shape=self.image_shape,
            digest=digest_encoded(encoded_images(dataset), settings=f"{self.image_shape}"),
            load=load,
        )

    test_dataloader = val_dataloader
    predict_dataloader = val_dataloader

    def teardown(self, stage: str) -> None:
        """Stops the threads of a stream."""
        if self._train_loader is not None:
            self._train_loader.close()

    # Lightning saves the loader's state too, but hands it only to a run that stopped inside an epoch
    # (`restarting` in lightning/pytorch/loops/fit_loop.py): after an epoch's end the order would begin anew.
    def state_dict(self) -> dict[str, int]:
        """The place in the training data."""
        return self._resume_from if self._train_loader is None else self._train_loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Goes on from a place in the training data."""
        self._resume_from = state_dict
        if self._train_loader is not None:
            self._train_loader.load_state_dict(state_dict)

    def _placement(self) -> tuple[torch.device, int, int]:
        """Device, rank, and number of processes."""
        if self.trainer is None:
            return torch.device("cpu"), 0, 1
        return self.trainer.strategy.root_device, self.trainer.global_rank, self.trainer.world_size

    def _open(self, split: str) -> Images:
        """The undecoded images of a split, after a look at the first of them."""
        if self.source == "digits":
            dataset: Images = open_digits(split, hold_out=self.validation_split is not None)
            dataset = dataset.to_iterable_dataset() if self.streaming else dataset
        else:
            dataset = open_source(self.source, self.name, split, bool(self.streaming))
        dataset = undecoded_images(dataset, self.image_column, self.source)
        if self.max_images is not None:
            dataset = dataset.take(self.max_images)
        check_first_image(dataset, self.channels, self.source, split)
        return dataset

    def _memory_or_stream(self, dataset: Images) -> Union[Tensor, Images]:
        if is_stream(dataset):
            return dataset
        if self.streaming is None and not self._fits(dataset):
            return dataset.to_iterable_dataset(min(LOCAL_SHARDS, len(dataset)))
        return self._decode(dataset, self.split)

    def _fits(self, dataset: Images) -> bool:
        return len(dataset) * prod(self.image_shape) <= self.memory_limit_gb * 1e9

    def _decode(self, dataset: Images, split: str) -> Tensor:
        decode = decode_cached if self.cache else decode_dataset
        return decode(dataset, self.image_shape, self.decode_workers, f"decoding {self.source}, {split}")
