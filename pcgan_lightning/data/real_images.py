"""Real images that generated ones are compared with, and how to tell whether they are still the same."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pcgan_lightning.data.decoding import EncodedImage, ImageShape

__all__ = ["RealImages"]


@dataclass(frozen=True)
class RealImages:
    """Real images, known before they are decoded.

    Attributes:
        description: what they are, for people: whence, which split, of what size.
        count: how many.
        image_shape: (channels, height, width).
        digest: changes whenever an image, their order, number or size does.
        load: returns them: uint8, [N, C, H, W].
    """

    description: str
    count: int
    image_shape: ImageShape
    digest: str
    load: Callable[[], Tensor]


def digest_encoded(images: Iterable[EncodedImage], settings: str) -> str:
    """The digest of encoded images, which takes a fraction of the time of decoding them.

    Args:
        images: as `datasets` gives them; those that are only named are read from their files.
        settings: what else decides the pixels.
    """
    digest = hashlib.blake2b(settings.encode(), digest_size=16)
    for image in images:
        content = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()


def digest_pixels(images: Tensor) -> str:
    """The digest of decoded images."""
    digest = hashlib.blake2b(repr(tuple(images.shape)).encode(), digest_size=16)
    digest.update(images.cpu().contiguous().numpy().data)
    return digest.hexdigest()
