"""From tensors in [-1, 1] to pictures."""

import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid


def to_uint8(images: Tensor) -> Tensor:
    """Return images in [-1, 1] as uint8 in 0..255 of the same shape; the inverse of the data floor's scaling."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def to_pillow(pixels: Tensor) -> Image.Image:
    """Return a uint8 tensor ``[C, H, W]`` with 1 or 3 channels as a Pillow image."""
    pixels = pixels.cpu()
    return Image.fromarray(pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy())


def image_grid(images: Tensor, minimum_side: int = 64) -> Image.Image:
    """Return images ``[N, C, H, W]`` in [-1, 1] as a near-square grid; small images are enlarged to `minimum_side`."""
    columns = max(1, round(len(images) ** 0.5))
    grid = to_pillow(make_grid(to_uint8(images), nrow=columns, padding=2))
    factor = max(1, minimum_side // images.shape[-1])
    return grid.resize((grid.width * factor, grid.height * factor), Image.Resampling.NEAREST)
