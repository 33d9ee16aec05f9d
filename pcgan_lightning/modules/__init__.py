"""LightningModules: games of a generator and a discriminator, and a classifier for their scores."""

from pcgan_lightning.modules.classifier import Classifier, ExportClassifier
from pcgan_lightning.modules.dualing_gan import DualingGAN
from pcgan_lightning.modules.gan import GAN
from pcgan_lightning.modules.simultaneous_gan import SimultaneousGAN
from pcgan_lightning.modules.strategies import check_optimizers, check_strategy, check_whole_networks
from pcgan_lightning.modules.two_player import TwoPlayerModule

__all__ = [
    "GAN",
    "Classifier",
    "DualingGAN",
    "ExportClassifier",
    "SimultaneousGAN",
    "TwoPlayerModule",
    "check_optimizers",
    "check_strategy",
    "check_whole_networks",
]
