"""From encoded image files to uint8 tensors, in threads."""

import io
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from lightning.pytorch.utilities import rank_zero_only
from rich.progress import track
from torch import Tensor

if TYPE_CHECKING:
    from pcgan_lightning.data.sources import Images

EncodedImage = dict[str, Any]  # of `datasets`: {"bytes": ..., "path": ...}
ImageShape = tuple[int, int, int]  # channels, height, width
Item = TypeVar("Item")
Result = TypeVar("Result")

# Others are not even tried: to see some (EPS), PIL starts another program on them.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
# Images of one task of the thread pool: handing it over costs little next to it, and it still shows progress.
CHUNK = 256
# Fewer images take a few seconds: a progress bar would only flash by.
PROGRESS_FROM = 20_000


def open_image(encoded: EncodedImage) -> PIL.Image.Image:
    """Opens an image of one of `FORMATS`, whatever its name says, turned as its EXIF data says.

    Raises:
        ValueError: if PIL cannot read it, if it has more pixels than PIL's `MAX_IMAGE_PIXELS`, or more than 8
            bits per channel: PIL would clip its values to 255 rather than scale them.
    """
    path = (encoded or {}).get("path") or "one without a path"
    try:
        image: PIL.Image.Image = PIL.Image.open(io.BytesIO(_content(encoded)), formats=FORMATS)
        limit = PIL.Image.MAX_IMAGE_PIXELS  # up to twice as many, PIL itself only warns
        if limit is not None and image.width * image.height > limit:
            raise ValueError(f"{image.width} x {image.height} pixels are more than {limit}")
        image.load()
        if image.getexif().get(PIL.Image.ExifTags.Base.Orientation) is not None:
            image = PIL.ImageOps.exif_transpose(image)  # a copy, without the format
    except Exception as error:  # PIL raises OSError, SyntaxError, its own DecompressionBombError, ...
        unknown = isinstance(error, PIL.UnidentifiedImageError)
        reason = f"it is none of {', '.join(FORMATS)}" if unknown else " ".join(str(error).split())
        raise ValueError(f"argument `source` must hold readable images, got {path}: {reason}") from error
    if image.mode == "F" or image.mode.startswith("I"):
        raise ValueError(f"argument `source` must hold 8-bit images, got one of PIL's mode {image.mode!r}: {path}")
    return image


def _content(encoded: EncodedImage) -> bytes:
    """The bytes of an image, which may lie in a file, here or on the hub."""
    if not encoded:
        raise ValueError("there is none")
    if encoded["bytes"] is not None:
        return encoded["bytes"]
    from datasets.utils.file_utils import xopen  # see `sources`

    with xopen(encoded["path"], "rb") as file:
        return file.read()


def color_channels(image: PIL.Image.Image) -> int:
    """1 for a grey image, 3 for a coloured one. Transparency is no channel, a palette is colour."""
    return 1 if PIL.Image.getmodebase(image.mode) == "L" else 3


def decode_images(encoded: Iterable[EncodedImage], image_shape: ImageShape) -> Tensor:
    """Decodes images to one shape: resized to cover it (bicubic, antialiased), then centre cropped.

    Args:
        encoded: the images.
        image_shape: (channels, height, width) of the result. With 1 channel every image is converted to grey,
            with 3 to RGB. An image of that height and width keeps its exact values.

    Returns:
        uint8, [len(encoded), channels, height, width].
    """
    channels, height, width = image_shape
    mode = {1: "L", 3: "RGB"}[channels]
    images = (open_image(item).convert(mode) for item in encoded)
    fitted = [PIL.ImageOps.fit(image, (width, height), PIL.Image.Resampling.BICUBIC) for image in images]
    pixels = np.stack([np.asarray(image) for image in fitted]).reshape(-1, height, width, channels)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def decode_dataset(dataset: "Images", image_shape: ImageShape, workers: int, description: str) -> Tensor:
    """Decodes a dataset of one column of undecoded images.

    Returns:
        uint8, [len(dataset), channels, height, width].
    """
    columns = (next(iter(rows.values())) for rows in dataset.iter(CHUNK))
    chunks = map_ahead(lambda encoded: decode_images(encoded, image_shape), columns, workers)
    if not isinstance(dataset, Sized):  # a stream
        return torch.cat(list(chunks))
    # Filled in place: joining the chunks at the end would take the memory twice.
    images = torch.empty(len(dataset), *image_shape, dtype=torch.uint8)
    places = images.split(CHUNK)
    quiet = len(images) < PROGRESS_FROM or rank_zero_only.rank != 0  # type: ignore[attr-defined]  # Lightning sets it
    shown = track(chunks, description, total=len(places), disable=quiet)
    for place, chunk in zip(places, shown, strict=True):
        place.copy_(chunk)
    return images


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Generator[Result, None, None]:
    """`map(function, items)` in `workers` threads, in order, a few items ahead of the consumer.

    `items` is read in a thread of its own, for reading waits for a disk or a network and decoding for the
    processor. Closing the generator waits for the work under way, so nothing reads `items` afterwards.
    """
    iterator, end = iter(items), object()
    reader, pool = ThreadPoolExecutor(1, "map_ahead"), ThreadPoolExecutor(workers, "map_ahead")

    def apply(read: "Future[Any]") -> Any:
        item = read.result()
        return end if item is end else function(item)

    def submit() -> "Future[Any]":
        return pool.submit(apply, reader.submit(next, iterator, end))

    try:
        pending = deque(submit() for _ in range(workers + 2))
        while (result := pending.popleft().result()) is not end:
            pending.append(submit())
            yield result
    finally:
        reader.shutdown(cancel_futures=True)
        pool.shutdown(cancel_futures=True)
