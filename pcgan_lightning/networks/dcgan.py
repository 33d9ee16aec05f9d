"""DCGAN (Radford et al., 2016): strided convolutions with batch normalisation in both networks.

``width`` is the number of channels at the finest inner resolution; each coarser one has twice as many.
"""

from itertools import pairwise
from typing import Optional

from torch import Tensor, nn

from pcgan_lightning.arguments import RecordsArguments, require_at_least
from pcgan_lightning.networks._common import (
    Initialization,
    initialize,
    require_shape,
    select_plan,
)

# Halvings between an image and the coarsest feature map: 4x4, or 6x6 for 48 pixels.
_HALVINGS = {32: 3, 48: 3, 64: 4}
_WIDTH = 64


class DCGANGenerator(RecordsArguments, nn.Module):
    """Map latents ``[N, latent_dim]`` to images ``[N, channels, image_size, image_size]`` in [-1, 1].

    A linear layer makes the coarsest feature map; 4x4 transposed convolutions of stride 2 double its size up to the
    full one, with batch normalisation and ReLU between them and tanh at the end.

    Args:
        image_size: height and width of the images: 32, 48 or 64. Default: 32.
        channels: channels of the images. Default: 3.
        latent_dim: size of a latent vector. Default: 128.
        width: channels before the last layer. Default: ``None``, the 64 of the paper.
        initialization: "normal" (standard deviation 0.02, as in the paper), "xavier_uniform" or "orthogonal".

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
    ) -> None:
        super().__init__()
        halvings = select_plan(_HALVINGS, image_size)
        width = _WIDTH if width is None else width
        require_at_least(1, channels=channels, latent_dim=latent_dim, width=width)
        self.latent_dim = latent_dim
        self.image_shape = (channels, image_size, image_size)

        widths = [width * 2**level for level in reversed(range(halvings))]
        coarsest = image_size // 2**halvings
        self.coarsest_shape = (widths[0], coarsest, coarsest)
        # No biases before a batch normalisation, which would cancel them.
        self.linear = nn.Linear(latent_dim, widths[0] * coarsest**2, bias=False)
        layers: list[nn.Module] = [nn.BatchNorm2d(widths[0]), nn.ReLU()]
        for coarse, fine in pairwise(widths):
            layers += [nn.ConvTranspose2d(coarse, fine, 4, 2, 1, bias=False), nn.BatchNorm2d(fine), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(width, channels, 4, 2, 1), nn.Tanh())
        initialize(self, initialization)

    def forward(self, latents: Tensor) -> Tensor:
        """Return images ``[N, *image_shape]`` in [-1, 1] for latents ``[N, latent_dim]``."""
        require_shape("latents", latents, (self.latent_dim,))
        return self.layers(self.linear(latents).unflatten(1, self.coarsest_shape))


class DCGANDiscriminator(RecordsArguments, nn.Module):
    """Map images ``[N, channels, image_size, image_size]`` to raw scores ``[N]``.

    4x4 convolutions of stride 2 halve the size down to the coarsest feature map, with leaky ReLU (slope 0.2) after
    each and batch normalisation after all but the first; a linear layer makes the score.

    Args:
        image_size: height and width of the images: 32, 48 or 64. Default: 32.
        channels: channels of the images. Default: 3.
        width: channels of the first layer. Default: ``None``, the 64 of the paper.
        batch_norm: whether there is batch normalisation, as in the paper. Leave it out under a gradient penalty, which
            needs scores that do not depend on each other's images.
        initialization: "normal" (standard deviation 0.02, as in the paper), "xavier_uniform" or "orthogonal".

    Attributes:
        image_shape: ``(channels, image_size, image_size)``.
        init_args: the constructor's arguments.
    """

    def __init__(
        self,
        image_size: int = 32,
        channels: int = 3,
        width: Optional[int] = None,
        batch_norm: bool = True,
        initialization: Initialization = "normal",
    ) -> None:
        super().__init__()
        halvings = select_plan(_HALVINGS, image_size)
        width = _WIDTH if width is None else width
        require_at_least(1, channels=channels, width=width)
        self.image_shape = (channels, image_size, image_size)

        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        widths = [width * 2**level for level in range(halvings)]
        for fine, coarse in pairwise(widths):
            layers.append(nn.Conv2d(fine, coarse, 4, 2, 1, bias=not batch_norm))
            layers += [nn.BatchNorm2d(coarse)] if batch_norm else []
            layers.append(nn.LeakyReLU(0.2))
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Linear(widths[-1] * (image_size // 2**halvings) ** 2, 1)
        initialize(self, initialization)

    def forward(self, images: Tensor) -> Tensor:
        """Return raw scores ``[N]`` for images ``[N, *image_shape]``."""
        require_shape("images", images, self.image_shape)
        return self.linear(self.layers(images).flatten(1)).squeeze(1)
