"""Convolutional networks without shortcuts: Miyato et al. (2018) up to 64 pixels, the PC-GAN authors' beyond.

Both players see the image at a ladder of resolutions, each half the one before. ``width`` is the number of
channels on the finest rung and doubles with every halving, so one table row describes a generator and a
discriminator.
"""

from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from pcgan_lightning.arguments import RecordsArguments, require_at_least, require_not_negative
from pcgan_lightning.networks._common import (
    Initialization,
    initialize,
    require_shape,
    select_plan,
)


class _Plan(NamedTuple):
    halvings: int  # of the image size, down to the coarsest feature map
    paired: bool  # D has a 3x3 convolution at each resolution; without them, G has one more at the finest
    generator_width: int
    discriminator_width: int


# 32 and 48: Miyato et al. (2018). 64: ours, one stage more. 128 and 256: the PC-GAN authors' LSUN runs,
# where the coarsest feature map has 512 channels in both players.
# 8: ours, for stacked digits.
_PLANS = {
    8: _Plan(halvings=2, paired=True, generator_width=16, discriminator_width=16),
    32: _Plan(halvings=3, paired=True, generator_width=64, discriminator_width=64),
    48: _Plan(halvings=3, paired=True, generator_width=64, discriminator_width=64),
    64: _Plan(halvings=4, paired=True, generator_width=64, discriminator_width=64),
    128: _Plan(halvings=5, paired=False, generator_width=16, discriminator_width=32),
    256: _Plan(halvings=6, paired=False, generator_width=8, discriminator_width=16),
}


class CNNGenerator(RecordsArguments, nn.Module):
    """Map latents ``[N, latent_dim]`` to images ``[N, channels, image_size, image_size]`` in [-1, 1].

    A linear layer makes the coarsest feature map, 4x4 (2x2 for 8 pixels, 6x6 for 48); 4x4 transposed convolutions of
    stride 2, each followed by batch normalisation and ReLU, double its size and halve its channels up to the
    full size; a 3x3 convolution and tanh make the image. From 128 pixels on, one more 3x3 convolution with
    batch normalisation and ReLU works at full size.

    Args:
        image_size: height and width of the images: 8, 32, 48, 64, 128 or 256. Default: 32.
        channels: channels of the images. Default: 3.
        latent_dim: size of a latent vector. Default: 128.
        width: channels of the last hidden layer, at full size. Default: ``None``, the width of the papers (64
            up to 64 pixels, 16 for 128, 8 for 256; 16 for 8).
        initialization: distribution of the initial weights, "xavier_uniform", "xavier_normal", "orthogonal", "normal"
            (standard deviation 0.02) or "torch", as torch's layers begin. Default: "normal".
        batch_norm: whether there is batch normalisation; without it the convolutions have biases. Default: ``True``.
        linear_relu: whether a ReLU follows the linear layer, which the papers' tables lack. Default: ``False``.
        linear_batch_norm: whether batch normalisation follows the linear layer, each of its outputs for itself, as in
            the PC-GAN authors' LSUN runs. Default: ``False``.

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
        initialization: Initialization = "normal",
        batch_norm: bool = True,
        linear_relu: bool = False,
        linear_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        plan = select_plan(_PLANS, image_size)
        width = plan.generator_width if width is None else width
        require_at_least(1, channels=channels, latent_dim=latent_dim, width=width)
        self.latent_dim = latent_dim
        self.image_shape = (channels, image_size, image_size)

        coarsest = image_size // 2**plan.halvings
        self.coarsest_shape = (width * 2**plan.halvings, coarsest, coarsest)
        size = self.coarsest_shape[0] * coarsest**2
        self.linear = nn.Linear(latent_dim, size, bias=not linear_batch_norm)
        self.linear_norm = nn.BatchNorm1d(size) if linear_batch_norm else None
        self.linear_relu = linear_relu
        layers: list[nn.Module] = []
        # No bias before batch normalisation: it would cancel, and leave rounding noise as its gradient for
        # optimizers that normalise gradients to blow up.
        bias = not batch_norm
        for level in reversed(range(plan.halvings)):
            channels_out = width * 2**level
            layers.append(nn.ConvTranspose2d(2 * channels_out, channels_out, 4, stride=2, padding=1, bias=bias))
            layers += [nn.BatchNorm2d(channels_out), nn.ReLU()] if batch_norm else [nn.ReLU()]
        if not plan.paired:
            layers.append(nn.Conv2d(width, width, 3, padding=1, bias=bias))
            layers += [nn.BatchNorm2d(width), nn.ReLU()] if batch_norm else [nn.ReLU()]
        self.convolutions = nn.Sequential(*layers)
        self.to_image = nn.Conv2d(width, channels, 3, padding=1)
        initialize(self, initialization)

    def forward(self, latents: Tensor) -> Tensor:
        """Return images ``[N, *image_shape]`` in [-1, 1] for latents ``[N, latent_dim]``."""
        require_shape("latents", latents, (self.latent_dim,))
        features = self.linear(latents)
        if self.linear_norm is not None:
            features = self.linear_norm(features)
        features = features.unflatten(1, self.coarsest_shape)
        if self.linear_relu:
            features = features.relu()
        return torch.tanh(self.to_image(self.convolutions(features)))


class CNNDiscriminator(RecordsArguments, nn.Module):
    """Map images ``[N, channels, image_size, image_size]`` to raw scores ``[N]``.

    Up to 64 pixels, a 3x3 convolution and a 4x4 one of stride 2 share each resolution and its number of
    channels, down to a last 3x3 convolution on the coarsest feature map (4x4; 2x2 for 8 pixels, 6x6 for 48). From
    128 pixels on there are only the convolutions of stride 2. Leaky ReLU (0.1) follows each of them, a linear
    layer makes the score.

    Args:
        image_size: height and width of the images: 8, 32, 48, 64, 128 or 256. Default: 32.
        channels: channels of the images. Default: 3.
        width: channels after the first convolution. Default: ``None``, the width of the papers (64 up to 64
            pixels, 32 for 128, 16 for 256; 16 for 8).
        initialization: distribution of the initial weights, "xavier_uniform", "xavier_normal", "orthogonal", "normal"
            (standard deviation 0.02) or "torch", as torch's layers begin. Default: "normal".
        extra_convolutions: further 3x3 convolutions at each resolution but the coarsest, after the first one. Default:
            0, the depth of the papers.

    Attributes:
        image_shape: ``(channels, image_size, image_size)``.
        init_args: the constructor's arguments.
    """

    def __init__(
        self,
        image_size: int = 32,
        channels: int = 3,
        width: Optional[int] = None,
        initialization: Initialization = "normal",
        extra_convolutions: int = 0,
    ) -> None:
        super().__init__()
        plan = select_plan(_PLANS, image_size)
        width = plan.discriminator_width if width is None else width
        require_at_least(1, channels=channels, width=width)
        require_not_negative(extra_convolutions=extra_convolutions)
        if extra_convolutions and not plan.paired:
            raise ValueError(
                f"argument `extra_convolutions` must be 0 for {image_size} pixels, got {extra_convolutions}"
            )
        self.image_shape = (channels, image_size, image_size)

        self.convolutions = nn.ModuleList()
        channels_in = channels
        for level in range(plan.halvings + 1):
            channels_out = width * 2**level
            if plan.paired:
                for _ in range(1 + (extra_convolutions if level < plan.halvings else 0)):
                    self.convolutions.append(nn.Conv2d(channels_in, channels_out, 3, padding=1))
                    channels_in = channels_out
            if level < plan.halvings:
                self.convolutions.append(nn.Conv2d(channels_in, channels_out, 4, stride=2, padding=1))
                channels_in = channels_out
        self.linear = nn.Linear(channels_in * (image_size // 2**plan.halvings) ** 2, 1)
        initialize(self, initialization)

    def forward(self, images: Tensor) -> Tensor:
        """Return raw scores ``[N]`` for images ``[N, *image_shape]``."""
        require_shape("images", images, self.image_shape)
        features = images
        for convolution in self.convolutions:
            features = leaky_relu(convolution(features), 0.1)
        scores: Tensor = self.linear(features.flatten(1))  # [N, 1]
        return scores.squeeze(1)
