"""A loader of images that do not fit in memory."""

from collections.abc import Generator, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Optional, Union

import torch
from torch import Tensor

from pcgan_lightning.data.decoding import EncodedImage, ImageShape, decode_images, map_ahead
from pcgan_lightning.data.loaders import TrainLoader, normalize, pass_seed

if TYPE_CHECKING:
    from datasets import IterableDataset

__all__ = ["StreamingLoader"]

Place = dict[str, int]


class StreamingLoader(TrainLoader):
    """Serves images that do not fit in memory, read and decoded ahead in threads.

    The stream is read again and again, each pass shuffled anew through a buffer; a batch may end one pass and
    begin the next. Every process reads the whole stream and decodes its own images of it. Resuming reads the
    pass it was in from the start and throws away, undecoded, what was seen of it.

    Args:
        stream: a dataset of one column of undecoded images.
        image_shape: (channels, height, width).
        iterations_per_epoch: `len` of this loader.
        shuffle_buffer: encoded images held to shuffle from.
        workers: decoding threads.
        device: where the batches go.
        batch_size: real images of one discriminator update in this process.
        discriminator_steps: discriminator updates of one iteration.
        rank: number of this process.
        world_size: number of processes.
        seed: not negative; the same in every process.

    Yields:
        float32 in [-1, 1], [discriminator_steps * batch_size, channels, height, width].
    """

    def __init__(
        self,
        stream: "IterableDataset",
        image_shape: ImageShape,
        iterations_per_epoch: int,
        shuffle_buffer: int,
        workers: int,
        device: Union[str, torch.device],
        batch_size: int,
        discriminator_steps: int = 1,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, discriminator_steps, rank, world_size, seed)
        self.stream = stream
        self.image_shape = image_shape
        self.iterations_per_epoch = iterations_per_epoch
        self.shuffle_buffer = shuffle_buffer
        self.workers = workers
        self.device = device
        self._place: Place = {"stream_pass": 0, "stream_offset": 0}  # of the next batch
        # Outlives an iterator, or each epoch would lose what was read ahead and read its pass from the start.
        self._batches: Optional[Generator[tuple[Tensor, Place], None, None]] = None

    def __len__(self) -> int:
        return self.iterations_per_epoch

    def _next_batch(self) -> Tensor:
        if self._batches is None:
            self._batches = map_ahead(self._decode, self._encoded_batches(**self._place), self.workers)
        batch, self._place = next(self._batches)
        return normalize(batch)

    def state_dict(self) -> dict[str, int]:
        """The place in the data, with the pass over the stream and how much of that pass is done."""
        return {**super().state_dict(), **self._place}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes to a place in the data, in the order of the seed that was used there."""
        super().load_state_dict(state)
        self.close()
        self._place = {key: state[key] for key in self._place}

    def close(self) -> None:
        """Stops the threads. Iterating starts them again."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None

    def _encoded_batches(self, **place: int) -> Iterator[tuple[list[EncodedImage], Place]]:
        """What this process decodes of each iteration, and the place after that iteration."""
        images = self._encoded_images(**place)
        while True:
            iteration = list(islice(images, self.images_per_iteration))
            yield [iteration[index][0] for index in self._own_places.tolist()], iteration[-1][1]

    def _encoded_images(self, stream_pass: int, stream_offset: int) -> Iterator[tuple[EncodedImage, Place]]:
        """Images without end, beginning at a place, each with the place after it."""
        while True:
            # Not `set_epoch`: what it does to shards and `take` has changed with the versions of `datasets`.
            seed = pass_seed(self.seed, stream_pass)
            count = 0
            for example in self.stream.shuffle(seed=seed, buffer_size=self.shuffle_buffer):
                count += 1
                if count > stream_offset:
                    yield next(iter(example.values())), {"stream_pass": stream_pass, "stream_offset": count}
            if count == 0:
                raise ValueError("argument `stream` must hold at least one image, got none")
            stream_pass, stream_offset = stream_pass + 1, 0

    def _decode(self, batch: tuple[list[EncodedImage], Place]) -> tuple[Tensor, Place]:
        encoded, place = batch
        return decode_images(encoded, self.image_shape).to(self.device), place
