"""Points of a mixture of Gaussians on a circle, as a LightningDataModule."""

import math
from typing import Optional, Union

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from pcgan_lightning.arguments import require_at_least, require_positive
from pcgan_lightning.data.loaders import TrainLoader, pass_seed

__all__ = ["MixtureLoader", "MixtureOfGaussians", "ring_of_modes"]


def ring_of_modes(modes: int = 8, radius: float = 2.0) -> Tensor:
    r"""Return the modes' centres :math:`r(\cos 2\pi k/K, \sin 2\pi k/K)`, float32 ``[modes, 2]``.

    Args:
        modes: K, at least 1. Default: the 8 of JARE's mixture.
        radius: r, positive. Default: that of JARE's mixture, mu / 2 with mu = 4.

    Raises:
        ValueError: For arguments out of range.
    """
    require_at_least(1, modes=modes)
    require_positive(radius=radius)
    angles = 2 * math.pi / modes * torch.arange(modes, dtype=torch.float64)
    return (radius * torch.stack([angles.cos(), angles.sin()], dim=1)).float()


class MixtureLoader(TrainLoader):
    """Serves fresh points of a mixture of isotropic Gaussians, without end.

    A batch depends on the seed and its number alone. As in the JARE authors' code, the modes take turns rather than
    being drawn, so that an update of a multiple of K points sees each of the K modes equally often.

    Args:
        centers: float32, [K, d].
        std: Standard deviation of each mode in each direction.
        iterations_per_epoch: `len` of this loader.
        device: Where the batches go.
        batch_size: Points of one discriminator update in this process.
        discriminator_steps: Discriminator updates of one iteration.
        rank: Number of this process.
        world_size: Number of processes.
        seed: Not negative; the same in every process.

    Yields:
        float32, [discriminator_steps * batch_size, d].
    """

    def __init__(
        self,
        centers: Tensor,
        std: float,
        iterations_per_epoch: int,
        device: Union[str, torch.device],
        batch_size: int,
        discriminator_steps: int = 1,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, discriminator_steps, rank, world_size, seed)
        self.centers = centers
        self.std = std
        self.iterations_per_epoch = iterations_per_epoch
        self.device = device

    def __len__(self) -> int:
        return self.iterations_per_epoch

    def _next_batch(self) -> Tensor:
        generator = torch.Generator().manual_seed(pass_seed(self.seed, self.position))
        noise = torch.randn(self.images_per_iteration, self.centers.shape[1], generator=generator)
        modes = (self.position * self.images_per_iteration + self._own_places) % len(self.centers)
        return (self.centers[modes] + self.std * noise[self._own_places]).to(self.device)


class MixtureOfGaussians(LightningDataModule):
    """Points of a mixture of Gaussians on a circle: float32, [batch, 2], fresh in every iteration.

    As with :class:`ImageDataModule`, a batch holds the points of **one iteration** of the GAN (`discriminator_steps *
    batch_size` of them), depends on the seed and the iteration alone, is this process's slice of what one process
    would see, and a resumed run goes on with the very next one.

    Args:
        modes: Number of Gaussians, their centres equally far apart. The defaults are those of the JARE authors' code.
        radius: Of the circle.
        std: Standard deviation of each Gaussian in each direction.
        batch_size: Points of one discriminator update in one process.
        iterations_per_epoch: Batches that Lightning calls an epoch; the data have no end.
        seed: Fixes the points. None: torch's initial seed, which `seed_everything` sets. A resumed run keeps the seed
            that it began with.

    Attributes:
        image_shape: (2,), the shape of a point.
        centers: Of the modes, float32, [modes, 2].

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
        super().__init__()
        for name, value in (("std", std), ("batch_size", batch_size), ("iterations_per_epoch", iterations_per_epoch)):
            if value <= 0:
                raise ValueError(f"argument `{name}` must be positive, got {value}")
        if seed is not None and seed < 0:
            raise ValueError(f"argument `seed` must not be negative, got {seed}")
        self.image_shape = (2,)
        self.centers = ring_of_modes(modes, radius)
        self.std = std
        self.batch_size = batch_size
        self.iterations_per_epoch = iterations_per_epoch
        self.seed = seed
        self._loader: Optional[MixtureLoader] = None

    def setup(self, stage: str) -> None:
        """Makes a loader that stands at the beginning; a checkpoint moves it."""
        if stage != "fit":
            verb = getattr(stage, "value", stage)
            raise ValueError(f"argument `data` must have held-out points to {verb} on, got MixtureOfGaussians")
        seed = torch.initial_seed() if self.seed is None else self.seed
        settings = (self.centers, self.std, self.iterations_per_epoch)
        if self.trainer is None:
            self._loader = MixtureLoader(*settings, "cpu", self.batch_size, seed=seed)
            return
        strategy = self.trainer.strategy
        self._loader = MixtureLoader(
            *settings,
            device=strategy.root_device,
            batch_size=self.batch_size,
            discriminator_steps=getattr(self.trainer.lightning_module, "discriminator_steps", 1),
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            seed=strategy.broadcast(seed),
        )

    def train_dataloader(self) -> MixtureLoader:
        """The loader, which goes on where this run, or the one that it resumes, stands in the data."""
        return self._made_loader()

    def val_dataloader(self) -> list:
        """Nothing to validate on; an empty list, which Lightning skips."""
        return []

    def state_dict(self) -> dict[str, int]:
        """The place in the data."""
        return self._made_loader().state_dict()

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Goes on from a place in the data."""
        self._made_loader().load_state_dict(state_dict)

    def _made_loader(self) -> MixtureLoader:
        if self._loader is None:
            raise RuntimeError("`setup` of MixtureOfGaussians must be called first")
        return self._loader
