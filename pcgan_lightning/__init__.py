"""Preconditioned GANs on PyTorch Lightning: healthy spectra for the discriminator, healthy dynamics for the game.

Names are imported on first use, so that the mathematics (`pcgan_lightning.spectra` and its neighbours) never
imports Lightning.
"""

import importlib
from typing import Any

_HOMES = {
    "GAN": "modules",
    "AdaptivePreconditioning": "callbacks",
    "DualingGAN": "modules",
    "FixedPreconditioning": "callbacks",
    "SampleGridLogger": "callbacks",
    "ScoreLogger": "callbacks",
    "SimultaneousGAN": "modules",
    "SpectrumLogger": "callbacks",
    "ImageDataModule": "data",
    "condition_number": "spectra",
    "modified_condition_number": "spectra",
    "precondition": "spectra",
    "remove_preconditioning": "spectra",
    "singular_values": "spectra",
}

__version__ = "0.1.0"
__all__ = [*sorted(_HOMES), "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
