"""Optimizers and learning-rate schedules. Pure torch."""

from pcgan_lightning.optim.schedules import LinearDecay

__all__ = ["LinearDecay"]
