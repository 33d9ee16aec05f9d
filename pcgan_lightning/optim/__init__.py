"""Optimizers of "Dissecting adaptive methods in GANs", and learning-rate schedules. Pure torch."""

from pcgan_lightning.optim.blocks import layer_name
from pcgan_lightning.optim.grafted import Grafted
from pcgan_lightning.optim.normalized import NSGDA, AdaDir, AdaNSGDA, adam_oracle
from pcgan_lightning.optim.schedules import LinearDecay

__all__ = ["NSGDA", "AdaDir", "AdaNSGDA", "Grafted", "LinearDecay", "adam_oracle", "layer_name"]
