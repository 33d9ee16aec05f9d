"""Networks as plain modules: a discriminator never knows how it is normalised."""

from pcgan_lightning.networks.batch_norm import SynchronizedBatchNorm
from pcgan_lightning.networks.classifier import ImageClassifier
from pcgan_lightning.networks.cnn import CNNDiscriminator, CNNGenerator
from pcgan_lightning.networks.constant_width import ConstantWidthDiscriminator, ConstantWidthGenerator
from pcgan_lightning.networks.dcgan import DCGANDiscriminator, DCGANGenerator
from pcgan_lightning.networks.evaluation_mode import evaluation_mode
from pcgan_lightning.networks.linear import LinearDiscriminator, PenultimateLayer, RandomFourierFeatures
from pcgan_lightning.networks.mlp import MLPDiscriminator, MLPGenerator
from pcgan_lightning.networks.resnet import ResNetDiscriminator, ResNetGenerator

__all__ = [
    "CNNDiscriminator",
    "CNNGenerator",
    "ConstantWidthDiscriminator",
    "ConstantWidthGenerator",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "ImageClassifier",
    "LinearDiscriminator",
    "MLPDiscriminator",
    "MLPGenerator",
    "PenultimateLayer",
    "RandomFourierFeatures",
    "ResNetDiscriminator",
    "ResNetGenerator",
    "SynchronizedBatchNorm",
    "evaluation_mode",
]
