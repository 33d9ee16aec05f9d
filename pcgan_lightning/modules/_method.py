"""What games have in common whose players descend along what a method makes of their scores or losses."""

from typing import Union

from torch import Tensor, nn
from typing_extensions import override

from pcgan_lightning.games import DualingMethod, GameMethod
from pcgan_lightning.modules._optimizers import trained_parameters
from pcgan_lightning.modules._processes import Share
from pcgan_lightning.modules.two_player import TwoPlayerModule


class MethodModule(TwoPlayerModule):
    """Base of games with a `method`, whose directions take the place of gradients that are backpropagated.

    Attributes:
        method: what the players' directions come from.
    """

    method: Union[GameMethod, DualingMethod]

    @property
    @override
    def twice_differentiated(self) -> bool:
        return self.method.twice_differentiated

    @property
    def trained(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The parameters of the generator and of the discriminator that are not frozen."""
        return trained_parameters(self.generator), trained_parameters(self.discriminator)

    def setup(self, stage: str) -> None:
        """Refuse a loss scale, which gradients that are not backpropagated would not have.

        Raises:
            ValueError: naming the trainer's precision.
        """
        super().setup(stage)
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            raise ValueError(
                f"argument `precision` of the trainer must not need a loss scale, got {self.trainer.precision!r}; use "
                "'bf16-mixed'"
            )

    def weighed_losses(self, scores: tuple[Tensor, Tensor], share: Share) -> tuple[Tensor, Tensor]:
        """Return the generator's and the discriminator's loss, weighed by this process's share."""
        generator, discriminator = (share.weigh(loss) for loss in self.losses(*scores))
        for loss in (generator, discriminator):
            # For callbacks that look at losses: it calls their hook, as a backward pass of Lightning's would.
            self.trainer.precision_plugin.pre_backward(loss, self)
        return generator, discriminator

    @staticmethod
    def record_of(scores: tuple[Tensor, Tensor], losses: tuple[Tensor, Tensor], share: Share) -> dict[str, Tensor]:
        """Return what every such game logs."""
        means = [share.weigh(own.detach().float().mean()) for own in scores]
        values = *means, *(loss.detach() for loss in reversed(losses))
        return dict(zip(("score/real", "score/fake", "loss/discriminator", "loss/generator"), values, strict=True))
