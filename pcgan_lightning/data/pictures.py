"""From tensors in [-1, 1] to pictures."""

from typing import Optional

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
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


def draw_samples(samples: Tensor, modes: Optional[Tensor] = None) -> Image.Image:
    """Return images ``[N, C, H, W]`` in [-1, 1] as a grid, and points ``[N, 2]`` in the plane, with their `modes`."""
    return _draw_points(samples, modes) if samples.ndim == 2 else image_grid(samples)


def _draw_points(points: Tensor, modes: Optional[Tensor] = None) -> Image.Image:
    """Draw points ``[N, 2]`` in the plane, and the modes ``[K, 2]`` that they should lie around as crosses."""
    figure = Figure(figsize=(4, 4), layout="constrained")
    axis = figure.subplots()
    x, y = points.cpu().float().T.numpy()
    axis.scatter(x, y, s=4, alpha=0.4, linewidths=0)
    if modes is not None:
        x, y = modes.cpu().T.numpy()
        axis.scatter(x, y, marker="x", color="black", s=20, linewidths=0.8)
    axis.set_aspect("equal", adjustable="datalim")
    axis.grid(alpha=0.3)
    figure.set_dpi(120)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
