"""Monitors: what happens to spectra, samples, scores and players over training."""

from pcgan_lightning.callbacks.monitors.balance import BalanceLogger
from pcgan_lightning.callbacks.monitors.collapse import CollapseMonitor
from pcgan_lightning.callbacks.monitors.jacobian import JacobianSpectrumLogger
from pcgan_lightning.callbacks.monitors.learning_speed import LearningSpeedLogger
from pcgan_lightning.callbacks.monitors.magnitudes import AdaptiveMagnitudeLogger
from pcgan_lightning.callbacks.monitors.mode_coverage import ModeCoverageLogger
from pcgan_lightning.callbacks.monitors.modes import ModeLogger
from pcgan_lightning.callbacks.monitors.monitor import Monitor
from pcgan_lightning.callbacks.monitors.samples import SampleGridLogger
from pcgan_lightning.callbacks.monitors.scores import ScoreLogger
from pcgan_lightning.callbacks.monitors.spectral_norm import SpectralNormLogger
from pcgan_lightning.callbacks.monitors.spectrum import SpectrumLogger

__all__ = [
    "AdaptiveMagnitudeLogger",
    "BalanceLogger",
    "CollapseMonitor",
    "JacobianSpectrumLogger",
    "LearningSpeedLogger",
    "ModeCoverageLogger",
    "ModeLogger",
    "Monitor",
    "SampleGridLogger",
    "ScoreLogger",
    "SpectralNormLogger",
    "SpectrumLogger",
]
