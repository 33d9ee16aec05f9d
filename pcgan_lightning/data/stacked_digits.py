"""Three handwritten digits as the channels of one image: a thousand modes on a CPU, as a LightningDataModule."""

from typing import Literal, Optional

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from pcgan_lightning.arguments import require_at_least, require_not_negative
from pcgan_lightning.data.loaders import TrainLoader, normalize, pass_seed
from pcgan_lightning.data.real_images import RealImages, digest_pixels
from pcgan_lightning.data.sources import digits_and_labels

__all__ = ["StackedDigits", "StackedDigitsLoader"]

CHANNELS = 3
# Of the real images that a score compares with: as many as the modes are counted on.
REAL_IMAGES = 25_600


class StackedDigitsLoader(TrainLoader):
    """Serves images of independently drawn digits, without end.

    A batch depends on the seed and its number alone: every channel of every image is a digit drawn with replacement.

    Args:
        digits: uint8, [N, S, S]. Batches are gathered on its device.
        iterations_per_epoch: `len` of this loader.
        batch_size: Images of one discriminator update in this process.
        discriminator_steps: Discriminator updates of one iteration.
        rank: Number of this process.
        world_size: Number of processes.
        seed: Not negative; the same in every process.

    Yields:
        float32 in [-1, 1], [discriminator_steps * batch_size, 3, S, S].
    """

    def __init__(
        self,
        digits: Tensor,
        iterations_per_epoch: int,
        batch_size: int,
        discriminator_steps: int = 1,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, discriminator_steps, rank, world_size, seed)
        self.digits = digits
        self.iterations_per_epoch = iterations_per_epoch

    def __len__(self) -> int:
        return self.iterations_per_epoch

    def _next_batch(self) -> Tensor:
        drawn = draw_digits(len(self.digits), self.images_per_iteration, pass_seed(self.seed, self.position))
        return normalize(self.digits[drawn[self._own_places].to(self.digits.device)])


class StackedDigits(LightningDataModule):
    """Three of scikit-learn's digits as the channels of one image: 10^3 = 1,000 modes, nearly equally frequent.

    A batch is float32 in [-1, 1], [batch, 3, image_size, image_size]; each channel is one of the 1,797 digits, drawn
    with replacement. As with :class:`ImageDataModule`, a batch holds the images of **one iteration** of the GAN
    (`discriminator_steps * batch_size` of them), depends on the seed and the iteration alone, is this process's slice
    of what one process would see, and a resumed run goes on with the very next one.

    Args:
        image_size: Height and width; 8 is the digits' own size, others are resized (bicubic, antialiased).
        batch_size: Images of one discriminator update in one process.
        iterations_per_epoch: Batches that Lightning calls an epoch; the data have no end.
        seed: Fixes the images. None: torch's initial seed, which `seed_everything` sets. A resumed run keeps the seed
            that it began with.

    Attributes:
        image_shape: (3, image_size, image_size).

    Raises:
        ValueError: For arguments out of range; for a stage other than "fit".

    Example:
        >>> data = StackedDigits(batch_size=16, seed=0)
        >>> data.setup("fit")
        >>> next(iter(data.train_dataloader())).shape
        torch.Size([16, 3, 8, 8])
    """

    def __init__(
        self,
        image_size: int = 8,
        batch_size: int = 64,
        iterations_per_epoch: int = 1000,
        seed: Optional[int] = None,
    ) -> None:
        super().__init__()
        require_at_least(1, image_size=image_size, batch_size=batch_size, iterations_per_epoch=iterations_per_epoch)
        require_not_negative(seed=seed)
        self.image_size = image_size
        self.image_shape = (CHANNELS, image_size, image_size)
        self.batch_size = batch_size
        self.iterations_per_epoch = iterations_per_epoch
        self.seed = seed
        self._loader: Optional[StackedDigitsLoader] = None

    def setup(self, stage: str) -> None:
        """Makes a loader that stands at the beginning; a checkpoint moves it."""
        if stage != "fit":
            verb = getattr(stage, "value", stage)
            raise ValueError(f"argument `data` must have held-out images to {verb} on, got StackedDigits")
        seed = torch.initial_seed() if self.seed is None else self.seed
        digits = resized_digits(self.image_size)
        if self.trainer is None:
            self._loader = StackedDigitsLoader(digits, self.iterations_per_epoch, self.batch_size, seed=seed)
            return
        strategy = self.trainer.strategy
        self._loader = StackedDigitsLoader(
            digits.to(strategy.root_device),
            self.iterations_per_epoch,
            self.batch_size,
            discriminator_steps=getattr(self.trainer.lightning_module, "discriminator_steps", 1),
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            seed=strategy.broadcast(seed),
        )

    def train_dataloader(self) -> StackedDigitsLoader:
        """The loader, which goes on where this run, or the one that it resumes, stands in the data."""
        return self._made_loader()

    def val_dataloader(self) -> list:
        """Nothing to validate on; an empty list, which Lightning skips."""
        return []

    def real_images(self, part: Literal["train", "validation"] = "train", count: Optional[int] = None) -> RealImages:
        """Real images to compare generated ones with: the same in every run, whatever its seed.

        Args:
            part: "train"; nothing is held out.
            count: How many. None: 25,600.
        """
        if part != "train":
            raise ValueError(f"argument `part` must be 'train' for StackedDigits, got {part!r}")
        images = draw_stacked(resized_digits(self.image_size), REAL_IMAGES if count is None else count)
        size = f"{self.image_size}x{self.image_size}"
        description = f"stacked digits of scikit-learn ({size})"
        return RealImages(description, len(images), self.image_shape, digest_pixels(images), lambda: images)

    def state_dict(self) -> dict[str, int]:
        """The place in the data."""
        return self._made_loader().state_dict()

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Goes on from a place in the data."""
        self._made_loader().load_state_dict(state_dict)

    def _made_loader(self) -> StackedDigitsLoader:
        if self._loader is None:
            raise RuntimeError("StackedDigits has no loader before `setup`")
        return self._loader


def resized_digits(image_size: int) -> Tensor:
    """All digits, uint8, [1797, image_size, image_size]."""
    images = (PIL.Image.fromarray(pixels) for pixels in digits_and_labels()[0])
    resized = [PIL.ImageOps.fit(image, (image_size, image_size), PIL.Image.Resampling.BICUBIC) for image in images]
    return torch.from_numpy(np.stack([np.asarray(image) for image in resized]))


def draw_digits(digits: int, count: int, seed: int) -> Tensor:
    """The numbers of `count` images' digits, int64, [count, 3]; the seed alone decides."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(digits, (count, CHANNELS), generator=generator)


def draw_stacked(digits: Tensor, count: int, seed: int = 0) -> Tensor:
    """`count` images of digits [N, S, S], uint8, [count, 3, S, S]; the seed alone decides."""
    return digits[draw_digits(len(digits), count, seed)]
