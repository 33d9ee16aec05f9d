"""Points of a mixture of Gaussians on a circle, as a LightningDataModule."""

import math
from typing import Optional

import torch
from torch import Generator, Tensor

from pcgan_lightning.arguments import require_at_least, require_positive
from pcgan_lightning.data.endless import EndlessDataModule, EndlessLoader

__all__ = ["MixtureLoader", "MixtureOfGaussians", "ring_of_modes"]


def ring_of_modes(modes: int = 8, radius: float = 2.0) -> Tensor:
    r"""Return the modes' centres :math:`r(\cos 2\pi k/K, \sin 2\pi k/K)`, float32 ``[modes, 2]``.

    Args:
        modes: K, at least 1. Default: the 8 of JARE's mixture.
        radius: r, positive. Default: that of JARE's mixture, mu / 2 with mu = 4.

    Raises:
        ValueError: for arguments out of range.
    """
    require_at_least(1, modes=modes)
    require_positive(radius=radius)
    angles = 2 * math.pi / modes * torch.arange(modes, dtype=torch.float64)
    return (radius * torch.stack([angles.cos(), angles.sin()], dim=1)).float()


class MixtureLoader(EndlessLoader):
    """Serves fresh points of a mixture of isotropic Gaussians, without end.

    As in the JARE authors' code, the modes take turns rather than being drawn, so that an update of a multiple of K
    points sees each of the K modes equally often.

    Args:
        centers: float32, [K, d]. Batches lie on its device.
        std: standard deviation of each mode in each direction.
        iterations_per_epoch: `len` of this loader.
        slices: as of every loader: `batch_size`, `discriminator_steps`, `rank`, `world_size`, `seed`.

    Yields:
        float32, [discriminator_steps * batch_size, d].
    """

    def __init__(self, centers: Tensor, std: float, iterations_per_epoch: int, **slices: int) -> None:
        super().__init__(iterations_per_epoch, **slices)
        self.centers = centers
        self.std = std

    def _draw(self, generator: Generator) -> Tensor:
        noise = torch.randn(self.images_per_iteration, self.centers.shape[1], generator=generator)
        modes = (self.position * self.images_per_iteration + self._own_places) % len(self.centers)
        return self.centers[modes] + self.std * noise[self._own_places].to(self.centers.device)


class MixtureOfGaussians(EndlessDataModule):
    """Points of a mixture of Gaussians on a circle: float32, [batch, 2], fresh in every iteration.

    As with :class:`ImageDataModule`, a batch holds the points of **one iteration** of the GAN (`discriminator_steps *
    batch_size` of them), depends on the seed and the iteration alone, is this process's slice of what one process
    would see, and a resumed run goes on with the very next one.

    Args:
        modes: number of Gaussians, their centres equally far apart. The defaults are those of the JARE authors' code.
        radius: of the circle.
        std: standard deviation of each Gaussian in each direction.
        batch_size: points of one discriminator update in one process.
        iterations_per_epoch: batches that Lightning calls an epoch; the data have no end.
        seed: fixes the points. None: torch's initial seed, which `seed_everything` sets. A resumed run keeps the seed
            that it began with.

    Attributes:
        image_shape: (2,), the shape of a point.
        centers: of the modes, float32, [modes, 2].

    Example:
        >>> data = MixtureOfGaussians(batch_size=16, seed=0)
        >>> data.setup("fit")
        >>> next(iter(data.train_dataloader())).shape
        torch.Size([16, 2])
    """

    def __init__(
        self,
        modes: int = 8,
        radius: float = 2.0,
        std: float = 0.06,
        batch_size: int = 128,
        iterations_per_epoch: int = 1000,
        seed: Optional[int] = None,
    ) -> None:
        super().__init__(batch_size, iterations_per_epoch, seed)
        require_positive(std=std)
        self.image_shape = (2,)
        self.centers = ring_of_modes(modes, radius)
        self.std = std

    def _make_loader(self, device: torch.device, **slices: int) -> MixtureLoader:
        return MixtureLoader(self.centers.to(device), self.std, self.iterations_per_epoch, **slices)
