"""Networks of one width at every resolution, without batch normalisation: C to F of the JARE paper.

C and D train the same networks, of plain strided convolutions, with different optimizers; E and F have small residual
branches beside the strided convolutions and differ in the end of the generator.

=======  ========  ===================
network  residual  final_convolution
=======  ========  ===================
C, D     False     False
E        True      False
F        True      True
=======  ========  ===================
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from pcgan_lightning.arguments import RecordsArguments, require_at_least
from pcgan_lightning.networks._common import (
    Initialization,
    initialize,
    require_shape,
)

# A plain network has kernels of 5, a residual one of 4; both change the resolution by exactly 2.
_PLAIN: dict[str, Any] = {"kernel_size": 5, "stride": 2, "padding": 2}
_RESIDUAL: dict[str, Any] = {"kernel_size": 4, "stride": 2, "padding": 1}


class ConstantWidthGenerator(RecordsArguments, nn.Module):
    """Map latents ``[N, latent_dim]`` to images ``[N, channels, image_size, image_size]`` in [-1, 1].

    A linear layer with ReLU makes the coarsest feature map, three transposed convolutions of stride 2 with ReLU double
    its size, all of ``width`` channels; one more transposed convolution and tanh make the image, from 2x2 at 32 pixels.
    With ``final_convolution`` a 3x3 convolution takes the last one's place, so that the coarsest map is 4x4.

    Args:
        image_size: height and width of the images, a multiple of 16. Default: 32.
        channels: channels of the images. Default: 3.
        latent_dim: size of a latent vector. Default: 128.
        width: channels of every hidden layer. Default: 64.
        residual: kernels of 4x4 instead of 5x5, and after each hidden one ``x + 0.1 f(x)``, where f is two 3x3
            convolutions with ReLU after each, through half the width (rounded up). Default: ``False``.
        final_convolution: whether a 3x3 convolution makes the image. Default: ``False``.
        initialization: distribution of the initial weights, "xavier_uniform", "orthogonal" or "normal" (standard
            deviation 0.02). Default: "xavier_uniform", as in the authors' code.

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
        width: int = 64,
        residual: bool = False,
        final_convolution: bool = False,
        initialization: Initialization = "xavier_uniform",
    ) -> None:
        super().__init__()
        require_at_least(1, channels=channels, latent_dim=latent_dim, width=width)
        _require_multiple_of_16(image_size)
        self.latent_dim = latent_dim
        self.image_shape = (channels, image_size, image_size)

        coarsest = image_size // (8 if final_convolution else 16)
        self.coarsest_shape = (width, coarsest, coarsest)
        self.linear = nn.Linear(latent_dim, width * coarsest**2)
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [_doubling(width, width, residual), nn.ReLU()]
            layers += [_Residual(width)] if residual else []
        self.layers = nn.Sequential(*layers)
        if final_convolution:
            self.to_image: nn.Module = nn.Conv2d(width, channels, 3, padding=1)
        else:
            self.to_image = _doubling(width, channels, residual)
        initialize(self, initialization)

    def forward(self, latents: Tensor) -> Tensor:
        """Return images ``[N, *image_shape]`` in [-1, 1] for latents ``[N, latent_dim]``."""
        require_shape("latents", latents, (self.latent_dim,))
        features = relu(self.linear(latents)).unflatten(1, self.coarsest_shape)
        return torch.tanh(self.to_image(self.layers(features)))


class ConstantWidthDiscriminator(RecordsArguments, nn.Module):
    """Map images ``[N, channels, image_size, image_size]`` to raw scores ``[N]``.

    Four convolutions of stride 2 and of ``width`` channels, down to 2x2 at 32 pixels, with leaky ReLU (0.1) after each,
    or ReLU in a residual network; a linear layer makes the score. E and F have the same discriminator.

    Args:
        image_size: height and width of the images, a multiple of 16. Default: 32.
        channels: channels of the images. Default: 3.
        width: channels of every hidden layer. Default: 64.
        residual: kernels of 4x4 instead of 5x5, and after each ``x + 0.1 f(x)``, as in the generator. (In the authors'
            code the f of the first stage goes through the full width.) Default: ``False``.
        initialization: distribution of the initial weights, "xavier_uniform", "orthogonal" or "normal" (standard
            deviation 0.02). Default: "xavier_uniform", as in the authors' code.

    Attributes:
        image_shape: ``(channels, image_size, image_size)``.
        init_args: the constructor's arguments.
    """

    def __init__(
        self,
        image_size: int = 32,
        channels: int = 3,
        width: int = 64,
        residual: bool = False,
        initialization: Initialization = "xavier_uniform",
    ) -> None:
        super().__init__()
        require_at_least(1, channels=channels, width=width)
        _require_multiple_of_16(image_size)
        self.image_shape = (channels, image_size, image_size)

        layers: list[nn.Module] = []
        for channels_in in (channels, width, width, width):
            if residual:
                layers += [nn.Conv2d(channels_in, width, **_RESIDUAL), nn.ReLU(), _Residual(width)]
            else:
                layers += [nn.Conv2d(channels_in, width, **_PLAIN), nn.LeakyReLU(0.1)]
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Linear(width * (image_size // 16) ** 2, 1)
        initialize(self, initialization)

    def forward(self, images: Tensor) -> Tensor:
        """Return raw scores ``[N]`` for images ``[N, *image_shape]``."""
        require_shape("images", images, self.image_shape)
        return self.linear(self.layers(images).flatten(1)).squeeze(1)


class _Residual(nn.Module):
    """x + 0.1 f(x): a branch that starts small keeps a deep network trainable without normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = (width + 1) // 2
        self.conv1 = nn.Conv2d(width, half, 3, padding=1)
        self.conv2 = nn.Conv2d(half, width, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        return features + 0.1 * relu(self.conv2(relu(self.conv1(features))))


def _doubling(channels_in: int, channels_out: int, residual: bool) -> nn.ConvTranspose2d:
    if residual:
        return nn.ConvTranspose2d(channels_in, channels_out, **_RESIDUAL)
    # Of the two sizes that a 5x5 kernel of stride 2 would reduce to the same, the even one.
    return nn.ConvTranspose2d(channels_in, channels_out, **_PLAIN, output_padding=1)


def _require_multiple_of_16(image_size: int) -> None:
    if image_size < 16 or image_size % 16:
        raise ValueError(f"argument `image_size` must be a multiple of 16, got {image_size}")
