"""LightningModules: games of a generator and a discriminator."""

from pcgan_lightning.modules.gan import GAN
from pcgan_lightning.modules.two_player import TwoPlayerModule

__all__ = ["GAN", "TwoPlayerModule"]
