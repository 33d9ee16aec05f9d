"""Discriminators that are linear in what is trained, over features that are not; those of Dualing GANs."""

import copy
import math

import torch
from torch import Tensor, nn

from pcgan_lightning.arguments import RecordsArguments, require_at_least, require_positive
from pcgan_lightning.networks._common import require_shape
from pcgan_lightning.networks.evaluation_mode import evaluation_mode


class RandomFourierFeatures(RecordsArguments, nn.Module):
    r"""Features :math:`\sqrt{2/D} \cos(\omega_k^\top x + b_k)`, whose products approximate a Gaussian kernel.

    Rahimi and Recht, "Random features for large-scale kernel machines", 2007: :math:`\omega_k \sim N(0, I/h^2)` and
    :math:`b_k` uniform on the circle give :math:`\phi(x)^\top \phi(y) \approx e^{-\|x - y\|^2 / 2h^2}`, with an error
    of order :math:`1/\sqrt D`.

    Args:
        image_shape: shape of a point or an image. Default: (2,), the plane.
        count: D, at least 1.
        bandwidth: h, positive.
        seed: of the frequencies, which travel in the ``state_dict``.

    Attributes:
        image_shape: the same.
        init_args: the constructor's arguments.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(
        self, image_shape: tuple[int, ...] = (2,), count: int = 512, bandwidth: float = 1.0, seed: int = 0
    ) -> None:
        super().__init__()
        require_at_least(1, count=count)
        require_positive(bandwidth=bandwidth)
        source = torch.Generator().manual_seed(seed)
        self.image_shape = tuple(image_shape)
        size = math.prod(self.image_shape)
        self.register_buffer("frequencies", torch.randn(size, count, generator=source) / bandwidth)
        self.register_buffer("phases", 2 * math.pi * torch.rand(count, generator=source))

    def forward(self, images: Tensor) -> Tensor:
        """Return features ``[N, count]`` of ``[N, *image_shape]``."""
        require_shape("images", images, self.image_shape)
        angles = images.flatten(1) @ self.frequencies + self.phases
        return math.sqrt(2 / len(self.phases)) * angles.cos()


class PenultimateLayer(RecordsArguments, nn.Module):
    """Features of a network: what its last linear layer gets.

    Args:
        network: any network with a linear layer at its end. A copy of it is frozen and in evaluation mode.

    Attributes:
        image_shape: of the network, where it tells one.
        init_args: the constructor's arguments.

    Raises:
        ValueError: for a network without a linear layer inside it.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)
        names = [name for name, layer in self.network.named_modules() if name and isinstance(layer, nn.Linear)]
        if not names:
            raise ValueError(f"argument `network` must have a linear layer, got {type(network).__name__} without one")
        parent, _, last = names[-1].rpartition(".")
        setattr(self.network.get_submodule(parent), last, nn.Identity())
        if hasattr(network, "image_shape"):
            self.image_shape = network.image_shape

    def forward(self, images: Tensor) -> Tensor:
        """Return features ``[N, D]``."""
        with evaluation_mode(self.network):
            return self.network(images)


class LinearDiscriminator(RecordsArguments, nn.Module):
    r"""Scores :math:`w^\top \phi(x)`, ``[N]``: only w is trained.

    Args:
        features: phi, images -> ``[N, D]``; frozen. None: the identity.
        image_shape: shape of a point or an image. None: that of `features`, or the plane.

    Attributes:
        image_shape: the same.
        init_args: the constructor's arguments.

    Raises:
        ValueError: for features that are no rows, or whose number changes with the images.
    """

    def __init__(self, features: nn.Module | None = None, image_shape: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.features = (features if features is not None else nn.Flatten()).requires_grad_(False)
        found = image_shape if image_shape is not None else getattr(self.features, "image_shape", (2,))
        self.image_shape = tuple(found)
        with torch.no_grad(), evaluation_mode(self.features):
            sizes = [tuple(self.features(torch.zeros(n, *self.image_shape)).shape) for n in (2, 3)]
        if [size[:1] for size in sizes] != [(2,), (3,)] or any(len(size) != 2 for size in sizes):
            raise ValueError(f"argument `features` must give [N, D], got {sizes[0]} of 2 images and {sizes[1]} of 3")
        if sizes[0][1] != sizes[1][1]:
            raise ValueError(f"argument `features` must give as many for all images, got {sizes[0][1]}, {sizes[1][1]}")
        self.linear = nn.Linear(sizes[0][1], 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return raw scores ``[N]`` of ``[N, *image_shape]``."""
        require_shape("images", images, self.image_shape)
        features = self.features(images)
        count = self.linear.in_features
        if features.shape != (len(images), count):
            raise ValueError(
                f"argument `features` must give {count} numbers for each image, got {tuple(features.shape)}"
            )
        return self.linear(features).squeeze(1)
