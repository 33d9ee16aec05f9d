"""Fully connected networks for small data, such as points in the plane; defaults of JARE's mixture of Gaussians."""

from math import prod

from torch import Tensor, nn

from pcgan_lightning.arguments import RecordsArguments, require_at_least, require_positive
from pcgan_lightning.networks._common import (
    Initialization,
    initialize,
    require_shape,
)


class MLPGenerator(RecordsArguments, nn.Module):
    """Map latents ``[N, latent_dim]`` to points ``[N, *image_shape]`` of any value.

    ``hidden_layers`` linear layers with ReLU and a linear one, after multiplying the latents by ``latent_scale``. The
    scale belongs to the generator: whoever draws latents draws z ~ N(0, I), and a checkpoint brings its scale along.

    Args:
        image_shape: shape of a point. Default: (2,), the plane.
        latent_dim: size of a latent vector. Default: 64.
        width: units of a hidden layer. Default: 256.
        hidden_layers: their number. Default: 4.
        latent_scale: standard deviation of what the first layer sees, positive. Default: 2, the mixture's sqrt(4).
        initialization: distribution of the initial weights, "xavier_uniform", "orthogonal" or "normal" (standard
            deviation 0.02). Default: "xavier_uniform", as in the authors' code.

    Attributes:
        latent_dim: size of a latent vector.
        image_shape: shape of a point.
        init_args: the constructor's arguments.
    """

    def __init__(
        self,
        image_shape: tuple[int, ...] = (2,),
        latent_dim: int = 64,
        width: int = 256,
        hidden_layers: int = 4,
        latent_scale: float = 2.0,
        initialization: Initialization = "xavier_uniform",
    ) -> None:
        super().__init__()
        require_at_least(1, latent_dim=latent_dim)
        require_positive(latent_scale=latent_scale)
        self.image_shape = _checked_shape(image_shape)
        self.latent_dim = latent_dim
        self.latent_scale = latent_scale
        self.layers = _mlp(latent_dim, width, hidden_layers, prod(self.image_shape))
        initialize(self, initialization)

    def forward(self, latents: Tensor) -> Tensor:
        """Return points ``[N, *image_shape]`` for latents ``[N, latent_dim]``."""
        require_shape("latents", latents, (self.latent_dim,))
        return self.layers(self.latent_scale * latents).unflatten(1, self.image_shape)


class MLPDiscriminator(RecordsArguments, nn.Module):
    """Map points ``[N, *image_shape]`` to raw scores ``[N]``: hidden layers with ReLU, and a linear one.

    Args:
        image_shape: shape of a point. Default: (2,), the plane.
        width: units of a hidden layer. Default: 256.
        hidden_layers: their number. Default: 4.
        initialization: distribution of the initial weights, "xavier_uniform", "orthogonal" or "normal" (standard
            deviation 0.02). Default: "xavier_uniform", as in the authors' code.

    Attributes:
        image_shape: shape of a point.
        init_args: the constructor's arguments.
    """

    def __init__(
        self,
        image_shape: tuple[int, ...] = (2,),
        width: int = 256,
        hidden_layers: int = 4,
        initialization: Initialization = "xavier_uniform",
    ) -> None:
        super().__init__()
        self.image_shape = _checked_shape(image_shape)
        self.layers = _mlp(prod(self.image_shape), width, hidden_layers, 1)
        initialize(self, initialization)

    def forward(self, images: Tensor) -> Tensor:
        """Return raw scores ``[N]`` for points ``[N, *image_shape]``."""
        require_shape("images", images, self.image_shape)
        return self.layers(images.flatten(1)).squeeze(1)


def _mlp(features_in: int, width: int, hidden_layers: int, features_out: int) -> nn.Sequential:
    require_at_least(1, width=width, hidden_layers=hidden_layers)
    layers: list[nn.Module] = [nn.Linear(features_in, width), nn.ReLU()]
    for _ in range(hidden_layers - 1):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, features_out))


def _checked_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    if not shape or min(shape) < 1:
        raise ValueError(f"argument `image_shape` must hold sizes of at least 1, got {tuple(shape)}")
    return tuple(shape)
