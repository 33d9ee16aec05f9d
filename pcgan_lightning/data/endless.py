"""Data that are drawn anew for every iteration, without end: the loaders' base, and the LightningDataModules'."""

from typing import Optional

import torch
from lightning.pytorch import LightningDataModule
from torch import Generator, Tensor

from pcgan_lightning.arguments import require_at_least, require_not_negative
from pcgan_lightning.data.loaders import TrainLoader, pass_seed


class EndlessLoader(TrainLoader):
    """Serves fresh data without end; a batch depends on the seed and its number alone.

    Args:
        iterations_per_epoch: `len` of this loader.
        slices: as of every loader: `batch_size`, `discriminator_steps`, `rank`, `world_size`, `seed`.
    """

    def __init__(self, iterations_per_epoch: int, **slices: int) -> None:
        super().__init__(**slices)
        self.iterations_per_epoch = iterations_per_epoch

    def __len__(self) -> int:
        return self.iterations_per_epoch

    def _next_batch(self) -> Tensor:
        return self._draw(torch.Generator().manual_seed(pass_seed(self.seed, self.position)))

    def _draw(self, generator: Generator) -> Tensor:
        """This process's part of the batch at `position`; all processes draw that of all, and keep their places."""
        raise NotImplementedError


class EndlessDataModule(LightningDataModule):
    """A LightningDataModule over such a loader; a resumed run goes on with the very next batch.

    Args:
        batch_size: images or points of one discriminator update in one process.
        iterations_per_epoch: batches that Lightning calls an epoch.
        seed: fixes the data. None: torch's initial seed. A resumed run keeps the seed that it began with.

    Raises:
        ValueError: for arguments out of range; for a stage other than "fit".
    """

    def __init__(self, batch_size: int, iterations_per_epoch: int, seed: Optional[int]) -> None:
        super().__init__()
        require_at_least(1, batch_size=batch_size, iterations_per_epoch=iterations_per_epoch)
        require_not_negative(seed=seed)
        self.batch_size = batch_size
        self.iterations_per_epoch = iterations_per_epoch
        self.seed = seed
        self._loader: Optional[EndlessLoader] = None

    def _make_loader(self, device: torch.device, **slices: int) -> EndlessLoader:
        """A loader that stands at the beginning, and whose batches lie on a device."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        """Makes a loader that stands at the beginning; a checkpoint moves it."""
        kind = type(self).__name__
        if stage != "fit":
            raise ValueError(
                f"argument `data` must have held-out data to {getattr(stage, 'value', stage)} on, got {kind}"
            )
        seed = torch.initial_seed() if self.seed is None else self.seed
        if self.trainer is None:
            self._loader = self._make_loader(torch.device("cpu"), batch_size=self.batch_size, seed=seed)
            return
        strategy = self.trainer.strategy
        self._loader = self._make_loader(
            strategy.root_device,
            batch_size=self.batch_size,
            discriminator_steps=getattr(self.trainer.lightning_module, "discriminator_steps", 1),
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            seed=strategy.broadcast(seed),
        )

    def train_dataloader(self) -> EndlessLoader:
        """The loader, which goes on where this run, or the one that it resumes, stands in the data."""
        if self._loader is None:
            raise RuntimeError(f"`setup` of {type(self).__name__} must be called first")
        return self._loader

    def val_dataloader(self) -> list:
        """Nothing to validate on; an empty list, which Lightning skips."""
        return []

    def state_dict(self) -> dict[str, int]:
        """The place in the data."""
        return self.train_dataloader().state_dict()

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Goes on from a place in the data."""
        self.train_dataloader().load_state_dict(state_dict)
