"""The classical game: alternating updates of discriminator and generator."""

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import torch
from torch import Tensor, nn
from typing_extensions import override

from pcgan_lightning.arguments import require_at_least
from pcgan_lightning.losses import AdversarialLoss, DiscriminatorPenalty
from pcgan_lightning.modules._processes import Share
from pcgan_lightning.modules.two_player import TwoPlayerModule


class GAN(TwoPlayerModule):
    r"""A GAN with alternating :math:`(D_{it}, G_{it})` updates and any loss, networks and optimizers.

    One iteration is one turn of each player: `discriminator_steps` discriminator updates, each on a fresh real batch
    and fresh latents, and `generator_steps` generator updates. It is one batch of the loader, one
    ``trainer.global_step``, one unit of ``max_steps``, of checkpoint names and of every logged x-axis.

    The loader's batch holds the real images of the whole iteration and is cut into `discriminator_steps` equal
    parts. ``ImageDataModule`` sizes its batches so; with a loader of your own, let its ``batch_size`` be
    `discriminator_steps` times the images of one update.

    Logged: ``loss/discriminator`` (penalty included), ``loss/penalty`` where there is one, ``loss/generator`` and the
    mean scores ``score/real``, ``score/fake``, means over the updates of the iteration.

    Args:
        generator: see :class:`TwoPlayerModule`, as for all further arguments.
        discriminator: the other player. Preconditioning is put on from outside, by a callback or a function.
        loss: the adversarial loss. Default: hinge.
        discriminator_steps: :math:`D_{it} \ge 1`.
        generator_steps: :math:`G_{it} \ge 1`.
        discriminator_first: whether the discriminator has the first turn of an iteration.
        penalty: what is added to the discriminator's loss in training, such as ``GradientPenalty``.
        **kwargs: optimizers, schedulers and averaging.

    Raises:
        ValueError: for arguments out of range.
    """

    def __init__(
        self,
        generator: Optional[nn.Module] = None,
        discriminator: Optional[nn.Module] = None,
        loss: Optional[AdversarialLoss] = None,
        discriminator_steps: int = 1,
        generator_steps: int = 1,
        discriminator_first: bool = True,
        penalty: Optional[DiscriminatorPenalty] = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(generator, discriminator, loss, **kwargs)
        require_at_least(1, discriminator_steps=discriminator_steps, generator_steps=generator_steps)
        self.discriminator_steps = discriminator_steps
        self.generator_steps = generator_steps
        self.discriminator_first = discriminator_first
        self.penalty = penalty
        self.record_arguments(
            discriminator_steps=discriminator_steps,
            generator_steps=generator_steps,
            discriminator_first=discriminator_first,
            penalty=penalty,
            ema_decay=self.ema_decay,
        )

    @property
    @override
    def updates_per_batch(self) -> int:
        return self.discriminator_steps

    @override
    def play(self, real: Tensor, shares: Sequence[Share]) -> Mapping[str, Tensor]:
        if len(real) < self.discriminator_steps:
            raise ValueError(
                f"a batch of the loader must hold at least `discriminator_steps` = {self.discriminator_steps} "
                f"images, one for each discriminator update, got {len(real)}"
            )
        parts = real.tensor_split(self.discriminator_steps)
        if self.discriminator_first:
            return self._discriminator_turn(parts, shares) | self._generator_turn(shares[0])
        return self._generator_turn(shares[0]) | self._discriminator_turn(parts, shares)

    def _discriminator_turn(self, parts: Sequence[Tensor], shares: Sequence[Share]) -> dict[str, Tensor]:
        records = []
        with self.turn_of("discriminator"):
            for real, share in zip(parts, shares, strict=True):
                record = self._discriminator_update(real, share)
                records.append({name: share.weigh(value) for name, value in record.items()})
        return {name: torch.stack([record[name] for record in records]).mean() for name in records[0]}

    def _discriminator_update(self, real: Tensor, share: Share) -> dict[str, Tensor]:
        with torch.no_grad():
            fake = self.generator(self.draw_latents(share))
        loss, real_scores, fake_scores = self.discriminator_loss(real, fake)
        record = {"score/real": real_scores.mean(), "score/fake": fake_scores.mean()}
        if self.penalty is not None:
            penalty = self.penalty(self.discriminator, real, fake, self.draw_uniform(share))
            loss, record["loss/penalty"] = loss + penalty, penalty.detach()
        self.update("discriminator", share.weigh(loss))
        return record | {"loss/discriminator": loss.detach()}

    def _generator_turn(self, share: Share) -> dict[str, Tensor]:
        losses = []
        with self.turn_of("generator"):
            for _ in range(self.generator_steps):
                scores = self.discriminator(self.generator(self.draw_latents(share)))
                losses.append(share.weigh(self.loss.generator(scores)))
                self.update("generator", losses[-1])
        return {"loss/generator": torch.stack([loss.detach() for loss in losses]).mean()}

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the discriminator's loss on images ``[N, C, H, W]``, and the detached scores of real and fake."""
        real_scores, fake_scores = self.scores(real, fake)
        loss = self.loss.discriminator(real_scores, fake_scores)
        return loss, real_scores.detach().float(), fake_scores.detach().float()
