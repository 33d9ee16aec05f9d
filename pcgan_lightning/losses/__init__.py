"""Adversarial losses: pairs of functions of the discriminator's raw scores."""

from pcgan_lightning.losses.adversarial import (
    AdversarialLoss,
    HingeLoss,
    LeastSquaresLoss,
    NonSaturatingLoss,
    SaturatingLoss,
    WassersteinLoss,
)

__all__ = [
    "AdversarialLoss",
    "HingeLoss",
    "LeastSquaresLoss",
    "NonSaturatingLoss",
    "SaturatingLoss",
    "WassersteinLoss",
]
