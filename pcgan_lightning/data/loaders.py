"""Loaders of images that lie decoded in memory, and what every loader of training images keeps to."""

from collections.abc import Iterator
from typing import Optional

import numpy as np
import torch
from torch import Tensor

__all__ = ["MemoryLoader", "SequentialLoader", "TrainLoader"]


class TrainLoader:
    """What loaders of training images share: one batch for each iteration of the GAN, and exact resuming.

    The images come in one endless order, which the seed fixes. Iteration `i` owns the `i`-th run of
    `discriminator_steps * world_size * batch_size` of them, update after update; of each update process
    `rank` takes the `rank`-th slice of `batch_size`. So `n` processes together see in every update what one
    process with a batch `n` times as large sees, and a module cuts a batch into its updates with `chunk`.

    `position` counts the batches yielded. It moves before the consumer gets the batch: a checkpoint written
    while batch `k` (from 0) is trained on says `k + 1`, and a run resumed from it begins with that one.

    Args:
        batch_size: real images of one discriminator update in this process.
        discriminator_steps: discriminator updates of one iteration.
        rank: number of this process.
        world_size: number of processes.
        seed: not negative; the same in every process.

    Attributes:
        equal_batches: every process gets as many images as the others, so that nobody has to ask them.
    """

    equal_batches = True

    def __init__(
        self, batch_size: int, discriminator_steps: int = 1, rank: int = 0, world_size: int = 1, seed: int = 0
    ) -> None:
        self.position = 0
        self.seed = seed
        self.images_per_iteration = discriminator_steps * world_size * batch_size
        places = torch.arange(self.images_per_iteration).view(discriminator_steps, world_size, batch_size)
        self._own_places = places[:, rank].flatten()  # within an iteration

    def __len__(self) -> int:
        """Batches that Lightning calls an epoch."""
        raise NotImplementedError

    def _next_batch(self) -> Tensor:
        """The batch at `position`."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Tensor]:
        for _ in range(len(self)):
            batch = self._next_batch()
            self.position += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The place in the data."""
        return {"position": self.position, "seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes to a place in the data, in the order of the seed that was used there."""
        if state.keys() != self.state_dict().keys():
            raise ValueError(
                f"argument `state` must hold {list(self.state_dict())} for a {type(self).__name__}, got "
                f"{list(state)} (was the checkpoint written with another `streaming`?)"
            )
        self.position, self.seed = state["position"], state["seed"]

    def close(self) -> None:
        """Stops what works in the background. Iterating starts it again."""


class MemoryLoader(TrainLoader):
    """Serves images that lie in the memory of the device that trains, or of the host.

    Each epoch is a permutation of all images, drawn from the seed and the epoch's number alone; what does not
    fill a last iteration is dropped. Iterating starts where the loader stands and yields `len(self)` batches,
    into the next permutation if need be.

    Args:
        images: uint8, [N, C, H, W]. Batches are gathered on its device.
        batch_size: real images of one discriminator update in this process.
        discriminator_steps: discriminator updates of one iteration.
        rank: number of this process.
        world_size: number of processes.
        seed: not negative; the same in every process.

    Yields:
        float32 in [-1, 1], [discriminator_steps * batch_size, C, H, W].

    Raises:
        ValueError: if there are fewer images than one iteration needs.
    """

    def __init__(
        self,
        images: Tensor,
        batch_size: int,
        discriminator_steps: int = 1,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, discriminator_steps, rank, world_size, seed)
        if len(images) < self.images_per_iteration:
            raise ValueError(
                f"argument `batch_size` must let {len(images)} images fill an iteration, got {batch_size} "
                f"(times {discriminator_steps} discriminator steps, times {world_size} processes)"
            )
        self.images = images
        self._own_places = self._own_places.to(images.device)
        self._order = torch.empty(0, dtype=torch.int64)  # of the images in the epoch `_order_of`
        self._order_of: Optional[tuple[int, int]] = None

    def __len__(self) -> int:
        return len(self.images) // self.images_per_iteration

    def _next_batch(self) -> Tensor:
        epoch, index = divmod(self.position, len(self))
        if self._order_of != (self.seed, epoch):
            generator = torch.Generator().manual_seed(pass_seed(self.seed, epoch))
            order = torch.randperm(len(self.images), generator=generator)
            # To the device once an epoch, so that no batch has to wait for a copy from the host.
            self._order, self._order_of = order.to(self.images.device), (self.seed, epoch)
        places = index * self.images_per_iteration + self._own_places
        return normalize(self.images[self._order[places]])


class SequentialLoader:
    """Serves images for evaluation: in order, each exactly once, the last batch as small as it comes.

    Process `rank` takes every `world_size`-th image; where these do not divide evenly, some processes see one
    image more than others.

    Args:
        images: uint8, [N, C, H, W].
        batch_size: images of a batch.
        rank: number of this process.
        world_size: number of processes.

    Yields:
        float32 in [-1, 1], [batch_size, C, H, W].
    """

    def __init__(self, images: Tensor, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.images = images[rank::world_size]
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        return map(normalize, self.images.split(self.batch_size))


def normalize(images: Tensor) -> Tensor:
    """uint8 in [0, 255] to float32 in [-1, 1]: x / 127.5 - 1."""
    return images.to(torch.float32).div_(127.5).sub_(1)


def pass_seed(seed: int, number: int) -> int:
    """The seed, of 64 bits, of one pass over the data: known without going through the passes before it."""
    return int(np.random.SeedSequence(seed, spawn_key=(number,)).generate_state(1, np.uint64)[0])
