"""The game without a descending discriminator: its inner problem is solved, and the generator climbs what is left."""

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import torch
from torch import Tensor, nn
from typing_extensions import override

from pcgan_lightning.arguments import require_at_least
from pcgan_lightning.games import DualingMethod, ScoreLinearization
from pcgan_lightning.losses import SaturatingLoss
from pcgan_lightning.modules._method import MethodModule
from pcgan_lightning.modules._optimizers import trained_parameters
from pcgan_lightning.modules._processes import Share, mean_over_processes
from pcgan_lightning.spectra import without_autocast


def whole_step(parameters: Any) -> torch.optim.SGD:
    """Return plain gradient descent of learning rate 1."""
    return torch.optim.SGD(parameters, lr=1.0)


class DualingGAN(MethodModule):
    r"""A Dualing GAN: the dual of the discriminator's problem is climbed by the generator and the dual variables.

    Li et al., "Dualing GANs", 2017, with the minimax game of the log loss. One iteration takes one batch of the loader
    and as many latents. `steps` times the dual variables of these samples climb, then the generator along the dual's
    gradient, the samples drawn anew from the same latents; then the discriminator moves from w to w + s, both of the
    last of these points. It moves by gradient descent of learning rate 1 along -s, so that whatever follows an
    optimizer (PC-layers, callbacks) follows it, and a scheduler may shorten s.

    Logged: ``dual/primal`` and ``dual/value`` (of the discriminator's problem and its dual, per half of the samples, as
    in the paper), ``dual/gap``, ``dual/bound_share`` (of dual variables at their bounds), ``dual/multiplier`` (of the
    trust region), ``dual/step`` (the length of s), as far as the method has them; ``loss/discriminator`` and
    ``loss/generator`` without weight decay, and the mean scores ``score/real``, ``score/fake``.

    Args:
        generator: see :class:`TwoPlayerModule`.
        discriminator: the other player. Preconditioning is put on from outside, by a callback or a function; C then
            decays the weights below it.
        method: what stands for the discriminator's minimum: ``LinearDual``, ``ScoreLinearization`` or
            ``CostLinearization`` of ``pcgan_lightning.games``. Default: ScoreLinearization.
        steps: of the generator and the dual variables, for one of the discriminator, at least 1.
        generator_optimizer: see :class:`TwoPlayerModule`, as for all further arguments.
        generator_scheduler: the same.
        discriminator_scheduler: of the learning rate 1.
        ema_decay: see :class:`TwoPlayerModule`.

    Raises:
        ValueError: for arguments out of range or a discriminator without parameters to train; at the start, for a
            trainer of 16-bit floats with a loss scale, a discriminator in them whose scores the method differentiates
            again, or a batch of one; in training, for a discriminator that lacks the second derivatives, or the
            linearity, that the method needs.
    """

    def __init__(
        self,
        generator: Optional[nn.Module] = None,
        discriminator: Optional[nn.Module] = None,
        method: Optional[DualingMethod] = None,
        steps: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(generator, discriminator, SaturatingLoss(), discriminator_optimizer=whole_step, **kwargs)
        require_at_least(1, steps=steps)
        if not trained_parameters(self.discriminator):
            raise ValueError(
                f"argument `discriminator` must have parameters to train, got {type(self.discriminator).__name__} "
                "without any"
            )
        self.method: DualingMethod = method if method is not None else ScoreLinearization()
        self.steps = steps
        networks = {"generator": self.generator, "discriminator": self.discriminator}
        self.record(networks, {"method": self.method, "steps": steps, "ema_decay": self.ema_decay})

    @override
    def on_fit_start(self) -> None:
        super().on_fit_start()
        # By now the trainer's precision has converted them.
        self.method.require_digits(discriminator=self.trained[1])
        self._check_batches(self.trainer.datamodule)  # type: ignore[attr-defined]  # Lightning sets it later

    @override
    def on_train_start(self) -> None:
        super().on_train_start()
        self._check_batches(self.trainer.train_dataloader)

    def _check_batches(self, source: Any) -> None:
        """Refuse one sample for an iteration, where a datamodule or a loader tells."""
        size = getattr(source, "batch_size", None)
        if size is not None and size * self.trainer.world_size < 2:
            raise ValueError(f"argument `batch_size` of the data must be at least 2 for DualingGAN, got {size}")

    @override
    def scores(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        if not self.twice_differentiated:
            return super().scores(real, fake)
        # In mixed precision the generator runs under autocast; the discriminator needs all its digits.
        dtype = next(self.discriminator.parameters()).dtype
        with without_autocast(self.device.type):
            return super().scores(real.to(dtype), fake.to(dtype))

    @override
    def play(self, real: Tensor, shares: Sequence[Share]) -> Mapping[str, Tensor]:
        (share,) = shares
        latents, logits, players = self.draw_latents(share), None, self.trained
        for _ in range(self.steps):
            scores = self.scores(real, self.generator(latents))
            losses = self.weighed_losses(scores, share)
            update = self.method(*scores, *players, self._total, logits)
            logits = update.logits
            self.descend("generator", players[0], update.generator)
        self.descend("discriminator", players[1], [-s for s in update.step])
        return self.record_of(scores, losses, share) | update.record

    def _total(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self.trainer.world_size == 1:
            return tensors
        # Scalars and vectors of one dtype travel in one message.
        means = mean_over_processes(self.trainer, tensors)
        return tuple(self.trainer.world_size * mean for mean in means)
