"""Losses and scores on held-out images."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pcgan_lightning.modules._game import GameModule

EVALUATED = ("loss/discriminator", "loss/generator", "score/real", "score/fake")


class HeldOutLosses:
    """Means of both players' losses and scores over a set of images, the same for any number of processes.

    Args:
        module: the game. Its latents here are a row of their own, one to each image of the set, of which n processes
            take every n-th: an evaluation must not move the training's stream.
    """

    def __init__(self, module: "GameModule") -> None:
        self._module = module
        self._images = 0  # that this process has seen
        self._sums = torch.zeros(len(EVALUATED) + 1, device=module.device)  # each mean times its images, and the images

    def add(self, real: Tensor) -> None:
        """Take in a batch of images ``[N, C, H, W]``."""
        module, world, rank = self._module, self._module.trainer.world_size, self._module.trainer.global_rank
        numbers = range(self._images, self._images + len(real))
        self._images += len(real)
        fake = module(torch.cat([module.fixed_latents(1, seed=rank + world * number) for number in numbers]))
        real_scores, fake_scores = module.scores(real, fake)
        generator_loss, discriminator_loss = module.losses(real_scores, fake_scores)
        means = torch.stack([discriminator_loss, generator_loss, real_scores.mean(), fake_scores.mean()])
        self._sums += len(real) * torch.cat([means, means.new_ones(1)])

    def means(self, stage: str) -> dict[str, Tensor]:
        """Return the means over the images of all processes, by name, after ``stage/``."""
        # Not by Lightning's `sync_dist`, which rounds the number of images where processes have unequally many.
        sums = self._module.trainer.strategy.reduce(self._sums, reduce_op="sum")
        return dict(zip([f"{stage}/{name}" for name in EVALUATED], sums[:-1] / sums[-1], strict=True))
