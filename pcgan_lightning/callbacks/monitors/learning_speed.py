"""How fast the discriminator would learn if the generator stood still, over training."""

import copy
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from typing_extensions import override

from pcgan_lightning.arguments import require_at_least
from pcgan_lightning.callbacks.monitors._steps import optimizer_of
from pcgan_lightning.callbacks.monitors.monitor import Monitor


class LearningSpeedLogger(Monitor):
    """Log the discriminator's loss before and after extra steps against the generator as it stands.

    Every `every_n_steps` iterations a copy of the discriminator and of its optimizer, state included, makes `steps`
    steps on the iteration's real images and as many images of the generator as it stands, of fixed latents, with the
    adversarial loss alone: ``learning/loss_before``, ``learning/loss_after`` and ``learning/decrease``, their
    difference. All three are of the same images, so that they tell how fast the discriminator descends from where it
    is, not how well it generalises. Nothing of the training changes: no weight, no random state.

    For the modules of this package, and others with ``discriminator``, ``loss``, ``fixed_latents``, ``sample_images``
    and ``real_images`` like them. With several processes the first one measures, on its own images.

    Args:
        every_n_steps: iterations (training batches) between measurements.
        steps: extra steps of the copy.

    Attributes:
        series: ``{"iteration": [...], "loss_before": [...], "loss_after": [...], "decrease": [...]}``.

    Raises:
        ValueError: for arguments out of range.
        TypeError: before training, for a module that lacks one of the above.
    """

    at_end = False
    first_process_alone = True
    needs_samples = True
    prefix = "learning/"

    def __init__(self, every_n_steps: int = 500, steps: int = 10) -> None:
        super().__init__(every_n_steps)
        require_at_least(1, steps=steps)
        self.steps = steps

    @override
    def setup(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        for name in ("discriminator", "loss", "real_images"):
            if not hasattr(pl_module, name):
                raise TypeError(f"LearningSpeedLogger needs a module with `{name}`, got {type(pl_module).__name__}")

    @override
    def measure(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", batch: Any) -> dict[str, float]:
        gan: Any = pl_module  # `setup` has looked
        real = gan.real_images(batch).detach()
        fake = gan.sample_images(gan.fixed_latents(len(real)), averaged=False)
        losses = self.losses(trainer, pl_module, real, fake)
        return {"loss_before": losses[0], "loss_after": losses[-1], "decrease": losses[0] - losses[-1]}

    @torch.enable_grad()
    def losses(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", real: Tensor, fake: Tensor) -> list[float]:
        """Return the losses of a copy before its steps and after each of them, ``steps + 1``."""
        own: Any = pl_module.discriminator
        # In one call, so that the copied optimizer holds the copied parameters.
        discriminator, optimizer = copy.deepcopy((own, optimizer_of(trainer, "discriminator", own)))
        discriminator.requires_grad_(True).train()
        found = []
        for _ in range(self.steps):
            loss = _loss(pl_module, discriminator, real, fake)
            found.append(loss.detach())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            found.append(_loss(pl_module, discriminator, real, fake))
        return torch.stack(found).tolist()


def _loss(gan: Any, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    with parametrize.cached():
        return gan.loss.discriminator(discriminator(real), discriminator(fake))
