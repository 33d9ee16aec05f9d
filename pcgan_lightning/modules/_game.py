"""Two networks and a loss, before anything is trained: samples, scores, losses, evaluation."""

from collections.abc import Mapping
from typing import Any, Optional

import torch
from torch import Tensor, nn
from typing_extensions import override

from pcgan_lightning.losses import AdversarialLoss, HingeLoss
from pcgan_lightning.modules._averaging import MovingAverage
from pcgan_lightning.modules._evaluation import HeldOutLosses
from pcgan_lightning.modules._recorded import RecordedModule
from pcgan_lightning.networks import ResNetDiscriminator, ResNetGenerator, evaluation_mode
from pcgan_lightning.spectra import shared_weights


class GameModule(RecordedModule):
    """A generator, a discriminator and a loss as a LightningModule that is evaluated and drawn from.

    Args:
        generator: latents ``[N, latent_dim]`` -> images ``[N, C, H, W]`` in [-1, 1]; needs an attribute
            ``latent_dim``. Default: ``ResNetGenerator()`` for 32x32 RGB.
        discriminator: images -> raw scores ``[N]``, without any normalisation. Default: ``ResNetDiscriminator()``.
        loss: the adversarial loss. Default: hinge.

    Attributes:
        averaged_generator: the moving average of the generator's weights, where a run keeps one.

    Raises:
        ValueError: for a generator without ``latent_dim``, or networks of different image shapes.
    """

    def __init__(
        self,
        generator: Optional[nn.Module] = None,
        discriminator: Optional[nn.Module] = None,
        loss: Optional[AdversarialLoss] = None,
    ) -> None:
        super().__init__()
        self.generator = generator if generator is not None else ResNetGenerator()
        self.discriminator = discriminator if discriminator is not None else ResNetDiscriminator()
        self.loss = loss if loss is not None else HingeLoss()
        if not hasattr(self.generator, "latent_dim"):
            raise ValueError(
                f"argument `generator` must have an attribute `latent_dim`, got {type(self.generator).__name__}"
            )
        check_same_shape("generator", self.generator, "discriminator", self.discriminator)
        self.averaged_generator: Optional[MovingAverage] = None
        self._held_out: Optional[HeldOutLosses] = None

    @property
    def latent_dim(self) -> int:
        """Size of the generator's input."""
        return self.generator.latent_dim  # type: ignore[return-value]  # of a module: Tensor or Module to torch

    def forward(self, latents: Tensor) -> Tensor:
        """Return images ``[N, C, H, W]`` of the averaged generator where there is one, else of the generator."""
        return (self.generator if self.averaged_generator is None else self.averaged_generator)(latents)

    @torch.no_grad()
    def sample_images(self, latents: Tensor, averaged: bool = True) -> Tensor:
        """Return images in [-1, 1] with the network in evaluation mode, leaving its mode as it was.

        Args:
            latents: ``[N, latent_dim]``.
            averaged: whether the moving average of the weights is used where the run has one.
        """
        network = self.averaged_generator if averaged and self.averaged_generator is not None else self.generator
        # Of the weights' dtype, which is not float32 with `precision="64-true"` and its like.
        dtype = next((p.dtype for p in network.parameters()), latents.dtype)
        with evaluation_mode(network):
            return network(latents.to(self.device, dtype))

    def fixed_latents(self, count: int, seed: int = 0) -> Tensor:
        """Return the first `count` of an endless row of latents ``[count, latent_dim]`` that the seed alone decides.

        With the default seed they are the same in every run, so that grids of different methods can be laid side by
        side.
        """
        source = torch.Generator().manual_seed(seed)
        # Row by row, so that more of them begin with the fewer.
        return torch.stack([torch.randn(self.latent_dim, generator=source) for _ in range(count)]).to(self.device)

    def real_images(self, batch: Any) -> Tensor:
        """Return the images of a batch: a tensor, or the first entry of a sequence, or of a mapping.

        Raises:
            TypeError: for anything else, or images that are not floating point.
        """
        if isinstance(batch, Mapping):
            batch = next(iter(batch.values()))
        elif isinstance(batch, (tuple, list)):
            batch = batch[0]
        if not isinstance(batch, Tensor) or not batch.is_floating_point():
            found = batch.dtype if isinstance(batch, Tensor) else type(batch).__name__
            raise TypeError(f"the real batch must hold floating-point images in [-1, 1], got {found}")
        return batch

    def scores(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """Return the discriminator's raw scores ``[N]`` of real and ``[M]`` of generated images."""
        # Both passes see the same weights: g(SN(W)) is computed once for the two.
        with shared_weights():
            return self.discriminator(real), self.discriminator(fake)

    def losses(self, real_scores: Tensor, fake_scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return the generator's and the discriminator's adversarial loss, without any penalty."""
        return self.loss.generator(fake_scores), self.loss.discriminator(real_scores, fake_scores)

    def game_losses(self, real: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses of both players with one graph, which holds the parameters of both.

        Args:
            real: images ``[N, C, H, W]`` in [-1, 1].
            latents: ``[M, latent_dim]``.
        """
        return self.losses(*self.scores(real, self.generator(latents)))

    @override
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0 or self._held_out is None:
            self._held_out = HeldOutLosses(self)
        self._held_out.add(self.real_images(batch))

    @override
    def on_validation_epoch_end(self) -> None:
        self._log_held_out("val")

    test_step = validation_step

    @override
    def on_test_epoch_end(self) -> None:
        self._log_held_out("test")

    def _log_held_out(self, stage: str) -> None:
        if self._held_out is not None:
            self.log_dict(self._held_out.means(stage))
            self._held_out = None

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the discriminator's scores ``[N]`` of real images."""
        return self.discriminator(self.real_images(batch))


def check_same_shape(first: str, a: object, second: str, b: object) -> None:
    """Refuse two parts whose images differ in shape; one that tells no ``image_shape`` fits all."""
    shapes = [tuple(x.image_shape) if hasattr(x, "image_shape") else None for x in (a, b)]
    if None not in shapes and shapes[0] != shapes[1]:
        raise ValueError(
            f"{first} and {second} must have the same image shape (channels, height, width), "
            f"got {shapes[0]} and {shapes[1]}"
        )
