"""Networks as plain modules: a discriminator never knows how it is normalised."""

from pcgan_lightning.networks.classifier import ImageClassifier
from pcgan_lightning.networks.cnn import CNNDiscriminator, CNNGenerator
from pcgan_lightning.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from pcgan_lightning.networks.resnet import ResNetDiscriminator, ResNetGenerator

__all__ = [
    "CNNDiscriminator",
    "CNNGenerator",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "ImageClassifier",
    "ResNetDiscriminator",
    "ResNetGenerator",
]
