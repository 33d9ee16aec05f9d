"""The user's cache folder, and decoded images in it, so that a second start reads them instead of decoding."""

import hashlib
import logging
import os
from collections.abc import Iterator, Sized
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from pcgan_lightning.data.decoding import EncodedImage, ImageShape, decode_dataset
from pcgan_lightning.data.real_images import digest_encoded
from pcgan_lightning.runs import write_whole

if TYPE_CHECKING:
    from pcgan_lightning.data.sources import Images

log = logging.getLogger("lightning.pytorch")
CHECKSUM_BYTES = 32
# Fewer images are decoded in a second or two, which is not worth a file.
CACHED_FROM = 10_000


def default_cache() -> Path:
    """The folder of what is computed once: ``$PCGAN_CACHE``, or ``pcgan_lightning`` in the user's cache folder."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("PCGAN_CACHE") or user / "pcgan_lightning")


def encoded_images(dataset: "Images") -> Iterator[EncodedImage]:
    """The images of a dataset of one column, as they are stored."""
    return (image for rows in dataset.iter(1000) for image in next(iter(rows.values())))


def decode_cached(dataset: "Images", image_shape: ImageShape, workers: int, description: str) -> Tensor:
    """Like `decode_dataset`, but reads images that were decoded before from the cache, and keeps others there.

    A file is named by a digest of the encoded images and the shape, which takes a fraction of the time of decoding. A
    cache that can't be written is told of, and no error. Few images, and streams, are just decoded.

    Returns:
        uint8, [len(dataset), channels, height, width], mapped into memory where the cache has them.
    """
    if not isinstance(dataset, Sized) or len(dataset) < CACHED_FROM:
        return decode_dataset(dataset, image_shape, workers, description)
    key = digest_encoded(encoded_images(dataset), settings=f"decoded 1 {image_shape}")
    path = default_cache() / f"{key}.images"
    images = _read(path, key, torch.Size([len(dataset), *image_shape]))
    if images is None:
        images = decode_dataset(dataset, image_shape, workers, description)
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]  # Lightning sets it
            _write(path, key, images)
    return images


def _checksum(key: str, pixels: Tensor) -> bytes:
    # Of the key as well: a whole file of other images is no less wrong.
    digest = hashlib.blake2b(key.encode(), digest_size=CHECKSUM_BYTES)
    digest.update(pixels.numpy().data)
    return digest.digest()


def _read(path: Path, key: str, shape: torch.Size) -> Optional[Tensor]:
    """Return the images in a file, None where it is missing or its content is not what was written."""
    try:
        size = path.stat().st_size
        expected = CHECKSUM_BYTES + shape.numel()
        file = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8) if size == expected else None
    except FileNotFoundError:
        return None
    except (OSError, RuntimeError) as error:  # torch's own for what it can't open
        log.warning(f"decoded images in the cache can't be read and are decoded again: {error}")
        return None
    if file is None or file[:CHECKSUM_BYTES].numpy().tobytes() != _checksum(key, file[CHECKSUM_BYTES:]):
        log.warning(f"decoded images in the cache are damaged and are decoded again: {path}")
        return None
    return file[CHECKSUM_BYTES:].view(shape)


def _write(path: Path, key: str, images: Tensor) -> None:
    """Write the checksum and then the pixels."""
    own = path.with_name(f"{key}.{os.getpid()}")  # runs that start together do not write to one file
    try:
        write_whole(own, lambda file: (file.write(_checksum(key, images)), file.write(images.numpy().data)))
        own.replace(path)
    except OSError as error:  # no right to write there, a full disk
        with suppress(OSError):
            own.unlink()
        log.warning(f"decoded images can't be kept in {path}, every start decodes them: {error}")
