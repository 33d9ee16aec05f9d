"""The game as the theory has it: both players move at once, from the same point."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Optional

from torch import Tensor, nn
from typing_extensions import override

from pcgan_lightning.games import PLAYERS, GameMethod, SimGD, trial_step
from pcgan_lightning.losses import AdversarialLoss
from pcgan_lightning.modules._method import MethodModule
from pcgan_lightning.modules._processes import Share, mean_over_processes


class SimultaneousGAN(MethodModule):
    r"""A GAN with simultaneous updates: plain, regularised, adjusted or extrapolated.

    One iteration is one step of each player, along gradients at the same point: one batch of the loader, one batch of
    latents and one forward pass, shared by both. It is one ``trainer.global_step``, as in :class:`GAN`. A method that
    looks ahead (ExtraGradient) makes a trial step of both optimizers and one more forward pass on the same batch and
    latents. Weights and buffers are put back: statistics of batch normalisation and singular vectors move once an
    iteration, by the forward pass at the point itself and by the update. The optimizers' own states go through both
    steps.

    Logged: ``loss/discriminator``, ``loss/generator`` (without the regulariser) and the mean scores ``score/real``,
    ``score/fake``.

    Args:
        generator: see :class:`TwoPlayerModule`, as for all further arguments.
        discriminator: the other player. Preconditioning is put on from outside, by a callback or a function.
        loss: the adversarial loss. Default: hinge.
        method: what the players descend along, such as ``JARE(gamma)``, of ``pcgan_lightning.games``. Default: SimGD.
        **kwargs: optimizers, schedulers and averaging.

    Raises:
        ValueError: for arguments out of range; at the start, for a trainer of 16-bit floats with a loss scale; in
            training, for a `method` that needs second derivatives that the networks lack.
    """

    def __init__(
        self,
        generator: Optional[nn.Module] = None,
        discriminator: Optional[nn.Module] = None,
        loss: Optional[AdversarialLoss] = None,
        method: Optional[GameMethod] = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(generator, discriminator, loss, **kwargs)
        self.method: GameMethod = method if method is not None else SimGD()
        self.record_arguments(method=self.method, ema_decay=self.ema_decay)

    @override
    def play(self, real: Tensor, shares: Sequence[Share]) -> Mapping[str, Tensor]:
        (share,) = shares
        latents, players = self.draw_latents(share), self.trained
        scores = self.scores(real, self.generator(latents))
        losses = self.weighed_losses(scores, share)

        def losses_ahead() -> tuple[Tensor, Tensor]:
            generator, discriminator = self.game_losses(real, latents)
            return share.weigh(generator), share.weigh(discriminator)

        look_ahead = partial(
            trial_step,
            players=players,
            optimizers=[self.optimizer_of(player).optimizer for player in PLAYERS],  # torch's own, uncounted
            losses=losses_ahead,
            buffers=[*self.generator.buffers(), *self.discriminator.buffers()],
        )
        mean = partial(mean_over_processes, self.trainer)
        directions = self.method(*losses, *players, mean, look_ahead)
        for player, parameters, gradients in zip(PLAYERS, players, directions, strict=True):
            self.descend(player, parameters, gradients)
        return self.record_of(scores, losses, share)
