"""Three handwritten digits as the channels of one image: a thousand modes on a CPU, as a LightningDataModule."""

from typing import Literal, Optional

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from torch import Generator, Tensor

from pcgan_lightning.arguments import require_at_least
from pcgan_lightning.data.endless import EndlessDataModule, EndlessLoader
from pcgan_lightning.data.loaders import normalize
from pcgan_lightning.data.real_images import RealImages, digest_pixels
from pcgan_lightning.data.sources import digits_and_labels

__all__ = ["StackedDigits", "StackedDigitsLoader"]

CHANNELS = 3
# Of the real images that a score compares with: as many as the modes are counted on.
REAL_IMAGES = 25_600


class StackedDigitsLoader(EndlessLoader):
    """Serves images of independently drawn digits, without end.

    Every channel of every image is a digit drawn with replacement.

    Args:
        digits: uint8, [N, S, S]. Batches are gathered on its device.
        iterations_per_epoch: `len` of this loader.
        slices: as of every loader: `batch_size`, `discriminator_steps`, `rank`, `world_size`, `seed`.

    Yields:
        float32 in [-1, 1], [discriminator_steps * batch_size, 3, S, S].
    """

    def __init__(self, digits: Tensor, iterations_per_epoch: int, **slices: int) -> None:
        super().__init__(iterations_per_epoch, **slices)
        self.digits = digits

    def _draw(self, generator: Generator) -> Tensor:
        drawn = draw_digits(len(self.digits), self.images_per_iteration, generator)
        return normalize(self.digits[drawn[self._own_places].to(self.digits.device)])


class StackedDigits(EndlessDataModule):
    """Three of scikit-learn's digits as the channels of one image: 10^3 = 1,000 modes, nearly equally frequent.

    A batch is float32 in [-1, 1], [batch, 3, image_size, image_size]; each channel is one of the 1,797 digits, drawn
    with replacement. As with :class:`ImageDataModule`, a batch holds the images of **one iteration** of the GAN
    (`discriminator_steps * batch_size` of them), depends on the seed and the iteration alone, is this process's slice
    of what one process would see, and a resumed run goes on with the very next one.

    Args:
        image_size: height and width; 8 is the digits' own size, others are resized (bicubic, antialiased).
        batch_size: images of one discriminator update in one process.
        iterations_per_epoch: batches that Lightning calls an epoch; the data have no end.
        seed: fixes the images. None: torch's initial seed, which `seed_everything` sets. A resumed run keeps the seed
            that it began with.

    Attributes:
        image_shape: (3, image_size, image_size).

    Raises:
        ValueError: for arguments out of range; for a stage other than "fit".

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
        super().__init__(batch_size, iterations_per_epoch, seed)
        require_at_least(1, image_size=image_size)
        self.image_size = image_size
        self.image_shape = (CHANNELS, image_size, image_size)

    def _make_loader(self, device: torch.device, **slices: int) -> StackedDigitsLoader:
        return StackedDigitsLoader(resized_digits(self.image_size).to(device), self.iterations_per_epoch, **slices)

    def real_images(self, part: Literal["train", "validation"] = "train", count: Optional[int] = None) -> RealImages:
        """Real images to compare generated ones with: the same in every run, whatever its seed.

        Args:
            part: "train"; nothing is held out.
            count: how many. None: 25,600.
        """
        if part != "train":
            raise ValueError(f"argument `part` must be 'train' for StackedDigits, got {part!r}")
        images = draw_stacked(resized_digits(self.image_size), REAL_IMAGES if count is None else count)
        size = f"{self.image_size}x{self.image_size}"
        description = f"stacked digits of scikit-learn ({size})"
        return RealImages(description, len(images), self.image_shape, digest_pixels(images), lambda: images)


def resized_digits(image_size: int) -> Tensor:
    """All digits, uint8, [1797, image_size, image_size]."""
    images = (PIL.Image.fromarray(pixels) for pixels in digits_and_labels()[0])
    resized = [PIL.ImageOps.fit(image, (image_size, image_size), PIL.Image.Resampling.BICUBIC) for image in images]
    return torch.from_numpy(np.stack([np.asarray(image) for image in resized]))


def draw_digits(digits: int, count: int, generator: Generator) -> Tensor:
    """The numbers of `count` images' digits, int64, [count, 3]."""
    return torch.randint(digits, (count, CHANNELS), generator=generator)


def draw_stacked(digits: Tensor, count: int, seed: int = 0) -> Tensor:
    """`count` images of digits [N, S, S], uint8, [count, 3, S, S]; the seed alone decides."""
    return digits[draw_digits(len(digits), count, torch.Generator().manual_seed(seed))]
