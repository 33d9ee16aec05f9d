"""Adversarial losses, pairs of functions of the discriminator's raw scores, and penalties of its gradient."""

from pcgan_lightning.losses.adversarial import (
    AdversarialLoss,
    HingeLoss,
    LeastSquaresLoss,
    NonSaturatingLoss,
    SaturatingLoss,
    WassersteinLoss,
)
from pcgan_lightning.losses.penalties import DiscriminatorPenalty, DOptimalPenalty, GradientPenalty, R1Penalty

__all__ = [
    "AdversarialLoss",
    "DOptimalPenalty",
    "DiscriminatorPenalty",
    "GradientPenalty",
    "HingeLoss",
    "LeastSquaresLoss",
    "NonSaturatingLoss",
    "R1Penalty",
    "SaturatingLoss",
    "WassersteinLoss",
]
