"""Residual networks of pre-activation blocks (Miyato et al., 2018), and how the PC-GAN authors' code departs from them.

``width`` is the number of channels at the finest resolution; each coarser block has ``growth`` times as many.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Literal, NamedTuple, Optional

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, leaky_relu, relu

from pcgan_lightning.arguments import RecordsArguments, require_at_least, require_not_negative, require_one_of
from pcgan_lightning.networks._common import (
    Initialization,
    initialize,
    require_shape,
    select_plan,
)


class _GeneratorPlan(NamedTuple):
    blocks: int  # each doubles the resolution
    growth: int
    width: int


class _DiscriminatorPlan(NamedTuple):
    blocks: int
    halvings: int  # so many blocks, from the first on, halve the resolution
    growth: int
    width: int


# 32 and 48: Miyato et al. (2018), but at 48 the last block of D halves too (3x3 to 1x1), as in the PC-GAN
# authors' code. 128 and 256: Miyato et al. (2018), where the last block of D keeps its 4x4, at the PC-GAN
# authors' widths. 64: ours, in the same manner.
_GENERATOR_PLANS = {
    32: _GeneratorPlan(blocks=3, growth=1, width=256),
    48: _GeneratorPlan(blocks=3, growth=2, width=64),
    64: _GeneratorPlan(blocks=4, growth=2, width=64),
    128: _GeneratorPlan(blocks=5, growth=2, width=32),
    256: _GeneratorPlan(blocks=6, growth=2, width=16),
}
_DISCRIMINATOR_PLANS = {
    32: _DiscriminatorPlan(blocks=4, halvings=2, growth=1, width=128),
    48: _DiscriminatorPlan(blocks=5, halvings=5, growth=2, width=64),
    64: _DiscriminatorPlan(blocks=5, halvings=4, growth=2, width=64),
    128: _DiscriminatorPlan(blocks=6, halvings=5, growth=2, width=32),
    256: _DiscriminatorPlan(blocks=7, halvings=6, growth=2, width=16),
}


class ResNetGenerator(RecordsArguments, nn.Module):
    """Map latents ``[N, latent_dim]`` to images ``[N, channels, image_size, image_size]`` in [-1, 1].

    A linear layer makes the coarsest feature map, 4x4 (6x6 for 48 pixels); residual blocks double its size up
    to the full one; batch normalisation, ReLU, a convolution and tanh make the image. At 32 pixels all
    blocks have ``width`` channels, at other sizes each has half the channels of the one before.

    Args:
        image_size: height and width of the images: 32, 48, 64, 128 or 256. Default: 32.
        channels: channels of the images. Default: 3.
        latent_dim: size of a latent vector. Default: 128.
        width: channels of the last block, at full size. Default: ``None``, the width of the papers (256 for
            32 pixels, 64 for 48 and 64, 32 for 128, 16 for 256).
        initialization: distribution of the initial weights, "xavier_uniform" (gain sqrt(2) on the 3x3
            convolutions of the blocks, 1 elsewhere), "orthogonal" or "normal" (standard deviation 0.02).
            Default: "xavier_uniform".
        upsampling: of the blocks, "nearest" or "bilinear"; the latter in the PC-GAN authors' code. Default: "nearest".
        image_kernel_size: of the convolution that makes the image; 1 in the PC-GAN authors' code, else 3. Default: 3.

    Attributes:
        latent_dim: size of a latent vector.
        image_shape: ``(channels, image_size, image_size)``.
        init_args: the constructor's arguments.
    """

    def __init__(
        self,
        image_size: int = 32,
        channels: int = 3,
        latent_dim: int = 128,
        width: Optional[int] = None,
        initialization: Initialization = "xavier_uniform",
        upsampling: Literal["nearest", "bilinear"] = "nearest",
        image_kernel_size: Literal[1, 3] = 3,
    ) -> None:
        super().__init__()
        plan = select_plan(_GENERATOR_PLANS, image_size)
        width = plan.width if width is None else width
        require_at_least(1, channels=channels, latent_dim=latent_dim, width=width)
        require_one_of(("nearest", "bilinear"), upsampling=upsampling)
        require_one_of((1, 3), image_kernel_size=image_kernel_size)
        self.latent_dim = latent_dim
        self.image_shape = (channels, image_size, image_size)

        coarsest = image_size // 2**plan.blocks
        widths = [width * plan.growth**level for level in reversed(range(plan.blocks + 1))]
        self.coarsest_shape = (widths[0], coarsest, coarsest)
        self.linear = nn.Linear(latent_dim, widths[0] * coarsest**2)
        blocks = [_UpBlock(coarse, fine, upsampling) for coarse, fine in pairwise(widths)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(width)
        self.to_image = nn.Conv2d(width, channels, image_kernel_size, padding=image_kernel_size // 2)
        initialize(self, initialization, boosted=_inner_convolutions(blocks))

    def forward(self, latents: Tensor) -> Tensor:
        """Return images ``[N, *image_shape]`` in [-1, 1] for latents ``[N, latent_dim]``."""
        require_shape("latents", latents, (self.latent_dim,))
        features = self.blocks(self.linear(latents).unflatten(1, self.coarsest_shape))
        return torch.tanh(self.to_image(relu(self.norm(features))))


class ResNetDiscriminator(RecordsArguments, nn.Module):
    """Map images ``[N, channels, image_size, image_size]`` to raw scores ``[N]``.

    Residual blocks, then a ReLU, the sum or mean over all positions and a linear layer. At 32 pixels two blocks that
    halve the resolution come before two that keep it, all of ``width`` channels. At other sizes each block
    has twice the channels of the one before and halves the resolution, except for the last one at 64 pixels
    and from 128 on, which keeps its 4x4.

    Args:
        image_size: height and width of the images: 32, 48, 64, 128 or 256. Default: 32.
        channels: channels of the images. Default: 3.
        width: channels of the first block. Default: ``None``, the width of the papers (128 for 32 pixels, 64
            for 48 and 64, 32 for 128, 16 for 256).
        initialization: distribution of the initial weights, "xavier_uniform" (gain sqrt(2) on the 3x3
            convolutions of the blocks, 1 elsewhere), "orthogonal" or "normal" (standard deviation 0.02).
            Default: "xavier_uniform".
        pooling: "sum" over all positions (Miyato et al., 2018) or "mean" (Gulrajani et al., 2017). Default: "sum".
        negative_slope: of leaky ReLUs in the place of all ReLUs; 0.1 in the PC-GAN authors' code. Default: 0.
        linear_bias: whether the linear layer has a bias; not in the PC-GAN authors' code. Default: True.

    Attributes:
        image_shape: ``(channels, image_size, image_size)``.
        init_args: the constructor's arguments.
    """

    def __init__(
        self,
        image_size: int = 32,
        channels: int = 3,
        width: Optional[int] = None,
        initialization: Initialization = "xavier_uniform",
        pooling: Literal["sum", "mean"] = "sum",
        negative_slope: float = 0.0,
        linear_bias: bool = True,
    ) -> None:
        super().__init__()
        plan = select_plan(_DISCRIMINATOR_PLANS, image_size)
        width = plan.width if width is None else width
        require_at_least(1, channels=channels, width=width)
        require_one_of(("sum", "mean"), pooling=pooling)
        require_not_negative(negative_slope=negative_slope)
        self.image_shape = (channels, image_size, image_size)
        self.pooling = pooling
        self.negative_slope = negative_slope

        widths = [channels, *(width * plan.growth**level for level in range(plan.blocks))]
        blocks = [
            _DownBlock(*pair, negative_slope, downsample=index < plan.halvings, first=index == 0)
            for index, pair in enumerate(pairwise(widths))
        ]
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(widths[-1], 1, bias=linear_bias)
        initialize(self, initialization, boosted=_inner_convolutions(blocks))

    def forward(self, images: Tensor) -> Tensor:
        """Return raw scores ``[N]`` for images ``[N, *image_shape]``."""
        require_shape("images", images, self.image_shape)
        features = _activate(self.blocks(images), self.negative_slope)
        features = features.sum(dim=(2, 3)) if self.pooling == "sum" else features.mean(dim=(2, 3))
        scores: Tensor = self.linear(features)  # [N, 1]
        return scores.squeeze(1)


class _UpBlock(nn.Module):
    """Residual block of a generator: doubles the resolution."""

    def __init__(self, channels_in: int, channels_out: int, upsampling: str) -> None:
        super().__init__()
        self.upsampling = upsampling
        # No biases: the batch normalisations after them, inside the block and at the end of the shortcuts'
        # path, would cancel them, and leave rounding noise as their gradient for nSGDA to blow up.
        self.norm1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        residual: Tensor = self.conv1(self.upsample(relu(self.norm1(features))))
        residual = self.conv2(relu(self.norm2(residual)))
        # A 1x1 convolution commutes with upsampling, and costs a quarter before it.
        return residual + self.upsample(self.shortcut(features))

    def upsample(self, features: Tensor) -> Tensor:
        return interpolate(features, scale_factor=2.0, mode=self.upsampling)


class _DownBlock(nn.Module):
    """Residual block of a discriminator: halves the resolution by average pooling if ``downsample``.

    The first block sees an image, not features: no ReLU comes before it, and it widens at once.
    """

    def __init__(
        self, channels_in: int, channels_out: int, negative_slope: float, *, downsample: bool, first: bool
    ) -> None:
        super().__init__()
        self.negative_slope = negative_slope
        self.downsample = downsample
        self.first = first
        channels_hidden = channels_out if first else channels_in
        self.conv1 = nn.Conv2d(channels_in, channels_hidden, 3, padding=1)
        self.conv2 = nn.Conv2d(channels_hidden, channels_out, 3, padding=1)
        self.shortcut: nn.Module = nn.Identity()
        if downsample or channels_in != channels_out:
            self.shortcut = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.conv1(features if self.first else _activate(features, self.negative_slope))
        residual: Tensor = self.conv2(_activate(hidden, self.negative_slope))
        if self.downsample:
            # A 1x1 convolution commutes with average pooling, and costs a quarter after it.
            residual, features = avg_pool2d(residual, 2), avg_pool2d(features, 2)
        return residual + self.shortcut(features)


def _activate(features: Tensor, negative_slope: float) -> Tensor:
    return leaky_relu(features, negative_slope) if negative_slope else relu(features)


def _inner_convolutions(blocks: Iterable[_UpBlock | _DownBlock]) -> set[nn.Module]:
    """Return the layers to which Miyato et al. (2018) give a Xavier gain of sqrt(2)."""
    return {convolution for block in blocks for convolution in (block.conv1, block.conv2)}
