"""Convolutions of every layout, and the matrices of what they do to unit images, by running the layers."""

import torch
from torch import nn

DIMENSIONS = {
    (kind, d): getattr(nn, f"{kind}{d}d") for kind in ("Conv", "ConvTranspose") for d in (1, 2, 3)
}  # fmt: skip
SIZES = {1: (8,), 2: (6, 4), 3: (4, 2, 4)}
CHANNELS = {1: (4, 6), 2: (4, 2), 3: (2, 4)}


def settings():
    """Over dimension, padding mode, stride, dilation, groups, even kernels and those larger than the image."""
    geometries = [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "padding": 1, "stride": 2},
        {"kernel_size": 4, "padding": 1, "stride": 2, "groups": 2},
        {"kernel_size": 2, "padding": 1, "groups": 2},
        {"kernel_size": 3, "padding": 2, "dilation": 2},
        {"kernel_size": 1},
    ]
    for d in (1, 2, 3):
        for mode in ("zeros", "circular", "reflect", "replicate"):
            for geometry in geometries:
                # Reflected padding must be smaller than the image, of which one side has 2 pixels.
                if mode == "reflect" and d == 3 and geometry.get("padding") == 2:
                    continue
                yield "Conv", d, geometry | {"padding_mode": mode}
        for geometry in geometries:
            yield "ConvTranspose", d, geometry
        yield "ConvTranspose", d, {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1}
    for mode in ("zeros", "circular", "replicate"):
        yield "Conv", 1, {"kernel_size": 17, "padding": 8, "padding_mode": mode}
        yield "Conv", 2, {"kernel_size": (7, 9), "padding": (3, 4), "padding_mode": mode}
        yield "Conv", 2, {"kernel_size": (3, 4), "padding": "same", "padding_mode": mode}
        yield "Conv", 2, {"kernel_size": (4, 2), "stride": (2, 1), "padding": (1, 0), "padding_mode": mode}
    yield "ConvTranspose", 2, {"kernel_size": 9, "padding": 4}
    yield "ConvTranspose", 1, {"kernel_size": 3, "stride": 2, "dilation": 4, "output_padding": 3}


LAYOUTS = list(settings())


def layout_id(layout):
    kind, d, geometry = layout
    return f"{kind}{d}d-" + "-".join(f"{name[:3]}{value}" for name, value in geometry.items()).replace(" ", "")


def make(layout, seed=0, dtype=torch.float64):
    """The layer without bias, and the size of its inputs."""
    kind, d, geometry = layout
    torch.manual_seed(seed)
    layer = DIMENSIONS[kind, d](*CHANNELS[d], bias=False, **geometry).to(dtype)
    nn.init.normal_(layer.weight)
    return layer, SIZES[d]


@torch.no_grad()
def dense(layer, size):
    """The matrix [outputs, inputs], by what the layer makes of each image of a single pixel."""
    count = layer.in_channels * torch.Size(size).numel()
    return layer(torch.eye(count, dtype=layer.weight.dtype).view(count, layer.in_channels, *size)).flatten(1).mT
